"""How runs stand, read from their folders: each state, what a killed process leaves, lines and tables for people."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ran import Ran
from rich.console import Console
from running import TINY, Job

from ssbench.console import Bars
from ssbench.errors import DataError, HardwareError, Stopped
from ssbench.files import open_lock, take_lock
from ssbench.jobs import progress as progress_file
from ssbench.jobs import status
from ssbench.jobs.progress import ProgressFile, RunProgress, read_progress
from ssbench.jobs.queue_file import write_slurm_queue
from ssbench.jobs.slurm import JobState
from ssbench.jobs.status import FIELDS, StatusView, counts, survey, texts

ABOUT = {"key": "k", "recipe": "r", "split": "toy/ours/1_8", "seed": 0, "quick": False, "device": "cpu"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Both clocks of the progress file, turned by hand."""
    now = [1000.0]
    monkeypatch.setattr(progress_file.time, "time", lambda: now[0])
    monkeypatch.setattr(progress_file.time, "monotonic", lambda: now[0])
    return now


def begin_run(folder: Path, name: str) -> ProgressFile:
    """The file of a run whose folder is there."""
    path = folder / name / "toy-ours-1_8" / "seed0"
    open_lock(path / "lock").close()
    return ProgressFile(path, {**ABOUT, "recipe": name})


# The file


def test_it_is_written_seldom_and_tells_the_time_that_is_left(tmp_path: Path, clock: list[float]) -> None:
    """From step 10 at 1000 s on, a step in 2 s: at step 15 there are 85 left, so 170 s."""
    file, step = begin_run(tmp_path, "r"), [10]
    folder = tmp_path / "r/toy-ours-1_8/seed0"
    file.facts = lambda: {"step": step[0], "steps": 100, "score": 31.5}
    assert read_progress(folder).doing == "starting"
    for _ in range(5):
        clock[0] += 3.0
        file.tick()
    assert json.loads((folder / "progress.json").read_text()) | {"host": "", "pid": 0} == {
        **ABOUT, "host": "", "pid": 0, "job": None, "starts": 1, "started": 1000.0, "state": "running", "doing": "",
        "why": "", "step": 10, "steps": 100, "score": 31.5, "updated": 1015.0, "eta_s": None,
    }  # fmt: skip
    step[0], clock[0] = 15, 1013.0
    file.tick()
    assert read_progress(folder).step == 10, "looked at the clock only"
    clock[0] = 1003.0 + 10.0 + 10.0
    file.tick("evaluate 3/9")
    progress = read_progress(folder)
    assert (progress.step, progress.doing) == (15, "evaluate 3/9")
    assert progress.eta_s == pytest.approx(20.0 / 5 * 85)


@pytest.mark.parametrize(
    ("error", "state", "why"),
    [
        (Stopped("stopped at step 3 of 9", "here", "again"), "stopped", "stopped at step 3 of 9"),
        (KeyboardInterrupt(), "stopped", "KeyboardInterrupt: "),
        (DataError("no mask", "there", "mend"), "failed", "no mask"),
        (ValueError("x" * 999), "failed", "ValueError: " + "x" * 300),
    ],
)
def test_how_a_run_ended(tmp_path: Path, error: BaseException, state: str, why: str) -> None:
    begin_run(tmp_path, "r").end_with(error)
    row = survey(tmp_path)[0]
    assert (row["state"], row["why"], row["starts"]) == (state, why, 1)
    begin_run(tmp_path, "r")
    assert survey(tmp_path)[0]["starts"] == 2
    ProgressFile(tmp_path / "r/toy-ours-1_8/seed0", {**ABOUT, "key": "of another recipe"})
    assert survey(tmp_path)[0]["starts"] == 1


def test_a_full_disk_does_not_end_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> tuple[int, str]:
        raise OSError(28, "No space left on device")

    file = begin_run(tmp_path, "r")
    monkeypatch.setattr("ssbench.files.tempfile.mkstemp", full)
    file.end("done")
    assert read_progress(tmp_path / "r/toy-ours-1_8/seed0").state == "running"


def test_a_run_tells_how_far_it_is(toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is told here; the last word is that of the record."""
    seen: list[RunProgress] = []

    class Looking(Bars):
        def watch(self, items: Any, label: str, total: int) -> Iterator[Any]:
            for item in super().watch(items, label, total):
                seen.append(read_progress(job.folder))
                yield item

    monkeypatch.setattr(progress_file, "EVERY", 0.0)
    job = Job(toy, tmp_path, (*TINY, "schedule.epochs=2"))
    record = job.here(Looking(show=False, write_line=lambda _: None))
    assert [(row.step, row.epoch) for row in seen[:8]] == [(4, 0)] * 3 + [(8, 1)] * 4 + [(8, 2)]
    assert seen[1].doing == "evaluate 1/3"
    assert seen[4].score == record["history"][0]["select"]
    row = survey(job.places.runs)[0]
    assert {name: row[name] for name in ("state", "step", "steps", "epoch", "epochs", "metric", "device", "job")} == {
        "state": "done", "step": 8, "steps": 8, "epoch": 2, "epochs": 2, "metric": "miou", "device": "cpu", "job": None,
    }  # fmt: skip
    assert row["best"] == record["scores"]["best"]["select"]
    assert row["images_per_s"] == record["throughput"]["images_per_s"]
    assert row["folder"] == str(job.folder.relative_to(job.places.runs))


# All runs of a folder


@pytest.fixture
def runs(tmp_path: Path) -> Iterator[Path]:
    """A run in each state that needs no queue: at work, killed, failed, done; and two from before these files."""
    working, killed, failed, done = (begin_run(tmp_path, name) for name in ("working", "killed", "failed", "done"))
    for file in (working, killed):
        file.facts = lambda: {"step": 40, "steps": 120, "epoch": 1, "epochs": 3, "score": 31.204, "best": 40.0}
        file._next_write = 0
        file.tick()
    failed.end_with(DataError("no mask"))
    done.end("done")
    for name in ("old", "quick/older"):
        (tmp_path / name / "voc-classic-1_8" / "seed7" / "stages").mkdir(parents=True)
        (tmp_path / name / "voc-classic-1_8" / "seed7" / "lock").touch()
    (tmp_path / "old/voc-classic-1_8/seed7/record.json").touch()
    (tmp_path / "old/voc-classic-1_8/seed7/stages/lock").touch()
    with open_lock(tmp_path / "working/toy-ours-1_8/seed0" / "lock") as lock:
        take_lock(lock)
        yield tmp_path


def test_every_state_is_told_from_the_others(runs: Path) -> None:
    rows = survey(runs)
    assert [(row["recipe"], row["state"]) for row in rows] == [
        ("working", "running"), ("killed", "stopped"), ("older", "stopped"), ("failed", "failed"), ("done", "done"),
        ("old", "done"),
    ]  # fmt: skip
    assert counts(rows) == {"running": 1, "waiting": 0, "stopped": 2, "failed": 1, "done": 2}
    assert all(tuple(row) == FIELDS for row in rows)
    assert rows[1]["why"] == status.KILLED
    assert (rows[2]["quick"], rows[2]["seed"], rows[2]["split"]) == (True, 7, "voc-classic-1_8")
    assert survey(runs, ["failed/toy-ours-1_8/seed0", "no/such/run"]) == [rows[3]]
    assert survey(runs / "nowhere") == []


def test_jobs_of_slurm_wait_until_they_run_or_are_gone(runs: Path) -> None:
    names = ("killed", "working", "done", "fresh", "gone")
    posts = [
        {**ABOUT, "recipe": name, "folder": f"{name}/toy-ours-1_8/seed0", "job": f"12_{k}"}
        for k, name in enumerate(names)
    ]
    write_slurm_queue(runs, "12_0", runs / "slurm", posts)
    words = {"12_0": "PENDING", "12_1": "RUNNING", "12_2": "COMPLETED", "12_3": "RUNNING", "12_4": "CANCELLED"}
    known = {job: JobState(word, "Priority" if word == "PENDING" else "None") for job, word in words.items()}
    rows = {row["recipe"]: row for row in survey(runs, ask_slurm=lambda jobs: {job: known[job] for job in jobs})}
    shown = {name: (rows[name]["state"], rows[name]["why"]) for name in names if name in rows}
    assert shown == {
        "killed": ("waiting", "Slurm job 12_0: pending (Priority)"),
        "working": ("running", ""),
        "done": ("done", ""),
        "fresh": ("waiting", "Slurm job 12_3: running"),
    }
    assert rows["killed"]["step"] == 40, "where it will go on"

    def silent(_: Any) -> dict[str, JobState]:
        raise HardwareError("squeue does not answer")

    assert {row["why"] for row in survey(runs, ["gone/toy-ours-1_8/seed0"], silent)} == {
        "Slurm job 12_4: squeue does not answer"
    }


# For people


def test_a_line_a_change_and_a_row_a_run(runs: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    with StatusView(console) as view:
        view.show(survey(runs))
        first = console.file.getvalue().splitlines()
        view.show(survey(runs))
        assert len(console.file.getvalue().splitlines()) == len(first) == 6, "nothing new, no line"
    assert first[0].startswith("working toy/ours/1_8 seed 0: running, process ")
    assert first[0].endswith("epoch 1/3 31.20 (best 40.00)")
    assert first[1].startswith(f"killed toy/ours/1_8 seed 0: stopped, {status.KILLED}")
    assert texts(survey(runs)[0])[3:6] == ("40/120", "1/3", "31.20 (best 40.00)")
    drawn = Console(file=io.StringIO(), width=200, force_terminal=True)
    with StatusView(drawn) as view:
        view.show(survey(runs))
        assert "1 running, 2 stopped, 1 failed, 2 done" in drawn.file.getvalue()


def test_the_command(ssbench: Callable[..., Ran], runs: Path) -> None:
    shown = json.loads(ssbench("status", "--runs", runs, "--json").out)
    assert shown == {"runs": survey(runs), "counts": counts(survey(runs))}
    lines = ssbench("status", "--runs", runs).out.splitlines()
    assert lines[0].split("\t")[:4] == ["run", "state", "where", "step"]
    assert [line.split("\t")[1] for line in lines[1:]] == [row["state"] for row in survey(runs)]
    assert ssbench("status") == Ran(0, "", "no runs in runs yet\n")


def test_watching_ends_when_nothing_runs_or_waits(ssbench: Callable[..., Ran], runs: Path) -> None:
    (runs / "working/toy-ours-1_8/seed0/lock").unlink()
    (runs / "working/toy-ours-1_8/seed0/lock").touch()
    assert ssbench("status", "--runs", runs, "--watch").out == ssbench("status", "--runs", runs).out
