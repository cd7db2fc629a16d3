"""Runs of several trainings: what each reads and starts from, and that a kill anywhere in them changes no byte."""

from __future__ import annotations

import json
import math
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from PIL import Image
from running import ALONE, Job, partition_of, trainer_of, wait_until
from torch import Tensor

from ssbench.console import Bar, Bars
from ssbench.data.plan import Mixture, Plan
from ssbench.data.toy import Toy
from ssbench.errors import DataError, RunsFailed, Stopped
from ssbench.methods.stpp import STPlusPlus
from ssbench.train import checkpoint
from ssbench.train.checkpoint import Checkpointer
from ssbench.train.distributed import Team
from ssbench.train.record import finished_record
from ssbench.train.stages import StageRunner, fit
from ssbench.train.trainer import Trainer
from ssbench.views.sample import Maps

SMALL = (
    "net.encoder=test_resnet",
    "net.wide=32",
    "views.crop=48",
    "data.few=8",
    "schedule.labeled_batch=4",
    "schedule.unlabeled_batch=0",
    "schedule.epochs=3",
    "schedule.checkpoint_minutes=0",
    "eval.few=2",
    "eval.every=1",
    "method.scales=[0.75, 1.0]",
    "method.epoch_of=labeled",
)
PASSING = ("finished", "hardware", "timings", "throughput", "memory", "git")


def silent(_: str) -> None:
    """Where notes go that no test reads."""


def job_of(data: Path, out: Path, *more: str, recipe: str = "toy/none_stpp") -> Job:
    return Job(data, out, (*SMALL, *more), recipe)


def left(job: Job) -> dict[str, Any]:
    """Every file a run leaves, but for the spare ones; of the record what does not differ by nature."""
    files = [path for path in job.folder.rglob("*") if path.is_file()]
    passing = ("lock", "record.json", "progress.json")
    kept = [path for path in files if ".prev." not in path.name and path.name not in passing]
    record = {name: value for name, value in json.loads(job.record.read_text()).items() if name not in PASSING}
    return {str(path.relative_to(job.folder)): path.read_bytes() for path in kept} | {"record": record}


@pytest.fixture(scope="module")
def whole(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run of ST++ nobody disturbed."""
    job = job_of(toy, tmp_path_factory.mktemp("whole"))
    job.here()
    return job


def record_of(job: Job) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(job.record.read_text())
    return record


def test_six_stages_in_their_order(whole: Job) -> None:
    """Card: stpp 1, ST++. Eight labelled scenes count twice in the first training; half of eight others are 4."""
    record = record_of(whole)
    facts = [{k: stage.get(k) for k in ("stage", "repeats", "unlabeled", "steps")} for stage in record["stages"]]
    assert facts == [
        {"stage": "supervised", "repeats": 2, "unlabeled": 0, "steps": 3 * 4},
        {"stage": "reliability", "repeats": None, "unlabeled": None, "steps": None},
        {"stage": "label_reliable", "repeats": None, "unlabeled": None, "steps": None},
        {"stage": "reliable", "repeats": 1, "unlabeled": 4, "steps": 3 * 3},
        {"stage": "label_rest", "repeats": None, "unlabeled": None, "steps": None},
    ]
    assert [stage["images"] for stage in record["stages"] if "images" in stage] == [8, 4, 4]
    assert all(0 < stage["miou"] < 100 for stage in record["stages"] if "miou" in stage)
    epochs = [(entry["stage"], entry["epoch"]) for entry in record["history"]]
    assert epochs == [(stage, epoch) for stage in ("supervised", "reliable", "all") for epoch in range(3)]
    assert record["scores"]["last"]["select"] == record["history"][-1]["select"]
    assert record["scores"]["best"]["select"] == max(entry["select"] for entry in record["history"][-3:])


def test_three_stages_of_plain_self_training(toy: Path, tmp_path: Path) -> None:
    """Card: stpp 1, ST."""
    job = job_of(toy, tmp_path, "method.variant=st", "schedule.epochs=1")
    record = job.here()
    assert [(stage["stage"], stage.get("images")) for stage in record["stages"]] == [("supervised", None), ("label", 8)]
    assert {entry["stage"] for entry in record["history"]} == {"supervised", "all"}
    assert len(list((job.folder / "stages/pseudo").iterdir())) == 8


class OfFew(Toy):
    """The toy data, some images without a mask."""

    def unmasked(self) -> frozenset[str]:
        return frozenset(self.ids("train")[-3:])


def test_image_level_labels_leave_no_other_class_in_the_stored_labels(toy: Path, tmp_path: Path) -> None:
    """Card: upc 5. Without them the same barely trained network stores classes that an image does not show."""
    data, foreign = Toy(toy / "toy"), {}
    for known in (False, True):
        job = job_of(
            toy, tmp_path / str(known), "method.variant=st", "schedule.epochs=1", f"method.image_labels={known}"
        )
        job.here()
        files = list((job.folder / "stages/pseudo").iterdir())
        assert len(files) == 8
        allowed = {path.stem: data.labels_in(path.stem) | {0} for path in files}
        stored = {path.stem: set(np.unique(np.array(Image.open(path))).tolist()) for path in files}
        foreign[known] = sum(bool(stored[id] - allowed[id]) for id in stored)
    assert foreign[True] == 0
    assert foreign[False] > 0
    recipe = job.loaded
    trainer = Trainer(recipe, partition_of(recipe, toy), OfFew(toy / "toy"), 0, tmp_path / "few", ALONE, Bars())
    runner = StageRunner(trainer)
    with pytest.raises(DataError, match="which classes are in an image is not known of 3 of"):
        runner.image_labels(data.ids("train"))
    assert runner.image_labels(data.ids("train")[:2])(data.ids("train")[0]) == data.labels_in(data.ids("train")[0])


def test_the_ranking_is_that_of_the_kept_networks(whole: Job) -> None:
    """mIoU of the first and second network's labels with the third one's, each image by itself."""
    recipe, folder = whole.loaded, whole.folder / "stages"
    trainer = Trainer(recipe, partition_of(recipe, whole.data), Toy(whole.data / "toy"), 0, whole.folder, ALONE, Bars())
    nets = []
    for epoch in (1, 2, 3):
        trainer.method.load_state_dict(checkpoint.load(folder / f"supervised/epoch{epoch}.pt")["method"])
        nets.append({id: labels(trainer, id) for id in trainer.partition.unlabeled})
    values = json.loads((folder / "reliability.json").read_text())["values"]
    for id, value in values.items():
        assert value == pytest.approx((iou(nets[0][id], nets[2][id]) + iou(nets[1][id], nets[2][id])) / 2)
    assert len(values) == 8


@torch.no_grad()
def labels(trainer: Trainer, id: str) -> Tensor:
    trainer.method.eval()
    return trainer.method.predict(StageRunner(trainer)._image(id))[0].argmax(0)


def iou(one: Tensor, other: Tensor) -> float:
    present = sorted({*one.flatten().tolist(), *other.flatten().tolist()})
    each = [((one == c) & (other == c)).sum() / ((one == c) | (other == c)).sum() for c in present]
    return float(sum(each) / len(each))


@dataclass
class Began:
    """What a training began with."""

    stage: str
    plan: Mixture
    weights: dict[str, Tensor]
    momentum: int
    maps: Maps | None


class Noting(Trainer):
    """Notes what each training begins with."""

    noted: list[Began]

    def begin_stage(self, stage: str, plan: Plan, checkpointer: Checkpointer, maps: Maps | None, epochs: int) -> None:
        super().begin_stage(stage, plan, checkpointer, maps, epochs)
        assert isinstance(plan, Mixture)
        weights = {name: value.clone() for name, value in self.method.state_dict().items()}
        self.noted.append(Began(stage, plan, weights, len(self.optimizer.state), maps))
        assert (self.state.step, self.state.history, self.state.best) == (0, [], None)
        assert self.steps == self.epochs * plan.steps_per_epoch


def noted(data: Path, folder: Path, *more: str) -> list[Began]:
    recipe = job_of(data, folder, *more).loaded
    trainer = Noting(
        recipe, partition_of(recipe, data), Toy(data / "toy"), 0, folder, ALONE, Bars(show=False, write_line=silent)
    )
    trainer.noted = []
    fit(trainer)
    return trainer.noted


def test_every_training_starts_from_the_same_weights_with_nothing_else(toy: Path, tmp_path: Path) -> None:
    first, *others = noted(toy, tmp_path, "schedule.epochs=1")
    assert [began.stage for began in (first, *others)] == ["supervised", "reliable", "all"]
    for began in others:
        assert began.momentum == 0
        assert all(torch.equal(value, first.weights[name]) for name, value in began.weights.items())
    assert first.maps is None
    assert len({began.plan.seed for began in (first, *others)}) == 3, "each shuffles and augments by itself"
    reliable, everything = (set(began.plan.unlabeled) for began in others)
    assert reliable < everything
    for began in others:
        assert began.maps is not None
        assert all(list(began.maps(id)) == ["pseudo"] for id in began.plan.unlabeled)
        assert all(began.maps(id) == {} for id in began.plan.labeled)


def test_reliable_labels_stay_and_the_rest_comes_from_the_second_training(toy: Path, tmp_path: Path) -> None:
    """Card: stpp 1, stages 3 and 5."""
    job = job_of(toy, tmp_path, "method.label_with=last", "schedule.epochs=1")
    job.here()
    recipe, folder = job.loaded, job.folder / "stages"
    trainer = Trainer(recipe, partition_of(recipe, toy), Toy(toy / "toy"), 0, job.folder, ALONE, Bars())
    method = trainer.method
    assert isinstance(method, STPlusPlus)
    values = json.loads((folder / "reliability.json").read_text())["values"]
    ranked = sorted(values, key=lambda id: -values[id])
    for by, ids in (("supervised", ranked[:4]), ("reliable", ranked[4:])):
        method.load_state_dict(checkpoint.load(folder / by / "epoch1.pt")["method"])
        for id in ids:
            expected = method.eval()._label_image(method.predict, StageRunner(trainer)._image(id))["pseudo"]
            with Image.open(folder / f"pseudo/{id}.png") as stored:
                assert stored.mode == "P"
                assert np.array_equal(np.array(stored), np.array(expected))
                assert (stored.getpalette() or [])[:18] == [part for colour in Toy.palette for part in colour]


class DiesError(Exception):
    """A crash."""


class Fatal(Bars):
    """Crashes when a loop of that label, or the training of that name, comes to `at`."""

    def __init__(self, label: str, at: int) -> None:
        super().__init__(show=False, write_line=silent)
        self.label, self.at = label, at

    def watch(self, items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        for at, item in enumerate(items):
            if (label, at) == (self.label, self.at):
                raise DiesError
            yield item

    def bar(self, label: str, total: int | None, done: int = 0, *, in_bytes: bool = False) -> Bar:
        return FatalBar(self, label, total, done)


class FatalBar(Bar):
    """The bar of a training."""

    def move_to(self, step: int) -> None:
        assert isinstance(self.bars, Fatal)
        if self.label.endswith(f" {self.bars.label}") and step == self.bars.at:
            raise DiesError


DEATHS = [
    ("supervised", 5), ("evaluate", 1), ("reliability", 0), ("reliability", 1), ("label_reliable", 0),
    ("label_reliable", 3), ("pseudo against the hidden labels", 1), ("reliable", 1), ("reliable", 4), ("label_rest", 2),
    ("all", 7), ("all", 12),
]  # fmt: skip


def test_a_crash_in_every_stage_changes_no_byte(whole: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in one run; what was done since the last thing written is done again."""
    monkeypatch.setattr("ssbench.train.stages.IMAGES_PER_WRITE", 3)
    job = replace(whole, out=tmp_path)
    for label, at in DEATHS:
        with pytest.raises(DiesError):
            job.here(Fatal(label, at))
    job.here()
    assert left(job) == left(whole)


def test_killed_in_the_first_training_the_labelling_and_the_last_training(whole: Job, tmp_path: Path) -> None:
    """The real command, killed by the system."""
    job = replace(whole, out=tmp_path)
    stages = job.folder / "stages"
    moments: list[Callable[[], bool]] = [
        (stages / "supervised/epoch1.pt").exists,
        lambda: len(list(stages.glob("pseudo/*.png"))) > 1,
        (job.folder / "checkpoint.pt").exists,
    ]
    for moment in moments:
        process = job.start()
        assert wait_until(moment, process), job.log.read_text()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert job.finish() == 0, job.log.read_text()
    assert left(job) == left(whole)


class Impatient(Bars):
    """Sends SIGTERM to this process when a loop of that label is at its second round, or its only one."""

    def __init__(self, label: str) -> None:
        super().__init__(show=False, write_line=silent)
        self.label = label

    def watch(self, items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        for at, item in enumerate(items):
            if label == self.label and at == min(1, total - 1):
                signal.raise_signal(signal.SIGTERM)
            yield item


def test_asked_to_stop_between_trainings(whole: Job, tmp_path: Path) -> None:
    job = replace(whole, out=tmp_path)
    for label in ("reliability", "label_reliable", "pseudo against the hidden labels", "label_rest"):
        with pytest.raises(Stopped):
            job.here(Impatient(label))
    job.here()
    assert left(job) == left(whole)


def test_files_of_another_run_are_not_taken_for_its_own(toy: Path, tmp_path: Path) -> None:
    """Two versions of one recipe file share a folder: the second ranks and labels by its own networks."""
    base = Path(__file__).parents[2] / "recipes/tasks/toy.yaml"
    text = f"base: {base}\nmethod: {{name: stpp}}\nviews: {{strong: stpp}}\noptim: {{lr: RATE}}\n"
    jobs = []
    for folder, rates in (("edited", ("0.01", "0.003")), ("fresh", ("0.003",))):
        path = tmp_path / folder / "mine.yaml"
        path.parent.mkdir()
        for rate in rates:
            path.write_text(text.replace("RATE", rate))
            jobs.append(job_of(toy, tmp_path / folder, "schedule.epochs=1", recipe=str(path)))
            jobs[-1].here()
    assert left(jobs[1]) == left(jobs[2])


def test_a_lost_label_is_said_with_the_way_out(whole: Job, tmp_path: Path) -> None:
    job = replace(whole, out=tmp_path)
    with pytest.raises(Stopped):
        job.here(Impatient("label_rest"))
    values = json.loads((job.folder / "stages/reliability.json").read_text())["values"]
    label = job.folder / f"stages/pseudo/{max(values, key=lambda id: values[id])}.png"
    label.unlink()
    with pytest.raises(DataError, match=f"{label.name} cannot be read") as error:
        job.here()
    assert error.value.fix == f"rm -r '{job.folder / 'stages'}', then run it again"


def test_a_run_of_one_training_has_no_stages(toy: Path, tmp_path: Path) -> None:
    job = job_of(toy, tmp_path, "method={name: supervised, epoch_of: labeled}", recipe="toy/none_supervised")
    record = replace(job, overrides=tuple(text for text in job.overrides if "method." not in text)).here()
    assert "stages" not in record
    assert all("stage" not in entry for entry in record["history"])


def _together(rank: int, meet: str, job: Job) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meet}/meet", rank=rank, world_size=2)
    recipe, team = job.loaded, Team(rank, 2, torch.device("cpu"))
    data = Toy(job.data / "toy")
    trainer = Trainer(
        recipe, partition_of(recipe, job.data), data, 0, job.folder, team, Bars(show=False, write_line=silent)
    )
    fit(trainer)
    assert [stage["stage"] for stage in trainer.earlier_stages] == [
        "supervised", "reliability", "label_reliable", "reliable", "label_rest"
    ]  # fmt: skip
    dist.destroy_process_group()


def test_two_processes_share_the_work_between_trainings(whole: Job, tmp_path: Path) -> None:
    """The same images are ranked and labelled, nearly as by one; float sums differ in their order."""
    job = replace(whole, out=tmp_path, overrides=(*whole.overrides, "schedule.epochs=1"))
    alone = replace(job, out=tmp_path / "alone")
    with tempfile.TemporaryDirectory() as meet:
        mp.spawn(_together, (meet, job), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    alone.here()
    values, expected = (
        json.loads((one.folder / "stages/reliability.json").read_text())["values"] for one in (job, alone)
    )
    assert list(values) == list(expected)
    assert values == pytest.approx(expected, abs=0.05)
    assert {path.name for path in (job.folder / "stages/pseudo").iterdir()} == {f"{id}.png" for id in values}


@pytest.mark.parametrize("text", ["{", "[]", "{}", "null", '{"stage": 1}', "[" * 99, "\udcff"])
@pytest.mark.parametrize("name", ["supervised/done.json", "reliability.json", "label_reliable.json"])
def test_a_damaged_file_of_a_stage_is_one_error(whole: Job, tmp_path: Path, name: str, text: str) -> None:
    """The file, and what to do about it; nothing is computed from it."""
    shutil.copytree(whole.out, tmp_path, dirs_exist_ok=True)
    job = replace(whole, out=tmp_path)
    job.record.unlink()
    path = job.folder / "stages" / name
    path.write_text(text, errors="surrogateescape")
    with pytest.raises(DataError, match="this file of a stage") as caught:
        job.here()
    assert caught.value.where.startswith(str(path))
    if text == "{":
        path.unlink()
        assert job.here()["scores"] == record_of(whole)["scores"], "its stage is done anew"


@pytest.mark.parametrize("score", [math.nan, math.inf, "81.2", [81.2], None])
def test_a_score_that_is_no_number_never_leaves(whole: Job, score: Any) -> None:
    trainer = trainer_of(whole)
    snapshot = trainer.checkpointer.load()
    assert snapshot is not None
    trainer.state = snapshot.state
    trainer.state.history[-1]["select"] = score
    with pytest.raises(RunsFailed, match=r"this record is damaged, field '.*select'"):
        finished_record(trainer)
