"""A run killed, stopped or damaged anywhere and started again ends in the bytes of a run left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import TINY, Job, wait_until

from ssbench import keyed
from ssbench.console import Bars
from ssbench.errors import Stopped
from ssbench.train import checkpoint

PASSING = ("finished", "hardware", "timings", "throughput", "memory", "git")
EVERY_STEP = "schedule.checkpoint_minutes=0"
LONG = (*TINY, "schedule.epochs=32", "eval.few=2", EVERY_STEP)  # of 4 steps
BRIEF = (*TINY, "schedule.epochs=5", EVERY_STEP)


@dataclass(frozen=True)
class End:
    """What a finished run leaves: bytes of its checkpoints, and its record without what differs by nature."""

    checkpoint: bytes
    best: bytes
    record: dict[str, Any]

    @classmethod
    def of(cls, job: Job) -> End:
        record = json.loads(job.record.read_text())
        kept = {name: value for name, value in record.items() if name not in PASSING}
        return cls((job.folder / "checkpoint.pt").read_bytes(), (job.folder / "best.pt").read_bytes(), kept)


@pytest.fixture(scope="module")
def alone(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> End:
    """The end of a brief run nobody disturbed."""
    job = Job(toy, tmp_path_factory.mktemp("alone"), BRIEF)
    job.here()
    return End.of(job)


@pytest.fixture
def job(toy: Path, tmp_path: Path) -> Job:
    return Job(toy, tmp_path, BRIEF)


class Impatient(Bars):
    """Sends SIGTERM to this process when a number of scores have begun; keeps what it is lines."""

    def __init__(self, scores: int = 10**9) -> None:
        self.lines: list[str] = []
        super().__init__(show=False, write_line=self.lines.append)
        self.scores = scores

    def watch(self, items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        self.scores -= label == "evaluate"
        if self.scores == 0:
            signal.raise_signal(signal.SIGTERM)
        yield from super().watch(items, label, total)


def torn(job: Job, name: str = "") -> list[Path]:
    """Files that are being written, or were when a process was killed."""
    return [path for path in job.folder.glob(f".{name}*") if not path.name.endswith(".link")]


def written(job: Job, times: int) -> Callable[[], bool]:
    """Whether the checkpoint has been written so often since the first look."""
    seen: list[int] = []

    def happened() -> bool:
        path = job.folder / "checkpoint.pt"
        inode = path.stat().st_ino if path.exists() else 0
        if seen[-1:] != [inode]:
            seen.append(inode)
        return len(seen) > times

    return happened


def test_killed_twenty_times(toy: Path, tmp_path: Path) -> None:
    """At random moments, and right when a file is being written."""
    whole, job = Job(toy, tmp_path / "whole", LONG), Job(toy, tmp_path / "killed", LONG)
    assert whole.finish() == 0, whole.log.read_text()
    hits = dict.fromkeys(("checkpoint.pt", "best.pt"), 0)
    for number in range(20):
        draw, process = keyed.rng("kill", number), job.start()
        if number < 4:  # the first epoch is the best so far; the next start mends what the kill left
            wait_until(lambda: bool(torn(job, "best.pt.")), process)
        else:
            wait_until(written(job, times=int(draw.integers(0, 7))), process)
            time.sleep(draw.uniform(0, 0.1))
        if number % 4 == 0:
            wait_until(lambda: bool(torn(job, "checkpoint.pt.")), process)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"kill {number} came too late: {job.log.read_text()}"
        for name in hits:
            hits[name] += bool(torn(job, f"{name}."))
    assert min(hits.values()) > 0, f"no kill fell into the writing of a file: {hits}"
    assert job.finish() == 0, job.log.read_text()
    assert End.of(job) == End.of(whole)
    assert torn(job) == [], "what the killed processes were writing is still there"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(job: Job, alone: End, number: signal.Signals) -> None:
    """The real command, in a process group of its own; both signals reach the whole group, as from a terminal."""
    with_workers = [sys.executable, "-m", "ssbench", *job.arguments, "--set", "data.workers=1"]
    arguments = with_workers if number == signal.SIGTERM else [sys.executable, "-m", "ssbench", *job.arguments]
    with job.log.open("w") as log:
        process = subprocess.Popen(arguments, start_new_session=True, stdout=log, stderr=log)
    runs = job.out / "runs"
    while process.poll() is None and not list(runs.rglob("checkpoint.prev.pt")):
        time.sleep(0.01)
    os.killpg(process.pid, number)
    assert process.wait() == 75, job.log.read_text()
    assert "run the same command again" in job.log.read_text()
    if number == signal.SIGINT:
        job.here()
        assert End.of(job) == alone


def test_stopped_while_an_epoch_is_scored(job: Job, alone: End) -> None:
    """The stop does not wait for the score, and the score is not lost: the next start begins with it."""
    with pytest.raises(Stopped, match="stopped at step 12 of 20"):
        job.here(Impatient(scores=3))
    state = checkpoint.load(job.folder / "checkpoint.pt")["state"]
    assert (state["step"], len(state["history"])) == (12, 2)
    job.here()
    assert End.of(job) == alone


def test_stopped_while_the_record_is_made(job: Job, alone: End) -> None:
    """All is trained; the weights in memory are the best epoch's by then, and must not be saved as the last one's."""
    with pytest.raises(Stopped):
        job.here(Impatient(scores=7))
    job.here()
    assert End.of(job) == alone


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    """One bit in the middle, among the weights, where only a checksum can see it."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture
def stopped(job: Job) -> Job:
    """A run stopped after three epochs, with a checkpoint and the one before."""
    with pytest.raises(Stopped):
        job.here(Impatient(scores=3))
    return job


@pytest.mark.parametrize("damage", [cut, flip])
def test_damaged_newest_checkpoint(stopped: Job, alone: End, damage: Any) -> None:
    """The one before serves, with a warning."""
    damage(stopped.folder / "checkpoint.pt")
    stopped.here(bars := Impatient())
    assert "'checkpoint.pt' cannot be read" in bars.lines[0]
    assert End.of(stopped) == alone


def test_both_checkpoints_damaged(stopped: Job, alone: End) -> None:
    cut(stopped.folder / "checkpoint.pt")
    cut(stopped.folder / "checkpoint.prev.pt")
    stopped.here(bars := Impatient())
    assert [text.split(":")[0] for text in bars.lines[:2]] == [
        "checkpoint 'checkpoint.pt' cannot be read",
        "checkpoint 'checkpoint.prev.pt' cannot be read",
    ]
    assert End.of(stopped) == alone


def test_lost_best_epoch(stopped: Job, alone: End) -> None:
    """Its networks cannot be had again but by starting again, which is what happens."""
    for path in stopped.folder.glob("best*.pt"):
        path.unlink()
    stopped.here(bars := Impatient())
    assert "are lost; starting from the beginning" in bars.lines[0]
    assert End.of(stopped) == alone


def test_a_changed_recipe_starts_anew(toy: Path, tmp_path: Path) -> None:
    """Two versions of one recipe file share a folder; the second does not go on from the first one's weights."""
    text = "base: {base}\nmethod: {{name: unimatch, threshold: 0.8}}\noptim: {{lr: {rate}}}\n"
    base = Path(__file__).parents[2] / "recipes/tasks/toy.yaml"
    ends, jobs = [], []
    for folder, rates in (("edited", (0.02, 0.01)), ("fresh", (0.01,))):
        path = tmp_path / folder / "mine.yaml"
        path.parent.mkdir()
        for rate in rates:
            path.write_text(text.format(base=base, rate=rate))
            jobs.append(Job(toy, tmp_path / folder, (*TINY, "schedule.epochs=1"), recipe=str(path)))
            jobs[-1].here()
        ends.append(End.of(jobs[-1]))
    assert ends[0] == ends[1]
    names = [path.name for path in sorted(jobs[0].record.parent.iterdir())]
    assert len(names) == 2, "the record of the former version is kept beside"
