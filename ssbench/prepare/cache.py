"""Writes the decoded cache of a prepared dataset (`prepare --cache`): every image and mask once decoded, as raw bytes.

`ssbench.data.cache` describes its files and reads it. Each shard is whole or not there, with its table beside it until
the index takes it over, so a killed run goes on from there. The cache is no part of the dataset: the name of its folder
begins with a dot, so no ledger lists it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ssbench.console import Bars
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
from ssbench.errors import DataError, UsageError
from ssbench.files import (
    format_bytes,
    holds_json,
    read_model,
    readable_errors,
    remove_temporary,
    sha256,
    write_bytes,
    write_json,
)
from ssbench.paths import quoted
from ssbench.prepare.job import PrepareJob, parallel, preparation_lock, processors
from ssbench.prepare.verify import Problem, lost_files, open_folder

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


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: its path and the samples in it."""

    path: Path
    ids: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.path)  # how a pool names the item that failed


def build(name: str, data_root: Path, workers: int | None = None, bars: Bars | None = None) -> CacheReport:
    """Make the cache of the prepared dataset `name`, or see that every byte is right; a wrong one is made anew.

    DataError when the dataset is not prepared or its files changed, when the disk is too small (said before a byte is
    written), or when another process prepares it. What was done before it ended stays: the same command goes on.
    """
    began, data_root = time.monotonic(), data_root.absolute()
    root = (data_root / name).resolve()
    job = PrepareJob(name, data_root, workers=workers or processors(), bars=bars or Bars(show=False))
    with readable_errors(data_root), preparation_lock(data_root, name):
        ledger = Ledger.read(root)
        if ledger is None:
            raise no_ledger(name, root)
        complete = _complete_index(root / NAME, ledger, job.bars)
        index = complete or _build(root, ledger, job)
    return CacheReport(
        state="complete" if complete else "built",
        samples=sum(len(shard.samples) for shard in index.shards),
        bytes=sum(shard.bytes for shard in index.shards),
        shards=len(index.shards),
        seconds=round(time.monotonic() - began, 3),
        path=str(root / NAME),
    )


def check(root: Path, bars: Bars | None = None) -> list[Problem]:
    """What is wrong with the cache of `root`, every byte read; empty when it is right, and when there is none."""
    folder, fix = root / NAME, rebuild_command(root)
    try:
        ledger, index = Ledger.read(root), read_index(folder)
    except DataError as error:
        return [Problem("changed", f"{NAME}/{INDEX}", f"{error.what}; {fix}")]
    if ledger is None or index is None:
        return []
    if reason := why_stale(folder, ledger, index):
        return [Problem("changed", NAME, f"{reason}; {fix}")]
    changed = _changed(folder, index, bars or Bars(show=False))
    return [Problem("changed", f"{NAME}/{name}", f"other bytes; {fix}") for name in changed]


def _changed(folder: Path, index: Index, bars: Bars) -> list[str]:
    """Names of the shards whose bytes are not those that were written."""
    shards = bars.watch(enumerate(index.shards), f"digests of the cache of {index.dataset}", len(index.shards))
    return [shard_name(n) for n, shard in shards if sha256(folder / shard_name(n)) != shard.sha256]


def _complete_index(folder: Path, ledger: Ledger, bars: Bars) -> Index | None:
    try:
        index = read_index(folder)
    except DataError:  # damaged: made anew
        return None
    is_right = index and not why_stale(folder, ledger, index) and not _changed(folder, index, bars)
    return index if is_right else None


def _build(root: Path, ledger: Ledger, job: PrepareJob) -> Index:
    """All shards, then the index; `root` is prepared, and this process alone is at work in it."""
    lost = lost_files(root, ledger, job.bars)
    if lost:
        what = f"{job.name}: {lost[0].path} is {lost[0].kind} ({len(lost)} such files)"
        raise DataError(
            what, str(root / lost[0].path), f"ssbench prepare {job.name} --data-root {quoted(job.data_root)}"
        )
    folder, dataset = root / NAME, open_folder(job.name, str(root))
    ids = sorted({id for subset in ledger.counts for id in dataset.ids(subset)})
    tasks = _plan(folder, dataset, ids, ledger)
    shards = parallel(partial(write_shard, name=job.name, root=str(root)), tasks, job, f"caching {job.name}")
    index = Index(
        dataset=job.name,
        ledger=ledger.digest(),
        jpeg=jpeg_decoder(ledger),
        channels=dataset.channels,
        shards=tuple(shards),
    )
    os.sync()
    write_bytes(folder / INDEX, index.model_dump_json().encode(), flush=False)
    for path in (*folder.glob("*.json"),):
        if path.name != INDEX:
            path.unlink()
    return index


def _plan(folder: Path, dataset: Dataset, ids: list[str], ledger: Ledger) -> list[ShardTask]:
    """Which samples go into which shard: as an unfinished run of the same files planned, or anew from nothing."""
    sampled = ids[:: max(1, len(ids) // SAMPLED)]
    mean = sum(_decoded_bytes(dataset, id) for id in sampled) / max(1, len(sampled))
    step = max(1, round(SHARD / max(mean, 1)))
    plan = {"ledger": ledger.digest(), "jpeg": jpeg_decoder(ledger), "samples": step}
    if not holds_json(folder / PLAN, plan):
        shutil.rmtree(folder, ignore_errors=True)
    remove_temporary(folder)
    (folder / INDEX).unlink(missing_ok=True)
    _need_room(folder, round(mean * len(ids)), dataset.name)
    folder.mkdir(exist_ok=True)
    write_json(folder / PLAN, plan)
    starts = range(0, len(ids), step)
    return [ShardTask(folder / shard_name(n), tuple(ids[at : at + step])) for n, at in enumerate(starts)]


def _decoded_bytes(dataset: Dataset, id: str) -> int:
    image = dataset.image(id)
    if image.mode == "F":
        what = f"{dataset.name} holds float images, and the cache holds bytes"
        raise UsageError(what, str(dataset.root), "leave out --cache: it is an option")
    return image.width * image.height * (dataset.channels + 1)


def _need_room(folder: Path, total: int, name: str) -> None:
    """DataError unless the disk has room for a cache of about `total` bytes, less what is there of it."""
    missing = total - sum(path.stat().st_size for path in folder.glob("*.u8"))
    free = shutil.disk_usage(folder.parent).free
    if missing > free:
        what = f"the cache of {name} needs about {format_bytes(missing)} more, {format_bytes(free)} are free"
        raise DataError(what, str(folder), "free some space, or leave out --cache: it is an option")


def write_shard(task: ShardTask, name: str, root: str) -> Shard:
    """Decode the samples of one shard into its file, unless an earlier run did; its table."""
    table = task.path.with_suffix(".json")
    if earlier := _earlier_shard(task, table):
        return earlier
    samples, digest = {}, hashlib.sha256()
    dataset = open_folder(name, root)
    with tempfile.NamedTemporaryFile(dir=task.path.parent, prefix=f".{task.path.name}.", delete=False) as file:
        try:
            for id in task.ids:
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
            Path(file.name).replace(task.path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise
    write_bytes(table, shard.model_dump_json().encode(), flush=False)
    return shard


def _earlier_shard(task: ShardTask, table: Path) -> Shard | None:
    """The table of a shard that an earlier run wrote whole; None where it has to be written."""
    try:
        shard = read_model(table, Shard, "table of a shard", "it is written again")
        is_whole = task.path.stat().st_size == shard.bytes
    except (OSError, DataError):
        return None
    return shard if is_whole and tuple(shard.samples) == task.ids else None
