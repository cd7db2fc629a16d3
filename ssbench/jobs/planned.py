"""From tables and recipes to a plan: every run once, whatever asks for it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssbench.console import Bars
from ssbench.data.ledger import Ledger
from ssbench.errors import UsageError
from ssbench.files import LOCK, is_locked
from ssbench.jobs.cost import Device, Kind, Rate, Work, cost, kind_of, rates_of, speeds
from ssbench.jobs.plan import Plan, Run, State, Store, decided
from ssbench.jobs.progress import read as progress_of
from ssbench.jobs.run import Places, run_folder
from ssbench.jobs.wanted import Wanted, What, wanted
from ssbench.jobs.workload import Workloads
from ssbench.prepare.prepare import known, plan_of
from ssbench.recipe.recipe import Recipe, load
from ssbench.results.store import Record, ResultStore, settings_digest
from ssbench.splits.manifest import Partition, manifest, published_digest

FURTHER: tuple[State, ...] = ("done", "running", "partial", "failed", "missing")


@dataclass(frozen=True)
class Lists:
    """A split, without its lists: how many images, and its digest where that is known."""

    labeled: int
    unlabeled: int
    sha256: str | None


@dataclass(frozen=True)
class Asked:
    """What to plan for. splits: of tables, only these; seeds: how many, from 0. hardware: see `cost.speeds`."""

    targets: Sequence[str]
    splits: Sequence[str] = ()
    seeds: int = 1
    gpus: int = 1
    budget: float | None = None
    device: Device = Device()
    hardware: str | None = None


def plan(asked: Asked, places: Places) -> Plan:
    """The runs behind tables and recipes, each once, chosen and in order. Needs no prepared data.

    Raises:
        UsageError: a recipe without a split, an unknown split, or nothing that has a recipe. RecipeError: a recipe or
        table that is wrong.
    """
    found = wanted(asked.targets, asked.splits, places)
    if not found.cells:
        what = f"no cell of {', '.join(asked.targets)} has a recipe yet" + (" on these splits" if asked.splits else "")
        raise UsageError(what, "arguments", "ssbench table TABLE shows the state of each cell")
    runs = _Gathered(found, places, asked).runs()
    whole = Plan(
        targets=tuple(asked.targets),
        runs=tuple(runs),
        not_yet=dict(found.not_yet),
        datasets=tuple(_stores(runs, places)),
        device=asked.device,
        free=_free(places.runs),
        gpus=asked.gpus,
        budget=asked.budget,
    )
    return decided(whole)


class _Gathered:
    """The runs of `Wanted`, looked up in the store, the run folders and the manifest."""

    def __init__(self, wanted: Wanted, places: Places, asked: Asked) -> None:
        self.wanted, self.places, self.asked = wanted, places, asked
        store = ResultStore(places.results)
        self._recipes: dict[tuple[str, tuple[str, ...]], Recipe] = {}
        self._lists: dict[str, Lists] = {}
        self._works: dict[tuple[str, str], Work | str] = {}
        self._workloads = Workloads(places.data)
        self._records: dict[str, Record] = {}
        for record in store.records():
            if not record.quick and (record.key not in self._records or record.status == "done"):
                self._records[record.key] = record
        kinds = {kind_of(self._recipe(what).resolved()) for what in wanted.cells}
        self._speeds = speeds(store, kinds, asked.hardware)
        self._rates = self._known_rates()

    def runs(self) -> list[Run]:
        """Every run once, with all that is asked of it, in the order it is first asked for; seeds in turn."""
        made: dict[str, Run] = {}
        for seed in range(self.asked.seeds):
            for what in self.wanted.cells:
                run = self._run(what, seed)
                made[run.id] = run if run.id not in made else _together(made[run.id], run)
        return list(made.values())

    def _run(self, what: What, seed: int) -> Run:
        recipe, (name, overrides, split) = self._recipe(what), what
        lists = self._of_split(split)
        key = None if lists.sha256 is None else recipe.key(lists.sha256, seed)
        work = self._work(recipe, split)
        price = cost(work, kind_of(recipe.resolved()), self._speeds, self._rates, self.asked.device)
        counted = work if isinstance(work, Work) else None
        state, left, note = self._state(recipe, split, seed, key, counted)
        return Run(
            id=self._id(what, seed),
            recipe=name,
            overrides=overrides,
            split=split,
            seed=seed,
            key=key,
            state=state,
            cells=tuple(self.wanted.cells[what]),
            bases=tuple(self._id(base, seed) for base in self.wanted.bases.get(what, ())),
            also=(),
            work=counted,
            cost=price,
            left=left,
            note=note,
        )

    def _recipe(self, what: What) -> Recipe:
        if what[:2] not in self._recipes:
            self._recipes[what[:2]] = load(what[0], what[1], data_root=self.places.data)
        return self._recipes[what[:2]]

    def _of_split(self, name: str) -> Lists:
        if name not in self._lists:
            self._lists[name] = lists_of(name, self.places.data)
        return self._lists[name]

    def _id(self, what: What, seed: int) -> str:
        """Equal for runs that compute the same: what a run key hashes, with the split's name for its digest."""
        return f"{settings_digest(self._recipe(what).resolved())} {what[2]} {seed}"

    def _work(self, recipe: Recipe, split: str) -> Work | str:
        """What a run computes, or why nobody can say."""
        place = settings_digest(recipe.resolved()), split
        if place not in self._works:
            lists = self._of_split(split)
            try:
                self._works[place] = self._workloads.of(recipe, lists.labeled, lists.unlabeled)
            except Exception as error:  # another's method or network, asked for what it may not expect
                self._works[place] = str(error).partition("\n")[0] or type(error).__name__
        return self._works[place]

    def _known_rates(self) -> dict[Kind, Rate]:
        """Of the methods of this plan that have a stored speed; all works are counted here."""
        works: dict[Kind, Work] = {}
        with Bars() as bars:
            for what in bars.watch(self.wanted.cells, "counting what a step computes", len(self.wanted.cells)):
                recipe = self._recipe(what)
                if isinstance(work := self._work(recipe, what[2]), Work):
                    works[kind_of(recipe.resolved())] = work
        return rates_of(works, self._speeds)

    def _state(
        self, recipe: Recipe, split: str, seed: int, key: str | None, work: Work | None
    ) -> tuple[State, float, str]:
        """(state, share that is left, why)."""
        record, folder = self._record(recipe, split, seed, key), run_folder(recipe, split, seed, self.places)
        if record and record.status == "done":
            return "done", 0.0, "" if record.recipe == recipe.stored_name else f"as {record.recipe}"
        told = progress_of(folder)
        mine, step = told.get("key") == key, told.get("step") or 0
        left = 1 - step / work.steps if work and mine and told.get("steps") == work.steps else 1.0
        if is_locked(folder / LOCK):
            return "running", left, ""
        if record:
            return "failed", 1.0, record.reason
        if (folder / "checkpoint.pt").is_file() and (mine or not told):
            return "partial", left, ""
        return "missing", 1.0, ""

    def _record(self, recipe: Recipe, split: str, seed: int, key: str | None) -> Record | None:
        if key is not None:
            return self._records.get(key)
        settings = settings_digest(recipe.resolved())
        found = ResultStore(self.places.results).runs(recipe.stored_name, split)
        return next((r for r in found if (r.seed, r.settings, r.quick) == (seed, settings, False)), None)


def lists_of(name: str, data_root: Path) -> Lists:
    """A split as the manifest has it, or the user's own; of lists nobody published the digest of, once they are here.

    Raises UsageError for an unknown split.
    """
    entry = manifest().splits.get(name)
    known_digest = None if entry is None else published_digest(entry)
    if entry is not None and (known_digest or not (data_root / "splits" / name).is_dir()):
        return Lists(entry.labeled.count, entry.unlabeled.count, known_digest)
    read = Partition.read(name, data_root)
    return Lists(len(read.labeled), len(read.unlabeled), read.sha256)


def _together(one: Run, two: Run) -> Run:
    """One run that two names ask for, under the name that is further on."""
    first, again = (two, one) if FURTHER.index(two.state) < FURTHER.index(one.state) else (one, two)
    other = () if _name(first) == _name(again) else (_name(again),)
    return replace(
        first,
        cells=tuple(dict.fromkeys((*one.cells, *two.cells))),
        bases=(*one.bases, *two.bases),
        also=tuple(dict.fromkeys((*one.also, *two.also, *other))),
    )


def _name(run: Run) -> str:
    return " ".join([run.recipe, *run.overrides])


def _stores(runs: Sequence[Run], places: Places) -> Iterator[Store]:
    """The datasets of runs that are not done."""
    names = dict.fromkeys(run.split.partition("/")[0] for run in runs if run.state != "done")
    for name in names:
        book = Ledger.read(places.data / name)
        size = _archives(name) if book is None else book.bytes
        yield Store(name, book is not None, size)


def _archives(name: str) -> int | None:
    """Bytes to download; None where they are not published."""
    if name not in known():
        return None
    sizes = [archive.size for archive in plan_of(name).archives if not archive.optional]
    return None if None in sizes else sum(size or 0 for size in sizes)


def _free(folder: Path) -> int:
    """Bytes free where runs are kept."""
    while not folder.is_dir():
        folder = folder.absolute().parent
    return shutil.disk_usage(folder).free
