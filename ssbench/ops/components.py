"""Boxes around the connected components of a mask, and how well detected boxes match them. On the host, with scipy.

Boxes are rows (x0, y0, x1, y1, class) in pixel edges: a box spans pixels x0 .. x1 - 1. Source: WPL, supplement Secs.
1-2 (card: wpl 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rows: TypeAlias = NDArray[np.float64]


def component_boxes(mask: NDArray[np.integer[Any]], classes: Sequence[int], min_area: int = 0) -> Rows:
    """n 5: the tightest box around every connected component of every class with more than `min_area` pixels.

    Pixels are connected at sides or corners (8 neighbours). A component may hold several objects, as in the paper.

    Args:
        mask: H W labels; those not in `classes` (background, 255) are in no component.
    """
    from scipy import ndimage

    boxes = []
    for c in classes:
        own = mask == c
        if not own.any():
            continue
        components, _ = ndimage.label(own, np.ones((3, 3), np.int64))
        areas = np.bincount(components.ravel())
        for k, (rows, columns) in enumerate(ndimage.find_objects(components), 1):
            if areas[k] > min_area:
                boxes.append((columns.start, rows.start, columns.stop, rows.stop, c))
    return np.array(boxes, np.float64).reshape(-1, 5)


def iou(first: Rows, second: Rows) -> Rows:
    """n m: shared area over joint area of boxes n 4 and m 4."""
    low, high = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(2)
    areas = [(boxes[:, 2:4] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    joint: Rows = both / (areas[0][:, None] + areas[1][None] - both)
    return joint


def accuracy(pairs: Iterable[tuple[Rows, Rows]], classes: Sequence[int], overlap: float = 0.8) -> dict[int, list[int]]:
    """class -> [detected boxes, right ones] over images, each a pair (detected n 5, truth m 5) (supplement Table 1)."""
    total = {c: [0, 0] for c in classes}
    for detected, truth in pairs:
        correct = right(detected, truth, overlap).tolist()
        for c, good in zip(detected[:, 4].astype(int).tolist(), correct, strict=True):
            total[c][0] += 1
            total[c][1] += good
    return total


def right(detected: Rows, truth: Rows, overlap: float = 0.8) -> NDArray[np.bool_]:
    """n bool: detected boxes (n 5) that some true box (m 5) of their class meets with an IoU of at least `overlap`."""
    if not len(detected) or not len(truth):
        return np.zeros(len(detected), np.bool_)
    same = detected[:, None, 4] == truth[None, :, 4]
    matched: NDArray[np.bool_] = ((iou(detected[:, :4], truth[:, :4]) >= overlap) & same).any(1)
    return matched
