"""Learning-rate schedules as pure functions of the step."""

from __future__ import annotations


def poly(step: int, steps: int, power: float = 0.9, lag: int = 1) -> float:
    """Factor on the base rate used by the update of `step` (from 0), of `steps` in all.

    Args:
        lag: 1 where the authors set the rate after the optimiser step, so update n >= 1 uses n - 1 (UniMatch);
            0 where they set it before (U2PL, CPS, AEL, AugSeg), or after counting the step (ST++).
    """
    return float((1 - max(step - lag, 0) / steps) ** power)
