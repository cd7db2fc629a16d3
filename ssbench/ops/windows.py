"""What lies inside the window each cell of a feature grid sees: labels present, shares, agreement of label sets.

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
    """B C h w in {0, 1}: whether at least one pixel of the class lies in the cell's window (MPMC Sec. 3.2).

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


def agreement(said: Tensor, so: Tensor, over: str = "union", axis: int = 1) -> Tensor:
    """How far two sets of labels agree: 1 - |P xor T| / |P or T| ("union"), or over all classes ("all_classes").

    Args:
        said, so: bool, the class along `axis`. Two empty sets agree fully.
    """
    differ = (said ^ so).sum(axis)
    if over == "all_classes":
        return 1 - differ / said.shape[axis]
    either = (said | so).sum(axis)
    return torch.where(either > 0, 1 - differ / either.clamp(min=1), torch.ones_like(either, dtype=torch.float32))


def _fitted(wide: Tensor, stride: int, grid: tuple[int, int]) -> Tensor:
    """Cut or zero-padded below and right so that pooling gives exactly `grid` cells."""
    height, width = (stride * (cells - 1) + 1 for cells in grid)
    missing = (0, max(width - wide.shape[-1], 0), 0, max(height - wide.shape[-2], 0))
    return F.pad(wide, missing) if any(missing) else wide


def _window_sum(wide: Tensor, half: int, stride: int) -> Tensor:
    width = 2 * half + 1
    rows = F.avg_pool2d(wide, (width, 1), (stride, 1), (half, 0), count_include_pad=True) * width
    return F.avg_pool2d(rows, (1, width), (1, stride), (0, half), count_include_pad=True) * width
