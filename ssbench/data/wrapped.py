"""A dataset in front of another one, which answers whatever the first does not."""

from __future__ import annotations

from typing import Any

from PIL import Image

from ssbench.data.dataset import Dataset


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
