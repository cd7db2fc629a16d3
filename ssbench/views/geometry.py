"""Geometry as a list of recorded steps, so that images, masks, maps and boxes all follow the same one.

Coordinates are pixel edges, x to the right, y down: an image w wide spans [0, w], pixel i is [i, i + 1].
Boxes are float [n, 4] (x0, y0, x1, y1). Sizes are (width, height), as PIL has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Size: TypeAlias = tuple[int, int]
Boxes: TypeAlias = NDArray[np.float64]
Index: TypeAlias = NDArray[np.intp]

PADDING, OUTSIDE = -1, -2
"""Places without a pixel: in a crop that reaches beyond the image, and where a turn or scipy's zoom found none."""

How = Literal["pil", "point", "float", "zoom"]
"""pil: PIL's antialiased bilinear (its nearest looks at pixel centres). point: bilinear between the four nearest pixels
and rounded to 8 bits, as OpenCV does (its nearest rounds down). float: the same kept in float, as torch does. zoom:
scipy.ndimage.zoom of order 0 for every layer."""


@dataclass(frozen=True)
class Resize:
    """From `before` to `size`, both sides on their own."""

    before: Size
    size: Size
    how: How

    def boxes(self, boxes: Boxes) -> Boxes:
        """Both coordinates scaled."""
        sx, sy = self.size[0] / self.before[0], self.size[1] / self.before[1]
        return np.asarray(boxes * np.array([sx, sy, sx, sy]), np.float64)

    def pick(self, rows: Index, cols: Index) -> tuple[Index, Index]:
        """Which of the given rows and columns each output row and column takes."""
        across = nearest(self.before[0], self.size[0], self.how)
        down = nearest(self.before[1], self.size[1], self.how)
        return np.where(down < 0, down, rows[down]), np.where(across < 0, across, cols[across])


@dataclass(frozen=True)
class Crop:
    """The window of `size` at (x, y); where it reaches outside the image there is padding."""

    before: Size
    x: int
    y: int
    size: Size

    def boxes(self, boxes: Boxes) -> Boxes:
        """Shifted by the window's origin."""
        return np.asarray(boxes - np.array([self.x, self.y, self.x, self.y]), np.float64)

    def pick(self, rows: Index, cols: Index) -> tuple[Index, Index]:
        """The rows and columns of the window, PADDING outside the image."""
        return _cut(rows, self.y, self.size[1]), _cut(cols, self.x, self.size[0])


@dataclass(frozen=True)
class Flip:
    """Left and right (or top and bottom) exchanged."""

    before: Size
    vertical: bool = False

    @property
    def size(self) -> Size:
        """Unchanged."""
        return self.before

    def boxes(self, boxes: Boxes) -> Boxes:
        """Mirrored, edges in order again."""
        w, h = self.before
        x0, y0, x1, y1 = boxes.T
        return np.stack([x0, h - y1, x1, h - y0] if self.vertical else [w - x1, y0, w - x0, y1], axis=1)

    def pick(self, rows: Index, cols: Index) -> tuple[Index, Index]:
        """Reversed rows or columns."""
        return (rows[::-1], cols) if self.vertical else (rows, cols[::-1])


@dataclass(frozen=True)
class Turn:
    """`quarters` quarter turns counter-clockwise, as numpy.rot90."""

    before: Size
    quarters: int

    @property
    def size(self) -> Size:
        """Sides exchanged by an odd number of quarter turns."""
        return self.before[::-1] if self.quarters % 2 else self.before

    def boxes(self, boxes: Boxes) -> Boxes:
        """Corners turned one quarter at a time."""
        w, h = self.before
        for _ in range(self.quarters % 4):
            x0, y0, x1, y1 = boxes.T
            boxes = np.stack([y0, w - x1, y1, w - x0], axis=1)
            w, h = h, w
        return boxes


@dataclass(frozen=True)
class Rotate:
    """Counter-clockwise by whole degrees about the centre, same size; what turns in from outside is zero."""

    before: Size
    degrees: int

    @property
    def size(self) -> Size:
        """Unchanged."""
        return self.before

    def boxes(self, boxes: Boxes) -> Boxes:
        """The upright boxes around the turned ones."""
        x0, y0, x1, y1 = boxes.T
        centre = np.array(self.size) / 2
        corners = np.stack([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]).transpose(2, 0, 1) - centre  # n 4 2
        a = np.deg2rad(self.degrees)
        turned = corners @ np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]) + centre
        return np.concatenate([turned.min(1), turned.max(1)], axis=1)


Flat: TypeAlias = Resize | Crop | Flip
"""Steps that choose rows and columns independently (`pick`)."""
Step: TypeAlias = Flat | Turn | Rotate
"""One piece of geometry from size `before` to `size`; `boxes` moves boxes along without clipping them."""


def move_boxes(boxes: NDArray[np.floating], geometry: Sequence[Step]) -> tuple[Boxes, Index]:
    """Boxes [n, 4] of the original image in coordinates of the view, and the indices [m] of those still in it.

    After each step boxes are clipped to the picture and dropped when nothing is left.
    Padding belongs to no box, since a box never left the image.
    """
    moved = np.asarray(boxes, np.float64).reshape(-1, 4)
    kept: Index = np.arange(len(moved))
    for step in geometry:
        moved = np.clip(step.boxes(moved), 0, np.array(step.size * 2))
        alive = (moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])
        moved, kept = moved[alive], kept[alive]
    return moved, kept


def rasterise(boxes: NDArray[np.floating], size: Size) -> NDArray[np.bool_]:
    """Bool [H, W]: pixels whose centre lies in any of the boxes [n, 4]."""
    out = np.zeros(size[::-1], np.bool_)
    for x0, y0, x1, y1 in np.ceil(np.clip(boxes, 0, np.array(size * 2)) - 0.5).astype(int):
        out[y0:y1, x0:x1] = True
    return out


@lru_cache(maxsize=4096)
def nearest(before: int, after: int, how: How) -> Index:
    """Which of `before` pixels each of `after` pixels copies: the exact rule of PIL, of torch, or of scipy's zoom.

    The last entry of scipy's may be OUTSIDE: at some sizes its place, rounded in double precision, lies beyond the last
    pixel by one unit in the last digit, and `scipy.ndimage.zoom` writes 0 there.
    """
    if how == "pil":  # asked of PIL itself, whose running sums in double decide the ties
        ramp = Image.fromarray(np.arange(before, dtype=np.int32)[None])
        picked = np.asarray(ramp.resize((after, 1), Image.Resampling.NEAREST))[0].astype(np.intp)
    elif how != "zoom":  # torch interpolate "nearest": float32 product, rounded down
        picked = (np.arange(after, dtype=np.float32) * np.float32(before / after)).astype(np.intp)
    else:  # corner pixels on corner pixels, halves up
        places = np.arange(after) * ((before - 1) / max(after - 1, 1))
        picked = np.where(places > before - 1, OUTSIDE, np.floor(places + 0.5)).astype(np.intp)
    out: Index = np.minimum(picked, before - 1)
    out.flags.writeable = False
    return out


def _cut(index: Index, start: int, length: int) -> Index:
    """`length` entries from `start`, PADDING where there are none."""
    out = np.full(length, PADDING, np.intp)
    first, last = max(start, 0), min(start + length, len(index))
    out[first - start : last - start] = index[first:last]
    return out
