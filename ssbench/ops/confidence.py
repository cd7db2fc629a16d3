"""How sure a network is of each pixel, and quantiles of such scores, computed without leaving the device."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def max_score(probs: Tensor) -> Tensor:
    """Largest class probability. B C H W -> B H W."""
    return probs.amax(1)


def margin(probs: Tensor) -> Tensor:
    """Largest minus second largest class score. B C H W -> B H W."""
    top = probs.topk(2, dim=1).values
    return top[:, 0] - top[:, 1]


def negative_entropy(probs: Tensor) -> Tensor:
    """sum_c p log(p + 1e-10), rising with confidence; p need not sum to 1. B C H W -> B H W."""
    return (probs * (probs + 1e-10).log()).sum(1)


def entropy(probs: Tensor) -> Tensor:
    """-sum p log p with p clamped at 1e-8, in nats (UPC Eq. 1). B C H W -> B H W."""
    return -(probs * probs.clamp(min=1e-8).log()).sum(1)


def restricted(probs: Tensor, classes: Collection[int]) -> Tensor:
    """Probabilities of the other classes set to 0, the rest divided by their sum. B C H W -> B C H W.

    Where nothing is left, and without any class, they stay as they are.
    """
    allowed = torch.zeros(probs.shape[1], dtype=torch.bool)
    allowed[list(classes)] = True
    left = probs * allowed.to(probs.device, probs.dtype)[:, None, None]
    total = left.sum(1, keepdim=True)
    return torch.where(total > 0, left / total, probs)


def quantile(values: Tensor, inside: Tensor, level: float) -> Tensor:
    """The `level`-quantile (linear interpolation) of `values` where `inside`; -inf where nothing is inside.

    torch.quantile refuses more than 16 M elements and boolean indexing waits for the device; sorting does neither.

    Args:
        values, inside: same shape, float and bool.
    """
    ranked = torch.where(inside, values, torch.full_like(values, float("inf"))).flatten().sort().values
    count = inside.sum()
    place = level * (count - 1).clamp(min=0).to(torch.float64)
    below = place.floor().long()
    above = torch.minimum(below + 1, (count - 1).clamp(min=0))
    low, high = ranked.gather(0, torch.stack([below, above]))  # ranked[below] would ask the device for the number
    value = low + (high - low) * (place - below).to(values.dtype)
    return torch.where(count > 0, value, torch.full_like(value, float("-inf")))


def group_quantiles(values: Tensor, inside: Tensor, level: float, groups: int) -> Tensor:
    """B 1 1: the `level`-quantile of `values` where `inside` (B H W both), over each of `groups` groups of images."""
    pairs = zip(values.chunk(groups), inside.chunk(groups), strict=True)
    limits = torch.stack([quantile(scores, mask, level) for scores, mask in pairs])
    return limits.repeat_interleave(len(values) // groups)[:, None, None]
