"""Neighbouring pixels: shifted maps, the choice of a neighbour, event unions, label agreement of neighbours."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Choice = Literal["max", "min", "random", "two_max"]


def offsets(size: int, connectivity: int) -> list[tuple[int, int]]:
    """(dy, dx) of a `size` x `size` window without its centre; with `connectivity` 4 only side neighbours (size 3)."""
    reach = size // 2
    window = [(dy, dx) for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1) if (dy, dx) != (0, 0)]
    return [(dy, dx) for dy, dx in window if connectivity == 8 or abs(dy) + abs(dx) == 1]


def shift(x: Tensor, dy: int, dx: int) -> Tensor:
    """The map whose pixel (i, j) is x's pixel (i + dy, j + dx), zero outside the image. x: B C H W."""
    height, width = x.shape[-2:]
    reach_y, reach_x = abs(dy), abs(dx)
    padded = F.pad(x, (reach_x, reach_x, reach_y, reach_y))
    return padded[..., reach_y + dy : reach_y + dy + height, reach_x + dx : reach_x + dx + width]


def distance_weight(dy: int, dx: int) -> float:
    """beta = exp(-(|dy| + |dx|) / 2): 0.6065 at a side, 0.3679 at a corner (S4MC Eq. 10)."""
    return math.exp(-(abs(dy) + abs(dx)) / 2)


def chosen(
    probs: Tensor, size: int, connectivity: int, how: Choice, generator: torch.Generator | None = None
) -> list[tuple[Tensor, Tensor]]:
    """The neighbour value(s) taken for each pixel and class, each with its distance weight.

    "max" takes the largest weighted value beta * n, which maximises the gain beta * n * (1 - p); "two_max" the two
    largest; "min" the smallest value; "random" one offset per pixel, shared by the classes.

    Args:
        probs: B C H W in [0, 1].
    Returns:
        one or two pairs (n, beta), each B C H W.
    """
    window = offsets(size, connectivity)
    if how == "random":
        return [_random(probs, window, generator)]
    keep = 2 if how == "two_max" else 1
    best: list[tuple[Tensor, Tensor, Tensor]] = []
    for dy, dx in window:
        value = shift(probs, dy, dx)
        beta = torch.full_like(value[:1, :1, :1, :1], distance_weight(dy, dx)).expand_as(value)
        rank = -value if how == "min" else value * beta
        best = _insert(best, (rank, value, beta), keep)
    return [(value, beta) for _, value, beta in best]


def union(p: Tensor, n: Tensor, beta: Tensor | float, agreement: Tensor | None = None) -> Tensor:
    """p + beta (n - J): the probability that the pixel or its neighbour has the class (S4MC Eqs. 8-10, App. C).

    Args:
        agreement: C, E_c = probability that a neighbour of a class-c pixel has class c; then the joint term is
            J = max(p n, p E_c), else independence, J = p n.
    """
    joint = p * n
    if agreement is not None:
        joint = torch.maximum(joint, p * agreement.view(1, -1, 1, 1))
    return p + beta * (n - joint)


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


def _insert(
    best: list[tuple[Tensor, Tensor, Tensor]], new: tuple[Tensor, Tensor, Tensor], keep: int
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Insert `new` = (rank, value, beta) into the per-pixel list sorted by falling rank, first come first at ties."""
    out = []
    for old in best:
        wins = new[0] > old[0]
        out.append(_where(wins, new, old))
        new = _where(wins, old, new)
    return [*out, new][:keep]


def _where(
    condition: Tensor, yes: tuple[Tensor, Tensor, Tensor], no: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    first, second, third = (torch.where(condition, a, b) for a, b in zip(yes, no, strict=True))
    return first, second, third


def _random(probs: Tensor, window: list[tuple[int, int]], generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    batch, _, height, width = probs.shape
    pick = torch.randint(len(window), (batch, 1, height, width), generator=generator, device=probs.device)
    value, beta = torch.zeros_like(probs), torch.zeros_like(probs)
    for k, (dy, dx) in enumerate(window):
        value = torch.where(pick == k, shift(probs, dy, dx), value)
        beta = torch.where(pick == k, distance_weight(dy, dx), beta)
    return value, beta
