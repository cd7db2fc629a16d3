"""Exponential moving average of one network's weights in another's."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def capped_decay(step: int, cap: float) -> float:
    """min(1 - 1/(step + 1), cap): 0 at step 0 (a copy), so the average never remembers the teacher's random start."""
    return min(1 - 1 / (step + 1), cap)


@torch.no_grad()
def update(teacher: nn.Module, student: nn.Module, decay: float, buffers: bool = False) -> None:
    """teacher <- decay * teacher + (1 - decay) * student, fused over all tensors.

    Args:
        buffers: also average floating-point buffers (batch-norm statistics); integer buffers are copied then.
            Off, the teacher's statistics come from its own forward passes.
    """
    _lerp([p.data for p in teacher.parameters()], [p.data for p in student.parameters()], 1 - decay)
    if buffers:
        pairs = list(zip(teacher.buffers(), student.buffers(), strict=True))
        floats = [(t, s) for t, s in pairs if t.is_floating_point()]
        _lerp([t for t, _ in floats], [s for _, s in floats], 1 - decay)
        for t, s in pairs:
            if not t.is_floating_point():
                t.copy_(s)


def _lerp(into: list[Tensor], towards: list[Tensor], share: float) -> None:
    if not into:
        return
    if share == 1.0:
        torch._foreach_copy_(into, towards)
    else:
        torch._foreach_lerp_(into, towards, share)
