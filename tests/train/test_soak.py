"""Runs killed at random moments, by random signals, and started again until they are done: the bytes never differ.

Three trials by default. `make soak` sets SSBENCH_SOAK, for hundreds of them.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import TINY, Job, command, start, wait_until
from test_interrupted import EVERY_STEP
from test_stages import SMALL, left

from ssbench import find, keyed

TRIALS = int(os.environ.get("SSBENCH_SOAK_TRIALS", "300")) if os.environ.get("SSBENCH_SOAK") else 3
DETECTOR = {"name": "wpl", **find.load("plugin", "wpl").quick, "detector_iterations": 8, "detector_batch": 1}
WITH_DETECTOR = f"plugin={json.dumps(DETECTOR)}"
CASES: dict[str, tuple[str, tuple[str, ...]]] = {
    "one training": ("toy/none_unimatch", (*TINY, "schedule.epochs=4", EVERY_STEP)),
    "several trainings": ("toy/none_stpp", (*SMALL, "schedule.epochs=2")),
    "two processes": ("toy/none_unimatch", (*TINY, "schedule.epochs=4", EVERY_STEP)),
    "a detector first": ("toy/none_unimatch", (*TINY, "schedule.epochs=2", EVERY_STEP, WITH_DETECTOR)),
    "banks": ("toy/none_ael", (*TINY, "schedule.epochs=2", EVERY_STEP)),
    "contrast": ("toy/none_u2pl", (*TINY, "schedule.epochs=3", EVERY_STEP)),
}
CODES = {
    signal.SIGKILL: (-signal.SIGKILL,),
    signal.SIGTERM: (75, -signal.SIGTERM),  # the latter before the run listens: nothing has to be saved yet
    signal.SIGINT: (75, 130),
}


class Undisturbed:
    """What a run of each case leaves that nobody disturbs, and how long it takes; made once a case."""

    def __init__(self, data: Path, out: Path) -> None:
        self.data, self.out, self._ends = data, out, dict[str, tuple[Any, float]]()

    def job(self, case: str, out: Path) -> Job:
        recipe, overrides = CASES[case]
        return Job(self.data, out, overrides, recipe)

    def end(self, case: str) -> tuple[Any, float]:
        if case not in self._ends:
            job, began = self.job(case, self.out / case.replace(" ", "_")), time.monotonic()
            assert job.finish() == 0, job.log.read_text()
            self._ends[case] = left(job), time.monotonic() - began
        return self._ends[case]


@pytest.fixture(scope="module")
def undisturbed(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    return Undisturbed(toy, tmp_path_factory.mktemp("undisturbed"))


def begin(job: Job, number: int) -> tuple[BaseProcess, Path]:
    """The command in a process that has come as far as its own code, and its log."""
    log = job.out / f"log{number}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    process = start(command, job.arguments, log)
    wait_until(log.exists, process)
    return process, log


def disturb(process: BaseProcess, log: Path, draw: np.random.Generator, seconds: float) -> None:
    """Send one signal at a random moment of the first `seconds`; the exit code must be one that this signal has."""
    number = list(CODES)[int(draw.integers(len(CODES)))]
    process.join(draw.uniform(0, seconds))
    assert process.pid is not None
    with suppress(ProcessLookupError):  # it has ended meanwhile
        os.kill(process.pid, number)
    process.join(300)
    assert process.exitcode in (0, *CODES[number]), f"{number!r}: {process.exitcode}\n{log.read_text()}"


@pytest.mark.parametrize("trial", range(TRIALS))
def test_killed_at_random_until_it_is_done(trial: int, undisturbed: Undisturbed, tmp_path: Path) -> None:
    case = list(CASES)[trial % len(CASES)]
    end, seconds = undisturbed.end(case)
    job, draw = undisturbed.job(case, tmp_path), keyed.rng("soak", trial)
    for number in range(int(draw.integers(1, 4))):
        process, log = begin(job, number)
        if case == "two processes":
            other, other_log = begin(job, 100 + number)
            disturb(process, log, draw, seconds)
            disturb(other, other_log, draw, seconds)
        else:
            disturb(process, log, draw, seconds)
    assert job.finish() == 0, job.log.read_text()
    assert left(job) == end


def test_of_two_processes_one_goes_on_where_the_other_was_killed(undisturbed: Undisturbed, tmp_path: Path) -> None:
    """The second waits for the first one's lock; a kill gives it the run, which it ends in the same bytes."""
    end, _ = undisturbed.end("two processes")
    job = undisturbed.job("two processes", tmp_path)
    first, log = begin(job, 0)
    assert wait_until(lambda: (job.folder / "checkpoint.pt").is_file(), first), log.read_text()
    second, second_log = begin(job, 1)
    assert wait_until(lambda: "going on when it has ended" in second_log.read_text(), second), second_log.read_text()
    first.kill()
    second.join(300)
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL, 0), second_log.read_text()
    assert left(job) == end
