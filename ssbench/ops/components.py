"""Boxes around the connected parts of a mask, and how well found boxes match them. On the host, with scipy.

Boxes are rows (x0, y0, x1, y1, class) in pixel edges: a box spans pixels x0 .. x1 - 1. Source: WPL, supplement Secs.
1-2 (specs: wpl 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.float64]


def component_boxes(mask: NDArray[np.integer[Any]], classes: Sequence[int], min_area: int = 0) -> Rows:
    """n 5: the tightest box around every connected part of every class, parts of `min_area` pixels or fewer left out.

    Parts touch at sides or corners (8 neighbours); one may hold several objects, which the paper accepts.

    Args:
        mask: H W labels; those not in `classes` (background, 255) are in no part.
    """
    from scipy import ndimage

    found = []
    for c in classes:
        own = mask == c
        if not own.any():
            continue
        parts, _ = ndimage.label(own, np.ones((3, 3), np.int64))
        areas = np.bincount(parts.ravel())
        for k, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
            if areas[k] > min_area:
                found.append((columns.start, rows.start, columns.stop, rows.stop, c))
    return np.array(found, np.float64).reshape(-1, 5)


def iou(first: Rows, second: Rows) -> Rows:
    """n m: shared area over joint area of boxes n 4 and m 4."""
    low, high = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    joint: Rows = both / (areas[0][:, None] + areas[1][None] - both)
    return joint


def accuracy(pairs: Iterable[tuple[Rows, Rows]], classes: Sequence[int], overlap: float = 0.8) -> dict[int, list[int]]:
    """class -> [boxes found, boxes that are right] over images, each (found n 5, truth m 5) (supplement Table 1)."""
    total = {c: [0, 0] for c in classes}
    for found, truth in pairs:
        for c, good in zip(found[:, 4].astype(int).tolist(), right(found, truth, overlap).tolist(), strict=True):
            total[c][0] += 1
            total[c][1] += good
    return total


def right(found: Rows, truth: Rows, overlap: float = 0.8) -> NDArray[np.bool_]:
    """n bool: found boxes (n 5) that some true box (m 5) of their class meets with an IoU of at least `overlap`."""
    if not len(found) or not len(truth):
        return np.zeros(len(found), np.bool_)
    same = found[:, None, 4] == truth[None, :, 4]
    matched: NDArray[np.bool_] = ((iou(found[:, :4], truth[:, :4]) >= overlap) & same).any(1)
    return matched
