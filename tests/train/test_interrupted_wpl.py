"""A run stopped or killed while its detector is trained, and started again, ends in the bytes of one left alone."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from running import TINY, Job, command, start, wait_until
from test_interrupted import End

from ssbench import find

STEPS = 40
DETECTOR = {"name": "wpl", **find.load("plugin", "wpl").quick, "detector_iterations": STEPS, "detector_batch": 1}
OVERRIDES = (*TINY, "schedule.epochs=1", f"plugin={json.dumps(DETECTOR)}")


def boxes(job: Job) -> bytes:
    return (job.folder / "detector" / "boxes.json").read_bytes()


@pytest.fixture(scope="module")
def alone(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run nobody disturbed."""
    job = Job(toy, tmp_path_factory.mktemp("alone"), OVERRIDES)
    job.here()
    return job


def eager(arguments: Sequence[str], log: Path) -> None:
    """The command, writing the detector after every step."""
    from ssbench.plugins import wpl_detector as detecting

    detecting.SAVE_EVERY = -1.0
    command(arguments, log)


def trained(job: Job, steps: int) -> Callable[[], bool]:
    """Whether the detector has been written after so many steps."""
    path = job.folder / "detector" / "detector.pt"

    def there() -> bool:
        return path.is_file() and torch.load(path, weights_only=True)["step"] >= steps

    return there


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75)])
def test_in_the_detectors_training(number: int, code: int, alone: Job, toy: Path, tmp_path: Path) -> None:
    job = Job(toy, tmp_path, OVERRIDES)
    job.out.mkdir(exist_ok=True)
    process = start(eager, job.arguments, job.log)
    assert wait_until(trained(job, STEPS // 4), process), job.log.read_text()
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == code, job.log.read_text()
    assert not (job.folder / "detector" / "boxes.json").exists()
    assert not (job.folder / "checkpoint.pt").exists()
    assert trained(job, STEPS // 4)()
    assert not trained(job, STEPS)()
    job.here()
    assert boxes(job) == boxes(alone)
    assert End.of(job) == End.of(alone)
