"""Toy data, built in: 480 drawn table tops of about 96 pixels, six classes, a quarter of the training masks coarse."""

from __future__ import annotations

from PIL import Image

from ssbench.data.dataset import Dataset, read_ids, read_image, read_mask
from ssbench.data.toy_scene import CLASSES


class Toy(Dataset):
    """Made by `ssbench prepare toy`: images/<id>.jpg, masks/<id>.png, train.txt, val.txt, test.txt and coarse.txt.

    An id is its subset and a number (train_0007). Masks have a 255 border of two pixels between labels, but for the
    coarse ones: training masks of few corners, without a border, as SBD's stand beside VOC's own.
    """

    name = "toy"
    subsets = ("train", "val", "test")
    classes = CLASSES
    palette = ((0, 0, 0), (230, 180, 40), (60, 140, 230), (200, 70, 180), (70, 170, 70), (210, 80, 50))

    def coarse(self) -> tuple[str, ...]:
        """Sorted training ids whose masks were drawn coarsely; DataError when not prepared."""
        return read_ids(self.root / "coarse.txt", self.name)

    def image(self, id: str) -> Image.Image:
        """The picture, RGB, 88 to 112 pixels a side."""
        return read_image(self.root / "images" / f"{id}.jpg")

    def mask(self, id: str) -> Image.Image:
        """Mode L: 0..5, 255 on the borders of fine masks."""
        return read_mask(self.root / "masks" / f"{id}.png")
