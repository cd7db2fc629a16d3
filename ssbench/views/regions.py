"""Regions that CutMix pastes: bool [H, W] arrays, True where the partner's pixels go. Numpy only.

Each rule takes a generator and the picture's (height, width). The U2PL release draws its rectangle when it mixes
(`half`), AEL falls back on one (`ael_half`); both are here so that methods can call them as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from ssbench.views.sample import Draw
from ssbench.views.settings import ViewsConfig

Region: TypeAlias = NDArray[np.bool_]
Shape: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[float, float]


def region(cfg: ViewsConfig, draw: Draw, shape: Shape) -> Region:
    """The mixing region of one view by the rule `cfg.box` names; empty for "none"."""
    return RULES[cfg.box](draw("box"), shape, cfg)


def rectangle(rng: np.random.Generator, shape: Shape, area: Span, ratio: Span, redraw: bool) -> tuple[slice, slice]:
    """Rows and columns of a rectangle inside the picture, by rejection.

    Its area is uniform in `area` (shares of the picture), its ratio height / width uniform in `ratio`, its corner
    uniform over all pixels; drawn again until it fits. UniMatch keeps the area (unimatch 2), with `redraw` it is drawn
    again as well (ST++ release, dataset/transform.py).
    """
    h, w = shape
    pixels = rng.uniform(*area) * h * w
    while True:
        r = rng.uniform(*ratio)
        width, height = int(np.sqrt(pixels / r)), int(np.sqrt(pixels * r))
        x, y = int(rng.integers(w)), int(rng.integers(h))
        if x + width <= w and y + height <= h:
            return slice(y, y + height), slice(x, x + width)
        if redraw:
            pixels = rng.uniform(*area) * h * w


def unimatch(rng: np.random.Generator, shape: Shape, cfg: ViewsConfig) -> Region:
    """With p `box_share` one `rectangle`, else nothing (unimatch 2)."""
    out = np.zeros(shape, np.bool_)
    if rng.random() < cfg.box_share:
        out[rectangle(rng, shape, cfg.box_area, cfg.box_ratio, redraw=False)] = True
    return out


def toggled(rng: np.random.Generator, shape: Shape, cfg: ViewsConfig) -> Region:
    """`box_count` boxes, each turning its pixels over (XOR), inside the picture (cutmix_seg 3; cps 4 with three).

    Each has an area share p uniform in `box_area`, height p^u and width p / p^u with u uniform in [0, 1], both times
    sqrt(1 / count); sides and corner are rounded.
    """
    out = np.zeros(shape, np.bool_)
    count = cfg.box_count
    share = rng.uniform(*cfg.box_area, size=count)
    height = np.exp(rng.random(count) * np.log(share))
    sides = np.stack([height, share / height], 1) * np.sqrt(1 / count)
    sides = np.round(sides * np.array(shape))
    corner = np.round((np.array(shape) - sides) * rng.random((count, 2)))
    for (y, x), (h, w) in zip(corner.astype(int), sides.astype(int), strict=True):
        out[y : y + h, x : x + w] ^= True
    return out


def half(rng: np.random.Generator, shape: Shape, cfg: ViewsConfig | None = None) -> Region:
    """A rectangle of about half the picture (u2pl 5).

    Width a uniform integer in [floor(w / 2 + 1), w - 1], height round(h w / 2 / width), corner uniform inside.
    """
    h, w = shape
    least = int(w / 2 + 1)
    width = int(rng.integers(least, max(w, least + 1)))
    height = round(h * w / 2 / width)
    return _placed(rng, shape, height, width)


def ael_half(rng: np.random.Generator, shape: Shape, cfg: ViewsConfig | None = None) -> Region:
    """A rectangle of half the picture with a free shape: height H 2^-u, width W 2^(u-1), u uniform in [0, 1] (ael 6).

    Sides rounded and the corner uniform over all places inside: ours, the source names neither.
    """
    u = rng.random()
    return _placed(rng, shape, round(shape[0] * 2**-u), round(shape[1] * 2 ** (u - 1)))


def none(rng: np.random.Generator, shape: Shape, cfg: ViewsConfig) -> Region:
    """No region."""
    return np.zeros(shape, np.bool_)


RULES: dict[str, Callable[[np.random.Generator, Shape, ViewsConfig], Region]] = {
    "none": none,
    "unimatch": unimatch,
    "cutmix_seg": toggled,
    "cps": toggled,
    "half": half,
    "ael": ael_half,
}


def _placed(rng: np.random.Generator, shape: Shape, height: int, width: int) -> Region:
    out = np.zeros(shape, np.bool_)
    y, x = int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))
    out[y : y + height, x : x + width] = True
    return out
