"""What queues still have before them, for `ssbench status` and other queues: one file a queue in `runs/queues/`.

A queue of this machine's workers locks its file and removes it at its end; what a killed one left is not locked, and
is swept away by the next. A queue handed to Slurm has nobody who holds its file: Slurm says which of its jobs live.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssbench.files import is_locked, write_json

FOLDER = "queues"
Launcher = Literal["local", "slurm"]
Cells = Sequence[Mapping[str, Any]]
Show = Callable[[Cells], None]


@dataclass(frozen=True)
class Queue:
    """One file. cells: {"recipe", "split", "seed", "quick", "folder" (below runs/), "job"}, in their order.

    began: seconds since 1970. folder: where a Slurm queue's logs are.
    """

    path: Path
    launcher: Launcher
    host: str
    pid: int
    began: float
    folder: str
    cells: tuple[Mapping[str, Any], ...]

    @property
    def jobs(self) -> dict[str, str]:
        """Run folder -> Slurm job, of a queue handed to Slurm."""
        return {cell["folder"]: cell["job"] for cell in self.cells if cell["job"]}


def queues(runs: Path) -> list[Queue]:
    """Every queue that may still go on: held by a process, or handed to Slurm."""
    found = (_read(path) for path in sorted((runs / FOLDER).glob("*.json")))
    return [q for q in found if q is not None and (q.launcher == "slurm" or is_locked(q.path))]


@contextmanager
def posted(runs: Path) -> Iterator[Show]:
    """This process's queue on the board, as the function given back last showed it: cells not begun yet, in order."""
    _sweep(runs)
    path, began = runs / FOLDER / f"local-{socket.gethostname()}-{os.getpid()}.json", time.time()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def show(cells: Cells) -> None:
            """In place: a new file would not be locked. Whoever reads half of it looks again."""
            file.seek(0)
            file.truncate()
            json.dump(_told("local", began, cells), file)
            file.flush()

        try:
            yield show
        finally:
            path.unlink(missing_ok=True)


def post_slurm(runs: Path, job: str, folder: Path, cells: Cells) -> None:
    """A queue handed to Slurm; `job` is one of its jobs."""
    path = runs / FOLDER / f"slurm-{job.partition('_')[0]}.json"
    write_json(path, _told("slurm", time.time(), cells, str(folder)))


@contextmanager
def alone(runs: Path) -> Iterator[None]:
    """Only one process at a time looks what Slurm has of ours and adds to it."""
    (runs / FOLDER).mkdir(parents=True, exist_ok=True)
    with (runs / FOLDER / "submitting").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _told(launcher: Launcher, began: float, cells: Cells, folder: str = "") -> dict[str, Any]:
    about = {"launcher": launcher, "host": socket.gethostname(), "pid": os.getpid(), "began": began}
    return {**about, "folder": folder, "cells": list(cells)}


def _read(path: Path) -> Queue | None:
    """None of what is gone by now."""
    for _ in range(3):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            return Queue(path=path, **{**told, "cells": tuple(told["cells"])})
        except OSError:
            return None
        except (ValueError, TypeError, KeyError):  # half of it: it is being written
            time.sleep(0.02)
    return None


def _sweep(runs: Path) -> None:
    """Remove what killed queues of this machine left."""
    for path in (runs / FOLDER).glob(f"local-{socket.gethostname()}-*.json"):
        if not is_locked(path):
            path.unlink(missing_ok=True)
