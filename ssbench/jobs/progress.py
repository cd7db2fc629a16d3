"""`progress.json` in a run's folder: how far the run is, for whoever looks (`ssbench status`, other queues).

Written by the process that holds the folder's lock, whole or not at all, and seldom: a step costs a look at the clock.
Nothing in it is read from the device, and no run depends on it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from ssbench.errors import SsbenchError, Stopped

NAME = "progress.json"
EVERY = 3.0
"""Seconds between two writes."""

State = Literal["running", "done", "failed", "stopped"]
Facts = Callable[[], Mapping[str, Any]]


def read(folder: Path) -> dict[str, Any]:
    """What the file says, or nothing where there is none that can be read."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def job_id() -> str | None:
    """The Slurm job this process belongs to, as `squeue` writes it: 12, or 12_3 in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


class ProgressFile:
    """The file of one run while one process works on it.

    about: which run it is, with its "key"; a file of the same key that stands there tells how often it was begun.
    facts: what changes, as plain numbers of the host; "step" and "steps" are read here for the time that is left.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        before = read(folder)
        mine = before.get("key") == about["key"]
        now = time.time()
        self._path = folder / NAME
        self._fixed = {
            **about,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": job_id(),
            "starts": 1 + (before.get("starts", 0) if mine else 0),
            "started": now,
        }
        self.facts: Facts = dict
        self._next, self._since = 0.0, (0, now)
        self._write("running", "starting")

    def tick(self, doing: str = "") -> None:
        """Something went on: a step, or `doing` something else. Writes if the last time is long enough ago."""
        if time.monotonic() >= self._next:
            self._write("running", doing)

    def end(self, state: State, why: str = "") -> None:
        """The process lets go of the run."""
        self._write(state, "", why)

    def ended_by(self, error: BaseException) -> None:
        """`end` for an error: a request to stop leaves a run that can go on."""
        why = error.what if isinstance(error, SsbenchError) else f"{type(error).__name__}: {str(error)[:300]}"
        self.end("stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed", why)

    def _write(self, state: State, doing: str, why: str = "") -> None:
        """Renamed into place but not flushed to the disk: a lost file is a lost line of a display, a wait is a wait."""
        facts, now = dict(self.facts()), time.time()
        told = {**self._fixed, **facts, "state": state, "doing": doing, "why": why, "updated": now}
        told["eta_s"] = self._left(facts, now) if state == "running" else None
        fresh = self._path.with_name(f"{NAME}.new")
        try:
            fresh.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            fresh.replace(self._path)
        except OSError:  # a full disk ends the run where something is lost by it, not here
            pass
        self._next = time.monotonic() + EVERY

    def _left(self, facts: Mapping[str, Any], now: float) -> float | None:
        """Seconds to the last step at the pace since the first step seen here, scoring included."""
        step, steps = facts.get("step"), facts.get("steps")
        if step is None or steps is None:
            return None
        if self._since[0] == 0 or step < self._since[0]:
            self._since = (step, now)
        done, spent = step - self._since[0], now - self._since[1]
        return round(spent / done * (steps - step), 1) if done > 0 else None
