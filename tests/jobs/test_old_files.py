"""Files that an earlier version wrote stay readable: those in `old_files` have its bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ssbench.files import open_lock, take_lock
from ssbench.jobs.job import Job, Places
from ssbench.jobs.plan_file import planned_jobs
from ssbench.jobs.queue_file import read_queues
from ssbench.jobs.slurm import JobState
from ssbench.jobs.slurm_job import read_outcome
from ssbench.jobs.status import survey

OLD = Path(__file__).parent / "old_files"
FOLDER = "toy/none_cutmix_seg/toy-ours-1_16/seed0"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A runs folder with a run that was stopped and two queues."""
    for name, target in (
        ("progress.json", f"{FOLDER}/progress.json"),
        ("slurm-12.json", "queues/slurm-12.json"),
        ("local-machine-6088.json", "queues/local-machine-6088.json"),
    ):
        path = tmp_path / target
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(OLD / name, path)
    (tmp_path / FOLDER / "lock").touch()
    return tmp_path


def test_status_reads_progress_and_queues(runs: Path) -> None:
    damaged: list[str] = []
    with (runs / "queues/local-machine-6088.json").open() as file:
        assert take_lock_of(file) is None
        states = {"12_1": JobState("PENDING")}
        rows = survey(runs, ask_slurm=lambda jobs: states, report=damaged.append)
    assert damaged == []
    assert [(row["recipe"], row["seed"], row["state"], row["why"]) for row in rows] == [
        ("toy/none_fixmatch", 0, "waiting", "in line, process 6088 on machine"),
        ("toy/none_fixmatch", 1, "waiting", "Slurm job 12_1: pending"),
        ("toy/none_cutmix_seg", 0, "stopped", "stopped at step 40 of 600"),
    ]
    assert (rows[2]["step"], rows[2]["steps"], rows[2]["score"], rows[2]["starts"]) == (40, 600, 31.2, 1)


def take_lock_of(file: object) -> str | None:
    """Lock a file that is open for reading, without writing to it."""
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
    return None


def test_slurm_queues_and_outcomes(runs: Path) -> None:
    (queue,) = read_queues(runs)
    assert (queue.launcher, queue.folder, [cell.job for cell in queue.cells]) == (
        "slurm",
        "/scratch/runs/slurm",
        ["12_0", "12_1"],
    )
    outcomes = [read_outcome(OLD, "12_0", k) for k in range(3)]
    assert [outcome.state for outcome in outcomes if outcome] == ["done", "failed", "was done"]
    assert outcomes[1] is not None
    assert (outcomes[1].code, outcomes[1].what, outcomes[1].where, outcomes[1].fix) == (4, "no mask", "there", "mend")
    assert read_outcome(OLD, "13_0", 0) is None


def test_plans_are_done(tmp_path: Path) -> None:
    places = Places(tmp_path / "data", tmp_path / "runs", tmp_path / "results")
    assert planned_jobs(OLD / "plan.json", places) == [Job("toy/none_cutmix_seg", "toy/ours/1_16", 0)]


def test_a_queue_file_is_written_as_before(tmp_path: Path) -> None:
    """An earlier version that shares the folder reads it, too: the same fields, the content in the locked file."""
    with open_lock(tmp_path / "lock") as file:
        assert take_lock(file, "note") is None
        assert (tmp_path / "lock").read_text() == "note"
