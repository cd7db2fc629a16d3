"""Pseudo-labels and entropies that a network stored as pictures, read back as maps of an image's views."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from ssbench.errors import DataError


@dataclass(frozen=True)
class Stored:
    """The stored maps of some images: "pseudo" (L, labels) and perhaps "entropy" (F, nats); {} for any other image."""

    folder: Path
    ids: frozenset[str]
    classes: int
    names: tuple[str, ...]

    def __call__(self, id: str) -> Mapping[str, Image.Image]:
        """The maps of an image by name.

        Raises:
            DataError: a file is missing or damaged.
        """
        if id not in self.ids:
            return {}
        return {name: self._layer(name, self.folder / name / f"{id}.png") for name in self.names}

    def _layer(self, name: str, path: Path) -> Image.Image:
        try:
            with Image.open(path, formats=("PNG",)) as image:  # no other reader is tried
                values = np.array(image)
        except (OSError, SyntaxError) as error:
            fix = f"rm -r '{self.folder}', then run it again"
            raise DataError(f"the stored map {path.name} cannot be read: {error}", str(path), fix) from error
        if name == "pseudo":
            return Image.fromarray(values)
        return Image.fromarray(values.astype(np.float32) * np.float32(math.log(self.classes) / 255))


def entropy_picture(entropy: Tensor, classes: int) -> Image.Image:
    """H W entropies in nats as 8-bit shares of the largest, log of the number of classes; `Stored` undoes it."""
    shares = entropy.div(math.log(classes)).mul(255).round().clamp(0, 255)
    return Image.fromarray(shares.byte().cpu().numpy())
