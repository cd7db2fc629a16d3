"""What the converters of VOC, Cityscapes and COCO share: finding folders, naming what is missing, placing pairs."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ssbench.data.dataset import bad_values
from ssbench.errors import DataError
from ssbench.prepare.files import intact, put, put_copy, put_png
from ssbench.prepare.job import Job
from ssbench.prepare.sources import downloads
from ssbench.splits.lists import dump

Labels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]


@dataclass(frozen=True)
class Pair:
    """One image and where its labels come from (`labels`), and the two files to be written."""

    image: Path
    labels: Path
    to_image: Path
    to_mask: Path

    def __str__(self) -> str:
        return str(self.image)  # how a pool names the item that failed

    @property
    def finished(self) -> bool:
        """True when an earlier run wrote both files whole."""
        return intact(self.to_image) and intact(self.to_mask)


def owned(source: Path, job: Job) -> bool:
    """True when `source` is what this job unpacked: its files may be linked, and the unpacked folder goes away.

    A user's own files are copied: a link would let an accident to one side destroy the other.
    """
    return source.is_relative_to(downloads(job))


def put_pair(pair: Pair, mask: Image.Image, classes: int, link: bool) -> None:
    """Place the image and its `mask` (mode L), the mask last; DataError naming `pair.labels` when the two do not fit.

    Only the header of the image is read; that all of it can be decoded is for `prepare` to verify.
    """
    origin = pair.labels
    wrong = bad_values(mask, classes)
    if wrong:
        what = f"{origin.name} has label values {some(wrong)}; allowed are 0..{classes - 1} and 255"
        raise DataError(what, str(origin), "bring a good copy of it (label values, not grey levels of a palette)")
    shape = _size(pair.image)
    if mask.size != shape:
        what = f"{pair.image.name} is {_by(shape)}, its mask in {origin.name} is {_by(mask.size)}"
        raise DataError(what, str(pair.image), "bring image and mask of one release")
    (put_link if link else put_copy)(pair.image, pair.to_image)
    put_png(pair.to_mask, mask)


def put_link(source: Path, path: Path) -> None:
    """`source` as `path` without a second copy on disk where the file system allows it, else copied."""
    if path.exists() and path.samefile(source):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), path)
    except OSError:  # another disk, no permission, no links: copying mends them all, or tells its own error
        put_copy(source, path)


def put_list(path: Path, ids: Iterable[str]) -> None:
    """A list of ids, sorted, one a line; untouched when it is there already."""
    text = dump(ids).encode()
    if not path.is_file() or path.read_bytes() != text:
        put(path, text)


def as_mask(labels: Labels) -> Image.Image:
    """H W uint8 as an image of mode L."""
    return Image.fromarray(np.ascontiguousarray(labels))


def find_folder(source: Path, name: str, holds: str) -> Path | None:
    """The folder `name` (may hold slashes) at or below `source`, the least deep one with a file like `holds` in it.

    Archives are unpacked, and kept by users, up to four folders deep; what macOS adds to zips is passed over.
    """
    tail, source = Path(name).parts, source.absolute()
    ahead = [source] if source.parts[-len(tail) :] == tail else []
    ahead += [source.parent / name] if source.name == tail[0] else []
    for depth in range(5):
        ahead += sorted(source.glob("*/" * depth + name))
        for folder in ahead:
            if "__MACOSX" not in folder.parts and folder.is_dir() and next(folder.glob(holds), None):
                return folder
        ahead = []
    return None


def need_folder(dataset: str, source: Path, name: str, holds: str, archive: str) -> Path:
    """`find_folder`, or a DataError that names the archive the folder comes from."""
    folder = find_folder(source, name, holds)
    if folder is None:
        fix = f"bring {archive} or what it unpacks to: ssbench prepare {dataset} --source FOLDER"
        raise DataError(f"no folder {name} with files {holds} for {dataset}", str(source), fix)
    return folder


def stems(folder: Path, pattern: str) -> set[str]:
    """Names, without the constant end of `pattern`, of the files of `folder` that match; no hidden ones."""
    end = pattern.split("*")[-1]
    return {path.name.removesuffix(end) for path in folder.glob(pattern) if not path.name.startswith(".")}


def need_all(wanted: Collection[str], there: Collection[str], path: Callable[[str], Path], what: str) -> None:
    """DataError naming the first missing files, and how many of how many, unless all `wanted` ids are `there`."""
    lost = sorted(set(wanted) - set(there))
    if lost:
        names = ", ".join(path(id).name for id in lost[:3]) + (", ..." if len(lost) > 3 else "")
        raise DataError(
            f"{len(lost)} of {len(wanted)} {what} missing: {names}",
            str(path(lost[0])),
            "is the archive complete? unpack it again, or fetch it again",
        )


def some(values: list[int]) -> str:
    """The first few of `values` for a message."""
    return ", ".join(map(str, values[:5])) + (", ..." if len(values) > 5 else "")


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path.name} cannot be read: {error}", str(path), "bring a good copy of it") from error


def _by(shape: tuple[int, int]) -> str:
    return f"{shape[0]}x{shape[1]}"
