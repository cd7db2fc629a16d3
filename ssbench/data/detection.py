"""Training examples of a detector: a random view of an image with the boxes that are left in it.

Source of the numbers: WPL's release on Cityscapes (specs: wpl 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ssbench.data.plan import shuffled
from ssbench.keyed import rng
from ssbench.views.geometry import Boxes, Crop, Flip, Resize, Size, Step, move_boxes
from ssbench.views.warp import eight_bit, move_picture

if TYPE_CHECKING:
    from torch import Tensor

CONTRAST = 0.2
"""Largest change of contrast (a factor) and of brightness (a share of white): ours, the release names none."""


@dataclass(frozen=True)
class Augment:
    """resize: height and width before the crop, or None. crop: its side, or None; smaller images are not padded.

    flip, colour: chances of a mirror image, and of another brightness and contrast.
    """

    resize: tuple[int, int] | None
    crop: int | None
    flip: float
    colour: float


@dataclass(frozen=True)
class Examples:
    """Views of images with boxes, by training step; each draw is keyed by seed, turn and image.

    ids: the images with boxes. boxes: n 5 rows (x0, y0, x1, y1, class) by id. labels: of class `classes[k]` k + 1.
    """

    ids: Sequence[str]
    boxes: dict[str, Boxes]
    classes: Sequence[int]
    image: Callable[[str], Image.Image]
    augment: Augment
    batch: int
    seed: int

    def __call__(self, step: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Views 3 H W in [0, 1], n 4 boxes and n labels of one step; a view that shows no box is left out (release)."""
        made = [self._view(*self._drawn(place)) for place in range(step * self.batch, (step + 1) * self.batch)]
        return [view for view in made if len(view[1])]

    def _drawn(self, place: int) -> tuple[str, int]:
        """The image at a place of the endless list, every turn shuffled anew, and the turn."""
        turn, at = divmod(place, len(self.ids))
        return self.ids[shuffled(self.seed, turn, "detector", len(self.ids))[at]], turn

    def _view(self, id: str, turn: int) -> tuple[Tensor, Tensor, Tensor]:
        import torch

        image, draw = rgb(self.image(id)), rng(self.seed, turn, id, "detector view")
        steps = self._steps(image.size, draw)
        rows = self.boxes[id]
        boxes, kept = move_boxes(rows[:, :4], steps)
        labels = [self.classes.index(int(c)) + 1 for c in rows[kept, 4]]
        picture = eight_bit(move_picture(image, steps)) if steps else image
        x = tensor(picture)
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
    """3 H W in [0, 1] of an RGB image; a detector normalises by itself."""
    import torch

    return torch.from_numpy(np.array(image)).movedim(-1, 0).float() / 255
