"""Unpacks archives that nobody vouches for: nothing outside the folder, no links, no more than was agreed.

`tarfile.data_filter` decides which paths are safe, for tar and zip alike. Ours are the bounds: on the bytes and the
number of members, counted while they are written, and on the memory that a member's header or a zip's index may take.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, cast

from ssbench.console import Bar, Bars
from ssbench.errors import DataError
from ssbench.files import disk_full, format_bytes, readable_errors, shown

BLOCK = 1 << 20
MEMBERS = 2_000_000
HEADERS = 1 << 18
"""Bytes of headers before one member of a tar. PAX and GNU headers have a length of their own, which tarfile trusts: a
1 MB archive can claim, and compressed hold, a name of 1 GB. Real ones are below 10 kB."""
INDEX = 1 << 28
"""Bytes of a zip's index. zipfile reads it whole and makes an object of every entry (about ten times as much memory)
before anybody can count them; 2,000,000 members with names of 60 letters have 250 MB."""
LONGEST_NAME = 240  # of file systems' 255 bytes, so that a temporary name still fits
_FETCH = "do not use this archive; fetch it from its official address"
NAMES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2")
DAMAGE = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, struct.error),
    *(EOFError, ValueError, NotImplementedError, OverflowError, RecursionError, MemoryError),
)
"""What the libraries raise on bytes that are no archive; RecursionError comes of a chain of headers."""
COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"\xfd7zXZ": lzma.LZMAFile,
    b"BZh": bz2.BZ2File,
}


class DamagedArchive(DataError):  # noqa: N818  named like the other errors of ssbench
    """An archive that is not what its maker wrote: cut short, or failing its own check sums."""


@dataclass(frozen=True)
class ArchiveMember:
    """One entry of an archive as it will be written: a folder, or a file with its content."""

    name: str
    is_folder: bool
    size: int
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """True for a file named as a zip or tar is."""
    return path.is_file() and path.name.lower().endswith(NAMES)


def bound(path: Path) -> int:
    """The bytes an archive of images may unpack to: twenty times itself, and a gigabyte for small ones."""
    return 20 * path.stat().st_size + (1 << 30)


def unpack(archive: Path, dest: Path, max_bytes: int, max_members: int = MEMBERS, bars: Bars | None = None) -> None:
    """Unpack a zip or tar (plain, gz, xz, bz2) as the folder `dest`, which appears only when all of it is there.

    DataError naming archive and member: absolute paths, "..", links, devices, two entries of one name, damage (CRC,
    cut short), or more than `max_bytes` or `max_members`.
    """
    dest.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=dest.parent, prefix=f".{dest.name}."))
    try:
        with (bars or Bars(show=False)).stage(f"unpacking {archive.name}", None) as bar:
            _write_all(archive, temporary, max_bytes, max_members, bar)
        temporary.chmod(0o755)
        temporary.replace(dest)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _write_all(archive: Path, folder: Path, max_bytes: int, max_members: int, bar: Bar) -> None:
    """Every member below `folder`, its content counted while it is written, whatever the header claims."""
    left, name = max_bytes, "its index"
    with readable_errors(archive):
        try:
            for count, member in enumerate(_members(archive, max_members)):
                name = member.name
                if count >= max_members:
                    raise _refused(archive, name, f"more than {max_members} members")
                left -= _write_member(archive, member, folder, left)
                bar.advance()
        except DAMAGE as error:
            what = f"{archive.name} is damaged at {shown(name)}: {error or type(error).__name__}"
            raise DamagedArchive(what, str(archive), f"delete {archive.name} and fetch it again") from error


def _write_member(archive: Path, member: ArchiveMember, folder: Path, left: int) -> int:
    """Write one member, at most `left` bytes; its size."""
    path = _safe_path(archive, member.name, folder)
    if member.is_folder:
        path.mkdir(parents=True, exist_ok=True)
        return 0
    if path.exists():
        raise _refused(archive, member.name, "a second entry of this name")
    if not 0 <= member.size <= left:
        raise _refused(archive, member.name, "more than the archive may unpack to (an archive bomb?)")
    if member.size > shutil.disk_usage(folder).free:
        raise disk_full(path, member.size)
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    if source is None:
        raise _refused(archive, member.name, "no content")
    written = 0
    with source, path.open("wb") as out:
        while block := source.read(BLOCK):
            written += len(block)
            if written > member.size:
                raise _refused(archive, member.name, f"more than the {format_bytes(member.size)} it declares")
            out.write(block)
    if written != member.size:
        raise EOFError(f"{written} of {member.size} bytes")
    return written


def _safe_path(archive: Path, name: str, folder: Path) -> Path:
    """Where the member `name` is written, inside `folder`."""
    try:
        safe = tarfile.data_filter(tarfile.TarInfo(name), str(folder)).name
        parts = [part.encode() for part in safe.split("/")]
    except tarfile.FilterError:
        raise _refused(archive, name, "a path that leaves the folder") from None
    except UnicodeEncodeError:  # a tar may hold any bytes; a ledger of UTF-8 could not list them
        raise _refused(archive, name, "a path that is no UTF-8 text") from None
    if safe != name or "\\" in name or "\0" in name or name[1:2] == ":":  # the filter drops a leading slash
        raise _refused(archive, name, "an absolute or foreign path")
    if max(map(len, parts)) > LONGEST_NAME or len(os.fsencode(folder)) + sum(map(len, parts)) > 4000:
        raise _refused(archive, name[:60] + "...", "a path too long for a file system")
    return folder / safe


def _members(archive: Path, max_members: int) -> Iterator[ArchiveMember]:
    with archive.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"PK"):
        yield from _zip_members(archive, max_members)
        return
    opener = next((o for magic, o in COMPRESSED.items() if head.startswith(magic)), None)
    with _HeaderBound(opener(archive) if opener else archive.open("rb")) as stream:
        yield from _tar_members(archive, stream)


def _zip_members(archive: Path, max_members: int) -> Iterator[ArchiveMember]:
    with _IndexBound(archive, max_members) as raw, zipfile.ZipFile(raw) as file:
        raw.is_open = True
        for info in file.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, info.filename, "a link or device")
            if info.flag_bits & 1:
                raise _refused(archive, info.filename, "encrypted")
            yield ArchiveMember(info.filename, info.is_dir(), info.file_size, partial(file.open, info))


class _IndexBound(io.BufferedReader):
    """The file of a zip, which gives zipfile no index of more than INDEX bytes, or of more than `max_members` entries.

    The number of entries that the end of a zip declares is of no use: zipfile goes by the bytes of the index.
    """

    def __init__(self, archive: Path, max_members: int) -> None:
        super().__init__(io.FileIO(archive))
        self.archive, self.max_members = archive, max_members
        self.is_open = False  # whether zipfile has read the index

    def read(self, size: int | None = -1, /) -> bytes:
        if self.is_open:
            return super().read(size)
        if size is not None and size > INDEX:
            what = f"{self.archive.name} is refused: its index has {format_bytes(size)}, at most {format_bytes(INDEX)}"
            raise DataError(f"{what} are read (an archive bomb?)", str(self.archive), _FETCH)
        data = super().read(size)
        self._count_entries(data)
        return data

    def _count_entries(self, data: bytes) -> None:
        """DataError naming the first entry of an index that is one too many."""
        at = count = 0
        while data[at : at + 4] == b"PK\1\2" and at + 46 <= len(data):
            name, extra, comment = struct.unpack_from("<3H", data, at + 28)  # their lengths
            count += 1
            if count > self.max_members:
                text = data[at + 46 : at + 46 + name].decode("utf-8", "replace")
                raise _refused(self.archive, text, f"more than {self.max_members} members")
            at += 46 + name + extra + comment


class _HeaderBound:
    """A stream that gives tarfile no more than HEADERS bytes while it looks for the next member."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.left: int | None = HEADERS
        self.seek, self.tell = stream.seek, stream.tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def read(self, size: int = -1) -> bytes:
        if self.left is not None:
            self.left -= size
            if size < 0 or self.left < 0:
                raise tarfile.ReadError(f"a header of more than {format_bytes(HEADERS)}")
        return self.stream.read(size)


class _StrictHeader(tarfile.TarInfo):
    """tarfile takes a damaged header, or a cut between members, for the end; only a block of zeros is the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise
            raise tarfile.ReadError(f"{error} (cut short?)") from error


def _tar_members(archive: Path, stream: _HeaderBound) -> Iterator[ArchiveMember]:
    """Members in one pass; afterwards the stream is read to its end, where its own check sum is."""
    with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r:", tarinfo=_StrictHeader) as file:
        while (info := file.next()) is not None:
            stream.left = None
            if not (info.isreg() or info.isdir()):
                raise _refused(archive, info.name, "a link or device")
            yield ArchiveMember(info.name, info.isdir(), info.size, partial(file.extractfile, info))
            file.members.clear()  # type: ignore[attr-defined]  # else a million members stay in memory
            stream.left = HEADERS
        while stream.stream.read(BLOCK):
            pass


def _refused(archive: Path, name: str, why: str) -> DataError:
    return DataError(f"{archive.name} is refused: member '{shown(name)}' is {why}", str(archive), _FETCH)
