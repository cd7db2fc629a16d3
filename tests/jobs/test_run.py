"""One run and a queue of runs: what is recorded when it goes wrong, who may work in a folder, what is done again."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from batches import same
from running import ALONE, SPLIT, TINY, Job, command, start, trainer_of, wait_until

from ssbench.console import Bars
from ssbench.data.batch import Batch
from ssbench.errors import DataError, UsageError
from ssbench.jobs.job import Job as QueuedJob
from ssbench.jobs.queue import work
from ssbench.jobs.run import run
from ssbench.train import checkpoint
from ssbench.train.finite import Diverged
from ssbench.train.stages import fit
from ssbench.train.trainer import Trainer

RECIPE = "base: {base}\nmethod: {{name: fixmatch, threshold: 0.8}}\n{more}\n"
BASE = Path(__file__).parents[2] / "recipes/tasks/toy.yaml"
SGD = "optim: {{name: sgd, lr: {rate}, head: 1}}"
PLUGIN = """
from ssbench.plugins.base import Plugin, PluginConfig


class Faulty(Plugin):
    class Config(PluginConfig):
        name: str = "faulty"

    def refine(self, pseudo, t):
        return [][t.step]
"""


def quiet(job: Job) -> tuple[dict[str, Any], bool]:
    return run(job.loaded, SPLIT, job.seed, job.places, ALONE, Bars(show=False, write_line=lambda _: None))


@pytest.fixture
def job(toy: Path, tmp_path: Path) -> Job:
    return Job(toy, tmp_path, (*TINY, "schedule.epochs=2"))


# Losses and weights that are no numbers


class Poisoned(Trainer):
    """One weight becomes NaN, before or after the update of step 6 (the third of the second epoch)."""

    before = True

    def _step(self, batch: Batch) -> None:
        if self.state.step == 6 and self.before:
            next(self.method.parameters()).data.fill_(math.nan)
        super()._step(batch)
        if self.state.step == 7 and not self.before:
            next(self.method.parameters()).data.fill_(math.nan)


class PoisonedAfter(Poisoned):
    before = False


@pytest.mark.parametrize(
    ("kind", "every_step", "step", "complaint"),
    [
        (Poisoned, False, 6, "the loss of step 6 is not finite"),
        (PoisonedAfter, False, 7, "the loss of step 7 is not finite"),
        (PoisonedAfter, True, 6, "a weight after the update of step 6 is not finite"),
    ],
)
def test_nothing_is_saved_of_a_run_that_diverged(
    toy: Path, tmp_path: Path, kind: type[Trainer], every_step: bool, step: int, complaint: str
) -> None:
    sets = ("schedule.epochs=3", "schedule.checkpoint_minutes=0") if every_step else ("schedule.epochs=3",)
    trainer = trainer_of(Job(toy, tmp_path, (*TINY, *sets)), kind=kind)
    trainer.folder.mkdir(parents=True)
    with pytest.raises(Diverged) as caught:
        fit(trainer)
    assert caught.value.what == complaint
    assert caught.value.step == step
    drawn = (*trainer.plan.labeled_at(step), *trainer.plan.unlabeled_at(step))
    assert caught.value.ids == tuple(id for id, _ in drawn)
    state = checkpoint.load(trainer.folder / "checkpoint.pt")
    assert state["state"]["step"] == (6 if every_step else 4)
    for name in ("checkpoint.pt", "checkpoint.prev.pt", "best.pt"):
        if (trainer.folder / name).exists():
            weights = checkpoint.load(trainer.folder / name)["method"].values()
            assert all(bool(w.isfinite().all()) for w in weights if w.is_floating_point())


def test_a_run_that_diverges_is_a_record(toy: Path, tmp_path: Path) -> None:
    job = Job(toy, tmp_path, (*TINY, "schedule.epochs=2", "optim={name: sgd, lr: 1.0e+30}"))
    with pytest.raises(Diverged) as caught:
        quiet(job)
    record = json.loads(job.record.read_text())
    assert record["status"] == "failed"
    assert record["reason"] == caught.value.what
    assert record["batch_ids"] == list(caught.value.ids)
    assert len(record["batch_ids"]) == 4
    assert "scores" not in record
    assert not (job.folder / "best.pt").exists()
    assert caught.value.code == 6
    assert "optim.lr" in caught.value.fix


def test_a_diverged_error_passes_between_processes() -> None:
    error = Diverged(3, ("a", "b"), "the loss")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    assert (str(again), again.step, again.ids) == (str(error), 3, ("a", "b"))


# A queue


def cell(folder: Path, name: str, more: str) -> QueuedJob:
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(base=BASE, more=more))
    return QueuedJob(str(path), SPLIT, 0, (*TINY, "schedule.epochs=1"))


def test_one_failed_run_does_not_stop_the_others(toy: Path, tmp_path: Path, job: Job) -> None:
    """A loss that diverges, a plug-in with a fault, a recipe for other data; and a run that is sound."""
    (tmp_path / "faulty.py").write_text(PLUGIN)
    cells = [
        cell(tmp_path, "wild", SGD.format(rate="1.0e+30")),
        cell(tmp_path, "faulty", f"plugin: {{name: {tmp_path / 'faulty.py'}}}"),
        cell(tmp_path, "elsewhere", "data: {dataset: camvid}"),
        cell(tmp_path, "sound", SGD.format(rate=0.01)),
    ]
    done = work(cells, job.places, "cpu")
    assert [one.as_json()["state"] for one in done] == ["failed", "failed", "failed", "done"]
    reasons = [one.error.what if one.error else "" for one in done]
    assert "is not finite" in reasons[0]
    assert reasons[1] == "plug-in 'faulty', `refine`: IndexError: list index out of range"
    assert "is for camvid, split 'toy/ours/1_32' for toy" in reasons[2]
    kept = {path.parts[-3].partition("+")[0]: json.loads(path.read_text()) for path in _records(job)}
    assert {name: record["status"] for name, record in kept.items()} == {
        "wild": "failed",
        "faulty": "failed",
        "sound": "done",
    }
    assert kept["faulty"]["reason"] == reasons[1]


@pytest.mark.parametrize(
    "text",
    [
        PLUGIN.replace("return [][t.step]", "__import__('sys').exit()"),
        PLUGIN.replace("def refine", "def __init__(self, *_):\n        __import__('sys').exit(0)\n\n    def refine"),
    ],
)
def test_an_exit_of_a_plug_in_fails_its_run_alone(toy: Path, tmp_path: Path, job: Job, text: str) -> None:
    """Else the whole queue would end, with exit code 0 and no message."""
    (tmp_path / "leaving.py").write_text(text)
    jobs = [
        cell(tmp_path, "leaving", f"plugin: {{name: {tmp_path / 'leaving.py'}}}"),
        cell(tmp_path, "sound", SGD.format(rate=0.01)),
    ]
    outcomes = work(jobs, job.places, "cpu")
    assert [outcome.state for outcome in outcomes] == ["failed", "done"]
    assert outcomes[0].error is not None
    assert "the method or plug-in called sys.exit(" in outcomes[0].error.what
    records = [json.loads(path.read_text()) for path in _records(job) if path.parts[-3].startswith("leaving")]
    assert [record["status"] for record in records] == ["failed"]
    assert all("called sys.exit(" in record["reason"] for record in records)


def test_the_command_ends_in_6_when_some_runs_failed(toy: Path, tmp_path: Path, job: Job) -> None:
    wild, sound = cell(tmp_path, "wild", SGD.format(rate="1.0e+30")), cell(tmp_path, "sound", SGD.format(rate=0.01))
    recipe, *rest = job.arguments[1:]
    for targets, code in (([wild.recipe, sound.recipe], 6), ([sound.recipe], 0)):
        process = start(command, ["run", *targets, *rest], job.log)
        process.join()
        assert process.exitcode == code, job.log.read_text()
    complaint = job.log.read_text()
    assert "1 of 2 runs failed" in complaint
    assert "was done" in complaint, "the second command has nothing left to do"
    assert recipe == job.recipe


def test_a_worker_that_dies_takes_one_run_with_it(toy: Path, tmp_path: Path, job: Job) -> None:
    """Both workers of two die; what is left is done by another."""
    (tmp_path / "faulty.py").write_text(PLUGIN.replace("return [][t.step]", "__import__('os')._exit(9)"))
    deadly = cell(tmp_path, "deadly", f"plugin: {{name: {tmp_path / 'faulty.py'}}}")
    cells = [deadly, replace(deadly, seed=1), cell(tmp_path, "sound", SGD.format(rate=0.01))]
    done = work(cells, job.places, "cpu", workers=2)
    assert [one.job for one in done] == cells
    assert [one.error.what if one.error else None for one in done[:2]] == ["its worker process ended with code 9"] * 2
    assert done[2].error is None
    assert done[2].record is not None
    assert done[2].record["status"] == "done"


def _records(job: Job) -> list[Path]:
    return sorted(job.places.results.rglob("seed*.json"))


# Who may work in a folder


def test_a_second_process_is_refused(job: Job) -> None:
    job = Job(job.data, job.out, (*TINY, "schedule.epochs=40"))
    process = job.start()
    try:
        assert wait_until(lambda: (job.folder / "checkpoint.pt").exists(), process), job.log.read_text()
        with pytest.raises(UsageError, match=f"process {process.pid} works on this run") as caught:
            quiet(job)
        assert caught.value.where == str(job.folder)
    finally:
        process.kill()
        process.join()
    again = Job(job.data, job.out, (*TINY, "schedule.epochs=40"))
    process = again.start()
    assert wait_until(lambda: bool((job.folder / "lock").read_text() == str(process.pid)), process), "a lock outlived"
    process.kill()
    process.join()


def test_a_finished_run_is_not_repeated(job: Job) -> None:
    first, repeated = quiet(job)
    stamp = (job.folder / "checkpoint.pt").stat().st_mtime_ns
    assert not repeated
    again, repeated = quiet(job)
    assert repeated
    assert again["scores"] == first["scores"]
    assert (job.folder / "checkpoint.pt").stat().st_mtime_ns == stamp


def test_a_run_whose_record_was_lost_is_only_scored_again(job: Job) -> None:
    first, _ = quiet(job)
    stamp = (job.folder / "checkpoint.pt").stat().st_mtime_ns
    job.record.unlink()
    again, repeated = quiet(job)
    assert not repeated
    assert again["scores"] == first["scores"]
    assert again["throughput"] is None
    assert (job.folder / "checkpoint.pt").stat().st_mtime_ns == stamp


def test_unprepared_data_are_said_with_the_command_that_prepares_them(job: Job, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="toy is not prepared") as caught:
        quiet(Job(tmp_path / "nothing", job.out, job.overrides))
    assert caught.value.fix.startswith("ssbench prepare toy")


# What a record says


def test_the_record(job: Job) -> None:
    record, _ = quiet(job)
    assert record == json.loads((job.folder / "record.json").read_text()) | {"finished": record["finished"]}
    stored = json.loads(job.record.read_text())
    assert stored["key"] == job.loaded.key(stored["split_sha256"], 0)
    assert stored["departures"][-len(job.overrides) :] == [f"set {text}" for text in job.overrides]
    assert [entry["epoch"] for entry in stored["history"]] == [0, 1]
    assert {"loss", "sup", "s1", "s2", "fp", "kept"} <= set(stored["history"][0]["terms"])
    assert len(stored["confusion"]["best"]) == len(stored["classes"]) == len(stored["per_class"]["last"])
    best = max(stored["history"], key=lambda entry: entry["select"])
    assert stored["scores"]["best"]["epoch"] == best["epoch"]
    assert stored["scores"]["best"]["select"] == best["select"]
    assert stored["scores"]["last"]["epoch"] == 1
    assert 0 <= stored["throughput"]["waiting_share"] <= 1
    assert stored["memory"]["peak_bytes"] > 10**7


# Paired seeds


def test_a_plug_in_sees_the_same_batches_and_starts_from_the_same_weights(toy: Path, tmp_path: Path) -> None:
    names = ("toy/none_fixmatch", "toy/s4mc_fixmatch")
    pair = [trainer_of(Job(toy, tmp_path, (*TINY, "schedule.epochs=2"), name)) for name in names]
    plain, plugged = (trainer.method.net.state_dict() for trainer in pair)
    assert all(torch.equal(plain[name], plugged[name]) for name in plain)
    batches = [list(trainer._batches()) for trainer in pair]
    assert len(batches[0]) == 8
    assert same(*batches)
    other = trainer_of(Job(toy, tmp_path, (*TINY, "schedule.epochs=2"), names[0], seed=1))
    assert not torch.equal(next(other.method.net.parameters()), next(pair[0].method.net.parameters()))
    assert not same(list(other._batches())[0], batches[0][0])


def test_student_and_teacher_of_other_roles_differ(toy: Path, tmp_path: Path) -> None:
    """A second network starts from weights of its own, the same ones every time."""
    from ssbench.train.build import net_maker

    make = net_maker(Job(toy, tmp_path, TINY).loaded, 6, 3, seed=0)
    first, again, second = make("student"), make("student"), make("second")
    weights = [next(net.parameters()) for net in (first, again, second)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
