"""Boxes of WPL's detector: views of images to train it on, and its boxes as maps that follow the images.

The numbers of the training views are those of WPL's release on Cityscapes (card: wpl 2). A map holds eight classes,
each in one bit. A pixel of a view copies the bits of the very pixel its label is copied from (both move by nearest
neighbour), so boxes agree with labels through every crop, flip, resize and mix; padding is in no box. Moving the
corners of the rectangles instead (`geometry.move_boxes`) differs by a pixel at most, and not at all without a resize.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from ssbench.data.plan import shuffled
from ssbench.errors import DataError
from ssbench.keyed import rng
from ssbench.views.geometry import Boxes, Crop, Flip, Resize, Size, Step, move_boxes, rasterise
from ssbench.views.warp import eight_bit, move_picture

CONTRAST = 0.2
"""Largest change of contrast (a factor) and of brightness (a share of white): ours, the release names none."""
Edges = Literal["centres", "inclusive"]


@dataclass(frozen=True)
class DetectorAugment:
    """resize: height and width before the crop, or None. crop: its side, or None; smaller images are not padded.

    flip, colour: chances of a mirror image, and of another brightness and contrast.
    """

    resize: tuple[int, int] | None
    crop: int | None
    flip: float
    colour: float


@dataclass(frozen=True)
class DetectorExamples:
    """Views of images with boxes, by training step; each draw is keyed by seed, turn and image.

    ids: the images with boxes. boxes: n 5 rows (x0, y0, x1, y1, class) by id. Class `classes[k]` has label k + 1.
    """

    ids: Sequence[str]
    boxes: dict[str, Boxes]
    classes: Sequence[int]
    image: Callable[[str], Image.Image]
    augment: DetectorAugment
    batch: int
    seed: int

    def __call__(self, step: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The step's views 3 H W in [0, 1], with n 4 boxes and n labels. A view without a box is left out (release)."""
        views = [self._view(*self._place(k)) for k in range(step * self.batch, (step + 1) * self.batch)]
        return [view for view in views if len(view[1])]

    def _place(self, k: int) -> tuple[str, int]:
        """The k-th image of the endless list, which is shuffled anew every turn; and the turn."""
        turn, at = divmod(k, len(self.ids))
        return self.ids[shuffled(self.seed, turn, "detector", len(self.ids))[at]], turn

    def _view(self, id: str, turn: int) -> tuple[Tensor, Tensor, Tensor]:
        image, draw = rgb(self.image(id)), rng(self.seed, turn, id, "detector view")
        steps = self._steps(image.size, draw)
        rows = self.boxes[id]
        boxes, kept = move_boxes(rows[:, :4], steps)
        labels = [self.classes.index(int(c)) + 1 for c in rows[kept, 4]]
        x = tensor(eight_bit(move_picture(image, steps)) if steps else image)
        if draw.random() < self.augment.colour:
            contrast, brightness = draw.uniform(-CONTRAST, CONTRAST, 2)
            x = (x * (1 + float(contrast)) + float(brightness)).clamp(0, 1)
        return x, torch.from_numpy(boxes.astype(np.float32)), torch.tensor(labels, dtype=torch.int64)

    def _steps(self, size: Size, draw: np.random.Generator) -> list[Step]:
        steps: list[Step] = []
        if self.augment.resize is not None:
            height, width = self.augment.resize
            steps.append(Resize(size, (width, height), "pil"))
            size = (width, height)
        if self.augment.crop is not None:
            side = self.augment.crop
            x, y = (int(draw.integers(max(length - side, 0) + 1)) for length in size)
            steps.append(Crop(size, x, y, (min(side, size[0]), min(side, size[1]))))
            size = steps[-1].size
        if draw.random() < self.augment.flip:
            steps.append(Flip(size))
        return steps


def rgb(image: Image.Image) -> Image.Image:
    """Three 8-bit channels: a grey image three times, a float one (in [0, 1]) rounded."""
    if image.mode == "F":
        image = Image.fromarray(np.rint(np.asarray(image) * 255).clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def tensor(image: Image.Image) -> Tensor:
    """3 H W in [0, 1] of an RGB image; the detector normalises it."""
    return torch.from_numpy(np.array(image)).movedim(-1, 0).float() / 255


Side = Annotated[int, Field(ge=1, le=1_000_000)]
Row = tuple[float, float, float, float, Annotated[int, Field(ge=0, le=65_535)], Annotated[float, Field(ge=0, le=1)]]


class ImageBoxes(BaseModel):
    """Boxes found in one image of `size` (width, height): rows x0, y0, x1, y1 (pixel edges), class, score."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    size: tuple[Side, Side]
    rows: list[Row]


@dataclass(frozen=True)
class BoxMaps:
    """Function of an image's id: its boxes as layers "boxes0", "boxes1", ... (mode L). Pickles to loader workers.

    Bit b of layer n is set inside the boxes of `classes[8 n + b]` with a score of at least `score`.

    edges: "centres" marks pixels whose centre lies in the box; "inclusive" cuts the corners to whole numbers and marks
        both of them and what is between (release), which is one pixel more to the right and below.
    without: ids that have no layers, because their boxes were never sought.
    """

    boxes: Mapping[str, ImageBoxes]
    classes: tuple[int, ...]
    score: float
    without: frozenset[str] = frozenset()
    edges: Edges = "centres"

    def __call__(self, id: str) -> dict[str, Image.Image]:
        """The layers of an image by name; none for ids in `without`.

        Raises:
            DataError: no boxes were found or stored for it.
        """
        if id in self.without:
            return {}
        if id not in self.boxes:
            raise DataError(f"no boxes for image '{id}'", "", "delete the run's folder 'detector' and run again")
        width, height = self.boxes[id].size
        rows = [row for row in self.boxes[id].rows if row[5] >= self.score]
        bits = np.zeros((len(layer_names(self.classes)), height, width), np.uint8)
        mark = rasterise if self.edges == "centres" else rasterise_inclusive
        for place, c in enumerate(self.classes):
            own = np.array([row[:4] for row in rows if row[4] == c]).reshape(-1, 4)
            if len(own):
                bits[place // 8][mark(own, (width, height))] |= np.uint8(1 << place % 8)
        return {name: Image.fromarray(layer) for name, layer in zip(layer_names(self.classes), bits, strict=True)}


def rasterise_inclusive(boxes: NDArray[np.floating], size: Size) -> NDArray[np.bool_]:
    """Bool [H, W]: pixels floor(x0) .. floor(x1), floor(y0) .. floor(y1) of any of the boxes [n, 4] (WPL's release)."""
    out = np.zeros(size[::-1], np.bool_)
    for x0, y0, x1, y1 in np.clip(boxes, 0, None).astype(int):
        out[y0 : y1 + 1, x0 : x1 + 1] = True
    return out


def layer_names(classes: Sequence[int]) -> list[str]:
    """Names of the layers that hold so many classes."""
    return [f"boxes{n}" for n in range(-(-len(classes) // 8))]


def in_own_box(maps: Mapping[str, Tensor], label: Tensor, classes: Sequence[int]) -> Tensor:
    """B H W bool: whether a box of the pixel's own class covers it (Sec. 3.3, first criterion).

    Args:
        maps: the layers, B H W uint8 each, moved and mixed like `label` (B H W int64).
    """
    covered = label < 0  # nowhere
    for place, c in enumerate(classes):
        layer = maps[layer_names(classes)[place // 8]]
        covered |= (label == c) & ((layer >> place % 8) & 1).bool()
    return covered
