"""Plans: the runs behind tables and recipes, each once, with state, cost and what it closes. Loads no torch."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from ssbench.console import Bars, say
from ssbench.errors import DataError
from ssbench.files import LOCK, is_locked
from ssbench.jobs.choose import Option, choose, closed, shortest_unit
from ssbench.jobs.cost import Work, WorkCache, cost, measured_speeds, speed_kind, stored_speeds
from ssbench.jobs.job import Places, run_folder
from ssbench.jobs.planned import (
    FURTHEST,
    THERE,
    PlannedAnalysis,
    PlannedRun,
    PlanRequest,
    RunPlan,
    RunState,
    disk_of,
)
from ssbench.jobs.progress import read_progress
from ssbench.jobs.targets import RunName, TargetRuns, split_size, target_runs
from ssbench.recipe.recipe import Recipe, load
from ssbench.results.analysis import read_analysis
from ssbench.results.record import Record
from ssbench.results.store import ResultStore, settings_digest
from ssbench.splits.manifest import dataset_of_split
from ssbench.tables.cell import stored_name
from ssbench.without_torch import has_stand_ins

if TYPE_CHECKING:
    from ssbench.jobs.workload import WorkCounter


def make_plan(request: PlanRequest, places: Places, targets: TargetRuns | None = None) -> RunPlan:
    """The runs behind tables and recipes, each once, chosen and in order. Needs no prepared data.

    Args:
        targets: what the request's targets ask for, where that has been read already.
    Raises:
        UsageError: a recipe without a split, an unknown split, or nothing that has a recipe. RecipeError: a recipe or
        table that is wrong.
    """
    targets = targets or target_runs(request.targets, request.splits, places)
    runs = _RunLookup(targets, places, request).runs()
    names = dict.fromkeys(run.split.partition("/")[0] for run in runs if run.state != "done")
    datasets = [disk_of(name, places.data) for name in names]
    folder = places.runs
    while not folder.is_dir():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free
    analyses = _planned_analyses(targets, request.seeds, places)
    return decide(RunPlan(request, runs, dict(targets.not_yet), datasets, free, analyses=analyses))


def _planned_analyses(targets: TargetRuns, seeds: int, places: Places) -> list[PlannedAnalysis]:
    """The analyses of every seed. One that cannot be read is made again."""
    planned = []
    for seed in range(seeds):
        for job in targets.analyses:
            name, stored = stored_name(job.recipe, job.overrides), None
            with suppress(DataError):
                stored = read_analysis(places.results, name, job.split, seed, job.kind)
            fields = {**asdict(job), "seed": seed, "overrides": list(job.overrides)}
            planned.append(PlannedAnalysis(**fields, state="missing" if stored is None else "done"))
    return planned


def decide(plan: RunPlan) -> RunPlan:
    """The plan with its runs chosen and in order, by the rule of `choose`."""
    options = [Option(run.id, run.seed, run.hours, run.closes, run.state in THERE) for run in plan.runs]
    known_ids = {run.id for run in plan.runs}
    gains = Counter((run.id, base) for run in plan.runs for base in run.bases if base in known_ids)
    taken = choose(options, gains, plan.request.budget)
    rank = {id: at for at, id in enumerate(taken)}
    there = [run for run in plan.runs if run.state in THERE]
    chosen = sorted((run for run in plan.runs if run.id in rank), key=lambda run: rank[run.id])
    rest = [run for run in plan.runs if run.state not in THERE and run.id not in rank]
    runs = [run.model_copy(update={"chosen": run.id in rank}) for run in (*there, *chosen, *rest)]
    needed = None if taken else shortest_unit(options, gains)
    return replace(plan, runs=runs, closes=closed(taken, options, gains), needed=needed)


class _RunLookup:
    """The runs of `TargetRuns`, looked up in the store, the run folders and the manifest."""

    def __init__(self, targets: TargetRuns, places: Places, request: PlanRequest) -> None:
        self.targets, self.places, self.request = targets, places, request
        bases = (base for of_run in targets.bases.values() for base in of_run)
        self._datasets = {split: dataset_of_split(split, places.data) for *_, split in (*targets.cells, *bases)}
        self._load = cache(partial(load, data_root=places.data))  # a recipe on many splits is read once
        self._sizes = {split: split_size(split, places.data) for *_, split in targets.cells}
        self._works: dict[str, Work | str] = {}
        self._cache = WorkCache()
        # only the folders of these recipes and splits: a store may hold 100,000 records of others
        store = ResultStore(places.results)
        folders = ((self._recipe(name).stored_name, name[2]) for name in targets.cells)
        self._records = [record for record in store.select(folders) if not record.quick]
        for damage in store.damaged.values():
            say(f"ignored: {damage}")
        self._by_key: dict[str, Record] = {}
        for record in self._records:
            if record.key not in self._by_key or record.status == "done":
                self._by_key[record.key] = record
        # A whole run tells more than some steps, unless those have just been timed for this plan. Of a machine that
        # the request does not name, only runs are known to be meant.
        stored, timed = stored_speeds(self._records, request.hardware), measured_speeds(request.hardware)
        self._speeds = stored | timed if request.measure else {**(timed if request.hardware else {}), **stored}

    def runs(self) -> list[PlannedRun]:
        """Every run once, with all that is asked of it, in the order it is first asked for; seeds in turn."""
        runs: dict[str, PlannedRun] = {}
        with Bars() as bars, ProcessPoolExecutor(1, get_context("spawn")) as pool:
            for name in bars.watch(self.targets.cells, "counting what a step computes", len(self.targets.cells)):
                self._works.setdefault(self._id(name, 0), self._work(name, pool))
        for seed in range(self.request.seeds):
            for name in self.targets.cells:
                run = self._run(name, seed)
                runs[run.id] = run if run.id not in runs else _merged(runs[run.id], run)
        return list(runs.values())

    def _run(self, name: RunName, seed: int) -> PlannedRun:
        recipe, (recipe_name, overrides, split) = self._recipe(name), name
        digest, work = self._sizes[split][2], self._works[self._id(name, 0)]
        key = None if digest is None else recipe.key(digest, seed)
        speed = self._speeds.get(speed_kind(recipe.resolved()))
        price = cost(work, speed, self.request.device, recipe.about.logged)
        counted = work if isinstance(work, Work) else None
        state, left, note = self._state(recipe, split, seed, key, counted)
        hours = 0.0 if state == "done" else None if price.hours is None else price.hours * left
        return PlannedRun(
            id=self._id(name, seed),
            recipe=recipe_name,
            overrides=list(overrides),
            split=split,
            seed=seed,
            key=key,
            state=state,
            cells=self.targets.cells[name],
            bases=[self._id(base, seed) for base in self.targets.bases.get(name, ())],
            hours=hours,
            basis=price.basis,
            measured=price.is_measured,
            work=counted,
            note=note,
        )

    def _recipe(self, name: RunName) -> Recipe:
        return self._load(name[0], name[1], dataset=self._datasets[name[2]])

    def _id(self, name: RunName, seed: int) -> str:
        """What a run key hashes, with the split's name for its digest."""
        return f"{settings_digest(self._recipe(name).resolved())} {name[2]} {seed}"

    def _work(self, name: RunName, pool: ProcessPoolExecutor) -> Work | str:
        """What a run computes, or why nobody can say."""
        labeled, unlabeled, _ = self._sizes[name[2]]
        arguments = (*name[:2], self.places.data, self._datasets[name[2]], labeled, unlabeled)

        def count() -> Work:  # needs torch: in another process where this one holds stand-ins for it
            return pool.submit(_count_work, *arguments).result() if has_stand_ins() else _count_work(*arguments)

        try:
            return self._cache.get(self._recipe(name), labeled, unlabeled, count)
        except Exception as error:  # a method or network of others may not expect to be counted
            return str(error).partition("\n")[0] or type(error).__name__

    def _state(
        self, recipe: Recipe, split: str, seed: int, key: str | None, work: Work | None
    ) -> tuple[RunState, float, str]:
        """(state, share that is left, why)."""
        record, folder = self._record(recipe, split, seed, key), run_folder(recipe, split, seed, self.places)
        if record and record.status == "done":
            return "done", 0.0, "" if record.recipe == recipe.stored_name else f"as {record.recipe}"
        progress = read_progress(folder, say)
        is_mine, has_progress = progress.key == key, progress.state is not None
        left = 1.0
        if work and is_mine and progress.steps == work.steps:
            left = max(1 - (progress.step or 0) / work.steps, 0.0)
        if is_locked(folder / LOCK):
            return "running", left, ""
        if record:
            return "failed", 1.0, record.reason
        if (folder / "checkpoint.pt").is_file() and (is_mine or not has_progress):
            return "partial", left, ""
        return "missing", 1.0, ""

    def _record(self, recipe: Recipe, split: str, seed: int, key: str | None) -> Record | None:
        if key is not None:
            return self._by_key.get(key)
        place = (recipe.stored_name, split, seed, settings_digest(recipe.resolved()))
        return next((r for r in self._records if (r.recipe, r.split, r.seed, r.settings) == place), None)


@cache
def _counter(data_root: Path) -> WorkCounter:
    """One for all recipes: what it has counted of a network or a step serves the next recipe."""
    from ssbench.jobs.workload import WorkCounter

    return WorkCounter(data_root)


def _count_work(
    recipe: str, overrides: Sequence[str], data_root: Path, dataset: str | None, labeled: int, unlabeled: int
) -> Work:
    loaded = load(recipe, overrides, data_root=data_root, dataset=dataset)
    return _counter(data_root).count(loaded, labeled, unlabeled)


def _merged(run: PlannedRun, twin: PlannedRun) -> PlannedRun:
    """One run that two names ask for, under the name that is further on."""
    first, again = (twin, run) if FURTHEST.index(twin.state) < FURTHEST.index(run.state) else (run, twin)
    other = [] if first.name == again.name else [again.name]
    cells, also = dict.fromkeys((*run.cells, *twin.cells)), dict.fromkeys((*run.also, *twin.also, *other))
    return first.model_copy(update={"cells": list(cells), "bases": [*run.bases, *twin.bases], "also": list(also)})
