"""Losses on full-resolution logits. Per-pixel maps first, reduced by means over the whole batch (`ops.reduce`)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.ops.reduce import batch_sum, global_sum, mean_of

IGNORE = 255


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Mean cross-entropy over pixels whose target is not 255; 0 if there are none.

    Args:
        logits: B C H W.
        target: B H W int64, 255 = ignore.
    """
    total = F.cross_entropy(logits, target, ignore_index=IGNORE, reduction="sum")
    return mean_of(total, (target != IGNORE).sum())


def hard_pixels(logits: Tensor, target: Tensor, threshold: float, min_kept: int) -> Tensor:
    """The target with easy pixels set to 255: online hard example mining.

    A pixel stays when the softmax probability of its true class is at most max(`threshold`, t), t = the `min_kept`-th
    smallest such probability (pixels without a target count as 1). With fewer valid pixels than `min_kept` all stay.
    Origin: the CPS code base, as used by UniMatch (card: unimatch 6). Carries no gradient.
    """
    with torch.no_grad():
        valid = target != IGNORE
        safe = torch.where(valid, target, torch.zeros_like(target))
        prob = logits.softmax(1).gather(1, safe[:, None])[:, 0].masked_fill(~valid, 1.0)
        rank = min(prob.numel(), min_kept)
        smallest = prob.flatten().kthvalue(rank).values
        limit = torch.clamp(smallest, min=threshold)
        limit = torch.where(valid.sum() < min_kept, torch.full_like(limit, 2.0), limit)
        return torch.where(valid & (prob <= limit), target, torch.full_like(target, IGNORE))


def ohem(logits: Tensor, target: Tensor, threshold: float, min_kept: int, group: int) -> Tensor:
    """Cross-entropy over hard pixels, mined and averaged in groups of `group` images: the mean over all groups.

    A group stands for a process of the releases of UniMatch, U2PL, AugSeg, AEL and CPS. There each process averages the
    pixels it keeps, and gradients are averaged over processes, so every process weighs the same (card: unimatch 6).
    With a fixed group the real number of devices changes nothing. The batch on a device must be a multiple of the
    group; a smaller batch is one group. A group without labelled pixels counts with 0 (the releases give NaN).
    """
    means = []
    for scores, truth in zip(torch.split(logits, group), torch.split(target, group), strict=True):
        kept = hard_pixels(scores, truth, threshold, min_kept)
        total = F.cross_entropy(scores, kept, ignore_index=IGNORE, reduction="sum")
        means.append(total / (kept != IGNORE).sum().clamp(min=1))
    return mean_of(torch.stack(means).sum(), len(means))


def dice(
    logits: Tensor, target: Tensor, kept: Tensor | None = None, weight: Tensor | None = None, smooth: float = 1e-5
) -> Tensor:
    """Mean over classes of 1 - Dice on softmax probabilities, sums over the kept pixels of the whole batch.

    Per class (2 sum(p t) + smooth) / (sum p^2 + sum t^2 + smooth), as in UniMatch's medical code (card: unimatch 10).

    Args:
        logits: B C H W. target: B H W int64 in 0..C-1 where kept.
        kept: B H W bool; others leave every sum. With nothing kept the loss is 0.
        weight: B H W, multiplies the per-pixel products (how a plug-in weighs pixels in a Dice loss).
    """
    classes = logits.shape[1]
    probs = logits.softmax(1)
    if kept is None:
        kept = torch.ones_like(target, dtype=torch.bool)
    factor = kept.to(probs.dtype) if weight is None else kept * weight
    onehot = F.one_hot(torch.where(kept, target, torch.zeros_like(target)), classes).movedim(-1, 1).to(probs.dtype)
    factor = factor[:, None]
    over = (0, 2, 3)
    both = batch_sum((factor * probs * onehot).sum(over))
    size = batch_sum((factor * probs * probs).sum(over)) + batch_sum((factor * onehot).sum(over))
    loss = (1 - (2 * both + smooth) / (size + smooth)).mean()
    return torch.where(global_sum(kept.sum()) > 0, loss, loss * 0)


def ce_dice(logits: Tensor, target: Tensor) -> Tensor:
    """(cross-entropy + Dice) / 2: the labelled loss of UniMatch's medical code."""
    return (cross_entropy(logits, target) + dice(logits, target, target != IGNORE)) / 2


def pseudo_cross_entropy(
    logits: Tensor, label: Tensor, keep: Tensor, valid: Tensor, weight: Tensor | None = None, absolute: bool = False
) -> Tensor:
    """Sum of CE over kept valid pixels divided by the number of *valid* pixels (card: unimatch 3).

    Args:
        logits: B C H W. label: B H W int64 in 0..C-1 (no ignore). keep, valid: B H W bool.
        weight: B H W >= 0; then both sums are weighted (a weighted mean over valid pixels), or with `absolute` only
            the sum of CE.
    """
    ce = F.cross_entropy(logits, label, reduction="none")
    kept = (keep & valid).to(ce.dtype)
    if weight is None:
        return mean_of((ce * kept).sum(), valid.sum())
    return mean_of((ce * kept * weight).sum(), valid.sum() if absolute else (valid * weight).sum())
