"""`progress.json` in a run's folder: how far the run is, for `ssbench status` and for other queues.

The process that holds the folder's lock writes it, at most every few seconds, so that a step only costs a look at the
clock. Nothing in it is read from the device (that would wait for the step), and no run depends on it.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssbench.errors import DataError, SsbenchError, Stopped
from ssbench.files import read_model, write_bytes

NAME = "progress.json"
EVERY = 3.0
"""Seconds between two writes. `ssbench status --watch` looks every 2 s, so a line is at most 5 s old."""
MAX_BYTES = 1_000_000

EndState = Literal["done", "failed", "stopped"]
Facts = Callable[[], Mapping[str, Any]]
Count = Annotated[int, Field(ge=0, le=2**53)]
Number = Annotated[float, Field(ge=-1e12, le=1e12, allow_inf_nan=False)]


class RunProgress(BaseModel):
    """A progress file as read back; a field is None where the file does not have it.

    started, updated: seconds since 1970. job: Slurm's. eta_s: seconds to the last step of the stage. score, best:
    percent, of the epochs' select subset. starts: how often the run was begun or resumed. band: where the scores stand
    outside of the band of released logs, "" inside.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    key: str | None = None
    recipe: str | None = None
    split: str | None = None
    seed: Count | None = None
    quick: bool | None = None
    device: str | None = None
    host: str | None = None
    pid: Count | None = None
    job: str | None = None
    starts: Count | None = None
    started: Number | None = None
    stage: str | None = None
    step: Count | None = None
    steps: Count | None = None
    epoch: Count | None = None
    epochs: Count | None = None
    metric: str | None = None
    score: Number | None = None
    best: Number | None = None
    images_per_s: Number | None = None
    state: Literal["running", "done", "failed", "stopped"] | None = None
    doing: str | None = None
    why: str | None = None
    band: str | None = None
    updated: Number | None = None
    eta_s: Number | None = None


def read_progress(folder: Path, report: Callable[[str], None] | None = None) -> RunProgress:
    """The progress of the run in `folder`, empty where there is no file or a damaged one.

    Args:
        report: called with the error of a damaged file, for a person.
    """
    path = folder / NAME
    try:
        if path.is_file():
            fix = f"rm {path}: no run needs it"
            return read_model(path, RunProgress, "progress file", fix, max_bytes=MAX_BYTES)
    except DataError as error:
        if report is not None:
            report(f"ignored: {error}")
    return RunProgress()


def slurm_job_id() -> str | None:
    """The Slurm job this process belongs to, as `squeue` writes it: 12, or 12_3 in an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


class ProgressFile:
    """The file of one run while one process works on it.

    about: which run it is, with its "key". Starts are counted over processes as long as the file there has this key.
    facts: the fields that change; "step" and "steps" are read here for the time that is left.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        before, now = read_progress(folder), time.time()
        self._path = folder / NAME
        self._fixed = {
            **about,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "job": slurm_job_id(),
            "starts": 1 + ((before.starts or 0) if before.key == about["key"] else 0),
            "started": now,
        }
        self.facts: Facts = dict
        self._next_write, self._first_step = 0.0, (0, now)
        self._write("running", "starting")

    def tick(self, doing: str = "") -> None:
        """Note a step, or `doing` something else. The file is written if the last write is long enough ago."""
        if time.monotonic() >= self._next_write:
            self._write("running", doing)

    def end(self, state: EndState, why: str = "") -> None:
        """Write how the process left the run."""
        self._write(state, "", why)

    def end_with(self, error: BaseException) -> None:
        """`end` with the state that an error leaves: a request to stop leaves a run that can be resumed."""
        why = error.what if isinstance(error, SsbenchError) else f"{type(error).__name__}: {str(error)[:300]}"
        self.end("stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed", why)

    def _write(self, state: str, doing: str, why: str = "") -> None:
        """Replace the file, without waiting for the disk: losing it costs a line of a display, a wait costs steps."""
        facts, now = dict(self.facts()), time.time()
        content = {**self._fixed, **facts, "state": state, "doing": doing, "why": why, "updated": now}
        content["eta_s"] = self._seconds_left(facts, now) if state == "running" else None
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        with suppress(OSError):  # a full disk ends the run where a checkpoint is lost, not here
            write_bytes(self._path, text.encode(), flush=False)
        self._next_write = time.monotonic() + EVERY

    def _seconds_left(self, facts: Mapping[str, Any], now: float) -> float | None:
        """Seconds to the last step, at the pace since the first step this process saw; scoring is part of the pace."""
        step, steps = facts.get("step"), facts.get("steps")
        if step is None or steps is None:
            return None
        if self._first_step[0] == 0 or step < self._first_step[0]:  # the first step, or a new stage
            self._first_step = (step, now)
        done, spent = step - self._first_step[0], now - self._first_step[1]
        return round(spent / done * (steps - step), 1) if done > 0 else None
