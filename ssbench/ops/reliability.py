"""How stable the label of an image was while a network learned, and the half of the images where it was most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ssbench.ops.confusion import confusion, iou


def reliability(labels: Sequence[Tensor], classes: int) -> float:
    """Mean over all maps but the last of their mIoU with the last, in [0, 1] (ST++ Sec. 3.3).

    An image's mIoU is the mean over the classes present in either map.

    Args:
        labels: two or more H W integer maps of one image, by a network's checkpoints from early to last.
    """
    *early, last = labels
    each = [float(iou(confusion(label, last, classes)).nanmean()) for label in early]
    return sum(each) / len(each)


def halves(scores: Mapping[str, float]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The floor(n / 2) ids of the largest scores, and the rest, each from the largest down; ties in the order given."""
    ranked = sorted(scores, key=lambda id: scores[id], reverse=True)
    cut = len(ranked) // 2
    return tuple(ranked[:cut]), tuple(ranked[cut:])
