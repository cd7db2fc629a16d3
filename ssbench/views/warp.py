"""Carrying out recorded geometry on pixels, exactly as the authors' libraries would.

PIL resizes the whole image before the crop: Pillow chooses by size whether it filters rows or columns first and rounds
between the two, so a window computed by itself is not bit for bit the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.views.geometry import OUTSIDE, PADDING, Flat, Index, Resize, Rotate, Size, Step, Turn
from ssbench.views.sample import Picture, Sample

BILINEAR = Image.Resampling.BILINEAR
# ImageNet mean x 255, truncated (card: views 4); "L": the mean of the three
MEAN: dict[str, int | tuple[int, ...]] = {"RGB": (123, 116, 103), "L": 114}

Path: TypeAlias = list[tuple[Index, Index] | Turn | Rotate]
"""Steps as choices of rows and columns, with turns and rotations between them."""


@dataclass(frozen=True)
class Fill:
    """What goes where there is no pixel: in a crop's padding, and where a rotation or a zoom found nothing."""

    padding: int
    outside: int


IMAGE = Fill(0, 0)
MASK = Fill(255, 0)  # the ACDC release turns background in (card: views 9) ...
VALID = Fill(0, 1)  # ... and has no pad mask there
MAP = Fill(0, 0)  # padding belongs to no box and has entropy 0


def settle(sample: Sample, mean: bool = False) -> Sample:
    """The sample with its pending steps carried out on all layers.

    The image is padded with black, or with the mean colour; the mask with 255, valid and maps with 0.
    """
    steps = sample.pending
    if not steps:
        return sample
    path = trace(steps)
    return replace(
        sample,
        image=move_picture(sample.image, steps, mean),
        mask=move_layer(sample.mask, path, MASK),
        valid=move_layer(sample.valid, path, VALID),
        maps={name: _map(layer, steps, path) for name, layer in sample.maps.items()},
        alpha=_map(sample.alpha, steps, path) if sample.alpha else None,
        geometry=sample.geometry + steps,
        pending=(),
    )


def eight_bit(picture: Picture) -> Image.Image:
    """A PIL image; float pictures are rounded to 8 bits."""
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(np.rint(picture).clip(0, 255).astype(np.uint8))


def trace(steps: Sequence[Step]) -> Path:
    """The steps joined into as few choices of rows and columns as can be."""
    path: Path = []
    for step in steps:
        if isinstance(step, Turn | Rotate):
            path.append(step)
        elif path and isinstance(path[-1], tuple):
            path[-1] = step.pick(*path[-1])
        else:
            path.append(step.pick(np.arange(step.before[1]), np.arange(step.before[0])))
    return path


def move_layer(layer: Image.Image, path: Path, fill: Fill) -> Image.Image:
    """A layer moved by nearest neighbour."""
    array = np.asarray(layer)
    for leg in path:
        if isinstance(leg, Turn):
            array = np.rot90(array, leg.quarters)
        elif isinstance(leg, Rotate):
            from scipy.ndimage import rotate  # slow to import, and only ACDC turns

            array = rotate(array, leg.degrees, order=0, reshape=False, cval=fill.outside)
        else:
            array = _chosen(array, *leg, fill)
    return Image.fromarray(np.ascontiguousarray(array))


def move_picture(picture: Picture, steps: Sequence[Step], mean: bool = False) -> Picture:
    """An image (or float map) moved with interpolation; padded with black, or the mean colour."""
    if any(isinstance(step, Turn | Rotate) or (isinstance(step, Resize) and step.how == "zoom") for step in steps):
        return move_layer(eight_bit(picture), trace(steps), IMAGE)
    flats: list[Flat] = [step for step in steps if not isinstance(step, Turn | Rotate)]
    while flats:
        end = next((i for i, step in enumerate(flats) if i and isinstance(step, Resize)), len(flats))
        picture = _move(picture, flats[:end], mean)
        flats = flats[end:]
    return picture


def _map(layer: Image.Image, steps: Sequence[Step], path: Path) -> Image.Image:
    if layer.mode != "F":
        return move_layer(layer, path, MAP)
    moved = move_picture(layer, steps)
    return moved if isinstance(moved, Image.Image) else Image.fromarray(moved)


def _chosen(array: NDArray[Any], rows: Index, cols: Index, fill: Fill) -> NDArray[Any]:
    out = array.take(rows, axis=0).take(cols, axis=1)
    for place, value in ((OUTSIDE, fill.outside), (PADDING, fill.padding)):
        out[rows == place] = value
        out[:, cols == place] = value
    return out


@dataclass(frozen=True)
class Window:
    """The entries lo .. hi - 1 of an axis, perhaps backwards, from place `at` of `length`; other places are padding."""

    lo: int
    hi: int
    backwards: bool
    at: int
    length: int

    @classmethod
    def of(cls, index: Index) -> Window:
        """The window that a chain of crops and flips left of an axis."""
        inside = np.flatnonzero(index >= 0)
        if not len(inside):
            return cls(0, 0, False, 0, len(index))
        first, last = int(index[inside[0]]), int(index[inside[-1]])
        return cls(min(first, last), max(first, last) + 1, last < first, int(inside[0]), len(index))


def _move(picture: Picture, steps: Sequence[Flat], mean: bool) -> Picture:
    """At most one resize, first, and then crops and flips."""
    resize = steps[0] if isinstance(steps[0], Resize) else None
    size = steps[0].size if resize else steps[0].before
    rows, cols = np.arange(size[1]), np.arange(size[0])
    for step in steps[1:] if resize else steps:
        rows, cols = step.pick(rows, cols)
    down, across = Window.of(rows), Window.of(cols)
    if across.hi == 0 or down.hi == 0:  # nothing but padding
        return _place(eight_bit(picture).crop((0, 0, 0, 0)), across, down, mean)
    return _place(_resized(picture, resize, across, down), across, down, mean)


def _resized(picture: Picture, resize: Resize | None, across: Window, down: Window) -> Picture:
    """The window of the picture after `resize`."""
    if resize is None or resize.how == "pil":
        whole = eight_bit(picture)
        whole = whole.resize(resize.size, BILINEAR) if resize else whole
        return whole.crop((across.lo, down.lo, across.hi, down.hi))
    values = point_resize(np.asarray(picture), resize.size, across, down)
    if resize.how == "float":
        return values
    return Image.fromarray(values) if isinstance(picture, Image.Image) and picture.mode == "F" else eight_bit(values)


def point_resize(array: NDArray[Any], size: Size, across: Window, down: Window) -> NDArray[np.float32]:
    """The window of an array [H, W] or [H, W, 3] resized between its four nearest pixels, half-pixel centres; float32.

    What torch's interpolate (align_corners False, no antialiasing) and OpenCV's INTER_LINEAR compute.
    """
    x0, x1, wx = _taps(array.shape[1], size[0], across)
    y0, y1, wy = _taps(array.shape[0], size[1], down)
    first, left = int(y0[0]), int(x0[0])
    part = array[first : y1[-1] + 1, left : x1[-1] + 1].astype(np.float32)
    wx, wy = (w.reshape(shape + (1,) * (array.ndim - 2)) for w, shape in ((wx, (1, -1)), (wy, (-1, 1))))
    part = part.take(x0 - left, axis=1) * (1 - wx) + part.take(x1 - left, axis=1) * wx
    out: NDArray[np.float32] = part.take(y0 - first, axis=0) * (1 - wy) + part.take(y1 - first, axis=0) * wy
    return out


def _taps(before: int, after: int, window: Window) -> tuple[Index, Index, NDArray[np.float32]]:
    """The two inputs of each output of the window, and the weight of the second."""
    centre = (np.arange(window.lo, window.hi, dtype=np.float32) + np.float32(0.5)) * np.float32(before / after)
    centre = np.maximum(centre - np.float32(0.5), 0)
    low = np.minimum(centre.astype(np.intp), before - 1)
    return low, np.minimum(low + 1, before - 1), centre - low.astype(np.float32)


def _place(part: Picture, across: Window, down: Window, mean: bool) -> Picture:
    """The window turned the right way round, with its padding."""
    if isinstance(part, Image.Image) and part.size == (across.length, down.length) and not down.backwards:
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if across.backwards else part  # the usual case: no copy
    pixels = np.asarray(part)[:: -1 if down.backwards else 1, :: -1 if across.backwards else 1]
    out = np.zeros((down.length, across.length, *pixels.shape[2:]), pixels.dtype)
    if mean and isinstance(part, Image.Image):
        out[:] = MEAN.get(part.mode, 0)
    out[down.at : down.at + pixels.shape[0], across.at : across.at + pixels.shape[1]] = pixels
    return Image.fromarray(out) if isinstance(part, Image.Image) else out
