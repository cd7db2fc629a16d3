"""Reading the decoded cache: a dataset whose pictures are memory-mapped bytes instead of JPEG and PNG files.

`ssbench.data.cache` writes it and says when it is valid; `ssbench.data.open` uses it. Every pixel is the one the
files decode to, so nothing but the speed changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.data.dataset import Dataset

Place = tuple[int, int, int, int]
"""Where a sample is: number of the shard, offset in it, width, height; the image first, then its mask."""


class Mapped(Image.Image):
    """A picture on memory-mapped pixels, uint8 [H, W] or [H, W, 3], of which no more is read than is asked for.

    `crop` reads the rows and columns it needs, numpy sees the mapped bytes themselves, and everything else loads the
    picture first, as Pillow does with a file it opened (an RGB picture is copied then, a grey one is not).
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        super().__init__()
        self._mode = "RGB" if pixels.ndim == 3 else "L"
        self._size = (pixels.shape[1], pixels.shape[0])
        self._pixels = pixels
        self.readonly = 1  # Pillow copies before it writes: the bytes are mapped read-only

    def load(self) -> Any:
        """Give the picture to Pillow, the first time."""
        if self._im is None:
            whole = Image.frombuffer(self.mode, self.size, self._pixels, "raw", self.mode, 0, 1)
            self.im = whole.im
        return super().load()

    def crop(self, box: tuple[float, float, float, float] | None = None) -> Image.Image:
        """The part inside `box` (left, upper, right, lower) as a picture of its own."""
        left, upper, right, lower = (0, 0, *self.size) if box is None else (round(side) for side in box)
        inside = 0 <= left < right <= self.width and 0 <= upper < lower <= self.height
        if self._im is not None or not inside:
            return super().crop(box)
        return Image.fromarray(np.ascontiguousarray(self._pixels[upper:lower, left:right]))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return super().__array_interface__ if self._im is not None else self._pixels.__array_interface__


class Store:
    """The pixels of a cache folder by id; `samples` says where each is. Files are mapped when first read.

    It pickles without its maps, so a loader worker maps the files itself and copies nothing.
    """

    def __init__(self, folder: Path, channels: int, samples: Mapping[str, Place]) -> None:
        self.folder, self.channels, self.samples = folder, channels, samples
        self._maps: dict[int, NDArray[np.uint8]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_maps": {}}

    def __contains__(self, id: str) -> bool:
        return id in self.samples

    def image(self, id: str) -> Image.Image:
        """The image, mode RGB or L."""
        shard, offset, width, height = self.samples[id]
        shape = (height, width, 3) if self.channels == 3 else (height, width)
        return self._picture(shard, offset, shape)

    def mask(self, id: str) -> Image.Image:
        """The mask, mode L."""
        shard, offset, width, height = self.samples[id]
        return self._picture(shard, offset + width * height * self.channels, (height, width))

    def _picture(self, shard: int, offset: int, shape: tuple[int, ...]) -> Image.Image:
        if shard not in self._maps:
            mapped = np.memmap(self.folder / shard_name(shard), np.uint8, "r")
            self._maps[shard] = mapped.view(np.ndarray)
        return Mapped(self._maps[shard][offset : offset + int(np.prod(shape))].reshape(shape))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:05d}.u8"


class Cached(Dataset):
    """A prepared dataset read through its cache; ids that the cache lacks, and all else, come from the dataset."""

    def __init__(self, dataset: Dataset, store: Store) -> None:
        super().__init__(dataset.root)
        self.dataset, self.store = dataset, store
        self.name, self.classes, self.palette = dataset.name, dataset.classes, dataset.palette
        self.channels, self.ignore = dataset.channels, dataset.ignore

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "dataset" not in self.__dict__:  # not yet there while it is unpickled
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def ids(self, subset: str) -> tuple[str, ...]:
        """Those of the dataset."""
        return self.dataset.ids(subset)

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]] | None:
        """Those of the dataset."""
        return self.dataset.volumes(subset)

    def image(self, id: str) -> Image.Image:
        """The image, from the cache; see `Dataset.image`."""
        return self.store.image(id) if id in self.store else self.dataset.image(id)

    def mask(self, id: str) -> Image.Image:
        """The mask, from the cache; see `Dataset.mask`."""
        return self.store.mask(id) if id in self.store else self.dataset.mask(id)
