"""Queues that share a folder: every cell is trained once, whoever does it, and whoever dies."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from counting import gpus as seen_gpus
from counting import once, pids, steps, until, write
from running import SPLIT, command, start

from ssbench.files import LOCK, is_locked, open_lock, take_lock
from ssbench.jobs.job import Job, Places, run_folder
from ssbench.jobs.queue import default_workers, visible_gpus, work
from ssbench.jobs.queue_file import Backlog, read_queues, write_queue_file
from ssbench.jobs.status import survey
from ssbench.jobs.targets import QUICK_SPLIT
from ssbench.recipe.recipe import load

EPOCHS = 3


def queue(toy: Path, folder: Path, log: str, *recipes: str) -> BaseProcess:
    """`ssbench run` of the recipes, in a process of its own that shares the folder with the others."""
    (folder / log).touch()
    roots = [f"--data-root={toy}", f"--runs={folder / 'runs'}", f"--results={folder / 'results'}"]
    return start(command, ["run", *recipes, "--split", SPLIT, *roots, "--device", "cpu"], folder / log)


def states(folder: Path) -> dict[str, str]:
    """Recipe -> its state, as `ssbench status` shows it."""
    return {row["recipe"].removeprefix("custom/"): row["state"] for row in survey(folder / "runs")}


def test_two_queues_train_every_cell_once(toy: Path, tmp_path: Path) -> None:
    """Both are given the same cells; the second meets the first one's and comes back to it."""
    names = ("a", "b", "c")
    recipes = [write(tmp_path, name, EPOCHS, wait=1.0, tired=str(tmp_path / "go")) for name in names]
    first = queue(toy, tmp_path, "first", *recipes)
    assert until(lambda: bool(steps(tmp_path, "a")), first)
    assert states(tmp_path) == {"a": "running", "b": "waiting", "c": "waiting"}
    second = queue(toy, tmp_path, "second", *recipes)
    assert until(lambda: "works on this run" in (tmp_path / "second").read_text(), second)
    (tmp_path / "go").touch()
    for process in (first, second):
        process.join()
        assert process.exitcode == 0, [(tmp_path / log).read_text() for log in ("first", "second")]
    assert all(steps(tmp_path, name) == once(EPOCHS) for name in names)
    assert {pid for name in names for pid in pids(tmp_path, name)} == {first.pid, second.pid}
    assert f"process {first.pid} works on this run; going on when it has ended" in (tmp_path / "second").read_text()
    done = f"done {recipes[0]} {SPLIT} seed 0"
    assert f"\n{done}" in (tmp_path / "first").read_text()
    assert f"\nwas {done}" in (tmp_path / "second").read_text()
    assert states(tmp_path) == dict.fromkeys(names, "done")
    assert list((tmp_path / "runs" / "queues").glob("*.json")) == []


def test_what_a_killed_queue_leaves_is_gone_on_with(toy: Path, tmp_path: Path) -> None:
    """Killed in the middle of a run; the other queue waits for it, sees that it is gone, and takes over."""
    long = write(tmp_path, "long", 5, wait=1.0, tired=str(tmp_path / "go"), saving=0)
    short = write(tmp_path, "short", 1)
    killed = queue(toy, tmp_path, "killed", long, short)
    assert until(lambda: len(steps(tmp_path, "long")) > 2, killed)
    other = queue(toy, tmp_path, "other", long, short)
    assert until(lambda: len(steps(tmp_path, "short")) == 4, other), (tmp_path / "other").read_text()
    killed.kill()
    killed.join()
    (tmp_path / "go").touch()
    other.join()
    assert other.exitcode == 0, (tmp_path / "other").read_text()
    counted = steps(tmp_path, "long")
    assert set(counted) == set(once(5))
    assert counted.total() <= 21, "at most the step that was in hand is done again"
    assert steps(tmp_path, "short") == once(1)
    assert pids(tmp_path, "long") == {killed.pid, other.pid}
    assert killed.exitcode == -signal.SIGKILL
    progress = json.loads((tmp_path / "runs/custom/long" / SPLIT.replace("/", "-") / "seed0/progress.json").read_text())
    assert (progress["state"], progress["starts"], progress["step"], progress["pid"]) == ("done", 2, 20, other.pid)
    with write_queue_file(tmp_path / "runs"):
        assert len(list((tmp_path / "runs" / "queues").glob("*.json"))) == 1, "the killed one's file was swept away"


def test_a_failure_elsewhere_is_not_tried_again(toy: Path, tmp_path: Path) -> None:
    """By a queue that had begun before; one that begins later tries again."""
    path = Path(write(tmp_path, "wild", 1))
    path.write_text(path.read_text() + "optim: {name: sgd, lr: 1.0e+30}\n")
    began, places = time.time(), Places(toy, tmp_path / "runs", tmp_path / "results")
    cell = Job(str(path), SPLIT, 0)
    for since, trained, what in [
        (None, 1, "is not finite"),
        (began, 1, "failed elsewhere: "),
        (None, 2, "is not finite"),
    ]:
        done = work([cell], places, "cpu", since=since)[0]
        assert done.error is not None
        assert what in done.error.what
        assert steps(tmp_path, "wild")[0] == trained


def test_a_quick_run_elsewhere_is_not_done_anew(toy: Path, tmp_path: Path) -> None:
    """By a queue that had begun before; one that begins later asks again whether it runs."""
    places, began = Places(toy, tmp_path / "runs", tmp_path / "results"), time.time()
    cell = Job(write(tmp_path, "brief", 1), QUICK_SPLIT, 0, quick=True)
    for since, repeated in [(began, False), (began, True), (None, False)]:
        assert work([cell], places, "cpu", since=since)[0].repeated == repeated
    assert set(steps(tmp_path, "brief").values()) == {2}


def test_workers_come_back_to_what_others_held(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The other process lets go without a record: a worker of ours does the run. Each worker sees one GPU of two."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "97,98")  # which are not there, so that a CPU computes anywhere
    cells = [Job(write(tmp_path, name, 1), SPLIT, 0) for name in ("held", "free")]
    places = Places(toy, tmp_path / "runs", tmp_path / "results")
    folder = run_folder(load(cells[0].recipe), SPLIT, 0, places)
    with open_lock(folder / LOCK) as lock:
        assert take_lock(lock) is None
        threading.Thread(target=lambda: (until(lambda: _waits_alone("held", tmp_path)), lock.close())).start()
        done = work(cells, places, None, workers=2)
    assert [one.state for one in done] == ["done", "done"]
    assert steps(tmp_path, "held") == once(1)
    assert all(len(seen) == 1 and seen <= {"97", "98"} for seen in (seen_gpus(tmp_path, n) for n in ("held", "free")))
    assert f"process {os.getpid()} works on this run; going on when it has ended" in capfd.readouterr().err


def _waits_alone(name: str, folder: Path) -> bool:
    """Whether that cell is the only one in line, and the other one in work."""
    lines = [[entry.recipe for entry in queue.cells] for queue in read_queues(folder / "runs")]
    return lines == [[f"custom/{name}"]] and bool(steps(folder, "free"))


@pytest.mark.parametrize(
    ("device", "world", "jobs"), [(None, "1", 4), ("cuda", "1", 4), ("cuda:1", "1", 1), ("cpu", "1", 1), (None, "2", 1)]
)
def test_one_worker_a_gpu_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, device: str | None, world: str, jobs: int
) -> None:
    """Four GPUs of which this process may see, by its own numbering, all; torchrun shares them out itself."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("WORLD_SIZE", world)
    assert default_workers(device) == jobs


@pytest.mark.parametrize(
    ("device", "visible", "count", "names"),
    [
        (None, None, 2, ("0", "1")),
        ("cuda", "5, 3,7", 3, ("5", "3", "7")),
        (None, "GPU-aa,GPU-bb", 2, ("GPU-aa", "GPU-bb")),
        (None, "", 0, ()),
        ("cpu", "0,1", 2, ()),
        ("cuda:1", "0,1", 2, ()),
    ],
)
def test_workers_sit_at_the_gpus_this_process_sees(
    monkeypatch: pytest.MonkeyPatch, device: str | None, visible: str | None, count: int, names: tuple[str, ...]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus(device) == names


# The parts


def test_jobs_elsewhere_come_back_when_they_are_free(tmp_path: Path) -> None:
    a, b = Job("a", SPLIT, 0), Job("b", SPLIT, 0)
    shown: list[list[Job]] = []
    backlog = Backlog([a, b], shown.append)
    with open_lock(tmp_path / "a" / LOCK) as lock:
        assert take_lock(lock) is None
        assert backlog.next() == a
        assert backlog.set_aside(a, tmp_path / "a")
        assert backlog.next() == b
        assert backlog.next() is None
        assert backlog, "a is still in it"
    assert backlog.next() == a
    assert not backlog.set_aside(a, tmp_path / "a"), "reported before"
    assert backlog.next() == a
    assert not backlog
    assert shown == [[b], [b, a], [a], [], [a], []]


def test_a_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    with open_lock(tmp_path / LOCK) as mine, open_lock(tmp_path / LOCK) as other:
        assert take_lock(mine) is None
        assert take_lock(other) == str(os.getpid())
        assert is_locked(tmp_path / LOCK)
    assert not is_locked(tmp_path / LOCK)
    assert not is_locked(tmp_path / "no such file")


def test_a_queue_file_is_there_as_long_as_its_queue(tmp_path: Path) -> None:
    cell = {"recipe": "r", "split": "s", "seed": 0, "quick": False, "folder": "r/s/seed0", "job": None}
    with write_queue_file(tmp_path) as show:
        assert read_queues(tmp_path)[0].cells == [], "nothing shown yet"
        show([cell, {**cell, "seed": 1}])
        assert [c.seed for c in read_queues(tmp_path)[0].cells] == [0, 1]
        show([cell])
        assert [c.seed for c in read_queues(tmp_path)[0].cells] == [0]
        with pytest.raises(KeyError), write_queue_file(tmp_path / "other"):
            raise KeyError
    assert read_queues(tmp_path) == read_queues(tmp_path / "other") == []
