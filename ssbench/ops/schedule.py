"""The learning rate and the ramp of a loss as pure functions of the step."""

from __future__ import annotations

import math


def poly(step: int, steps: int, power: float = 0.9, lag: int = 1) -> float:
    """Factor on the base rate used by the update of `step` (from 0), of `steps` in all.

    Args:
        lag: 1 where the authors set the rate after the optimiser step, so update n >= 1 uses n - 1 (UniMatch);
            0 where they set it before (U2PL, CPS, AEL, AugSeg), or after counting the step (ST++).
    """
    return float((1 - max(step - lag, 0) / steps) ** power)


def gaussian_ramp(step: int, steps: int) -> float:
    """exp(-5 (1 - step/steps)^2) up to `steps`, then 1 (IPixMatch Sec. IV-B); 0.0067 at the start."""
    return 1.0 if step >= steps else math.exp(-5 * (1 - step / steps) ** 2)
