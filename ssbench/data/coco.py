"""COCO 2017 as a segmentation task: background and 80 things, 118,287 training and 5,000 val images."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from PIL import Image

from ssbench.data.dataset import Dataset, read_image, read_mask
from ssbench.data.voc import bit_palette

UNUSED = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
"""The ids among 1..90 that COCO's things leave out."""

CATEGORIES = tuple(number for number in range(1, 91) if number not in UNUSED)
"""COCO's 80 category ids in order: the one at position k is class k + 1, because 0 is background."""


class Coco(Dataset):
    """Prepared by `ssbench prepare coco`: {train,val}2017/<id>.jpg, masks/<id>.png and the lists.

    An id is twelve digits (000000000139). How the masks were made from the annotations is in the ledger's settings.
    """

    name = "coco"
    subsets = ("train", "val")
    classes = (
        *("background", "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat"),
        *("traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse"),
        *("sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie"),
        *("suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
        *("skateboard", "surfboard", "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl"),
        *("banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair"),
        *("couch", "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard"),
        *("cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors"),
        *("teddy bear", "hair drier", "toothbrush"),
    )
    palette = bit_palette(81)

    @cached_property
    def _val(self) -> frozenset[str]:
        return frozenset(self.ids("val"))  # an id alone does not say in which of the two folders its image is

    def image_path(self, id: str) -> Path:
        """Where the photograph of `id` is."""
        return self.root / ("val2017" if id in self._val else "train2017") / f"{id}.jpg"

    def mask_path(self, id: str) -> Path:
        """Where the mask of `id` is; one folder for both subsets, as in UniMatch's lists."""
        return self.root / "masks" / f"{id}.png"

    def image(self, id: str) -> Image.Image:
        """The photograph, RGB; grey ones are repeated over the channels."""
        return read_image(self.image_path(id))

    def mask(self, id: str) -> Image.Image:
        """Mode L: 0 background, 1..80 the things."""
        return read_mask(self.mask_path(id))
