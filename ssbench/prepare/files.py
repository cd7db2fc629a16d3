"""Files of a preparation: written whole or not at all, in numbers, on disks that may be full."""

from __future__ import annotations

import errno
import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ssbench.errors import DataError
from ssbench.files import locked as file_lock
from ssbench.files import write_bytes

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
TAILS = {".png": b"IEND\xaeB`\x82", ".jpg": b"\xff\xd9"}


def put(path: Path, data: bytes) -> None:
    """`write_bytes` without waiting for the disk; see its `flush`."""
    write_bytes(path, data, flush=False)


def put_png(path: Path, image: Image.Image) -> None:
    """`image` as a PNG of its mode, by `put`."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    put(path, buffer.getvalue())


def put_copy(source: Path, path: Path) -> None:
    """The bytes of `source` as `path`, by `put`, unless they are there; DataError when `source` is missing."""
    if not source.is_file():
        raise DataError(f"no file {source.name}", str(source), "is the source complete?")
    if not (intact(path) and path.stat().st_size == source.stat().st_size):
        put(path, source.read_bytes())


def intact(path: Path) -> bool:
    """True when `path` exists, is not empty and, being a PNG or JPEG, ends as one: not worth converting again."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 8))
            return size > 0 and file.read().endswith(TAILS.get(path.suffix, b""))
    except OSError:
        return False


def walk(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path and status of every file below `folder`, sorted; names that begin with a dot are not data."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from ((f"{entry.name}/{path}", status) for path, status in walk(Path(entry.path)))
        else:
            yield entry.name, entry.stat()


def sweep(folder: Path, keep: str) -> None:
    """Delete temporary files that a killed run left below `folder`; the file called `keep` stays."""
    for here, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name != keep:
                (Path(here) / name).unlink(missing_ok=True)


@contextmanager
def readable_errors(where: Path) -> Iterator[None]:
    """OSErrors of the block as a DataError naming the file; a full disk tells what is free."""
    try:
        yield
    except OSError as error:
        path = Path(str(error.filename or where))
        if error.errno in FULL:
            raise disk_full(path) from error
        raise DataError(
            f"{path.name}: {error.strerror or error}", str(path), "see the message of the system"
        ) from error


def disk_full(path: Path, needed: int | None = None) -> DataError:
    """The error for a disk (or quota) that is full at `path`; `needed` bytes, when known, beside what is free."""
    folder = next(p for p in (path, *path.parents) if p.is_dir())
    free = shutil.disk_usage(folder).free
    need = f"{size(needed)} more needed, " if needed is not None else ""
    fix = "free some space, or choose another disk with --data-root, and run the command again: it goes on from here"
    return DataError(f"the disk is full: {need}{size(free)} free", str(path), fix)


def size(count: int) -> str:
    """A number of bytes for people: 1.4 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


@contextmanager
def locked(folder: Path, name: str) -> Iterator[None]:
    """Only one process works on `folder/name` at a time; the second gets a DataError at once, naming the first."""
    path = folder / f".{name}.lock"

    def busy(holder: str) -> DataError:
        what = f"{name} is being prepared by another process ({holder})"
        return DataError(what, str(path), f"wait until it ends, then: ssbench prepare {name}")

    with file_lock(path, busy, f"process {os.getpid()} on {os.uname().nodename}"):
        yield
