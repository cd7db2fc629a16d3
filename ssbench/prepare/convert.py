"""What the converters share: writing images and masks, finding folders in a source, naming what is missing."""

from __future__ import annotations

import io
import os
import struct
import warnings
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from ssbench.data.dataset import bad_values
from ssbench.data.decode import opened
from ssbench.errors import DataError, first_few
from ssbench.files import shown, write_bytes
from ssbench.prepare.job import PrepareJob
from ssbench.splits.lists import dump

Labels = np.ndarray[tuple[int, ...], np.dtype[np.uint8]]
ENDINGS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9"}
"""The last bytes of a picture that is whole."""


def put(path: Path, data: bytes) -> None:
    """`write_bytes` without waiting for the disk: the ledger is written after one flush of everything."""
    write_bytes(path, data, flush=False)


def put_png(path: Path, image: Image.Image) -> None:
    """`image` as a PNG of its mode, by `put`."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    put(path, buffer.getvalue())


def put_tiff(path: Path, image: Image.Image) -> None:
    """`image` (mode "F", float32) as a TIFF, compressed without loss, by `put`."""
    buffer = io.BytesIO()
    image.save(buffer, format="TIFF", compression="tiff_adobe_deflate")
    put(path, buffer.getvalue())


def put_copy(source: Path, path: Path) -> None:
    """The bytes of `source` as `path`, by `put`, unless they are there; DataError when `source` is missing."""
    if not source.is_file():
        raise DataError(f"no file {shown(source.name)}", shown(source), "is the source complete?")
    if not (is_intact(path) and path.stat().st_size == source.stat().st_size):
        put(path, source.read_bytes())


def put_link(source: Path, path: Path) -> None:
    """`source` as `path` without a second copy on disk where the file system allows it, else copied."""
    if path.exists() and path.samefile(source):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), path)
    except OSError:  # another disk, no permission, no links: copying mends them all, or raises its own error
        put_copy(source, path)


def put_list(path: Path, ids: Iterable[str]) -> None:
    """A list of ids, sorted, one a line; untouched when it is there already."""
    text = dump(sorted(ids)).encode()
    if not path.is_file() or path.read_bytes() != text:
        put(path, text)


def is_intact(path: Path) -> bool:
    """True when `path` is a whole picture, or another file that is not empty: not worth converting again.

    A PNG or JPEG is whole when it ends as one. A TIFF has no mark at its end, so it is decoded, and its directory, the
    last thing that `put_tiff` writes, must end within the file.
    """
    try:
        if path.suffix == ".tif":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of a header cut short before it fails
                with Image.open(path, formats=("TIFF",)) as image:
                    image.load()
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if path.suffix == ".tif" and _directory_end(file) > size:
                return False
            file.seek(max(0, size - 8))
            return size > 0 and file.read().endswith(ENDINGS.get(path.suffix, b""))
    except (OSError, SyntaxError, ValueError, struct.error):
        return False


def _directory_end(file: BinaryIO) -> int:
    """Where the directory of a little-endian TIFF ends: two bytes, twelve an entry, four to the next directory."""
    file.seek(4)
    (start,) = struct.unpack("<I", file.read(4))
    file.seek(start)
    (entries,) = struct.unpack("<H", file.read(2))
    return int(start) + 2 + 12 * int(entries) + 4


@dataclass(frozen=True)
class ConvertTask:
    """One image and where its labels come from (`labels`), and the two files to be written."""

    image: Path
    labels: Path
    to_image: Path
    to_mask: Path

    def __str__(self) -> str:
        return str(self.image)  # how a pool names the item that failed

    @property
    def is_finished(self) -> bool:
        """True when an earlier run wrote both files whole."""
        return is_intact(self.to_image) and is_intact(self.to_mask)


def may_link(source: Path, job: PrepareJob) -> bool:
    """True when `source` is what this job unpacked: its files may be linked, and the unpacked folder goes away.

    A user's own files are copied: a link would let an accident to one side destroy the other.
    """
    return source.is_relative_to(job.downloads)


def put_pair(task: ConvertTask, mask: Image.Image, classes: int, link: bool) -> None:
    """Place the image and its `mask` (mode L), the mask last; DataError when the two do not fit.

    Only the header of the image is read here. `prepare` decodes all of it afterwards, when it verifies the dataset.
    """
    origin = task.labels
    unknown = bad_values(mask, classes)
    if unknown:
        what = f"{origin.name} has label values {first_few(unknown, 5)}; allowed are 0..{classes - 1} and 255"
        raise DataError(what, str(origin), "bring a good copy of it (label values, not grey levels of a palette)")
    with opened(task.image) as image:
        width, height = image.size
    if mask.size != (width, height):
        what = f"{task.image.name} is {width}x{height}, its mask in {origin.name} is {mask.width}x{mask.height}"
        raise DataError(what, str(task.image), "bring image and mask of one release")
    (put_link if link else put_copy)(task.image, task.to_image)
    put_png(task.to_mask, mask)


def as_mask(labels: Labels) -> Image.Image:
    """H W uint8 as an image of mode L."""
    return Image.fromarray(np.ascontiguousarray(labels))


def find_folder(source: Path, name: str, holds: str) -> Path | None:
    """The folder `name` (may hold slashes) at or below `source`, the least deep one with a file like `holds` in it.

    Archives are unpacked, and kept by users, up to four folders deep; what macOS adds to zips is passed over.
    """
    tail, source = Path(name).parts, source.absolute()
    candidates = [source] if source.parts[-len(tail) :] == tail else []
    candidates += [source.parent / name] if source.name == tail[0] else []
    for depth in range(5):
        candidates += sorted(source.glob("*/" * depth + name))
        for folder in candidates:
            if "__MACOSX" not in folder.parts and folder.is_dir() and next(folder.glob(holds), None):
                return folder
        candidates = []
    return None


def need_folder(dataset: str, source: Path, name: str, holds: str, archive: str) -> Path:
    """`find_folder`, or a DataError that names the archive the folder comes from."""
    folder = find_folder(source, name, holds)
    if folder is None:
        fix = f"bring {archive} or what it unpacks to: ssbench prepare {dataset} --source FOLDER"
        raise DataError(f"no folder {name} with files {holds} for {dataset}", str(source), fix)
    return folder


def stems(folder: Path, pattern: str) -> set[str]:
    """Names, without the constant end of `pattern`, of the files of `folder` that match; no hidden ones.

    They become ids, which are written into lists: DataError for a name that is no plain text.
    """
    end = pattern.split("*")[-1]
    names = {path.name.removesuffix(end) for path in folder.glob(pattern) if not path.name.startswith(".")}
    for name in names:
        if not name.isprintable():
            what = f"the name {shown(name)}{end} is no plain text"
            raise DataError(what, shown(folder / f"{name}{end}"), "rename this file, or take it out of the folder")
    return names


def need_all(ids: Collection[str], present: Collection[str], path: Callable[[str], Path], what: str) -> None:
    """DataError naming the first missing files, and how many of how many, unless all `ids` are `present`."""
    missing = sorted(set(ids) - set(present))
    if missing:
        names = ", ".join(shown(path(id).name) for id in missing[:3]) + (", ..." if len(missing) > 3 else "")
        fix = "is the archive complete? unpack it again, or fetch it again"
        raise DataError(f"{len(missing)} of {len(ids)} {what} missing: {names}", shown(path(missing[0])), fix)
