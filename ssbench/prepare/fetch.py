"""Downloads archives over bad networks: resumed by byte range, verified, tried again, one mirror after another.

Written on urllib, not on torchvision's helper: that one neither resumes nor gives up on a stalled connection, has no
mirrors and no SHA-256, and imports torch, which `ssbench prepare` does not need.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ssbench import __version__
from ssbench.console import Bar, Bars
from ssbench.errors import DataError
from ssbench.files import FULL, disk_full, format_bytes, read_model, readable_errors, write_json
from ssbench.prepare.job import Archive

BLOCK = 1 << 18
GONE = (400, 401, 403, 404, 405, 410, 451)  # asking the same address again will not help
BROKEN = (OSError, http.client.HTTPException, ValueError)
"""What a network or a server does wrong: timeouts, resets, refusals, cuts; ValueError is a redirect to no address."""


@dataclass(frozen=True)
class RetryPolicy:
    """How long a download keeps trying one server; times in seconds.

    `tries` requests in a row that bring no new byte, a `pause` between them (doubled each time, up to `longest`), and
    `stall` without a byte before a connection counts as dead.
    """

    tries: int = 6
    pause: float = 1.0
    longest: float = 60.0
    stall: float = 30.0


class PartialDownload(BaseModel):
    """What a `.part` file is the beginning of: its address, a validator (ETag or date), and the size of the whole."""

    model_config = ConfigDict(frozen=True, strict=True)

    url: str
    validator: str | None
    total: int | None


class _MirrorRefused(Exception):  # noqa: N818  caught below
    """This mirror will not deliver; the next one may."""


class _RequestFailed(http.client.HTTPException):
    """This request failed; the next one may not."""


def fetch(
    archive: Archive, folder: Path, fix: str, bars: Bars | None = None, policy: RetryPolicy | None = None
) -> Path:
    """`folder/archive.name`, whole and verified, from the first mirror that delivers it; kept when it is there already.

    What has arrived is in `<name>.part`, also after an error or Ctrl-C, and the next call goes on from there.
    DataError when no mirror delivers (its fix is `fix`, the steps by hand) and when the disk is full.
    """
    target = folder / archive.name
    if target.is_file():
        if mismatch(target, archive) is None:
            return target
        target.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in archive.urls:
        try:
            with (bars or Bars(show=False)).stage(f"downloading {archive.name}", archive.size, in_bytes=True) as bar:
                return _from_mirror(url, archive, target, bar, policy or RetryPolicy())
        except _MirrorRefused as refused:
            reasons.append(f"{url}: {refused}")
    raise DataError(f"{archive.name} could not be downloaded", "; ".join(reasons), fix)


def mismatch(path: Path, archive: Archive) -> str | None:
    """What is wrong with `path` by the published size and checksums; None when all agree, or none is published."""
    there = path.stat().st_size
    if archive.size is not None and there != archive.size:
        return f"{there} bytes, not {archive.size}"
    for kind, expected in (("sha256", archive.sha256), ("md5", archive.md5)):
        if expected is not None:
            with readable_errors(path), path.open("rb") as file:
                digest = hashlib.file_digest(file, kind).hexdigest()
            if digest != expected:
                return f"{kind} {digest}, not {expected}"
    return None


def _from_mirror(url: str, archive: Archive, target: Path, bar: Bar, policy: RetryPolicy) -> Path:
    """One address, tried until it delivers. Tries count anew whenever a request brought new bytes."""
    part, reason, longest, tries = target.with_name(f"{target.name}.part"), "", 0, 0
    while tries < policy.tries:
        if tries:
            time.sleep(min(policy.longest, policy.pause * 2 ** (tries - 1)))
        tries += 1
        try:
            is_whole = _attempt(url, archive, part, bar, policy.stall)
            return _verified(part, archive, target, is_whole)
        except BROKEN as error:
            reason = str(error) or type(error).__name__
        if _length(part) > longest:
            longest, tries = _length(part), 1
    raise _MirrorRefused(f"{reason} ({policy.tries} tries)")


def _verified(part: Path, archive: Archive, target: Path, is_whole: bool) -> Path:
    """`part` renamed to `target` when right; wrong pieces are thrown away, a wrong whole is the mirror's fault."""
    reason = mismatch(part, archive)
    if reason is not None:
        _drop(part)
        raise _MirrorRefused(reason) if is_whole else _RequestFailed(reason)
    part.replace(target)
    _meta(part).unlink(missing_ok=True)
    return target


def _attempt(url: str, archive: Archive, part: Path, bar: Bar, stall: float) -> bool:
    """One request for what `part` lacks, or for everything where that cannot be; True when it brought everything."""
    origin = _resumable(part, url, has_checksum=bool(archive.md5 or archive.sha256))
    have = _length(part) if origin else 0
    if origin and origin.total == have:
        return False
    with _open(url, have, origin, part, stall) as reply:
        have, total = _offer(reply, have, origin, part)
        if archive.size is not None and total not in (None, archive.size):
            raise _MirrorRefused(f"offers {total} bytes, not {archive.size}")
        if total is not None and total - have > shutil.disk_usage(part.parent).free:
            raise disk_full(part, total - have)
        with readable_errors(part):
            write_json(_meta(part), PartialDownload(url=url, validator=_validator(reply), total=total).model_dump())
            part.touch()
        bar.restart(total, have)
        _append(reply, part, have, total, bar)
    return have == 0


def _open(url: str, have: int, origin: PartialDownload | None, part: Path, stall: float) -> Any:
    """The reply to a request for `url` from byte `have` on; _MirrorRefused where asking again is no use."""
    if not url.startswith(("http://", "https://")):
        raise _MirrorRefused("not an http address")
    headers = {"User-Agent": f"ssbench/{__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if origin and origin.url == url and origin.validator:
            headers["If-Range"] = origin.validator
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310  the scheme is checked above
        return urllib.request.urlopen(request, timeout=stall)  # noqa: S310  the scheme is checked above
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # nothing from there on: it is another, shorter file by now
            _drop(part)
        if error.code in GONE:
            raise _MirrorRefused(f"HTTP {error.code} {error.reason}") from None
        raise _RequestFailed(f"HTTP {error.code} {error.reason}") from error


def _offer(reply: Any, have: int, origin: PartialDownload | None, part: Path) -> tuple[int, int | None]:
    """(first byte, size of the whole) of what is sent: the rest as asked, or everything when ranges are ignored."""
    if reply.status != 206:
        length = reply.headers.get("Content-Length")
        return 0, int(length) if length else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
    total = int(match[2]) if match and match[2] != "*" else None
    if not match or int(match[1]) != have or (origin and origin.total not in (None, total)):
        _drop(part)
        raise _RequestFailed("the server offers another piece than was asked for")
    return have, total


def _append(reply: Any, part: Path, have: int, total: int | None, bar: Bar) -> None:
    """Write the body of `reply` behind the first `have` bytes of `part`; an error when it is not `total` in the end."""
    with part.open("r+b", buffering=0) as out:
        out.seek(have)
        out.truncate()
        while block := reply.read(BLOCK):
            _store(out, block, part, None if total is None else total - have)
            have += len(block)
            bar.advance(len(block))
    if total is not None and have != total:
        raise _RequestFailed(f"cut off at {format_bytes(have)} of {format_bytes(total)}")


def _store(out: io.FileIO, block: bytes, part: Path, needed: int | None) -> None:
    """`block` on the disk: errors here are the disk's, and no reason to ask the network again."""
    rest = memoryview(block)
    with readable_errors(part):
        try:
            while rest:
                rest = rest[out.write(rest) :]
        except OSError as error:
            if error.errno in FULL:
                raise disk_full(part, needed) from error
            raise


def _resumable(part: Path, url: str, has_checksum: bool) -> PartialDownload | None:
    """Where `part` came from, when it is worth going on with: from `url`, or anywhere if a checksum will tell."""
    try:
        origin = read_model(_meta(part), PartialDownload, "download state", "delete it: the download begins again")
    except DataError:  # none, or damaged: begin again
        return None
    is_same = origin.url == url and (origin.validator or origin.total is not None)
    return origin if part.is_file() and (is_same or has_checksum) else None


def _validator(reply: Any) -> str | None:
    """A strong ETag, else the date of last change: what `If-Range` accepts."""
    etag: str | None = reply.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else reply.headers.get("Last-Modified")


def _meta(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _drop(part: Path) -> None:
    part.unlink(missing_ok=True)
    _meta(part).unlink(missing_ok=True)
