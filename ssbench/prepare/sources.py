"""Where the files to convert come from: a folder, archives on disk, or archives downloaded now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssbench.errors import DataError
from ssbench.prepare.fetch import fetch, wrong
from ssbench.prepare.files import put
from ssbench.prepare.job import Archive, Job
from ssbench.prepare.unpack import Damaged, bound, is_archive, unpack


@dataclass(frozen=True)
class Plan:
    """What a `prepare_<name>` module states; see `ssbench.prepare.prepare`."""

    archives: tuple[Archive, ...]
    manual: str | None
    counts: dict[str, int]
    convert: Callable[[Path, Path, Job], None]


def downloads(job: Job) -> Path:
    """The folder of the dataset's archives: downloaded, or put there by hand."""
    return job.data_root / "downloads" / job.name


def find_source(plan: Plan, job: Job) -> Path:
    """A folder to convert from: `job.source` itself, what its archives hold, or what is downloaded and unpacked now.

    DataError when something is missing (its fix says what to do by hand), fails its checksum, or is no safe archive.
    """
    if job.source is not None:
        return _given(plan, job, job.source)
    if not plan.archives and plan.manual is None:
        return job.data_root
    return _unpacked(plan, job, _all(plan, job, downloads(job)))


def _given(plan: Plan, job: Job, source: Path) -> Path:
    if not source.exists():
        raise DataError(f"no source '{source}'", str(source.absolute()), "give --source a folder, or a zip or tar file")
    if source.is_file():
        if not is_archive(source):
            raise DataError(f"{source.name} is neither a folder nor a zip or tar file", str(source), _fix(plan, job))
        return _unpacked(plan, job, [(_named(plan, source), source)])
    needed = _needed(plan, source)
    here = [archive for archive in needed if (source / archive.name).is_file()]
    loose = [path for path in sorted(source.iterdir()) if is_archive(path)]
    folders = any(path.is_dir() and not path.name.startswith(".") for path in source.iterdir())
    if here and (len(here) == len(needed) or not folders):
        return _unpacked(plan, job, _all(plan, job, source))
    if len(loose) == 1 and not folders:
        return _unpacked(plan, job, [(_named(plan, loose[0]), loose[0])])
    return source


def _needed(plan: Plan, folder: Path) -> list[Archive]:
    """The archives that must be had: not the optional ones, nor those an optional one in `folder` stands in for."""
    instead = {archive.replaces for archive in plan.archives if (folder / archive.name).is_file()}
    return [archive for archive in plan.archives if not archive.optional and archive.name not in instead]


def _all(plan: Plan, job: Job, folder: Path) -> list[tuple[Archive, Path]]:
    """Every archive of the plan that is in `folder`, and every needed one that is not, downloaded."""
    needed, found = _needed(plan, folder), []
    for archive in plan.archives:
        path = folder / archive.name
        if path.is_file() or archive in needed:
            found.append((archive, path if path.is_file() else _download(plan, job, archive)))
    return found


def _download(plan: Plan, job: Job, archive: Archive) -> Path:
    if plan.manual is not None or not archive.urls:
        raise DataError(f"{archive.name} has to be fetched by hand", str(downloads(job)), _fix(plan, job))
    return fetch(archive, downloads(job), _fix(plan, job, archive), job.progress)


def _fix(plan: Plan, job: Job, archive: Archive | None = None) -> str:
    """What to do by hand: the steps of the module, or where to save which address."""
    again = f"ssbench prepare {job.name} --data-root {job.data_root}"
    if plan.manual is not None:
        return plan.manual
    wanted = [archive] if archive else [a for a in plan.archives if not a.optional and a.urls]
    return " and ".join(f"save {a.urls[0]} as {downloads(job) / a.name}" for a in wanted) + f", then: {again}"


def _named(plan: Plan, path: Path) -> Archive:
    """The archive of the plan that `path` is called after (its checksum then holds), else one without checksum."""
    return next((archive for archive in plan.archives if archive.name == path.name), Archive(path.name))


def _unpacked(plan: Plan, job: Job, archives: list[tuple[Archive, Path]]) -> Path:
    """One folder with the content of all archives; what an earlier, interrupted run unpacked from them is kept."""
    home = downloads(job)
    home.mkdir(parents=True, exist_ok=True)
    for left_over in home.glob(".unpacking.*"):
        shutil.rmtree(left_over)
    for archive, path in archives:
        mark = home / "unpacked" / f".done-{archive.name}"
        if not (mark.is_file() and mark.read_bytes() == _state(path)):
            path = _right(plan, job, archive, path)
            _unpack_one(archive, path, job)
            put(mark, _state(path))
    return home / "unpacked"


def _state(path: Path) -> bytes:
    status = path.stat()
    return json.dumps([str(path.absolute()), status.st_size, status.st_mtime_ns]).encode()


def _right(plan: Plan, job: Job, archive: Archive, path: Path) -> Path:
    """`path` when it is the published file; a wrong one among our downloads is fetched again, another is an error."""
    reason = wrong(path, archive)
    if reason is None:
        return path
    if archive.urls and path.parent == downloads(job):
        return _download(plan, job, archive)
    fix = f"fetch {archive.name} again" + (f" from {archive.urls[0]}" if archive.urls else "")
    raise DataError(f"{archive.name} is not the published file: {reason}", str(path), fix)


def _unpack_one(archive: Archive, path: Path, job: Job) -> None:
    home = downloads(job)
    shutil.rmtree(home / "unpacking", ignore_errors=True)
    try:
        unpack(path, home / "unpacking", bound(path), progress=job.progress)
    except Damaged:
        if archive.urls and path.parent == home:  # downloaded, no checksum is published: the next run fetches it anew
            path.unlink()
        raise
    _merge(home / "unpacking", home / "unpacked")


def _merge(source: Path, dest: Path) -> None:
    """Move `source` into `dest`; folders both have are joined, files both have (a readme) are taken from `source`."""
    if not dest.exists() or not (source.is_dir() and dest.is_dir()):
        source.replace(dest)
        return
    for entry in list(source.iterdir()):
        _merge(entry, dest / entry.name)
    source.rmdir()
