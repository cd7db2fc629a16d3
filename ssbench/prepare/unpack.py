"""Archives unpacked with suspicion: nothing outside the folder, no links or devices, no more than was agreed."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self, cast

from ssbench.errors import DataError
from ssbench.prepare.files import disk_full, readable_errors, size
from ssbench.prepare.job import Progress, Silent, stage

BLOCK = 1 << 20
MEMBERS = 2_000_000
NAMES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, NotImplementedError),
)
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}


class Damaged(DataError):  # noqa: N818  named like the other errors of ssbench
    """An archive that is not what its maker wrote: cut short, or failing its own check sums."""


@dataclass(frozen=True)
class Member:
    """One entry of an archive as it will be written: a folder, or a file with its content."""

    name: str
    folder: bool
    size: int
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """True for a file named as a zip or tar is."""
    return path.is_file() and path.name.lower().endswith(NAMES)


def bound(path: Path) -> int:
    """The bytes an archive of images may unpack to: twenty times itself, and a gigabyte for small ones."""
    return 20 * path.stat().st_size + (1 << 30)


def unpack(
    archive: Path, dest: Path, max_bytes: int, max_members: int = MEMBERS, progress: Progress | None = None
) -> None:
    """Unpack a zip or tar (plain, gz, xz, bz2) as the folder `dest`, which appears only when all of it is there.

    DataError naming archive and member: absolute paths, "..", links, devices, two entries of one name, damage (CRC,
    cut short), or more than `max_bytes` or `max_members`.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=dest.parent, prefix=f".{dest.name}."))
    try:
        with stage(progress or Silent(), 0, f"unpacking {archive.name}") as told:
            _write_all(archive, temporary, max_bytes, max_members, told)
        temporary.chmod(0o755)
        temporary.replace(dest)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_all(archive: Path, folder: Path, max_bytes: int, max_members: int, progress: Progress) -> None:
    """Every member below `folder`, its content counted while it is written, whatever the header claims."""
    left, name = max_bytes, "its index"
    with readable_errors(archive):
        try:
            for count, member in enumerate(_members(archive)):
                name = member.name
                if count >= max_members:
                    raise _refused(archive, name, f"more than {max_members} members")
                left -= _write(archive, member, folder, left)
                progress.advance()
        except DAMAGE as error:
            fix = f"delete {archive.name} and fetch it again"
            raise Damaged(f"{archive.name} is damaged at {name}: {error}", str(archive), fix) from error


def _write(archive: Path, member: Member, folder: Path, left: int) -> int:
    """Write one member, at most `left` bytes; its size."""
    path = folder / _safe(archive, member.name)
    if member.folder:
        path.mkdir(parents=True, exist_ok=True)
        return 0
    if path.exists():
        raise _refused(archive, member.name, "a second entry of this name")
    if not 0 <= member.size <= left:
        raise _refused(archive, member.name, "more than the archive may unpack to (an archive bomb?)")
    if member.size > shutil.disk_usage(folder).free:
        raise disk_full(path, member.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with member.open() or _nothing(archive, member.name) as source, path.open("wb") as out:
        while block := source.read(BLOCK):
            written += len(block)
            if written > member.size:
                raise _refused(archive, member.name, f"more than the {size(member.size)} it declares")
            out.write(block)
    if written != member.size:
        raise EOFError(f"{written} of {member.size} bytes")
    return written


def _safe(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or "\\" in name or "\0" in name or name[1:2] == ":":
        raise _refused(archive, name, "an absolute or foreign path")
    if ".." in path.parts:
        raise _refused(archive, name, "a path that leaves the folder")
    return path


def _members(archive: Path) -> Iterator[Member]:
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    else:
        yield from _tar_members(archive)


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            mode = info.external_attr >> 16
            if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, info.filename, "a link or device")
            if info.flag_bits & 1:
                raise _refused(archive, info.filename, "encrypted")
            yield Member(info.filename, info.is_dir(), info.file_size, partial(file.open, info))


class _Header(tarfile.TarInfo):
    """tarfile takes a damaged header, or a cut between members, for the end; only a block of zeros is the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(f"{error} (cut short?)") from error


def _tar_members(archive: Path) -> Iterator[Member]:
    """Members in one pass; afterwards the stream is read to its end, where its own check sum is."""
    with _stream(archive) as stream, tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as file:
        while (info := file.next()) is not None:
            if not (info.isreg() or info.isdir()):
                raise _refused(archive, info.name, "a link or device")
            yield Member(info.name, info.isdir(), info.size, partial(file.extractfile, info))
        while stream.read(BLOCK):
            pass


def _stream(archive: Path) -> IO[bytes]:
    with archive.open("rb") as file:
        head = file.read(6)
    opener = next((o for magic, o in COMPRESSED.items() if head.startswith(magic)), None)
    return cast(IO[bytes], opener(archive)) if opener else archive.open("rb")


def _nothing(archive: Path, name: str) -> IO[bytes]:
    raise _refused(archive, name, "no content")


def _refused(archive: Path, name: str, why: str) -> DataError:
    fix = "do not use this archive; fetch it from its official address"
    return DataError(f"{archive.name} is refused: member '{name}' is {why}", str(archive), fix)
