"""What runs inside a Slurm job: some cells of a queue, one after another.

Slurm's warning before the time limit, and its SIGTERM before a job is preempted or requeued, end the run in hand, or
the next one, after a step, with everything saved; the job then ends with code 75, asks to be requeued where Slurm has
not seen to that itself, and the next start goes on from there. submitit's own handlers, which end a process wherever
it is, are not used.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssbench.console import say
from ssbench.errors import RunsFailed, Stopped
from ssbench.files import write_json
from ssbench.jobs import slurm
from ssbench.jobs.job import Cell, Done, Places
from ssbench.jobs.progress import job_id
from ssbench.keyed import key
from ssbench.train.stopping import StopRequest


@dataclass(frozen=True)
class Task:
    """Cells of one job. since: when the queue began; folder: where the job says what has become of them."""

    cells: tuple[Cell, ...]
    places: Places
    device: str | None
    since: float
    folder: Path

    def __call__(self) -> None:
        """Do the cells; ends the process with the contract's exit code where that is not 0."""
        job = job_id()
        assert job is not None  # noqa: S101  only Slurm starts this
        try:
            with StopRequest():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # see slurm_start
                done = self._work()
        except Stopped as stopped:
            _deaf()
            say(f"error: {stopped}")
            if _leads() and _again(job):
                say(f"Slurm will start job {job} again")
            sys.exit(Stopped.code)
        _deaf()
        if _leads():
            write_outcomes(self.folder, job, done)
            for one in done:
                say(str(one))
        if any(one.error and not one.busy for one in done):
            sys.exit(RunsFailed.code)

    def _work(self) -> list[Done]:
        """Loads torch: seconds in which a warning must be heard already."""
        from ssbench.jobs.queue import work

        _take_place(self.folder)
        return work(self.cells, self.places, self.device, since=self.since, wait=False)


def outcome_file(folder: Path, job: str) -> Path:
    """Where a job that came to its end says what has become of its cells."""
    return folder / f"{job}_outcome.json"


def write_outcomes(folder: Path, job: str, done: Sequence[Done]) -> None:
    """State and error of each cell, in order; records are in the store."""
    write_json(outcome_file(folder, job), {"cells": [_outcome(one) for one in done]})


def _outcome(one: Done) -> dict[str, Any]:
    if one.busy is not None or one.error is None:
        return {"state": "elsewhere" if one.busy else "was done" if one.repeated else "done"}
    error = one.error
    return {"state": "failed", "code": error.code, "what": error.what, "where": error.where, "fix": error.fix}


def _take_place(folder: Path) -> None:
    """Threads as Slurm gives them; several tasks of one job train as one, as under torchrun.

    They meet at a port that `folder` and the job decide, below those a system hands out: submitit's depends on the
    job's number alone, which two clusters on one machine may share.
    """
    import torch

    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        torch.set_num_threads(int(cpus))
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        start = os.environ.get("SLURM_RESTART_COUNT", "0")
        os.environ["MASTER_PORT"] = str(20000 + key(str(folder), str(job_id()), start) % 12000)
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def _deaf() -> None:
    """All is saved: a signal between here and the end of the process would only spoil its exit code."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _leads() -> bool:
    return os.environ.get("SLURM_PROCID", "0") == "0"


def _again(job: str) -> bool:
    """Whether the job will be started again, by Slurm's own decision or because it is asked for."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= slurm.RESTARTS:
        say(f"job {job} was started {slurm.RESTARTS} times; ask for more time: --slurm time=...")
        return False
    return slurm.requeue(job)
