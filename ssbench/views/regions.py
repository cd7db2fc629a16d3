"""Regions that CutMix pastes: bool [H, W] arrays, True where the partner's pixels go.

Each rule takes a generator, the picture's (height, width) and the settings of its pipeline. The U2PL release draws its
rectangle when it mixes (`half`), AEL falls back on one (`ael_half`); both are here so that methods can call them too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from ssbench.views.settings import ASCENDING, LOOSE, Areas, Ratios, Share, ViewsConfig

Region: TypeAlias = NDArray[np.bool_]
Shape: TypeAlias = tuple[int, int]
Span: TypeAlias = tuple[float, float]
BoxAreas: TypeAlias = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], LOOSE, ASCENDING
]
BoxCount: TypeAlias = Annotated[int, Field(ge=1, le=64)]
Rule: TypeAlias = Callable[[np.random.Generator, Shape, Any], Region]


def rectangle(rng: np.random.Generator, shape: Shape, area: Span, ratio: Span, redraw: bool) -> tuple[slice, slice]:
    """Rows and columns of a rectangle inside the picture, by rejection.

    Its area is uniform in `area` (shares of the picture), its ratio height / width uniform in `ratio`, its corner
    uniform over all pixels. All but the area are drawn again until the rectangle fits (card: views 2); with `redraw`
    the area is drawn again as well (card: views 3).
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


def unimatch(rng: np.random.Generator, shape: Shape, cfg: UniMatchBox) -> Region:
    """With p `box_share` one `rectangle`, else nothing (card: views 2)."""
    out = np.zeros(shape, np.bool_)
    if rng.random() < cfg.box_share:
        out[rectangle(rng, shape, cfg.box_area, cfg.box_ratio, redraw=False)] = True
    return out


def toggled(rng: np.random.Generator, shape: Shape, cfg: CutmixSegBox) -> Region:
    """`box_count` boxes, each turning its pixels over (XOR), inside the picture (card: views 8; 7 with three).

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


def half(rng: np.random.Generator, shape: Shape, cfg: object = None) -> Region:
    """A rectangle of about half the picture (card: views 5).

    Width a uniform integer in [floor(w / 2 + 1), w - 1], height round(h w / 2 / width), corner uniform inside.
    """
    h, w = shape
    least = int(w / 2 + 1)
    width = int(rng.integers(least, max(w, least + 1)))
    height = round(h * w / 2 / width)
    y, x = int(rng.integers(h - height + 1)), int(rng.integers(w - width + 1))
    out = nothing(rng, shape)
    out[y : y + height, x : x + width] = True
    return out


def ael_half(rng: np.random.Generator, shape: Shape, cfg: object = None) -> Region:
    """A rectangle of half the picture with a free shape: height H 2^-u, width W 2^(u-1), u uniform in [0, 1].

    Sides and corner are rounded, so that the first and the last place are half as likely as others (card: ael 6).
    """
    u, down, right = rng.random(3)
    height, width = round(shape[0] * 2**-u), round(shape[1] * 2 ** (u - 1))
    top, left = round((shape[0] - height) * down), round((shape[1] - width) * right)
    out = np.zeros(shape, np.bool_)
    out[top : top + height, left : left + width] = True
    return out


def nothing(rng: np.random.Generator, shape: Shape, cfg: object = None) -> Region:
    """No region."""
    return np.zeros(shape, np.bool_)


def refuse_endless(area: Span, ratio: Span) -> None:
    """ValueError where no ratio of the range lets a rectangle of the largest area fit into a square picture.

    `rectangle` would draw for ever. A rectangle of area A fits with a ratio between A and 1 / A.
    """
    if not (ratio[0] < 1 / area[1] and ratio[1] > area[1]):
        raise ValueError(f"no rectangle of area {area[1]} with a height / width in {list(ratio)} fits into the picture")


class UniMatchBox(ViewsConfig):
    """Card: views 2."""

    box_share: Share = 0.5  # share of pictures that get a region at all (card: views 2)
    box_area: Areas = (0.02, 0.4)  # share of the crop (card: views 2)
    box_ratio: Ratios = (0.3, 1 / 0.3)  # height / width (card: views 2)

    @model_validator(mode="after")
    def _refuse_endless_box(self) -> Self:
        refuse_endless(self.box_area, self.box_ratio)
        return self


class CutmixSegBox(ViewsConfig):
    """Card: views 8."""

    box_area: BoxAreas = (0.5, 0.5)  # share of the crop (card: views 8)
    box_count: BoxCount = 1  # boxes that toggle


class CpsBox(CutmixSegBox):
    """Card: views 7."""

    box_area: BoxAreas = (0.25, 0.5)  # share of the crop, of all boxes together (card: views 7)
    box_count: BoxCount = 3  # boxes that toggle (card: views 7)


BOXES: dict[str, tuple[type[ViewsConfig], Rule]] = {
    "none": (ViewsConfig, nothing),
    "unimatch": (UniMatchBox, unimatch),
    "cutmix_seg": (CutmixSegBox, toggled),
    "cps": (CpsBox, toggled),
    "half": (ViewsConfig, half),
    "ael": (ViewsConfig, ael_half),
}
"""Settings and rule of every mixing region."""
