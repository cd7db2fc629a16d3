"""Relations between pixels: how each class's score spreads over an image, compared between two networks."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

_NEVER = -1e9
"""Added to a logit to leave a pixel out; finite, so that differences and gradients stay numbers."""


def spatial_log_softmax(logits: Tensor, inside: Tensor, temperature: float) -> Tensor:
    """Log of each class's softmax over the pixels inside (IPixMatch Eq. 4). B C H W, B H W bool -> B C HW."""
    scaled = (logits / temperature).masked_fill(~inside[:, None], _NEVER)
    return scaled.flatten(2).log_softmax(2)


def relation_distance(
    teacher: Tensor, student: Tensor, inside: Tensor, temperature: float, distance: Literal["kl", "corr"]
) -> Tensor:
    """Per image, 1 / (C log n) times the sum over classes of a distance between spatial softmaxes (Eq. 2).

    "kl": sum u (log u - log v), teacher first; "corr": 1 - Pearson correlation of u and v over the pixels inside.

    Args:
        teacher, student: B C H W logits. inside: B H W bool; n = pixels inside, an image with n < 2 contributes 0.
    Returns:
        B.
    """
    count = inside.flatten(1).sum(1)
    usable = count >= 2
    inside = inside | ~usable[:, None, None]
    log_u = spatial_log_softmax(teacher.detach(), inside, temperature)
    log_v = spatial_log_softmax(student, inside, temperature)
    each = _kl(log_u, log_v) if distance == "kl" else _uncorrelated(log_u.exp(), log_v.exp(), inside.flatten(1))
    scale = teacher.shape[1] * count.clamp(min=2).to(each.dtype).log()
    return torch.where(usable, each.sum(1) / scale, torch.zeros_like(scale))


def _kl(log_u: Tensor, log_v: Tensor) -> Tensor:
    return (log_u.exp() * (log_u - log_v)).sum(2)


def _uncorrelated(u: Tensor, v: Tensor, inside: Tensor) -> Tensor:
    """1 - Pearson's r over the pixels inside; B C N, B N -> B C."""
    member = inside[:, None].to(u.dtype)
    count = member.sum(2, keepdim=True)
    du = (u - (u * member).sum(2, keepdim=True) / count) * member
    dv = (v - (v * member).sum(2, keepdim=True) / count) * member
    spread = (du.square().sum(2) * dv.square().sum(2)).clamp(min=torch.finfo(u.dtype).tiny).sqrt()
    return 1 - (du * dv).sum(2) / spread
