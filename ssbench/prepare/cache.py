"""The decoded cache of a prepared dataset (`prepare --cache`): every image and mask once decoded, as raw bytes.

`<root>/.cache/` holds shards `00000.u8` and on, image after image with its mask behind it, and `index.json`, written
last. The index says which files it was made from (the ledger's digest) and, where JPEGs are among them, with which
decoder, so a cache of other pixels is refused, never read. Each shard is whole or not there, with its table beside it
until the index takes it over: a killed run goes on from there. The ledger does not know the folder: its name has a dot.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from ssbench.data.cache import (
    INDEX,
    NAME,
    Index,
    Shard,
    jpeg_decoder,
    read_index,
    rebuild_command,
    shard_name,
    why_stale,
)
from ssbench.data.dataset import Dataset
from ssbench.data.ledger import Ledger, no_ledger
from ssbench.errors import DataError
from ssbench.files import sha256, write_json
from ssbench.prepare import ledger
from ssbench.prepare.files import locked, put, readable_errors, size, sweep
from ssbench.prepare.job import Job, Progress, Silent, parallel, processors, stage
from ssbench.prepare.ledger import Problem
from ssbench.prepare.verify import opened

PLAN = "plan.json"
SHARD = 64_000_000
"""Bytes a shard is to have, so that shards are many enough to share among processes and few enough to map."""
SAMPLED = 64
"""Pictures decoded beforehand, spread over the dataset, to tell how large the cache will be."""


@dataclass(frozen=True)
class CacheReport:
    """What `build` did: "built" or "complete"; samples, bytes and shards of the cache, seconds, its folder."""

    state: Literal["built", "complete"]
    samples: int
    bytes: int
    shards: int
    seconds: float
    path: str

    def json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)


def build(name: str, data_root: Path, workers: int | None = None, progress: Progress | None = None) -> CacheReport:
    """Make the cache of the prepared dataset `name`, or see that every byte is right; a wrong one is made anew.

    DataError when the dataset is not prepared or its files changed, when the disk is too small (said before a byte is
    written), or when another process prepares it. What was done before it ended stays: the same command goes on.
    """
    began, data_root = time.monotonic(), data_root.absolute()
    root = (data_root / name).resolve()
    job = Job(name, data_root, workers=workers or processors(), progress=progress or Silent())
    with readable_errors(data_root), locked(data_root, name):
        book = Ledger.read(root)
        if book is None:
            raise no_ledger(name, root)
        index = _finished(root / NAME, book, job.progress)
        state: Literal["built", "complete"] = "complete" if index else "built"
        if index is None:
            index = _build(root, book, job)
    samples, total = sum(len(s.samples) for s in index.shards), sum(s.bytes for s in index.shards)
    return CacheReport(state, samples, total, len(index.shards), round(time.monotonic() - began, 3), str(root / NAME))


def check(root: Path, progress: Progress | None = None) -> list[Problem]:
    """What is wrong with the cache of `root`, every byte read; empty when it is right, and when there is none."""
    folder = root / NAME
    if not (folder / INDEX).is_file():
        return []
    try:
        book, index = Ledger.read(root), read_index(folder)
    except DataError as error:
        return [Problem("changed", f"{NAME}/{INDEX}", f"{error.what}; {rebuild_command(root)}")]
    if book is None or index is None:
        return []
    if reason := why_stale(folder, book, index):
        return [Problem("changed", NAME, f"{reason}; {rebuild_command(root)}")]
    changed = _changed(folder, index, progress or Silent())
    return [Problem("changed", f"{NAME}/{name}", f"other bytes; {rebuild_command(root)}") for name in changed]


def _changed(folder: Path, index: Index, progress: Progress) -> list[str]:
    """Names of the shards whose bytes are not those that were written."""
    names = []
    with stage(progress, len(index.shards), f"digests of the cache of {index.dataset}") as told:
        for number, shard in enumerate(index.shards):
            if sha256(folder / shard_name(number)) != shard.sha256:
                names.append(shard_name(number))
            told.advance()
    return names


def _finished(folder: Path, book: Ledger, progress: Progress) -> Index | None:
    try:
        index = read_index(folder)
    except DataError:  # damaged: made anew
        return None
    right = index and not why_stale(folder, book, index) and not _changed(folder, index, progress)
    return index if right else None


def _build(root: Path, book: Ledger, job: Job) -> Index:
    """All shards, then the index; `root` is prepared, and this process alone is at work in it."""
    changed = [p for p in ledger.compare(root, book, job.progress, quick=True) if p.kind != "extra"]
    if changed:
        what = f"{job.name}: {changed[0].path} is {changed[0].kind} ({len(changed)} such files)"
        raise DataError(what, str(root / changed[0].path), f"ssbench prepare {job.name} --data-root {job.data_root}")
    folder, dataset = root / NAME, opened(job.name, str(root))
    ids = sorted({id for subset in book.counts for id in dataset.ids(subset)})
    work = _plan(folder, dataset, ids, book)
    shards = parallel(partial(write_shard, name=job.name, root=str(root)), work, job, f"caching {job.name}")
    index = Index(
        dataset=job.name, ledger=book.digest(), jpeg=jpeg_decoder(book), channels=dataset.channels, shards=tuple(shards)
    )
    os.sync()
    put(folder / INDEX, index.model_dump_json().encode())
    for path in (*folder.glob("*.json"),):
        if path.name != INDEX:
            path.unlink()
    return index


@dataclass(frozen=True)
class Work:
    """One shard to write: its path and the samples in it."""

    path: Path
    ids: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.path)  # how a pool names the item that failed


def _plan(folder: Path, dataset: Dataset, ids: list[str], book: Ledger) -> list[Work]:
    """Which samples go into which shard: as an unfinished run of the same files planned, or anew from nothing."""
    sampled = ids[:: max(1, len(ids) // SAMPLED)]
    mean = sum(_decoded(dataset, id) for id in sampled) / max(1, len(sampled))
    plan = {"ledger": book.digest(), "jpeg": jpeg_decoder(book), "samples": max(1, round(SHARD / max(mean, 1)))}
    if _said(folder / PLAN) != plan:
        shutil.rmtree(folder, ignore_errors=True)
    sweep(folder, keep="")
    (folder / INDEX).unlink(missing_ok=True)
    _need(folder, round(mean * len(ids)), dataset.name)
    folder.mkdir(exist_ok=True)
    write_json(folder / PLAN, plan)
    step = int(plan["samples"] or 1)
    starts = range(0, len(ids), step)
    return [Work(folder / shard_name(n), tuple(ids[at : at + step])) for n, at in enumerate(starts)]


def _decoded(dataset: Dataset, id: str) -> int:
    width, height = dataset.image(id).size
    return width * height * (dataset.channels + 1)


def _said(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _need(folder: Path, total: int, name: str) -> None:
    """DataError unless the disk has room for a cache of about `total` bytes, less what is there of it."""
    missing = total - sum(path.stat().st_size for path in folder.glob("*.u8"))
    free = shutil.disk_usage(folder.parent).free
    if missing > free:
        what = f"the cache of {name} needs about {size(missing)} more, {size(free)} are free"
        raise DataError(what, str(folder), "free some space, or do without --cache: it is an option")


def write_shard(work: Work, name: str, root: str) -> Shard:
    """Decode the samples of one shard into its file, unless an earlier run did; its table."""
    table = work.path.with_suffix(".json")
    if done := _done(work, table):
        return done
    samples, digest = {}, hashlib.sha256()
    dataset = opened(name, root)
    with tempfile.NamedTemporaryFile(dir=work.path.parent, prefix=f".{work.path.name}.", delete=False) as file:
        try:
            for id in work.ids:
                image, mask = dataset.image(id), dataset.mask(id)
                if image.size != mask.size:
                    raise DataError(f"{id}: mask of {mask.size} beside an image of {image.size} pixels", root)
                samples[id] = (file.tell(), *image.size)
                for data in (image.tobytes(), mask.tobytes()):
                    file.write(data)
                    digest.update(data)
            shard = Shard(bytes=file.tell(), sha256=digest.hexdigest(), samples=samples)
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(work.path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    put(table, shard.model_dump_json().encode())
    return shard


def _done(work: Work, table: Path) -> Shard | None:
    try:
        shard = Shard.model_validate_json(table.read_bytes())
        whole = work.path.stat().st_size == shard.bytes
    except (OSError, ValidationError):
        return None
    return shard if whole and tuple(shard.samples) == work.ids else None
