"""Plans: the runs behind tables and recipes, each once, with state, cost and what it closes. Loads no torch."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssbench.console import Bars, say
from ssbench.data.ledger import Ledger
from ssbench.errors import DataError
from ssbench.files import LOCK, is_locked
from ssbench.jobs.choose import Option, choose, closed, hours_side_by_side, shortest_unit
from ssbench.jobs.cost import Amount, Device, Work, WorkCache, cost, speed_kind, stored_speeds
from ssbench.jobs.job import Places, run_folder
from ssbench.jobs.progress import read_progress
from ssbench.jobs.targets import RunName, TargetRuns, WantedAnalysis, split_size, target_runs
from ssbench.prepare.prepare import known, source_spec
from ssbench.recipe.recipe import Recipe, load
from ssbench.results.analysis import AnalysisKind, read_analysis
from ssbench.results.record import Record
from ssbench.results.store import ResultStore, settings_digest
from ssbench.tables.cell import stored_name
from ssbench.without_torch import has_stand_ins

if TYPE_CHECKING:
    from ssbench.jobs.workload import WorkCounter

RunState = Literal["done", "failed", "running", "partial", "missing"]
THERE = ("done", "running")
FURTHEST: tuple[RunState, ...] = ("done", "running", "partial", "failed", "missing")


@dataclass(frozen=True)
class PlanRequest:
    """What to plan for. splits: of tables, only these. seeds: how many, from 0. budget: GPU hours.

    hardware: only speeds stored on machines whose name contains this.
    """

    targets: Sequence[str]
    splits: Sequence[str] = ()
    seeds: int = 1
    gpus: int = 1
    budget: float | None = None
    device: Device = Device()
    hardware: str | None = None


class PlannedRun(BaseModel):
    """One run of a plan, and its entry in the plan's file, which also says how it is read back.

    key: the run key, None while the split's lists are not known. cells: "table row/column" of what it fills. also:
    other names under which tables ask for the same run. hours: left to do, None where nobody knows. id: equal for runs
    that would compute the same. bases: ids of the baselines its gains are taken over, as often as there are gains.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    recipe: str
    split: str
    seed: Annotated[int, Field(ge=0, le=2**53)]
    key: str | None = None
    state: RunState = "missing"
    chosen: bool = True
    note: str = ""
    overrides: list[str] = []
    cells: list[str] = []
    also: list[str] = []
    hours: Amount | None = None
    basis: str = ""
    measured: bool = False
    work: Work | None = None
    id: str = Field(default="", exclude=True)
    bases: list[str] = Field(default=[], exclude=True)

    @property
    def name(self) -> str:
        """Recipe and overrides."""
        return " ".join([self.recipe, *self.overrides])

    @property
    def closes(self) -> int:
        """Cells it fills, the columns of one class each as one. A recipe of no table counts as one cell."""
        return len({cell.partition("#")[0] for cell in self.cells} or {self.recipe})


class PlannedAnalysis(BaseModel):
    """An analysis that a table of the plan shows (`targets.WantedAnalysis`), and whether it is stored."""

    model_config = ConfigDict(strict=True, frozen=True)

    table: str
    kind: AnalysisKind
    recipe: str
    overrides: list[str] = []
    split: str
    beside: str | None = None
    seed: Annotated[int, Field(ge=0, le=2**53)]
    state: Literal["done", "missing"] = "missing"

    @property
    def wanted(self) -> WantedAnalysis:
        """As a job."""
        fields = self.model_dump(exclude={"state"})
        return WantedAnalysis(**{**fields, "overrides": tuple(self.overrides)})


@dataclass(frozen=True)
class DatasetDisk:
    """A dataset the runs read: bytes it takes (of its archives, where it is not prepared), None where unknown."""

    name: str
    prepared: bool
    bytes: int | None


@dataclass(frozen=True)
class RunPlan:
    """Runs in the order to do them: those that are there first, those not chosen last. not_yet: as in `TargetRuns`.

    free: bytes where runs are kept. closes: cells and gains. needed: the hours that a first run takes, where the budget
    is too small for any.
    """

    request: PlanRequest
    runs: list[PlannedRun]
    not_yet: dict[str, int] = field(default_factory=dict)
    datasets: list[DatasetDisk] = field(default_factory=list)
    free: int = 0
    closes: tuple[int, int] = (0, 0)
    needed: float | None = None
    analyses: list[PlannedAnalysis] = field(default_factory=list)

    @property
    def todo(self) -> list[PlannedRun]:
        """The runs chosen to be done."""
        return [run for run in self.runs if run.chosen]

    @property
    def checkpoints(self) -> int:
        """Bytes the chosen runs leave in their folders."""
        return sum(run.work.checkpoint_bytes for run in self.todo if run.work)

    @property
    def wall_hours(self) -> float:
        """Hours until the chosen runs are done, one a GPU."""
        return hours_side_by_side([run.hours or 0.0 for run in self.todo], self.request.gpus)

    @property
    def hours_by_basis(self) -> dict[str, float]:
        """Hours of the chosen runs, by what the hours rest on."""
        hours: dict[str, float] = {}
        for run in self.todo:
            hours[run.basis] = hours.get(run.basis, 0.0) + (run.hours or 0.0)
        return hours

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench plan --json`; `ssbench run --plan` does its chosen runs, in its order."""
        return {
            "plan": 1,
            "targets": list(self.request.targets),
            "assumed": asdict(self.request.device),
            "budget_hours": self.request.budget,
            "gpus": self.request.gpus,
            "totals": {
                "runs": len(self.runs),
                **Counter(run.state for run in self.runs),
                "chosen": len(self.todo),
                "hours": sum(run.hours or 0.0 for run in self.todo),
                "hours_by_basis": self.hours_by_basis,
                "hours_unknown": sum(run.hours is None for run in self.todo),
                "wall_hours": self.wall_hours,
                "cells_closed": self.closes[0],
                "gains_closed": self.closes[1],
            },
            "not_yet": self.not_yet,
            "disk": {
                "checkpoints": self.checkpoints,
                "free": self.free,
                "datasets": [asdict(d) for d in self.datasets],
            },
            "runs": [run.model_dump(mode="json") for run in self.runs],
            **({"analyses": [a.model_dump(mode="json") for a in self.analyses]} if self.analyses else {}),
        }


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
    datasets = [_disk_of(name, places.data) for name in names]
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
        for wanted in targets.analyses:
            name, stored = stored_name(wanted.recipe, wanted.overrides), None
            with suppress(DataError):
                stored = read_analysis(places.results, name, wanted.split, seed, wanted.kind)
            fields = {**asdict(wanted), "seed": seed, "overrides": list(wanted.overrides)}
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
        self._recipes: dict[tuple[str, tuple[str, ...]], Recipe] = {}
        self._sizes = {split: split_size(split, places.data) for *_, split in targets.cells}
        self._works: dict[str, Work | str] = {}
        self._cache = WorkCache()
        self._counting: ProcessPoolExecutor | None = None
        # only the folders of these recipes and splits: a store may hold 100,000 records of others
        store = ResultStore(places.results)
        folders = ((self._recipe(name).stored_name, name[2]) for name in targets.cells)
        records = [record for record in store.select(folders) if not record.quick]
        for damage in store.damaged.values():
            say(f"ignored: {damage}")
        self._by_key: dict[str, Record] = {}
        for record in records:
            if record.key not in self._by_key or record.status == "done":
                self._by_key[record.key] = record
        self._records = records
        self._speeds = stored_speeds(records, request.hardware)

    def runs(self) -> list[PlannedRun]:
        """Every run once, with all that is asked of it, in the order it is first asked for; seeds in turn."""
        runs: dict[str, PlannedRun] = {}
        with Bars() as bars:
            for name in bars.watch(self.targets.cells, "counting what a step computes", len(self.targets.cells)):
                self._work(name)
        for seed in range(self.request.seeds):
            for name in self.targets.cells:
                run = self._run(name, seed)
                runs[run.id] = run if run.id not in runs else _merged(runs[run.id], run)
        return list(runs.values())

    def _run(self, name: RunName, seed: int) -> PlannedRun:
        recipe, (recipe_name, overrides, split) = self._recipe(name), name
        digest, work = self._sizes[split][2], self._work(name)
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
        if name[:2] not in self._recipes:
            self._recipes[name[:2]] = load(name[0], name[1], data_root=self.places.data)
        return self._recipes[name[:2]]

    def _id(self, name: RunName, seed: int) -> str:
        """What a run key hashes, with the split's name for its digest."""
        return f"{settings_digest(self._recipe(name).resolved())} {name[2]} {seed}"

    def _work(self, name: RunName) -> Work | str:
        """What a run computes, or why nobody can say."""
        recipe, (labeled, unlabeled, _) = self._recipe(name), self._sizes[name[2]]
        if (place := self._id(name, 0)) not in self._works:
            try:
                ledger = self.places.data / recipe.data.dataset / "ledger.json"
                self._works[place] = self._cache.get(
                    recipe, labeled, unlabeled, ledger, lambda: self._count(name, labeled, unlabeled)
                )
            except Exception as error:  # a method or network of others may not expect to be counted
                self._works[place] = str(error).partition("\n")[0] or type(error).__name__
        return self._works[place]

    def _count(self, name: RunName, labeled: int, unlabeled: int) -> Work:
        """Counting needs torch: in a process of its own where this one holds stand-ins for it."""
        arguments = (*name[:2], self.places.data, labeled, unlabeled)
        if not has_stand_ins():
            return _count_work(*arguments)
        if self._counting is None:
            self._counting = ProcessPoolExecutor(1, get_context("spawn"))
        return self._counting.submit(_count_work, *arguments).result()

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


def _count_work(recipe: str, overrides: Sequence[str], data_root: Path, labeled: int, unlabeled: int) -> Work:
    return _counter(data_root).count(load(recipe, overrides, data_root=data_root), labeled, unlabeled)


def _merged(run: PlannedRun, twin: PlannedRun) -> PlannedRun:
    """One run that two names ask for, under the name that is further on."""
    first, again = (twin, run) if FURTHEST.index(twin.state) < FURTHEST.index(run.state) else (run, twin)
    other = [] if first.name == again.name else [again.name]
    cells, also = dict.fromkeys((*run.cells, *twin.cells)), dict.fromkeys((*run.also, *twin.also, *other))
    return first.model_copy(update={"cells": list(cells), "bases": [*run.bases, *twin.bases], "also": list(also)})


def _disk_of(name: str, data_root: Path) -> DatasetDisk:
    """Of a dataset that is not prepared, the bytes to download."""
    ledger = Ledger.read(data_root / name)
    if ledger is not None:
        return DatasetDisk(name, True, ledger.bytes)
    archives = source_spec(name).archives if name in known() else None
    sizes = None if archives is None else [archive.size for archive in archives if not archive.optional]
    is_known = sizes is not None and None not in sizes
    return DatasetDisk(name, False, sum(size or 0 for size in sizes or ()) if is_known else None)
