"""An image cut into a grid of patches (UPC): sums over patches, patches by rank, the pixels of chosen patches."""

from __future__ import annotations

import torch
from torch import Tensor


def edges(size: int, grid: int) -> list[int]:
    """grid + 1 edges floor(i size / grid); the patches tile the image whether or not `grid` divides `size`."""
    return [i * size // grid for i in range(grid + 1)]


def patch_index(height: int, width: int, grid: int, device: torch.device) -> Tensor:
    """H W int64: the row-major number of the patch each pixel lies in."""
    return _strip(height, grid, device)[:, None] * grid + _strip(width, grid, device)[None, :]


def patch_sums(values: Tensor, grid: int) -> Tensor:
    """Sum of B H W values over each patch. -> B grid^2, row-major (UPC Eq. 3), by matrix products (no atomics)."""
    strips = torch.arange(grid, device=values.device)[:, None]
    rows, columns = ((_strip(size, grid, values.device) == strips).to(values.dtype) for size in values.shape[-2:])
    return (rows @ values @ columns.T).flatten(1)


def _strip(size: int, grid: int, device: torch.device) -> Tensor:
    """size int64: which of `grid` strips each line lies in."""
    line = torch.arange(size, device=device)
    return ((line + 1) * grid - 1) // size  # the largest i with floor(i size / grid) <= line


def rank_patches(scores: Tensor) -> Tensor:
    """Patches from the largest score down, the lower number first at ties. B P -> B P int64."""
    return scores.sort(dim=1, descending=True, stable=True).indices


def patch_mask(order: Tensor, k: int, height: int, width: int, grid: int) -> Tensor:
    """B H W bool: pixels in each image's first `k` patches of `order` (B P)."""
    member = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order[:, :k], True)
    return member[:, patch_index(height, width, grid, order.device)]


def patch_agreement(label: Tensor, truth: Tensor, classes: int, grid: int) -> tuple[Tensor, Tensor]:
    """(mIoU, wrong pixels) of each patch, B grid^2 each: what the oracle of UPC's Table 7 ranks by.

    mIoU over the classes present in either map; pixels whose truth is 255 are left out. A patch without any valid
    pixel has mIoU 2, so that it ranks last among the least agreeing.
    """
    valid = (truth != 255).to(torch.float32)
    both, union, present = [], [], []
    for c in range(classes):
        predicted, actual = (label == c) * valid, (truth == c) * valid
        joint = patch_sums(predicted * actual, grid)
        total = patch_sums(predicted, grid) + patch_sums(actual, grid) - joint
        both.append(joint)
        union.append(total)
        present.append(total > 0)
    classes_present = torch.stack(present).sum(0)
    iou = torch.stack([b / u.clamp(min=1) for b, u in zip(both, union, strict=True)]).sum(0) / classes_present.clamp(
        min=1
    )
    wrong = patch_sums((label != truth) * valid, grid)
    return torch.where(classes_present > 0, iou, torch.full_like(iou, 2.0)), wrong
