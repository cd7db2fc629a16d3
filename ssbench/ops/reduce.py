"""Sums, means and joins over the processes that share a batch, so that their number changes nothing.

Gradients are averaged over processes (DDP). A loss that divides by a count of its own process's pixels would then
weigh processes, not pixels. Dividing by the count over all processes and multiplying by their number makes the
averaged gradient equal to that of one process holding the whole batch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """Number of processes that share the batch; 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def global_sum(value: Tensor) -> Tensor:
    """`value` (detached) summed over processes; unchanged in one process. No host synchronisation."""
    value = value.detach()
    return _summed(value) if world_size() > 1 else value


def batch_sum(value: Tensor) -> Tensor:
    """`value` summed over processes, with its gradient: each process's share gets the sum of their gradients."""
    if world_size() == 1:
        return value
    return _BatchSum.apply(value)  # type: ignore[no-any-return]


class _BatchSum(torch.autograd.Function):
    """An all-reduce in both directions (torch's own differentiable one is deprecated)."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return _summed(gradients[0])


def _summed(value: Tensor) -> Tensor:
    value = value.clone()
    dist.all_reduce(value)
    return value


def mean_one(weight: Tensor) -> Tensor:
    """`weight` (any shape, >= 0) scaled so that its mean over all processes is 1; unchanged where the sum is 0.

    So a mean of `loss * mean_one(weight)` is the weighted mean of `loss`.
    """
    total, count = global_sum(weight.sum()), global_sum(weight.new_full((), weight.numel()))
    return weight * torch.where(total > 0, count / total, torch.ones_like(total))


def mean_of(total: Tensor, count: Tensor | int) -> Tensor:
    """`total / count` with both summed over processes: the mean over the whole batch, 0 where the count is 0.

    Args:
        total: scalar sum on this process, carries the gradient.
        count: how many pixels (or how much weight) `total` is a sum over, on this process.
    """
    counted = count.to(total.dtype) if isinstance(count, Tensor) else total.detach().new_full((), count)
    counted = global_sum(counted)
    return total * world_size() / torch.where(counted > 0, counted, torch.ones_like(counted))


def gather_rows(x: Tensor) -> Tensor:
    """The tensors of all processes, joined along the first dimension in the order of processes. No gradient.

    Every process must bring the same shape. Booleans travel as bytes, which is what every backend can send.
    """
    if world_size() == 1:
        return x.detach()
    plain = x.detach().contiguous()
    sent = plain.view(torch.uint8) if plain.dtype is torch.bool else plain
    parts = [torch.empty_like(sent) for _ in range(world_size())]
    dist.all_gather(parts, sent)
    return torch.cat(parts).view(plain.dtype)
