"""Downloads that survive bad networks: resumed by byte range, verified, tried again, from one mirror after another.

Written on urllib, not on torchvision's helper: that one neither resumes nor gives up on a stalled connection, knows no
mirrors and no SHA-256, and imports torch, which `ssbench prepare` does without.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import re
import shutil
import time
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssbench import __version__
from ssbench.errors import DataError
from ssbench.files import write_json
from ssbench.prepare.files import FULL, disk_full, readable_errors, size
from ssbench.prepare.job import Archive, Progress, Silent, stage

BLOCK = 1 << 18
GONE = (400, 401, 403, 404, 405, 410, 451)  # asking the same address again will not help
BROKEN = (OSError, http.client.HTTPException)  # of the network: timeouts, resets, refusals, cuts


@dataclass(frozen=True)
class Patience:
    """How long a download bears with a server; times in seconds.

    `tries` requests in a row that bring no new byte, a `pause` between them (doubled each time, up to `longest`), and
    `stall` without a byte before a connection counts as dead.
    """

    tries: int = 6
    pause: float = 1.0
    longest: float = 60.0
    stall: float = 30.0


@dataclass(frozen=True)
class Origin:
    """What a `.part` file is the beginning of: its address, a validator (ETag or date), and the size of the whole."""

    url: str
    validator: str | None
    total: int | None


class _Refused(Exception):  # noqa: N818  it is a verdict on a mirror, caught below
    """This mirror will not deliver; the next one may."""


class _Broken(http.client.HTTPException):
    """This request failed; the next one may not."""


def fetch(
    archive: Archive, folder: Path, fix: str, progress: Progress | None = None, patience: Patience | None = None
) -> Path:
    """`folder/archive.name`, whole and verified, from the first mirror that delivers it; kept when it is there already.

    What came so far stands in `<name>.part`, also after an error or Ctrl-C, and the next call goes on from there.
    DataError when no mirror delivers (its fix is `fix`, the steps by hand) and when the disk is full.
    """
    target = folder / archive.name
    if target.is_file():
        if wrong(target, archive) is None:
            return target
        target.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in archive.urls:
        try:
            return _from_mirror(url, archive, target, progress or Silent(), patience or Patience())
        except _Refused as refused:
            reasons.append(f"{url}: {refused}")
    raise DataError(f"{archive.name} could not be downloaded", "; ".join(reasons), fix)


def wrong(path: Path, archive: Archive) -> str | None:
    """What is wrong with `path` by the published size and checksums; None when all agree, or none is published."""
    there = path.stat().st_size
    if archive.size is not None and there != archive.size:
        return f"{there} bytes, not {archive.size}"
    for kind, expected in (("sha256", archive.sha256), ("md5", archive.md5)):
        if expected is not None:
            with readable_errors(path), path.open("rb") as file:
                found = hashlib.file_digest(file, kind).hexdigest()
            if found != expected:
                return f"{kind} {found}, not {expected}"
    return None


def _from_mirror(url: str, archive: Archive, target: Path, progress: Progress, patience: Patience) -> Path:
    """One address, tried until it delivers; tries are counted since the file was last longer than ever before."""
    part, reason, most, tries = target.with_name(f"{target.name}.part"), "", 0, 0
    with stage(progress, archive.size or 0, f"downloading {archive.name}"):
        while tries < patience.tries:
            if tries:
                time.sleep(min(patience.longest, patience.pause * 2 ** (tries - 1)))
            tries += 1
            try:
                whole = _attempt(url, archive, part, progress, patience.stall)
                return _verified(part, archive, target, whole)
            except BROKEN as error:
                reason = str(error) or type(error).__name__
            if _length(part) > most:
                most, tries = _length(part), 1
    raise _Refused(f"{reason} ({patience.tries} tries)")


def _verified(part: Path, archive: Archive, target: Path, whole: bool) -> Path:
    """`part` renamed to `target` when right; wrong pieces are thrown away, a wrong whole is the mirror's fault."""
    reason = wrong(part, archive)
    if reason is not None:
        _drop(part)
        raise _Refused(reason) if whole else _Broken(reason)
    part.replace(target)
    _meta(part).unlink(missing_ok=True)
    return target


def _attempt(url: str, archive: Archive, part: Path, progress: Progress, stall: float) -> bool:
    """One request for what `part` lacks, or for everything where that cannot be; True when it brought everything."""
    origin = _origin(part, url, known=bool(archive.md5 or archive.sha256))
    have = _length(part) if origin else 0
    if origin and origin.total == have:
        return False
    with _open(url, have, origin, part, stall) as reply:
        have, total = _offer(reply, have, origin, part)
        if archive.size is not None and total not in (None, archive.size):
            raise _Refused(f"offers {total} bytes, not {archive.size}")
        if total is not None and total - have > shutil.disk_usage(part.parent).free:
            raise disk_full(part, total - have)
        with readable_errors(part):
            write_json(_meta(part), asdict(Origin(url, _validator(reply), total)))
            part.touch()
        progress.start(total or 0, f"downloading {archive.name}")
        progress.advance(have)
        _append(reply, part, have, total, progress)
    return have == 0


def _open(url: str, have: int, origin: Origin | None, part: Path, stall: float) -> Any:
    """The reply to a request for `url` from byte `have` on; _Refused where asking again is no use."""
    if not url.startswith(("http://", "https://")):
        raise _Refused("not an http address")
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
            raise _Refused(f"HTTP {error.code} {error.reason}") from None
        raise _Broken(f"HTTP {error.code} {error.reason}") from error


def _offer(reply: Any, have: int, origin: Origin | None, part: Path) -> tuple[int, int | None]:
    """(first byte, size of the whole) of what is sent: the rest as asked, or everything when ranges are ignored."""
    if reply.status != 206:
        length = reply.headers.get("Content-Length")
        return 0, int(length) if length else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", reply.headers.get("Content-Range", ""))
    total = int(found[2]) if found and found[2] != "*" else None
    if not found or int(found[1]) != have or (origin and origin.total not in (None, total)):
        _drop(part)
        raise _Broken("the server offers another piece than was asked for")
    return have, total


def _append(reply: Any, part: Path, have: int, total: int | None, progress: Progress) -> None:
    """Write the body of `reply` behind the first `have` bytes of `part`; an error when it is not `total` in the end."""
    with part.open("r+b", buffering=0) as out:
        out.seek(have)
        out.truncate()
        while block := reply.read(BLOCK):
            _store(out, block, part, None if total is None else total - have)
            have += len(block)
            progress.advance(len(block))
    if total is not None and have != total:
        raise _Broken(f"cut off at {size(have)} of {size(total)}")


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


def _origin(part: Path, url: str, known: bool) -> Origin | None:
    """Where `part` came from, when it is worth going on with: from `url`, or anywhere if a checksum will tell."""
    try:
        origin = Origin(**json.loads(_meta(part).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    same = origin.url == url and (origin.validator or origin.total is not None)
    return origin if part.is_file() and (same or known) else None


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
