"""The jobs a queue still has to do: in its process (`Backlog`), and as a file in `runs/queues/` that others read.

`ssbench status` and other queues read the files. A queue of this machine holds the lock of its file and removes the
file at its end; a file that a killed queue left is not locked, and the next queue removes it. No process holds the file
of a queue handed to Slurm: Slurm says which of its jobs live.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from ssbench.errors import DataError
from ssbench.files import LOCK, is_locked, open_lock, read_model, take_lock, write_json
from ssbench.jobs.job import Job
from ssbench.jobs.progress import Count, Number

FOLDER = "queues"
MAX_BYTES = 64_000_000
"""A million jobs take less."""
POLL_LOCKS = 1.0
"""Seconds between two looks at the locks of other processes' runs, when nothing else is to do.

A look opens one file a run, a round trip each on a network file system; runs last minutes to days.
"""

Entries = Sequence[Mapping[str, Any]]
RelativeFolder = Annotated[str, StringConstraints(pattern=r"^[^/\x00]{1,255}(/[^/\x00]{1,255})*$", max_length=2000)]


class QueueEntry(BaseModel):
    """One job in a queue file. folder: of the run, below the runs folder. job: Slurm's, None on this machine."""

    model_config = ConfigDict(strict=True, frozen=True)

    recipe: str
    split: str
    seed: Count
    quick: bool
    folder: RelativeFolder
    job: str | None = None


class QueueFile(BaseModel):
    """A queue file as read back.

    cells: its jobs, in order. folder: of a Slurm queue's logs. began: seconds since 1970.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    launcher: Literal["local", "slurm"]
    host: str
    pid: Count
    began: Number
    folder: str
    cells: list[QueueEntry]
    path: Path = Path()


class Backlog:
    """The jobs that one queue of this machine has left, in order; true while there are any.

    A job whose folder another process holds is set aside and comes back once that lock is free.

    Args:
        changed: called with the jobs left whenever they change.
    """

    def __init__(self, jobs: Iterable[Job], changed: Callable[[list[Job]], None] | None = None) -> None:
        self._todo, self._changed = deque(jobs), changed
        self._elsewhere: dict[Job, Path] = {}
        self._reported: set[Job] = set()

    def __bool__(self) -> bool:
        return bool(self._todo or self._elsewhere)

    def next(self, is_free: Callable[[Path], bool] | None = None) -> Job | None:
        """The job to try now, None where all that are left are held elsewhere.

        Args:
            is_free: whether a run's folder is free again (default: its lock is looked at).
        """
        job = self._todo.popleft() if self._todo else self._freed(is_free or folder_is_free)
        if job is not None:
            self._notify()
        return job

    def set_aside(self, job: Job, folder: Path) -> bool:
        """Keep a job for later: another process works in `folder`. Whether this is the first time for the job."""
        is_new = job not in self._reported
        self._reported.add(job)
        self._elsewhere[job] = folder
        self._notify()
        return is_new

    def _freed(self, is_free: Callable[[Path], bool]) -> Job | None:
        job = next((job for job, folder in self._elsewhere.items() if is_free(folder)), None)
        if job is not None:
            del self._elsewhere[job]
        return job

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed([*self._todo, *self._elsewhere])


def folder_is_free(folder: Path) -> bool:
    """Whether no process works in a run's folder."""
    return not is_locked(folder / LOCK)


def read_queues(runs: Path, report: Callable[[str], None] | None = None) -> list[QueueFile]:
    """Every queue that may still go on: held by a process, or handed to Slurm.

    Args:
        report: called with the error of a damaged file, which is then skipped.
    Raises:
        DataError: a file is damaged, and there is no `report`.
    """
    queues = []
    for path in sorted((runs / FOLDER).glob("*.json")):
        try:
            if (queue := _read(path)) is not None:
                queues.append(queue)
        except DataError as error:
            if report is None:
                raise
            report(f"ignored: {error}")
    return queues


def _read(path: Path) -> QueueFile | None:
    """None where the file is gone, or where no process holds a queue of a machine any more."""
    for attempt in range(3):
        if not path.name.startswith("slurm-") and not is_locked(path):
            return None
        try:
            queue = read_model(path, QueueFile, "queue file", f"rm {path}", max_bytes=MAX_BYTES)
            return queue.model_copy(update={"path": path})
        except DataError:
            if not path.is_file():
                return None
            if attempt == 2:
                raise
            time.sleep(0.02)  # a local queue writes in place, and this may have been half of it
    return None


@contextmanager
def write_queue_file(runs: Path) -> Iterator[Callable[[Entries], None]]:
    """Keep this process's queue file for the block, through the function that it yields: it writes the entries left."""
    # Remove what killed queues of this machine left. Of other machines the lock may not be visible here.
    for abandoned in (runs / FOLDER).glob(f"local-{socket.gethostname()}-*.json"):
        if not is_locked(abandoned):
            abandoned.unlink(missing_ok=True)
    path, began = runs / FOLDER / f"local-{socket.gethostname()}-{os.getpid()}.json", time.time()
    with open_lock(path) as file:
        _wait_for_lock(file, json.dumps(_content("local", began, ())))

        def write(entries: Entries) -> None:
            """In place, not by renaming: a new file would not be locked."""
            file.seek(0)
            file.truncate()
            json.dump(_content("local", began, entries), file)
            file.flush()

        try:
            yield write
        finally:
            path.unlink(missing_ok=True)


def write_slurm_queue(runs: Path, job: str, logs: Path, entries: Entries) -> None:
    """The file of a queue handed to Slurm. job: one of its Slurm jobs; logs: their folder."""
    path = runs / FOLDER / f"slurm-{job.partition('_')[0]}.json"
    write_json(path, _content("slurm", time.time(), entries, str(logs)))


@contextmanager
def submission_locked(runs: Path) -> Iterator[None]:
    """For the block, no other process reads what Slurm has of ours and submits more: else both would submit a job."""
    with open_lock(runs / FOLDER / "submitting") as file:
        _wait_for_lock(file)
        yield


def _wait_for_lock(file: IO[str], note: str = "") -> None:
    while take_lock(file, note) is not None:
        time.sleep(0.05)


def _content(launcher: str, began: float, entries: Entries, folder: str = "") -> dict[str, Any]:
    about = {"launcher": launcher, "host": socket.gethostname(), "pid": os.getpid(), "began": began}
    return {**about, "folder": folder, "cells": list(entries)}
