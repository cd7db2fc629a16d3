"""Statistics of the image patch behind each cell of a feature grid: labels present, their shares, IoU, agreement.

Cell i of the grid sees pixels stride*i - half .. stride*i + half, clipped to the image. Rows and columns are pooled in
turn, which gives the same maxima and means as one square window at a fraction of the work.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def planes(mask: Tensor, classes: int) -> Tensor:
    """B C H W float: one plane a class, 1 where the label is that class; 255 is in none. mask: B H W int64."""
    inside = mask < classes
    onehot = F.one_hot(mask.where(inside, torch.zeros_like(mask)), classes) * inside[..., None]
    return onehot.movedim(-1, 1).float()


def patch_labels(mask: Tensor, classes: int, half: int, stride: int, grid: tuple[int, int]) -> Tensor:
    """B C h w in {0, 1}: whether at least one pixel of the class lies in the cell's window (MPMC Sec. 3.3).

    Args:
        mask: B H W int64, 255 = ignore. grid: (h, w) of the features; one more cell than the image gives (a stem that
            pools with ceil_mode) sees what lies beyond the border as empty.
    """
    wide = _fitted(planes(mask, classes), stride, grid)
    width = 2 * half + 1
    wide = F.max_pool2d(wide, (width, 1), (stride, 1), (half, 0)) if half else wide[..., ::stride, :]
    return F.max_pool2d(wide, (1, width), (1, stride), (0, half)) if half else wide[..., ::stride]


def patch_shares(mask: Tensor, classes: int, half: int, stride: int, grid: tuple[int, int]) -> Tensor:
    """B C h w: pixels of the class over in-image pixels of the window; ignored pixels count below, not above."""
    wide = _fitted(planes(mask, classes), stride, grid)
    inside = _fitted(torch.ones_like(wide[:, :1, : mask.shape[-2], : mask.shape[-1]]), stride, grid)
    return _window_sum(wide, half, stride) / _window_sum(inside, half, stride).clamp(min=1)


def patch_iou(label: Tensor, truth: Tensor, classes: int, half: int, stride: int, grid: tuple[int, int]) -> Tensor:
    """B h w: IoU of each window, mean over the classes that stand in either map there; nan where no truth is known.

    Args:
        label, truth: B H W int64; pixels whose truth is 255 are left out of both.
    """
    known = truth < classes
    total = present = torch.zeros(len(label), *grid, device=label.device)
    for c in range(classes):
        predicted, actual = (label == c) & known, truth == c
        planes_of_class = torch.stack([predicted & actual, predicted, actual], 1)
        joint, of_label, of_truth = _count(planes_of_class, half, stride, grid).unbind(1)
        either = of_label + of_truth - joint
        total, present = total + joint / either.clamp(min=1), present + (either > 0)
    return torch.where(present > 0, total / present.clamp(min=1), torch.nan)


def agreement(predicted: Tensor, actual: Tensor, over: str = "union", axis: int = 1) -> Tensor:
    """How far two sets of labels agree: 1 - |P xor T| / |P or T| ("union"), or over all classes ("all_classes").

    Args:
        predicted, actual: bool, the class along `axis`. Two empty sets agree fully.
    """
    same, of = _agreeing(predicted, actual, over, axis)
    return same / of


def agreement_bins(predicted: Tensor, actual: Tensor, bins: int, over: str = "union", axis: int = 1) -> Tensor:
    """Which of `bins` equal parts of [0, 1] the `agreement` lies in, counted in whole numbers; 1 is in the last."""
    same, of = _agreeing(predicted, actual, over, axis)
    return (same * bins // of).clamp(max=bins - 1)


def _agreeing(predicted: Tensor, actual: Tensor, over: str, axis: int) -> tuple[Tensor, Tensor]:
    """(classes the sets agree on, of how many), int64; 1 of 1 for two empty sets."""
    differ = (predicted ^ actual).sum(axis)
    everything = torch.full_like(differ, predicted.shape[axis])
    either = everything if over == "all_classes" else (predicted | actual).sum(axis)
    empty = either == 0
    return either - differ + empty.long(), either + empty.long()


def _count(inside: Tensor, half: int, stride: int, grid: tuple[int, int]) -> Tensor:
    """B K h w: how many of the window's pixels are true; exact, since the sums are rounded. inside: B K H W bool."""
    return _window_sum(_fitted(inside.float(), stride, grid), half, stride).round()


def _fitted(wide: Tensor, stride: int, grid: tuple[int, int]) -> Tensor:
    """Cut or zero-padded below and right so that pooling gives exactly `grid` cells."""
    height, width = (stride * (cells - 1) + 1 for cells in grid)
    missing = (0, max(width - wide.shape[-1], 0), 0, max(height - wide.shape[-2], 0))
    return F.pad(wide, missing) if any(missing) else wide


def _window_sum(wide: Tensor, half: int, stride: int) -> Tensor:
    width = 2 * half + 1
    rows = F.avg_pool2d(wide, (width, 1), (stride, 1), (half, 0), count_include_pad=True) * width
    return F.avg_pool2d(rows, (1, width), (1, stride), (0, half), count_include_pad=True) * width
