"""Boxes of images as maps that follow the image: eight classes to a layer, a bit each.

A pixel of a view copies the bits of the very pixel its label is copied from (both move by nearest neighbour), so boxes
agree with labels through every crop, flip, resize, turn and mix; padding is in no box. Moving the rectangles' corners
instead (`geometry.move_boxes`) differs by at most a pixel, and not at all without a resize.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from PIL import Image

from ssbench.errors import DataError
from ssbench.views.geometry import rasterise

if TYPE_CHECKING:
    from torch import Tensor

Boxed: TypeAlias = Mapping[str, Sequence[Any]]
"""{"size": [width, height], "rows": [[x0, y0, x1, y1, class, score], ...]}, pixel edges of the image as it is read."""


@dataclass(frozen=True)
class BoxMaps:
    """id -> layers "boxes0", "boxes1", ... (L): bit b of layer n is set inside boxes of `classes[8 n + b]`.

    `without`: ids that have no layers, because nobody asks for theirs. Pickles to loader workers.
    """

    boxes: Mapping[str, Boxed]
    classes: tuple[int, ...]
    score: float
    without: frozenset[str] = frozenset()

    def __call__(self, id: str) -> dict[str, Image.Image]:
        """The layers of an image; boxes below `score` count for nothing.

        Raises:
            DataError: no boxes were found or stored for it.
        """
        if id in self.without:
            return {}
        if id not in self.boxes:
            raise DataError(f"no boxes for image '{id}'", "", "delete the run's folder 'detector' and run again")
        width, height = self.boxes[id]["size"]
        rows = [row for row in self.boxes[id]["rows"] if row[5] >= self.score]
        bits = np.zeros((len(layers(self.classes)), height, width), np.uint8)
        for place, c in enumerate(self.classes):
            own = np.array([row[:4] for row in rows if row[4] == c]).reshape(-1, 4)
            if len(own):
                bits[place // 8][rasterise(own, (width, height))] |= np.uint8(1 << place % 8)
        return {name: Image.fromarray(layer) for name, layer in zip(layers(self.classes), bits, strict=True)}


def layers(classes: Sequence[int]) -> list[str]:
    """Names of the layers that hold so many classes."""
    return [f"boxes{n}" for n in range(-(-len(classes) // 8))]


def agreed(maps: Mapping[str, Tensor], label: Tensor, classes: Sequence[int]) -> Tensor:
    """B H W bool: whether a box of the pixel's own class covers it (A of specs: wpl 1).

    Args:
        maps: the layers, B H W uint8 each, moved and mixed like `label` (B H W int64).
    """
    said = label < 0  # nowhere
    for place, c in enumerate(classes):
        layer = maps[layers(classes)[place // 8]]
        said |= (label == c) & ((layer >> place % 8) & 1).bool()
    return said
