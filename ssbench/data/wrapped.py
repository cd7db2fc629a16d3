"""Datasets in front of another one, which answers whatever the first does not.

`WithOtherImages`: all of VOC labelled, COCO unlabelled (UPC Table 4).
"""

from __future__ import annotations

import re
from typing import Any

from PIL import Image

from ssbench.data.dataset import IGNORE, Dataset
from ssbench.errors import RecipeError
from ssbench.splits.lists import IDS


class WrappedDataset(Dataset):
    """`dataset` under its own name; a subclass changes where images and masks come from."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__(dataset.root)
        self.dataset = dataset
        self.name, self.classes, self.palette = dataset.name, dataset.classes, dataset.palette
        self.channels, self.ignore = dataset.channels, dataset.ignore

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # not yet there while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def ids(self, subset: str) -> tuple[str, ...]:
        """Those of the dataset."""
        return self.dataset.ids(subset)

    def unit(self, id: str) -> str:
        """That of the dataset."""
        return self.dataset.unit(id)

    def unmasked(self) -> frozenset[str]:
        """Those of the dataset."""
        return self.dataset.unmasked()

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]] | None:
        """Those of the dataset."""
        return self.dataset.volumes(subset)

    def image(self, id: str) -> Image.Image:
        """That of the dataset."""
        return self.dataset.image(id)

    def mask(self, id: str) -> Image.Image:
        """That of the dataset."""
        return self.dataset.mask(id)


OTHER_NAMES = {
    **{"aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle"},
    **{"pottedplant": "potted plant", "sofa": "couch", "tvmonitor": "tv"},
}
"""VOC's classes that COCO has under another name (ours; card: upc 5)."""


class WithOtherImages(WrappedDataset):
    """`dataset`, which also has the images of `other`, with no pixel's label known. Ids tell which is which.

    Raises:
        RecipeError: the other dataset's ids have no form of their own.
    """

    def __init__(self, dataset: Dataset, other: Dataset) -> None:
        super().__init__(dataset)
        if other.name not in IDS or dataset.name not in IDS or other.name == dataset.name:
            what = f"images of {other.name} cannot be told from those of {dataset.name} by their ids"
            raise RecipeError(what, "data.unlabeled", "data: {dataset: voc, unlabeled: coco}")
        self.other = other

    def image(self, id: str) -> Image.Image:
        """The image, of whichever dataset has it."""
        return self.other.image(id) if self._is_other(id) else self.dataset.image(id)

    def mask(self, id: str) -> Image.Image:
        """The mask; 255 everywhere for an image of the other dataset, whose classes are not these."""
        if self._is_other(id):
            return Image.new("L", self.other.image(id).size, IGNORE)
        return self.dataset.mask(id)

    def labels_in(self, id: str) -> frozenset[int]:
        """Label values that occur in an image; of the other dataset's those of its classes that are also here."""
        if not self._is_other(id):
            return self.dataset.labels_in(id)
        names = {self.other.classes[label] for label in self.other.labels_in(id)}
        return frozenset(k for k, name in enumerate(self.classes) if OTHER_NAMES.get(name, name) in names)

    def _is_other(self, id: str) -> bool:
        return re.fullmatch(IDS[self.other.name], id, re.ASCII) is not None
