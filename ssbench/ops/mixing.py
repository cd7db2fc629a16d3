"""Pasting regions of one batch into another."""

from __future__ import annotations

import torch
from torch import Tensor


def paste(under: Tensor, over: Tensor, region: Tensor) -> Tensor:
    """`over` inside `region`, `under` elsewhere.

    Args:
        under, over: same shape, B H W or B D H W.
        region: B H W bool.
    """
    if under.dim() == region.dim() + 1:
        region = region[:, None]
    return torch.where(region, over, under)
