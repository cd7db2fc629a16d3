"""What passes through the views: one sample, and the keyed draws that decide what happens to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench import keyed
from ssbench.errors import RecipeError

if TYPE_CHECKING:
    from ssbench.views.geometry import Step

Picture: TypeAlias = Image.Image | NDArray[np.float32]
"""An 8-bit PIL image, or float32 [H, W] / [H, W, 3] on the 0-255 scale where a release interpolates in float (U2PL)."""

Maps: TypeAlias = Callable[[str], Mapping[str, Image.Image]]
"""From an image's id to its maps: named layers that follow the image through its views."""


@dataclass(frozen=True)
class Draw:
    """Randomness of one view of one sample: each purpose has its own generator, so no draw depends on another.

    `view` tells the uses of a sample apart ("labeled", "unlabeled", "partner"); `of` names a part of a view.
    """

    seed: int
    epoch: int
    id: str
    view: str

    def __call__(self, purpose: str) -> np.random.Generator:
        """The generator of `purpose` ("resize", "flip", ...); calling again starts it again."""
        return keyed.rng(self.seed, self.epoch, self.id, self.view, purpose)

    def of(self, part: str) -> Draw:
        """The draws of a part of this view, e.g. of its second strong picture."""
        return replace(self, view=f"{self.view}/{part}")


@dataclass(frozen=True)
class Sample:
    """One image with everything that must follow its geometry; all layers have the same size.

    image: PIL "RGB", "L", or "F" in [0, 1] (ACDC from HDF5). mask: "L", train ids, 255 = ignore. valid: "L", 1 inside
    the image, 0 in padding. maps: further layers by name, "1" and "L" moved by nearest neighbour, "F" interpolated.
    erased: "L", 1 where cutout put noise, or nothing. alpha: "F", how much of a pixel is image and not padding, where
    padding is resized along with the image, or nothing. geometry: what has been done to all layers, in order.
    pending: what has been drawn but not carried out yet (`warp.settle` does, on all layers at once).
    """

    id: str
    image: Picture
    mask: Image.Image
    valid: Image.Image
    maps: Mapping[str, Image.Image] = field(default_factory=dict)
    erased: Image.Image | None = None
    alpha: Image.Image | None = None
    geometry: tuple[Step, ...] = ()
    pending: tuple[Step, ...] = ()

    @classmethod
    def of(
        cls, id: str, image: Image.Image, mask: Image.Image | None = None, maps: Mapping[str, Image.Image] | None = None
    ) -> Sample:
        """A fresh sample: valid everywhere; without a mask every pixel is 255."""
        labels = Image.new("L", image.size, 255) if mask is None else mask
        return cls(id, image, labels, Image.new("L", image.size, 1), maps or {})

    @property
    def size(self) -> tuple[int, int]:
        """Width and height once the pending steps are carried out."""
        return self.pending[-1].size if self.pending else self.mask.size

    def then(self, *steps: Step) -> Sample:
        """This sample with more geometry to carry out."""
        return replace(self, pending=(*self.pending, *steps))


class Together:
    """Several sources of maps as one; pickles to loader workers."""

    def __init__(self, sources: Sequence[Maps]) -> None:
        self.sources = tuple(sources)

    def __call__(self, id: str) -> dict[str, Image.Image]:
        """All maps of the image `id`.

        Raises:
            RecipeError: two sources have maps of one name (stacked plug-ins, say).
        """
        joined: dict[str, Image.Image] = {}
        for layers in (source(id) for source in self.sources):
            if twice := sorted(joined.keys() & layers.keys()):
                raise RecipeError(f"two sources hand on maps called '{twice[0]}'", f"image {id}", "rename one of them")
            joined |= layers
        return joined
