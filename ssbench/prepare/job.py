"""What every converter works with: the archives it names, the job it is given, and a pool of processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from ssbench import __version__
from ssbench.console import Bar, Bars
from ssbench.errors import DataError
from ssbench.files import holds_json, locked, readable_errors, write_json

T = TypeVar("T")
R = TypeVar("R")
FEW = 32  # below this many items starting processes costs more than it saves


@dataclass(frozen=True)
class Archive:
    """A published archive: file name, mirrors in order (none when behind a login), checksums where published.

    `optional` archives are used when they are there and never downloaded. `replaces`: the archive that is not needed,
    and so not downloaded, where this one is there.
    """

    name: str
    urls: tuple[str, ...] = ()
    md5: str | None = None
    sha256: str | None = None
    size: int | None = None
    optional: bool = False
    replaces: str = ""


@dataclass
class PrepareJob:
    """One preparation: which dataset, from what, with how many processes.

    `settings` go into the ledger: how the files were made. A converter gives them once, first thing, to `declare`.
    A job stays in its process (its bars hold threads): give workers paths, not the job.
    """

    name: str
    data_root: Path
    source: Path | None = None
    workers: int = 1
    bars: Bars = field(default_factory=lambda: Bars(show=False))
    settings: dict[str, Any] = field(default_factory=dict)
    marker: Path | None = None  # <unfinished folder>/.settings.json, set by `prepare`

    @property
    def downloads(self) -> Path:
        """The folder of the dataset's archives: downloaded, or put there by hand."""
        return self.data_root / "downloads" / self.name

    def declare(self, **settings: Any) -> None:
        """State how files are made, before the first one is; files of an unfinished run made otherwise are dropped."""
        self.settings.update(settings)
        if self.marker is not None and not holds_json(self.marker, self.statement(self.settings)):
            shutil.rmtree(self.marker.parent, ignore_errors=True)
            write_json(self.marker, self.statement(self.settings))

    def statement(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What two runs must have in common for the second to go on with the files of the first."""
        return {"tool": __version__, "source": str(self.source), "settings": settings}


@contextmanager
def preparation_lock(data_root: Path, name: str) -> Iterator[None]:
    """Only one process works on `data_root/name` at a time; the second gets a DataError at once, naming the first."""
    path = data_root / f".{name}.lock"

    def busy(holder: str) -> DataError:
        what = f"{name} is being prepared by another process ({holder})"
        return DataError(what, str(path), f"wait until it ends, then: ssbench prepare {name}")

    with locked(path, busy, f"process {os.getpid()} on {os.uname().nodename}"):
        yield


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel(function: Callable[[T], R], items: Sequence[T], job: PrepareJob, label: str) -> list[R]:
    """`function` of every item, in order, on `job.workers` processes (in this one when there is little to do).

    `function` and items are pickled: a module-level function, or `functools.partial` of one. The first error ends the
    work and names its item: an OSError becomes a DataError, any other error gets a note. Ctrl-C ends it cleanly too.
    """
    work = partial(_run_one, function)
    with job.bars.stage(label, len(items)) as bar:
        if job.workers <= 1 or len(items) < FEW:
            return _collect(map(work, items), bar)
        # Spawned, not forked: this process may hold threads (the progress bar, OpenMP).
        pool = ProcessPoolExecutor(job.workers, get_context("spawn"), initializer=_begin_worker)
        try:
            return _collect(pool.map(work, items, chunksize=max(1, min(16, len(items) // (job.workers * 4)))), bar)
        except BrokenProcessPool as error:
            raise DataError("a worker process was killed", label, "is memory short? try fewer --workers") from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _collect(results: Iterator[R], bar: Bar) -> list[R]:
    collected = []
    for result in results:
        collected.append(result)
        bar.advance()
    return collected


def _run_one(function: Callable[[T], R], item: T) -> R:
    """`function` of an item; an error names the item it belongs to (the first part of a tuple)."""
    name = str(item[0] if isinstance(item, tuple) else item)
    try:
        with readable_errors(Path(name)):
            return function(item)
    except Exception as error:
        if not isinstance(error, DataError):
            error.add_note(f"while working on {name}")
        raise


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and end when the parent is gone: a killed parent must leave no process behind."""
    import signal
    import threading
    from multiprocessing import connection, parent_process

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:

        def follow() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=follow, daemon=True).start()
