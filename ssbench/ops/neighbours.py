"""Neighbouring pixels: shifted maps, unions of a pixel with a chosen neighbour, label agreement of neighbours.

Source: S4MC, Secs. 3.2.1 and App. C. Shapes as in `ssbench.ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Choice = Literal["max", "min", "random", "two_max"]
Joint = Callable[[Tensor, Tensor], Tensor]
"""(p, n) -> the probability that a pixel and its neighbour both have the class; B C H W each."""


def offsets(size: int, connectivity: int) -> list[tuple[int, int]]:
    """(dy, dx) of a `size` x `size` window without its centre; with `connectivity` 4 only side neighbours (size 3)."""
    reach = size // 2
    window = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1) if (dy, dx) != (0, 0)]
    return [(dy, dx) for dy, dx in window if connectivity == 8 or abs(dy) + abs(dx) == 1]


def shift(x: Tensor, dy: int, dx: int) -> Tensor:
    """The map whose pixel (i, j) is x's pixel (i + dy, j + dx), zero outside the image. x: ... H W."""
    height, width = x.shape[-2:]
    reach_y, reach_x = abs(dy), abs(dx)
    padded = F.pad(x, (reach_x, reach_x, reach_y, reach_y))
    return padded[..., reach_y + dy : reach_y + dy + height, reach_x + dx : reach_x + dx + width]


def distance_weight(dy: int, dx: int) -> float:
    """beta = exp(-(|dy| + |dx|) / 2): 0.6065 at a side, 0.3679 at a corner (S4MC Eq. 10)."""
    return math.exp(-(abs(dy) + abs(dx)) / 2)


def union(p: Tensor, n: Tensor, beta: float, joint: Joint) -> Tensor:
    """p + beta (n - J): the probability that the pixel or its neighbour has the class (S4MC Eqs. 7 and 10)."""
    return p + beta * (n - joint(p, n))


def united(
    probs: Tensor,
    valid: Tensor,
    joint: Joint,
    size: int,
    connectivity: int,
    choice: Choice,
    generator: torch.Generator | None = None,
) -> Tensor:
    """`probs` after the union of each pixel and class with one neighbour, or with two in turn. B C H W.

    "max" takes the neighbour of the largest union (S4MC Eq. 9), "min" that of the smallest; "two_max" unites the result
    with the best of the remaining neighbours once more (last paragraph of Sec. 3.2.1). "random" draws one offset a
    pixel, for all classes. Only `valid` pixels inside the image are neighbours; a pixel without any stays as it is.

    Args:
        probs: B C H W in [0, 1]. valid: B H W bool, false on padding.
    """
    window = offsets(size, connectivity)
    if choice == "random":
        return _with_random(probs, valid, joint, window, generator)
    out, first = _with_best(probs, probs, valid, joint, window, -1.0 if choice == "min" else 1.0)
    if choice == "two_max":
        out, _ = _with_best(out, probs, valid, joint, window, 1.0, first)
    return out


def _with_best(
    p: Tensor,
    probs: Tensor,
    valid: Tensor,
    joint: Joint,
    window: list[tuple[int, int]],
    sign: float,
    used: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(p after the union with the neighbour that makes sign x union largest, which one: B C H W int8, -1 = none).

    used: neighbours that may not be taken again. Of equal ones the first of the window is taken.
    """
    best = torch.full_like(p, -math.inf)
    taken = torch.full_like(p, -1, dtype=torch.int8)
    for k, (dy, dx) in enumerate(window):
        score = sign * union(p, shift(probs, dy, dx), distance_weight(dy, dx), joint)
        better = (score > best) & shift(valid, dy, dx)[:, None]
        if used is not None:
            better &= used != k
        best, taken = torch.where(better, score, best), taken.masked_fill(better, k)
    return torch.where(taken >= 0, sign * best, p), taken


def _with_random(
    probs: Tensor, valid: Tensor, joint: Joint, window: list[tuple[int, int]], generator: torch.Generator | None
) -> Tensor:
    batch, _, height, width = probs.shape
    pick = torch.randint(len(window), (batch, 1, height, width), generator=generator, device=probs.device)
    out = probs
    for k, (dy, dx) in enumerate(window):
        there = (pick == k) & shift(valid, dy, dx)[:, None]
        out = torch.where(there, union(probs, shift(probs, dy, dx), distance_weight(dy, dx), joint), out)
    return out


def label_agreement(mask: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """(equal, pairs), each C int64: in-image 4-neighbour pairs (pixel, neighbour) with both labels valid.

    equal[c] counts those with both of class c, pairs[c] those whose pixel has class c; E_c = equal / pairs.

    Args:
        mask: H W integer, 255 = ignore.
    """
    equal = torch.zeros(classes, dtype=torch.int64)
    pairs = torch.zeros(classes, dtype=torch.int64)
    for first, second in ((mask[1:], mask[:-1]), (mask[:, 1:], mask[:, :-1])):
        for a, b in ((first, second), (second, first)):
            valid = (a < classes) & (b < classes)
            pairs += torch.bincount(a[valid].long(), minlength=classes)
            equal += torch.bincount(a[valid & (a == b)].long(), minlength=classes)
    return equal, pairs
