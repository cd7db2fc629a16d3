"""Confusion matrices and the scores read off them."""

from __future__ import annotations

import torch
from torch import Tensor


def confusion(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """C C int64 counts, rows = target, columns = prediction, on the device of the inputs.

    Args:
        prediction, target: same shape, integer; every pixel whose target is outside 0..C-1 (255) is left out.
    """
    target = target.long().flatten()
    prediction = prediction.long().flatten()
    inside = (target >= 0) & (target < classes)
    cell = torch.where(inside, target * classes + prediction, classes * classes)
    return torch.bincount(cell, minlength=classes * classes + 1)[:-1].view(classes, classes)


def iou(matrix: Tensor) -> Tensor:
    """C float64 IoU in [0, 1]; NaN for a class absent from target and prediction."""
    matrix = matrix.double()
    both = matrix.diagonal()
    union = matrix.sum(0) + matrix.sum(1) - both
    return torch.where(union > 0, both / union.clamp(min=1), torch.full_like(both, float("nan")))


def mean_iou(matrix: Tensor, absent: str = "left_out") -> float:
    """Mean IoU in percent.

    Args:
        absent: "left_out" (CPS, ST++, cityscapesscripts) or "zero" (UniMatch, U2PL, AugSeg, AEL): what a class that
            occurs nowhere contributes. The two agree whenever every class occurs in the target.
    """
    per_class = iou(matrix)
    if absent == "zero":
        per_class = per_class.nan_to_num(0.0)
    return 100 * float(per_class.nanmean())


def dice_score(prediction: Tensor, target: Tensor, classes: int) -> Tensor:
    """C-1 float64 Dice coefficients of classes 1..C-1 over one volume, 2|P and T| / (|P| + |T|), no smoothing.

    A class absent from both gives NaN (it never is in ACDC, whose volumes hold all three).
    """
    matrix = confusion(prediction, target, classes).double()
    both = matrix.diagonal()[1:]
    total = matrix.sum(0)[1:] + matrix.sum(1)[1:]
    return torch.where(total > 0, 2 * both / total.clamp(min=1), torch.full_like(both, float("nan")))
