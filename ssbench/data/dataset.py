"""What a prepared dataset is: where its files are and what its ids mean; and the only readers of image files.

Readers follow the released loaders where it matters: a palette mask is read by index (never by brightness), EXIF
orientation is ignored, a grey photograph becomes RGB. What Pillow would silently rescale or cut to eight bits (16-bit
PNG, 2- and 4-bit grey masks) is refused with the file name, because the labels would change without a word.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
from PIL import Image

from ssbench.data.decode import load_page, opened, raw_mode
from ssbench.errors import DataError, UsageError, nearest
from ssbench.files import read_text
from ssbench.splits.lists import unit

IGNORE = 255


class Dataset(ABC):
    """A prepared folder `<data root>/<name>`: ids of its subsets, and the image and mask of an id.

    `classes` and `palette` are in order of the label value; masks hold these values or 255 (ignored). `subsets` have a
    list of ids each, `<subset>.txt`. The datasets of this folder state them as class attributes; an imported folder
    reads its own.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    subsets: tuple[str, ...] = ()
    channels: int = 3
    ignore: int = IGNORE

    def __init__(self, root: Path) -> None:
        self.root = root

    def ids(self, subset: str) -> tuple[str, ...]:
        """Sorted ids of a subset ("train", "val"); UsageError for an unknown one, DataError when not prepared."""
        self.check_subset(subset)
        return read_ids(self.root / f"{subset}.txt", self.name)

    def check_subset(self, subset: str) -> None:
        """UsageError unless the dataset has this subset."""
        if subset not in self.subsets:
            raise UsageError(f"{self.name} has no subset '{subset}'; {nearest(subset, list(self.subsets))}")

    @abstractmethod
    def image(self, id: str) -> Image.Image:
        """The image at native size, mode RGB (one-channel datasets: L); DataError when missing or damaged."""

    @abstractmethod
    def mask(self, id: str) -> Image.Image:
        """The labels at native size, mode L: label values 0..len(classes)-1, or 255 = ignore."""

    def unit(self, id: str) -> str:
        """What a split must not tear apart: the patient in acdc, a group of an import that has them, else the image."""
        return unit(self.name, id)

    def labels_in(self, id: str) -> frozenset[int]:
        """Label values that occur in the mask of an image, without 255."""
        return frozenset(np.unique(np.asarray(self.mask(id))).tolist()) - {IGNORE}

    def unmasked(self) -> frozenset[str]:
        """Ids of images that came without a mask, whose `mask` is 255 everywhere."""
        return frozenset()

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]] | None:
        """Volume -> its slice ids in order, for datasets scored by volume; None for the others."""
        return None


def read_image(path: Path) -> Image.Image:
    """The picture in `path` as mode RGB; grey is repeated, EXIF orientation is ignored; DataError otherwise."""
    image = read_any(path)
    if image.mode not in ("RGB", "L"):
        raise _refused(path, image.mode, "an 8-bit RGB or grey image")
    return image if image.mode == "RGB" else image.convert("RGB")


def read_grey(path: Path) -> Image.Image:
    """The one-channel 8-bit picture in `path` as mode L; DataError for any other form."""
    image = read_any(path)
    if image.mode != "L":
        raise _refused(path, image.mode, "an 8-bit grey image")
    return image


def read_float(path: Path) -> Image.Image:
    """The one-channel float32 picture in `path` as mode F, intensities in [0, 1]; DataError for any other form."""
    image = read_any(path)
    if image.mode != "F":
        raise _refused(path, image.mode, "a float32 grey TIFF")
    return image


def read_mask(path: Path) -> Image.Image:
    """The label values in `path` as mode L: grey values as they are, palette images by index; DataError otherwise."""
    image = read_any(path)
    if image.mode == "P":
        return Image.fromarray(np.asarray(image))
    if image.mode != "L":
        raise _refused(path, image.mode, "an 8-bit grey or palette PNG of label values")
    return image


def read_ids(path: Path, dataset: str) -> tuple[str, ...]:
    """The ids of a list file, one a line, sorted; DataError when the file is missing or names an id twice."""
    if not path.is_file():
        raise DataError(f"{dataset} is not prepared: no {path.name}", str(path), f"ssbench prepare {dataset}")
    text = read_text(path, f"list {path.name}", f"ssbench prepare {dataset} --check")
    ids = sorted(line.strip() for line in text.splitlines() if line.strip())
    twice = [a for a, b in zip(ids, ids[1:], strict=False) if a == b]
    if twice:
        raise DataError(f"{path.name} names '{twice[0]}' twice", str(path), f"ssbench prepare {dataset} --check")
    return tuple(ids)


def find_image(folder: Path, id: str, dataset: str) -> Path:
    """The JPEG or PNG of `id` in `folder`; DataError when there is none."""
    for suffix in (".jpg", ".png"):
        if os.path.isfile(path := folder / f"{id}{suffix}"):  # noqa: PTH113  Path.is_file raises for a name too long
            return path
    raise DataError(f"no image of '{id}'", str(folder), f"ssbench prepare {dataset} --check names all")


def bad_values(mask: Image.Image, classes: int) -> list[int]:
    """Values of an L mask that are neither below `classes` nor 255; empty when all is well."""
    return [value for value, count in enumerate(mask.histogram()) if count and classes <= value != IGNORE]


def read_any(path: Path) -> Image.Image:
    """`path` decoded in full; DataError when missing, damaged, or of a bit depth Pillow would change."""
    with opened(path) as image:
        depth = raw_mode(image)
        if ";16" in depth or depth in ("L;2", "L;4", "1"):
            raise _refused(path, depth, "8 bits a sample")
        load_page(image, path, 0)
    return image


def _refused(path: Path, mode: str, expected: str) -> DataError:
    return DataError(f"{path.name} has mode '{mode}', not {expected}", str(path), f"save it again as {expected}")
