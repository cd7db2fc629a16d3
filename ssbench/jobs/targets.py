"""The runs that recipes and tables ask for: the one answer for `ssbench run`, `ssbench plan` and the demonstration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ssbench.console import say
from ssbench.data.open import open_dataset
from ssbench.errors import UsageError
from ssbench.jobs.job import Job, Places
from ssbench.jobs.kept import record_without_data
from ssbench.prepare.prepare import prepare
from ssbench.recipe.recipe import Division, is_table_name, load, read_recipe
from ssbench.results.analysis import AnalysisKind
from ssbench.results.store import ResultStore
from ssbench.splits.hold import hold
from ssbench.splits.manifest import Partition, manifest, published_digest, split_folder
from ssbench.tables.cell import Cell, Filled
from ssbench.tables.fill import fill
from ssbench.tables.printed import printed_scores
from ssbench.tables.spec import PaperTable

QUICK_SPLIT = "toy/ours/1_8"

RunName = tuple[str, tuple[str, ...], str]
"""Recipe, overrides, split."""


@dataclass(frozen=True)
class AnalysisJob:
    """An analysis of a run that some table shows, and the recipe of the second run it reads, if any."""

    kind: AnalysisKind
    recipe: str
    overrides: tuple[str, ...]
    split: str
    beside: str | None = None
    seed: int = 0
    table: str = ""

    def __str__(self) -> str:
        run = Job(self.recipe, self.split, self.seed, self.overrides)
        return f"{self.table}: {self.kind} of {run}"

    def job(self, quick: bool) -> Job:
        """The run it is of."""
        return Job(self.recipe, QUICK_SPLIT if quick else self.split, self.seed, self.overrides, quick)

    @property
    def beside_run(self) -> dict[str, Any]:
        """What the second run's job has for its recipe and overrides; split and seed are the same."""
        return {"recipe": self.beside, "overrides": ()}


@dataclass
class TargetRuns:
    """What some tables and recipes ask for, in their order.

    cells: of each run, "table row/column" of what it fills. bases: of each run, the baselines its gains are taken over,
    as often as there are gains. not_yet: cells without a recipe, by table. analyses: those that tables show, seed 0.
    """

    cells: dict[RunName, list[str]] = field(default_factory=dict)
    bases: dict[RunName, list[RunName]] = field(default_factory=dict)
    not_yet: Counter[str] = field(default_factory=Counter)
    analyses: list[AnalysisJob] = field(default_factory=list)


def target_runs(
    targets: Sequence[str], splits: Sequence[str], places: Places, overrides: Sequence[str] = ()
) -> TargetRuns:
    """The runs of tables (only on `splits`, if any are given) and of recipes (default: the splits of printed scores).

    Args:
        overrides: `--set` of every run.
    Raises:
        UsageError: a recipe without a split, or nothing that has a recipe. RecipeError: a recipe or table is wrong.
    """
    runs, store = TargetRuns(), ResultStore(places.results)
    for target in targets:
        if _is_table(target):
            table = PaperTable.read(target, places.data)
            _add_table(fill(table, store, overrides=overrides), splits, runs)
            continue
        chosen = splits or list(printed_scores(read_recipe(target)[0].name))
        if not chosen:
            raise UsageError(f"'{target}' needs a split", "--split", "ssbench list splits")
        for split in chosen:
            runs.cells.setdefault((target, tuple(overrides), split), [])
    if not runs.cells:
        what = f"no cell of {', '.join(targets)} has a recipe yet" + (" on these splits" if splits else "")
        raise UsageError(what, "arguments", "ssbench table TABLE shows the state of each cell")
    return runs


def target_jobs(
    targets: Sequence[str],
    splits: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    quick: bool,
    places: Places,
    division: Division | None = None,
) -> list[Job]:
    """The jobs of recipes and tables, each once, in order.

    A recipe needs `splits`; of a table's own splits they select some. Quick runs take the toy split, whose data are
    made where they are missing.

    Raises:
        UsageError: a recipe without a split, an unknown split, or a table none of whose cells has a recipe yet.
        RecipeError: a recipe that is wrong, before any of them runs.
    """
    if quick and not (places.data / "toy" / "ledger.json").is_file():
        say("making the toy data, once")
        prepare("toy", places.data)
    jobs: list[Job] = []
    for target in targets:
        if _is_table(target):
            names = list(target_runs([target], splits, places, overrides).cells)
        else:
            runs = [Job(target, split, seed, tuple(overrides), quick, division) for split in splits for seed in seeds]
            if runs and all(record_without_data(job, places) for job in runs):
                jobs += runs  # done, and their data have gone
                continue
            names = _recipe_runs(target, splits, overrides, quick, places, division)
        if quick and _is_table(target):
            names = [(recipe, own, QUICK_SPLIT) for recipe, own, _ in names]
        jobs += [Job(r, split, seed, own, quick, division) for seed in seeds for r, own, split in names]
    return list(dict.fromkeys(jobs))


def _recipe_runs(
    name: str,
    splits: Sequence[str],
    overrides: Sequence[str],
    quick: bool,
    places: Places,
    division: Division | None,
) -> list[RunName]:
    """The runs of a recipe on `splits`, each read once, so that what is wrong is said before any of them runs."""
    partitions = [Partition.read(split, places.data) for split in splits]
    datasets: set[str | None] = {partition.dataset for partition in partitions}
    recipes = {
        dataset: load(name, overrides, quick, division, places.data, dataset=dataset) for dataset in datasets or {None}
    }
    if not splits and not quick:
        raise UsageError(f"'{name}' needs a split", "--split", "ssbench list splits")
    for split, partition in zip(splits, partitions, strict=True):
        recipe = recipes[partition.dataset]
        if partition.custom and partition.dataset == recipe.data.dataset and not recipe.quick:
            # Held before any run of a queue begins; each run says its own notes.
            dataset = open_dataset(partition.dataset, places.data)
            hold(partition, dataset, split_folder(split, places.data), recipe.data.allow_leak)
    return [(name, tuple(overrides), split) for split in splits or [QUICK_SPLIT]]


def split_size(name: str, data_root: Path) -> tuple[int, int, str | None]:
    """(labelled images, unlabelled images, digest) of a split, by the manifest where it tells; else by its lists.

    The digest is None where nobody published it and the lists are not here yet. UsageError for an unknown split.
    """
    entry = manifest().splits.get(name)
    digest = None if entry is None else published_digest(entry)
    if entry is not None and (digest or not (data_root / "splits" / name).is_dir()):
        return entry.labeled.count, entry.unlabeled.count, digest
    lists = Partition.read(name, data_root)
    return len(lists.labeled), len(lists.unlabeled), lists.sha256


def _is_table(target: str) -> bool:
    return is_table_name(target.rpartition("/")[2].removesuffix(".yaml"))


def _add_table(filled: Filled, splits: Sequence[str], runs: TargetRuns) -> None:
    """Add the runs behind a table, each with every cell it fills."""
    table, runnable = filled.table.name, {(cell.stored, cell.split) for cell in filled.runnable()}
    for cell in filled.cells.values():
        name = _run_name(cell)
        if splits and cell.split not in splits:
            continue
        if cell.state == "not yet" and (cell.role is None or cell.role in "BPA"):
            runs.not_yet[table] += 1
        elif name and (cell.stored, cell.split) in runnable:
            # the columns of one class each go by one name, and their class: one run fills them all
            together = "classes" if cell.class_name else "bins" if cell.analysis else ""
            column = f"{together}#{cell.column}" if together else cell.column
            runs.cells.setdefault(name, []).append(f"{table} {cell.row}/{column}")
            _add_analysis(cell, table, runs, f"{table} {cell.row}/{column}")
            bases = (_run_name(base) for base in _bases(filled, cell))
            runs.bases.setdefault(name, []).extend(base for base in bases if base and base != name)


def _add_analysis(cell: Cell, table: str, runs: TargetRuns, filled: str) -> None:
    """Add the analysis behind a cell, once, and the second run it reads: it fills the cell as well."""
    if cell.analysis is None or cell.recipe is None or cell.split is None:
        return
    job = AnalysisJob(cell.analysis, cell.recipe, cell.overrides, cell.split, cell.beside, table=table)
    if job not in runs.analyses:
        runs.analyses.append(job)
    if cell.beside is not None:
        second: RunName = (cell.beside, (), cell.split)
        runs.cells.setdefault(second, []).append(filled)
        if second not in (bases := runs.bases.setdefault((cell.recipe, cell.overrides, cell.split), [])):
            bases.append(second)


def target_analyses(
    targets: Sequence[str], splits: Sequence[str], seeds: Sequence[int], places: Places
) -> list[AnalysisJob]:
    """The analyses that tables among the targets show, for each seed. Errors as of `target_runs`."""
    tables = [target for target in targets if _is_table(target)]
    analyses = target_runs(tables, splits, places).analyses if tables else []
    return [replace(analysis, seed=seed) for seed in seeds for analysis in analyses]


def _run_name(cell: Cell) -> RunName | None:
    return (cell.recipe, cell.overrides, cell.split) if cell.recipe and cell.split else None


def _bases(filled: Filled, cell: Cell) -> Iterator[Cell]:
    """The cells a gain of this one is taken over."""
    rows = {row.id: row.gain_over for row in filled.table.rows}
    columns = {column.id: column.gain_over for column in filled.table.columns}
    for row, column in ((rows.get(cell.row), cell.column), (cell.row, columns.get(cell.column))):
        if row and column and (row, column) in filled.cells and cell.class_name is None:
            yield filled.cells[row, column]
