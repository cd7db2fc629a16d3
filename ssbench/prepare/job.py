"""What every `prepare_<name>.py` works with: the archives it names, the job it is given, and a pool of processes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ssbench import __version__
from ssbench.errors import DataError
from ssbench.files import write_json
from ssbench.prepare.files import readable_errors

if TYPE_CHECKING:
    from rich.progress import Progress as Rich
    from rich.progress import TaskID

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


class Progress(Protocol):
    """How far a stage is: `start` (again under the same label: anew), `advance`, `stop`; a step is a file or a byte."""

    def start(self, total: int, label: str) -> None:
        """Begin a stage of `total` steps (0: unknown) called `label`."""

    def advance(self, n: int = 1) -> None:
        """`n` more steps are done."""

    def stop(self) -> None:
        """The stage ended, well or badly."""


class Silent:
    """A progress that says nothing."""

    def start(self, total: int, label: str) -> None:
        """Nothing."""

    def advance(self, n: int = 1) -> None:
        """Nothing."""

    def stop(self) -> None:
        """Nothing."""


class Bar:
    """A rich progress bar on stderr, one line a stage; a stage started again under its label begins anew."""

    def __init__(self) -> None:
        self._rich: Rich | None = None
        self._task: TaskID | None = None
        self._label = ""

    def start(self, total: int, label: str) -> None:
        """A new line for the stage `label`, or its line from the beginning."""
        if self._rich is not None and self._task is not None and label == self._label:
            self._rich.reset(self._task, total=total or None)
            return
        self.stop()
        self._rich, self._label = _line(), label
        self._task = self._rich.add_task(label, total=total or None)
        self._rich.start()

    def advance(self, n: int = 1) -> None:
        """Move the bar."""
        if self._rich is not None and self._task is not None:
            self._rich.advance(self._task, n)

    def stop(self) -> None:
        """Leave the line as it is."""
        if self._rich is not None:
            self._rich.stop()
        self._rich = self._task = None


def _line() -> Rich:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Rich

    columns = (TextColumn("{task.description:32}"), BarColumn(), TaskProgressColumn(show_speed=True))
    return Rich(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True))


@contextmanager
def stage(progress: Progress, total: int, label: str) -> Iterator[Progress]:
    """`progress` started, and stopped however the block ends."""
    progress.start(total, label)
    try:
        yield progress
    finally:
        progress.stop()


@dataclass
class Job:
    """One preparation: what is prepared where, from what, with how many processes.

    `settings` go into the ledger: how the files were made. `convert` gives them once, first thing, through `declare`.
    A job stays in its process (its progress holds threads): give workers paths, not the job.
    """

    name: str
    data_root: Path
    source: Path | None = None
    workers: int = 1
    progress: Progress = field(default_factory=Silent)
    settings: dict[str, Any] = field(default_factory=dict)
    marker: Path | None = None  # <unfinished folder>/.settings.json, set by prepare

    def declare(self, **settings: Any) -> None:
        """State how files are made, before the first one is; files of an unfinished run made otherwise are dropped."""
        self.settings.update(settings)
        if self.marker is None:
            return
        said = self.statement(self.settings)
        if _said(self.marker) != said:
            shutil.rmtree(self.marker.parent, ignore_errors=True)
            write_json(self.marker, said)

    def statement(self, settings: dict[str, Any]) -> dict[str, Any]:
        """What two runs must have in common for the second to go on with the files of the first."""
        return {"tool": __version__, "source": str(self.source), "settings": settings}


def _said(marker: Path) -> object:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def parallel(function: Callable[[T], R], items: Sequence[T], job: Job, label: str) -> list[R]:
    """`function` of every item, in order, on `job.workers` processes (in this one when there is little to do).

    `function` and items are pickled: a module-level function, or `functools.partial` of one. The first error ends the
    work and names its item: an OSError becomes a DataError, any other error gets a note. Ctrl-C ends it cleanly too.
    """
    with stage(job.progress, len(items), label) as progress:
        if job.workers <= 1 or len(items) < FEW:
            return _here(function, items, progress)
        size = max(1, min(16, len(items) // (job.workers * 4)))
        chunks = [items[i : i + size] for i in range(0, len(items), size)]
        return [result for part in _pooled(function, chunks, job.workers, progress) for result in part]


def _here(function: Callable[[T], R], items: Sequence[T], progress: Progress) -> list[R]:
    results = []
    for item in items:
        results.append(_one(function, item))
        progress.advance()
    return results


def _pooled(function: Callable[[T], R], chunks: list[Sequence[T]], workers: int, progress: Progress) -> list[list[R]]:
    """Results chunk by chunk. Spawned, not forked: the parent may hold threads (the progress bar, OpenMP)."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_begin_worker)
    try:
        futures = {pool.submit(_chunk, function, chunk): len(chunk) for chunk in chunks}
        for future in as_completed(futures):
            future.result()
            progress.advance(futures[future])
        return [future.result() for future in futures]
    except BrokenProcessPool as error:
        fix = "is memory short? try fewer workers"
        raise DataError("a worker process was killed", "", fix) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    """Leave Ctrl-C to the parent, and go when the parent is gone (a killed parent must leave no process behind)."""
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


def _chunk(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [_one(function, item) for item in items]


def _one(function: Callable[[T], R], item: T) -> R:
    name = _called(item)
    try:
        with readable_errors(Path(name)):
            return function(item)
    except Exception as error:
        if not isinstance(error, DataError):
            error.add_note(f"while working on {name}")
        raise


def _called(item: object) -> str:
    """What to call an item in an error: its path, the first of a tuple, or its name."""
    if isinstance(item, tuple) and item:
        return _called(item[0])
    return str(item) if isinstance(item, str | Path) else str(getattr(item, "name", item))
