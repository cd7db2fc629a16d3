"""Times steps of a recipe on this machine: exact and fast, with and without loading data (`ssbench bench`).

A step without loading is one of the real method on a batch of noise of the recipe's own size, again and again; its
values change nothing of its cost. With loading the batches come from the prepared data, as in a run. The ways take
turns step by step, so that whatever else the machine does slows all alike; the median counts.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from ssbench.console import Bars, say
from ssbench.data.batch import Batch
from ssbench.data.noise import batch_for
from ssbench.data.open import class_of
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.files import read_model, write_json
from ssbench.jobs.cost import MeasuredSpeed, SpeedFile, speed_file, speed_kind, stored_speeds
from ssbench.jobs.job import Places
from ssbench.jobs.targets import split_size
from ssbench.jobs.workload import batch_with_maps, end_epochs, stand_ins
from ssbench.plugins.base import Plugin
from ssbench.recipe.recipe import Recipe, load
from ssbench.results.baseline import BaselineRun, machine_of
from ssbench.results.store import ResultStore
from ssbench.splits.manifest import Partition
from ssbench.train import machine
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team, join
from ssbench.train.precision import tf32_as_chosen
from ssbench.train.trainer import Trainer

Precision: TypeAlias = Literal["exact", "fast"]
WARM_UP = 2
"""Steps before the counted ones: the first makes buffers and chooses kernels."""


class TimedTrainer(Trainer):
    """A trainer whose steps are timed one by one. It scores and saves nothing."""

    def noise(self) -> Batch:
        """A batch of noise of the recipe's size, with everything the method and its plug-in read."""
        schedule, crop, needs = self.recipe.schedule, self.recipe.views.crop, self.method.needs
        sizes: dict[str, Any] = {
            "images": schedule.labeled_batch,
            "unlabeled": schedule.unlabeled_batch // needs.pick if needs.unlabeled else None,
            "classes": len(self.dataset.classes),
            "channels": self.dataset.channels,
            "side": crop,
        }
        # Past every warm-up of an epoch or two, whose steps do less.
        self.state.step = max(min(3 * self.plan.steps_per_epoch, self.steps - 100), 0)
        noise = partial(batch_for, self.method, self.progress(self.state.step), **sizes)
        return batch_with_maps(lambda maps: noise(maps=maps).to(self.team.device), self._step, crop)

    def seconds_of(self, next_batch: Callable[[], Batch]) -> float:
        """Seconds of one step, with what it takes to get its batch."""
        began = time.perf_counter()
        self._step(next_batch())
        if self.team.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    def loaded(self) -> Generator[Batch]:
        """The batches of the run, from its data."""
        with closing(self._batches()) as batches:
            yield from batches


@dataclass(frozen=True)
class StepTiming:
    """What a step of a recipe takes in one precision. loading: whether its data were loaded. peak: of the process."""

    precision: Precision
    loading: bool
    seconds: float
    images: int
    peak_bytes: int

    @property
    def images_per_s(self) -> float:
        """Images of a step by its seconds."""
        return self.images / self.seconds


@dataclass(frozen=True)
class BenchResult:
    """Timings of a recipe on a machine. stored: images/s of finished runs like it on this machine, by precision."""

    recipe: str
    split: str
    machine: str
    steps: int
    timings: tuple[StepTiming, ...]
    stored: Mapping[str, float]
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench bench --json`."""
        rows = [
            {
                "precision": t.precision,
                "loading": t.loading,
                "seconds_per_step": t.seconds,
                "images_per_s": t.images_per_s,
                "peak_bytes": t.peak_bytes,
                "stored_images_per_s": self.stored.get(t.precision) if t.loading else None,
            }
            for t in self.timings
        ]
        return {"recipe": self.recipe, "split": self.split, "machine": self.machine, "steps": self.steps,
                "timings": rows, "note": self.note}  # fmt: skip


def bench(
    name: str, split: str, overrides: Sequence[str], steps: int, places: Places, device: str | None,
    precisions: Sequence[Precision] = ("exact", "fast"), loading: bool = True,
) -> BenchResult:  # fmt: skip
    """Time `steps` steps of a recipe in each precision.

    Args:
        loading: whether steps with loading are timed, too; where the data are not prepared they are left out.
    Raises:
        UsageError: an unknown split. RecipeError: a wrong recipe. HardwareError: no such device.
    """
    team = join(device)
    recipes = {
        precision: load(name, [*overrides, f"schedule.precision={precision}"], data_root=places.data, division="open")
        for precision in precisions
    }
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack, Bars() as bars:
        trainers = {p: _trainer(recipe, split, Path(folder) / p, places, team, bars) for p, recipe in recipes.items()}
        sources: dict[tuple[Precision, bool], Callable[[], Batch]] = {}
        note = ""
        for precision, trainer in trainers.items():
            with tf32_as_chosen(trainer.computation):
                batch = trainer.noise()
            sources[precision, False] = repeat(batch).__next__
        if loading and not (note := _why_not_loaded(recipes[precisions[0]], split, places)):
            for precision, trainer in trainers.items():
                batches = stack.enter_context(closing(trainer.loaded()))
                sources[precision, True] = batches.__next__
        seconds = _in_turn(trainers, sources, steps, bars)
        peak = machine.peak_memory(team.device)
    schedule, needs = next(iter(recipes.values())).schedule, next(iter(trainers.values())).method.needs
    images = schedule.labeled_batch + (schedule.unlabeled_batch if needs.unlabeled else 0)
    timings = (StepTiming(*way, statistics.median(seconds[way]), images, peak) for way in sources)
    here = machine.hardware(team.device)["name"]
    stored = _stored(recipes, places, here)
    return BenchResult(name, split, here, steps, tuple(timings), stored, note)


def _trainer(recipe: Recipe, split: str, folder: Path, places: Places, team: Team, bars: Bars) -> TimedTrainer:
    """On the split's lists where they are here, else on as many stand-ins."""
    try:
        dataset = dataset_of(recipe, places.data)
    except DataError:  # classes and channels are known without the files
        dataset = class_of(recipe.data.dataset, places.data)(places.data / recipe.data.dataset)
    try:
        partition = Partition.read(split, places.data)
    except DataError:
        labeled, unlabeled, _ = split_size(split, places.data)
        partition = Partition(split, recipe.data.dataset, *stand_ins(labeled, unlabeled), "", custom=False)
    if partition.dataset != recipe.data.dataset:
        what = f"recipe '{recipe.name}' is for {recipe.data.dataset}, split '{split}' for {partition.dataset}"
        raise UsageError(what, "--split", f"ssbench list splits shows those of {recipe.data.dataset}")
    folder.mkdir(parents=True)
    trainer = TimedTrainer(recipe, partition, dataset, 0, folder, team, bars)
    end_epochs(trainer.method, team.device)
    trainer.module.train()
    return trainer


def _why_not_loaded(recipe: Recipe, split: str, places: Places) -> str:
    """Why steps with loading are not timed; "" where they are."""
    prepared = [cls.__name__ for cls in recipe.classes[2:] if cls.prepare is not Plugin.prepare]
    if prepared:
        return f"{', '.join(prepared)} prepares maps before it trains, so no step with loading was timed"
    try:
        Partition.read(split, places.data)
        dataset = dataset_of(recipe, places.data)
        dataset.image(dataset.ids("train")[0])
    except SsbenchError as error:
        return f"no step with loading was timed: {error.what}"
    return ""


def _in_turn(
    trainers: Mapping[Precision, TimedTrainer], sources: Mapping[tuple[Precision, bool], Callable[[], Batch]],
    steps: int, bars: Bars,
) -> dict[tuple[Precision, bool], list[float]]:  # fmt: skip
    seconds: dict[tuple[Precision, bool], list[float]] = {way: [] for way in sources}
    total = (WARM_UP + steps) * len(sources)
    turns = [way for _ in range(WARM_UP + steps) for way in sources]
    for way in bars.watch(turns, "timing steps", total):
        trainer = trainers[way[0]]
        with tf32_as_chosen(trainer.computation):
            seconds[way].append(trainer.seconds_of(sources[way]))
    return {way: values[WARM_UP:] for way, values in seconds.items()}


def _stored(recipes: Mapping[Precision, Recipe], places: Places, here: str) -> dict[str, float]:
    """Images/s of stored runs like these on this machine, by precision."""
    records = [record for record in ResultStore(places.results).records() if not record.quick]
    speeds = stored_speeds(records, here)
    known = {p: speeds.get(speed_kind(recipe.resolved())) for p, recipe in recipes.items()}
    return {p: speed.images_per_s for p, speed in known.items() if speed is not None}


def measure_speeds(runs: Sequence[tuple[str, Sequence[str], str]], places: Places, steps: int = 10) -> None:
    """Time each distinct recipe of `runs` (name, overrides, split) in both precisions, and store what came out.

    A recipe that cannot be timed here (its encoder does not fit the memory, say) is named and left out.
    """
    done: set[tuple[str, ...]] = set()
    values: dict[str, MeasuredSpeed] = {}
    for name, overrides, split in runs:
        kind = speed_kind(load(name, overrides, data_root=places.data).resolved())
        if kind in done:
            continue
        done.add(kind)
        try:
            timed = bench(name, split, [*overrides, *_bare(name, overrides, places)], steps, places, None)
        except (SsbenchError, RuntimeError, MemoryError) as error:
            say(f"not timed: {name}: {(str(error).splitlines() or [type(error).__name__])[0][:200]}")
            continue
        for timing in timed.timings:
            settings = [*overrides, f"schedule.precision={timing.precision}"]
            own = speed_kind(load(name, settings, data_root=places.data, division="open").resolved())
            # With loading where it was timed: that is what a run takes.
            values["|".join(own)] = MeasuredSpeed(machine=timed.machine, images_per_s=timing.images_per_s)
    _store(values)


def timed_runs(stored: Sequence[BaselineRun], places: Places, steps: int = 10) -> list[BaselineRun]:
    """The stored runs of this machine as steps of them go now, one for each recipe and split (`gate --throughput`).

    Their images/s are those of steps with loading, as a run's are. A recipe that cannot be timed here is named.
    """
    here = machine_of(machine.hardware(join(None).device))
    alike = {run.place: run for run in stored if run.machine == here and run.status == "done"}
    runs = []
    for (name, split), run in alike.items():
        try:
            timed = bench(name, split, _bare(name, (), places), steps, places, None, precisions=("exact",))
        except (SsbenchError, RuntimeError, MemoryError) as error:
            say(f"not timed: {name}: {(str(error).splitlines() or [type(error).__name__])[0][:200]}")
            continue
        if timed.note:
            say(f"{name}: {timed.note}")
        runs.append(run.model_copy(update={"images_per_s": timed.timings[-1].images_per_s}))
    return runs


def _bare(name: str, overrides: Sequence[str], places: Places) -> list[str]:
    net = load(name, overrides, data_root=places.data).net
    return ["net.weights=random"] if "weights" in type(net).model_fields else []


def _store(values: Mapping[str, MeasuredSpeed]) -> None:
    path, machines = speed_file(), dict[str, dict[str, MeasuredSpeed]]()
    if path.is_file():
        machines = dict(read_model(path, SpeedFile, "file of measured speeds", f"rm {path}").machines)
    for kind, speed in values.items():
        machines[speed.machine] = {**machines.get(speed.machine, {}), kind: speed}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, SpeedFile(machines=machines).model_dump())
