"""The part of a Slurm job that runs inside it: some jobs of a queue, one after another.

Slurm's warning before the time limit, and its SIGTERM before a job is preempted or requeued, stop the run in hand, or
the next one, after a step, with everything saved. The Slurm job then ends with code 75, asks to be requeued where Slurm
has not decided that itself, and its next start resumes the run. submitit's own handlers, which end a process wherever
it is, are not used.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssbench.console import say
from ssbench.errors import DataError, RunsFailed, Stopped
from ssbench.files import read_model, write_json
from ssbench.jobs import slurm
from ssbench.jobs.job import Job, Outcome, Places
from ssbench.jobs.progress import slurm_job_id
from ssbench.keyed import key
from ssbench.train.stopping import StopRequest


@dataclass(frozen=True)
class SlurmTask:
    """Jobs of one Slurm job. since: when the queue began; folder: for its logs and outcomes."""

    jobs: tuple[Job, ...]
    places: Places
    device: str | None
    since: float
    folder: Path

    def __call__(self) -> None:
        """Do the jobs; ends the process with the contract's exit code where that is not 0."""
        job = slurm_job_id()
        assert job is not None  # noqa: S101  only Slurm starts this
        try:
            with StopRequest():
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})  # blocked by slurm.HOLD_WARNING
                outcomes = self._work()
        except Stopped as stopped:
            _ignore_signals()
            say(f"error: {stopped}")
            if _leads() and _will_restart(job):
                say(f"Slurm will start job {job} again")
            sys.exit(Stopped.code)
        _ignore_signals()
        if _leads():
            write_outcomes(self.folder, job, outcomes)
            for outcome in outcomes:
                say(str(outcome))
        if any(outcome.error and not outcome.busy for outcome in outcomes):
            sys.exit(RunsFailed.code)

    def _work(self) -> list[Outcome]:
        """Imported here: it loads torch, seconds in which a warning must already have its handler."""
        from ssbench.jobs.queue import work

        _join_tasks(self.folder)
        return work(self.jobs, self.places, self.device, since=self.since, wait=False)


class JobOutcome(BaseModel):
    """The end of one job in an outcome file; the record itself is in the store. elsewhere: another process has it."""

    model_config = ConfigDict(strict=True, frozen=True)

    state: Literal["done", "was done", "elsewhere", "failed"]
    code: int = Field(default=1, ge=0, le=255)
    what: str = ""
    where: str = ""
    fix: str = ""


class OutcomeFile(BaseModel):
    """The outcomes of one Slurm job's jobs, in their order."""

    model_config = ConfigDict(strict=True, frozen=True)

    cells: list[JobOutcome]


def outcome_file(folder: Path, job: str) -> Path:
    """Where a Slurm job that came to its end says how its jobs ended."""
    return folder / f"{job}_outcome.json"


def write_outcomes(folder: Path, job: str, outcomes: Sequence[Outcome]) -> None:
    """Write the outcome file of a Slurm job."""
    write_json(outcome_file(folder, job), {"cells": [_outcome(outcome) for outcome in outcomes]})


def _outcome(outcome: Outcome) -> dict[str, Any]:
    if outcome.busy is not None or outcome.error is None:
        return {"state": "elsewhere" if outcome.busy else outcome.state}
    error = outcome.error
    return {"state": "failed", "code": error.code, "what": error.what, "where": error.where, "fix": error.fix}


def read_outcome(folder: Path, job: str, index: int) -> JobOutcome | None:
    """How the Slurm job's `index`-th job ended, None before the Slurm job's end.

    Raises:
        DataError: the file is damaged.
    """
    path, fix = outcome_file(folder, job), "run the same command again"
    if not path.is_file():
        return None
    cells = read_model(path, OutcomeFile, "outcome file of a Slurm job", fix).cells
    if index >= len(cells):
        raise DataError(f"{len(cells)} outcomes, of at least {index + 1} jobs", str(path), fix)
    return cells[index]


def _join_tasks(folder: Path) -> None:
    """Use the threads Slurm gives; several tasks of one job train as one run, as under torchrun.

    They meet at a port that `folder` and the job decide, below those a system hands out: submitit's depends on the
    job's number alone, which two clusters on one machine may share.
    """
    import torch

    if cpus := os.environ.get("SLURM_CPUS_PER_TASK"):
        torch.set_num_threads(int(cpus))
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        from submitit.helpers import TorchDistributedEnvironment

        start = os.environ.get("SLURM_RESTART_COUNT", "0")
        os.environ["MASTER_PORT"] = str(20000 + key(str(folder), str(slurm_job_id()), start) % 12000)
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)


def _ignore_signals() -> None:
    """All is saved: a signal between here and the end of the process would only spoil its exit code."""
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _leads() -> bool:
    return os.environ.get("SLURM_PROCID", "0") == "0"


def _will_restart(job: str) -> bool:
    """Whether Slurm agreed to start the job again."""
    if int(os.environ.get("SLURM_RESTART_COUNT", "0")) >= slurm.RESTARTS:
        say(f"job {job} was started {slurm.RESTARTS} times; ask for more time: --slurm time=...")
        return False
    return slurm.requeue(job)
