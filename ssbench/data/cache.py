"""Reads the decoded cache: a dataset whose pictures are memory-mapped bytes instead of JPEG and PNG files.

`<root>/.cache/` holds shards `00000.u8` and on, image after image with its mask behind it, and `index.json`, written
last. The index says which files it was made from (the ledger's digest) and, where JPEGs are among them, with which
decoder. A cache of other pixels is refused, so every pixel is the one the files decode to and only the speed changes.
`ssbench.prepare.cache` writes it (`ssbench prepare --cache`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, features
from pydantic import BaseModel, ConfigDict, Field

from ssbench.data.dataset import Dataset
from ssbench.data.ledger import Digest, Ledger
from ssbench.data.wrapped import WrappedDataset
from ssbench.errors import DataError
from ssbench.files import read_model
from ssbench.paths import quoted

NAME = ".cache"
INDEX = "index.json"
Place = tuple[int, int, int, int]
"""Where a sample is: number of the shard, offset in it, width, height; the image first, then its mask."""
Size = Annotated[int, Field(ge=0)]


class Shard(BaseModel):
    """The table of one shard: its bytes, their SHA-256, and where in it each sample is (offset, width, height)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: Size
    sha256: Digest
    samples: dict[str, tuple[Size, Size, Size]]


class Index(BaseModel):
    """What a finished cache says of itself."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    dataset: str
    ledger: str
    jpeg: str | None
    channels: Annotated[int, Field(ge=1, le=3)]
    shards: tuple[Shard, ...]


def read_index(folder: Path) -> Index | None:
    """The index of the cache in `folder`; None where no cache was finished, DataError where it is damaged."""
    path = folder / INDEX
    return read_model(path, Index, "cache index", rebuild_command(folder.parent)) if path.is_file() else None


def load(root: Path, dataset: Dataset) -> Store | None:
    """The cache of the prepared folder `root`; None where none was finished.

    Raises:
        DataError: its index is damaged, it was made from other files than are there now, or it lost a shard.
    """
    folder = root / NAME
    index = read_index(folder)
    if index is None:
        return None
    book = Ledger.read(root)
    reason = why_stale(folder, book, index) if book else "the dataset is not prepared"
    if reason:
        what = f"the cache of {dataset.name} cannot be used: {reason}"
        raise DataError(what, str(folder), rebuild_command(root))
    places: dict[str, Place] = {}
    for number, shard in enumerate(index.shards):
        places |= {id: (number, *place) for id, place in shard.samples.items()}
    return Store(folder, index.channels, places)


def rebuild_command(root: Path) -> str:
    """The command that makes the cache of `root` anew."""
    return f"ssbench prepare {root.name} --cache --data-root {quoted(root.parent)}"


def why_stale(folder: Path, book: Ledger, index: Index) -> str:
    """Why the cache must not be read; "" when it may be."""
    if index.ledger != book.digest():
        return "it was made from other files than are there now"
    if index.jpeg not in (None, jpeg_decoder(book)):
        return f"it was decoded by libjpeg {index.jpeg}, the files would be by {jpeg_decoder(book)}"
    for number, shard in enumerate(index.shards):
        path = folder / shard_name(number)
        there = path.stat().st_size if path.is_file() else None
        if there != shard.bytes:
            return f"{path.name} is missing" if there is None else f"{path.name} has {there} of {shard.bytes} bytes"
        planes = index.channels + 1
        if any(at + width * height * planes > shard.bytes for at, width, height in shard.samples.values()):
            return f"its index names samples beyond the end of {path.name}"
    return ""


def jpeg_decoder(book: Ledger) -> str | None:
    """The JPEG decoder in use, when there is a JPEG to decode: decoders may differ in the last bit."""
    if not any(path.endswith(".jpg") for path in book.files):
        return None
    return str(features.version("libjpeg_turbo") or features.version("jpg"))


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


class Cached(WrappedDataset):
    """A prepared dataset read through its cache; ids that the cache lacks, and all else, come from the dataset."""

    def __init__(self, dataset: Dataset, store: Store) -> None:
        super().__init__(dataset)
        self.store = store

    def labels_in(self, id: str) -> frozenset[int]:
        """Those of the dataset."""
        return self.dataset.labels_in(id)

    def image(self, id: str) -> Image.Image:
        """The image, from the cache; see `Dataset.image`."""
        return self.store.image(id) if id in self.store else self.dataset.image(id)

    def mask(self, id: str) -> Image.Image:
        """The mask, from the cache; see `Dataset.mask`."""
        return self.store.mask(id) if id in self.store else self.dataset.mask(id)
