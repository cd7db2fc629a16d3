"""Finds the files to convert: in a folder, in archives on disk, or in archives downloaded now."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ssbench.errors import DataError
from ssbench.files import write_bytes
from ssbench.paths import quoted
from ssbench.prepare.fetch import fetch, mismatch
from ssbench.prepare.job import Archive, PrepareJob
from ssbench.prepare.unpack import DamagedArchive, bound, is_archive, unpack


@dataclass(frozen=True)
class SourceSpec:
    """What the module of a dataset states, `ssbench/prepare/<dataset>.py`; see `ssbench.prepare.prepare`."""

    archives: tuple[Archive, ...]
    manual: str | None
    counts: dict[str, int]
    convert: Callable[[Path, Path, PrepareJob], None]


def find_source(spec: SourceSpec, job: PrepareJob) -> Path:
    """A folder to convert from: `job.source` itself, what its archives hold, or what is downloaded and unpacked now.

    DataError when something is missing (its fix says what to do by hand), fails its checksum, or is no safe archive.
    """
    if job.source is not None:
        return _given(spec, job, job.source)
    if not spec.archives and spec.manual is None:
        return job.data_root
    return _unpacked(spec, job, _archives_in(job.downloads, spec, job))


def _given(spec: SourceSpec, job: PrepareJob, source: Path) -> Path:
    """The folder, or what the archive or the archives in the folder `source` unpack to.

    Archives are unpacked where all that are needed are there, or where no folder stands beside them: a folder beside an
    archive is most likely what the user unpacked from it.
    """
    if not source.exists():
        raise DataError(f"no source '{source}'", str(source.absolute()), "give --source a folder, or a zip or tar file")
    if source.is_file():
        if not is_archive(source):
            raise DataError(f"{source.name} is neither a folder nor a zip or tar file", str(source), _fix(spec, job))
        return _unpacked(spec, job, [(_named(spec, source), source)])
    needed = _needed(spec, source)
    present = [archive for archive in needed if (source / archive.name).is_file()]
    loose = [path for path in sorted(source.iterdir()) if is_archive(path)]
    has_folders = any(path.is_dir() and not path.name.startswith(".") for path in source.iterdir())
    if present and (len(present) == len(needed) or not has_folders):
        return _unpacked(spec, job, _archives_in(source, spec, job))
    if len(loose) == 1 and not has_folders:
        return _unpacked(spec, job, [(_named(spec, loose[0]), loose[0])])
    return source


def _needed(spec: SourceSpec, folder: Path) -> list[Archive]:
    """The archives that must be had: not the optional ones, nor those an optional one in `folder` stands in for."""
    replaced = {archive.replaces for archive in spec.archives if (folder / archive.name).is_file()}
    return [archive for archive in spec.archives if not archive.optional and archive.name not in replaced]


def _archives_in(folder: Path, spec: SourceSpec, job: PrepareJob) -> list[tuple[Archive, Path]]:
    """Every archive of the dataset that is in `folder`, and every needed one that is not, downloaded."""
    needed, archives = _needed(spec, folder), []
    for archive in spec.archives:
        path = folder / archive.name
        if path.is_file() or archive in needed:
            archives.append((archive, path if path.is_file() else _download(spec, job, archive)))
    return archives


def _download(spec: SourceSpec, job: PrepareJob, archive: Archive) -> Path:
    if spec.manual is not None or not archive.urls:
        raise DataError(f"{archive.name} has to be fetched by hand", str(job.downloads), _fix(spec, job))
    return fetch(archive, job.downloads, _fix(spec, job, archive), job.bars)


def _fix(spec: SourceSpec, job: PrepareJob, archive: Archive | None = None) -> str:
    """What to do by hand: the steps of the dataset's module, or where to save which address."""
    if spec.manual is not None:
        return spec.manual
    missing = [archive] if archive else [a for a in spec.archives if not a.optional and a.urls]
    steps = " and ".join(f"save {a.urls[0]} as {job.downloads / a.name}" for a in missing)
    return f"{steps}, then: ssbench prepare {job.name} --data-root {quoted(job.data_root)}"


def _named(spec: SourceSpec, path: Path) -> Archive:
    """The archive that `path` is called after (its checksum then holds), else one without checksum."""
    return next((archive for archive in spec.archives if archive.name == path.name), Archive(path.name))


def _unpacked(spec: SourceSpec, job: PrepareJob, archives: list[tuple[Archive, Path]]) -> Path:
    """One folder with the content of all archives; what an earlier, interrupted run unpacked from them is kept."""
    home = job.downloads
    home.mkdir(parents=True, exist_ok=True)
    for left_over in home.glob(".unpacking.*"):
        shutil.rmtree(left_over)
    for archive, path in archives:
        mark = home / "unpacked" / f".done-{archive.name}"
        if not (mark.is_file() and mark.read_bytes() == _stamp(path)):
            path = _verified(spec, job, archive, path)
            _unpack_one(archive, path, job)
            write_bytes(mark, _stamp(path), flush=False)
    return home / "unpacked"


def _stamp(path: Path) -> bytes:
    """What tells one archive from another without reading it: path, size and time of last change."""
    status = path.stat()
    return json.dumps([str(path.absolute()), status.st_size, status.st_mtime_ns]).encode()


def _verified(spec: SourceSpec, job: PrepareJob, archive: Archive, path: Path) -> Path:
    """`path` when it is the published file; a wrong one among our downloads is fetched again, another is an error."""
    reason = mismatch(path, archive)
    if reason is None:
        return path
    if archive.urls and path.parent == job.downloads:
        return _download(spec, job, archive)
    fix = f"fetch {archive.name} again" + (f" from {archive.urls[0]}" if archive.urls else "")
    raise DataError(f"{archive.name} is not the published file: {reason}", str(path), fix)


def _unpack_one(archive: Archive, path: Path, job: PrepareJob) -> None:
    home = job.downloads
    shutil.rmtree(home / "unpacking", ignore_errors=True)
    try:
        unpack(path, home / "unpacking", bound(path), bars=job.bars)
    except DamagedArchive:
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
