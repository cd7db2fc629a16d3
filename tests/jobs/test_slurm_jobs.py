"""A real Slurm: an array whose jobs meet their limit, are requeued, fail; jobs waited for, left alone, cancelled."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import slurm_cluster
from counting import once, steps, until, write
from ran import environment
from running import SPLIT, command, start
from slurm_cluster import Cluster

from ssbench.jobs.progress import RunProgress, read_progress
from ssbench.jobs.status import survey

PLACE = SPLIT.replace("/", "-")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two slots on one node."""
    if reason := slurm_cluster.missing():
        pytest.skip(f"needs a Slurm to start: {reason}")
    with slurm_cluster.running() as up:
        yield up


@pytest.fixture
def run(cluster: Cluster, toy: Path, tmp_path: Path) -> Iterator[Callable[..., BaseProcess]]:
    """`run("log", "a.yaml", ...)`: the command in a process of its own, its jobs in the cluster."""
    begun: list[BaseProcess] = []

    def begin(log: str, *words: str) -> BaseProcess:
        roots = [f"--data-root={toy}", f"--runs={tmp_path / 'runs'}", f"--results={tmp_path / 'results'}"]
        line = ["run", *words, "--split", SPLIT, *roots, "--device", "cpu", "--launcher", "slurm"]
        (tmp_path / log).touch()
        begun.append(start(_command, environment(**cluster.environment), line, tmp_path / log))
        return begun[-1]

    yield begin
    for process in begun:
        process.kill()
        process.join()


def _command(variables: Mapping[str, str], arguments: list[str], log: Path) -> None:
    os.environ.update(variables)
    command(arguments, log)


def progress_of(folder: Path, name: str) -> RunProgress:
    return read_progress(folder / "runs/custom" / name / PLACE / "seed0")


def objects(log: Path) -> Any:
    """The JSON object among the lines."""
    text = log.read_text()
    return json.JSONDecoder().raw_decode(text[text.index("\n{") + 1 :])[0]


def log_of(folder: Path, job: str) -> str:
    return next(folder.glob(f"runs/slurm/*/{job}_0_log.err")).read_text()


def test_an_array_through_its_time_limit_a_requeue_and_a_failure(
    run: Callable[..., BaseProcess], cluster: Cluster, tmp_path: Path
) -> None:
    """Slow until its first restart, `late` meets its limit (the warning comes 25 to 55 s after its start); `moved` is
    requeued as a preempted job is; `wild` diverges in the slot that this frees. A busy machine may need more restarts.
    """
    slow = {"epochs": 12, "wait": 1.5, "tired": "SLURM_RESTART_COUNT"}
    late, moved, wild = (write(tmp_path, name, **slow) for name in ("late", "moved", "wild"))
    with Path(wild).open("a") as recipe:
        recipe.write("optim: {name: sgd, lr: 1.0e+30}\n")
    limits = ["--slurm", "time=1", "--slurm", "signal-delay=35", "-j", "2"]
    client = run("log", late, moved, wild, *limits, "--json")
    assert until(lambda: len(steps(tmp_path, "moved")) > 2, client), (tmp_path / "log").read_text()
    array = str(progress_of(tmp_path, "moved").job).partition("_")[0]
    cluster.ask("scontrol", "requeue", f"{array}_1")
    client.join()
    log_text = (tmp_path / "log").read_text()
    assert client.exitcode == 6, log_text
    assert [run["state"] for run in objects(tmp_path / "log")["runs"]] == ["done", "done", "failed"]
    assert "is not finite" in objects(tmp_path / "log")["runs"][2]["error"]
    assert "[3/3]" in log_text
    for name, requeued in (("late", 0), ("moved", 1)):
        job, starts = str(progress_of(tmp_path, name).job), progress_of(tmp_path, name).starts or 0
        log = log_of(tmp_path, job)
        assert steps(tmp_path, name) == once(12), "each step once, whatever happened between"
        assert "Restarts=0" not in cluster.ask("scontrol", "show", "job", job)
        assert log.count("error: stopped at step") == starts - 1
        assert log.count(f"Slurm will start job {job} again") == starts - 1 - requeued, "what Slurm had not seen to"
    assert (progress_of(tmp_path, "moved").starts or 0) > 1
    ends = {job: cluster.end(f"{array}_{job}") for job in range(3)}
    assert ends == {0: ("COMPLETED", 0), 1: ("COMPLETED", 0), 2: ("FAILED", 6)}
    again = run("again", late, moved)
    again.join()
    assert again.exitcode == 0
    assert "0 of 2 runs submitted (2 need no job)" in (tmp_path / "again").read_text()
    assert len(list((tmp_path / "runs/slurm").iterdir())) == 1
    assert list((tmp_path / "runs/queues").glob("*.json")) == []


def test_jobs_left_alone_waited_for_and_cancelled(
    run: Callable[..., BaseProcess], cluster: Cluster, tmp_path: Path
) -> None:
    """Two processes train each run together; there is room for one at a time."""
    names = ("one", "two")
    recipes = [write(tmp_path, name, epochs=20, wait=1.0) for name in names]
    first = run("first", *recipes, "--slurm", "tasks=2", "--detach", "--json")
    first.join()
    assert first.exitcode == 0, (tmp_path / "first").read_text()
    jobs = {row["recipe"]: row["job"] for row in objects(tmp_path / "first")["jobs"]}
    assert list(jobs) == recipes
    assert len(set(jobs.values())) == 2
    second = run("second", *recipes)
    assert until(lambda: "runs submitted" in (tmp_path / "second").read_text(), second)
    assert "0 of 2 runs submitted (2 Slurm has already)" in (tmp_path / "second").read_text()
    assert until(lambda: bool(steps(tmp_path, "one", rank=1)), second), log_of(tmp_path, jobs[recipes[0]])
    states = {row["recipe"]: (row["state"], row["job"]) for row in survey(tmp_path / "runs", ask_slurm=_asked(cluster))}
    assert states == {"custom/one": ("running", jobs[recipes[0]]), "custom/two": ("waiting", jobs[recipes[1]])}
    assert second.pid is not None
    os.kill(second.pid, signal.SIGINT)
    second.join()
    array = jobs[recipes[0]].partition("_")[0]
    assert second.exitcode == 130
    assert f"scancel {array} ends them" in (tmp_path / "second").read_text()
    third = run("third", *recipes, "--json")
    assert until(lambda: "Slurm has already" in (tmp_path / "third").read_text(), third)
    cluster.ask("scancel", array)
    third.join()
    assert third.exitcode == 75, (tmp_path / "third").read_text()
    runs = objects(tmp_path / "third")["runs"]
    assert [row["state"] for row in runs] == ["stopped", "stopped"]
    assert all(re.search(rf"Slurm job {array}_\d ended: cancelled", row["error"]) for row in runs)
    assert progress_of(tmp_path, "one").state == "stopped"
    assert progress_of(tmp_path, "one").step == max(steps(tmp_path, "one")) + 1
    assert steps(tmp_path, "one") == steps(tmp_path, "one", rank=1)


def _asked(cluster: Cluster) -> Callable[[Any], Any]:
    """What the cluster says of jobs: this process itself is not led to it."""
    from ssbench.jobs.slurm import JobState

    answer = cluster.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i|%T")
    known = {job: JobState(word) for job, word in (line.split("|") for line in answer.splitlines())}
    return lambda jobs: {job: known[job] for job in jobs if job in known}
