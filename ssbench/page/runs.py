"""Which runs a report is about, and which of them are shown side by side.

An experiment is one recipe on one split, over its seeds. A comparison is a baseline and the same baseline with
plug-ins: those that a table takes a gain of over it, and those whose resolved recipes differ in the plug-in alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssbench.recipe.stored import set_arguments
from ssbench.results.record import Record
from ssbench.results.store import ResultStore, settings_digest
from ssbench.tables.cell import Cell, Filled
from ssbench.tables.claims import Claim, claims_for

Place = tuple[str, str]
"""(stored name of the recipe, split)."""


@dataclass(frozen=True)
class StoredRun:
    """One run. record: the head of its file; fields: every field of it (DESIGN section 9)."""

    record: Record
    fields: Mapping[str, Any]

    @property
    def settings(self) -> tuple[str, ...]:
        """The `--set` arguments of the run, which its record keeps among the departures."""
        return set_arguments(self.fields.get("departures"))


@dataclass(frozen=True)
class Experiment:
    """One recipe on one split. runs: by seed, at least one; cell: the table cell that they fill, if any.

    label, column: what a table calls its row and the column of its split; without a table the recipe and the split.
    """

    label: str
    column: str
    recipe: str
    split: str
    runs: tuple[StoredRun, ...]
    cell: Cell | None = None

    @property
    def place(self) -> Place:
        """The name under which the store keeps its runs."""
        return self.recipe, self.split

    @property
    def plugin(self) -> str | None:
        """Our name, or None for a baseline."""
        return self.runs[0].record.plugin

    @property
    def method(self) -> str:
        """Our name."""
        return self.runs[0].record.method

    @property
    def metric(self) -> str:
        """miou or dice."""
        return self.runs[0].record.metric

    def scores(self) -> dict[int, float]:
        """Seed -> reported score of the best-on-val epoch, percent."""
        return {run.record.seed: run.record.best for run in self.runs if run.record.best is not None}


@dataclass(frozen=True)
class Comparison:
    """Experiments side by side: a baseline, then the same with plug-ins; or a single experiment.

    heading: unique in a report. claims: published logs of the first. reference: the supervised experiment on the same
    split, for scale.
    """

    heading: str
    experiments: tuple[Experiment, ...]
    claims: tuple[Claim, ...] = ()
    reference: Experiment | None = None

    @property
    def base(self) -> Experiment:
        """What the others are compared with."""
        return self.experiments[0]

    def pairs(self) -> Iterator[tuple[Experiment, Experiment]]:
        """(baseline, baseline + plug-in) of each plug-in."""
        return ((self.base, other) for other in self.experiments[1:])


@dataclass(frozen=True)
class ReportedRuns:
    """The runs of a report. failed: those that no later run of their seed has mended; left_out: records by reason."""

    experiments: tuple[Experiment, ...]
    comparisons: tuple[Comparison, ...]
    failed: tuple[StoredRun, ...]
    left_out: Mapping[str, int]


def collect(store: ResultStore, tables: Sequence[Filled], claims: Sequence[Claim], everything: bool) -> ReportedRuns:
    """The runs behind the tables and, with `everything`, all others of the store.

    Of several records of a seed the one a table shows counts: on the published list before one's own, in the closed
    division before the open one, the last finished. Damaged records are passed over: `store.damaged` names them.
    """
    names = _names(tables)
    records: dict[Place, list[Record]] = {place: store.runs(*place) for place in names}
    for record in store.records() if everything else ():
        of_place = records.setdefault((record.recipe, record.split), [])
        of_place += [record] if record not in of_place else []
    experiments, failed, left_out = list[Experiment](), list[StoredRun](), Counter[str]()
    for place, candidates in records.items():
        counted = _one_a_seed(candidates)
        left_out.update(reason for r in candidates if (reason := _why_left_out(r, counted)))
        unmended = (r for r in candidates if r.status != "done" and not r.quick and r.seed not in counted)
        failed += _read(store, unmended)
        if runs := tuple(_read(store, (counted[seed] for seed in sorted(counted)))):
            experiments.append(_experiment(place, runs, names))
    return ReportedRuns(tuple(experiments), tuple(_comparisons(experiments, tables, claims)), tuple(failed), left_out)


def _read(store: ResultStore, records: Iterable[Record]) -> Iterator[StoredRun]:
    """The records with all their fields."""
    return (StoredRun(r, fields) for r in records if (fields := store.whole(r)) is not None)


@dataclass(frozen=True)
class _TableNames:
    """What the first table that shows a run calls it."""

    cell: Cell
    row: str
    column: str


def _names(tables: Sequence[Filled]) -> dict[Place, _TableNames]:
    """Every run that a table of ours may have, in the tables' order."""
    names: dict[Place, _TableNames] = {}
    for filled in tables:
        rows, columns = (_distinct_labels(entries) for entries in (filled.table.rows, filled.table.columns))
        # A column that does not stand for a split (a class, a window size) says nothing about one.
        splits = {column.id: column.split for column in filled.table.columns}
        for cell in filled.cells.values():
            if cell.stored and cell.split and cell.role != "Q":
                column = columns[cell.column] if splits[cell.column] == cell.split else cell.split
                names.setdefault((cell.stored, cell.split), _TableNames(cell, rows[cell.row], column))
    return names


def _distinct_labels(entries: Sequence[Any]) -> dict[str, str]:
    """Id -> label of rows or columns; those of one label with the heading above them."""
    often = Counter(entry.label for entry in entries)
    return {e.id: f"{e.label}, {e.group}" if e.group and often[e.label] > 1 else e.label for e in entries}


def _experiment(place: Place, runs: tuple[StoredRun, ...], names: Mapping[Place, _TableNames]) -> Experiment:
    """Named as a table names it; else as one names its recipe elsewhere, with the settings given; else by its ids."""
    if place in names:
        return Experiment(names[place].row, names[place].column, *place, runs, names[place].cell)
    plain, split = place[0].rpartition("+")[0] if runs[0].settings else place[0], place[1]
    label = next((name.row for (recipe, _), name in names.items() if recipe == plain), plain)
    column = next((name.column for (_, other), name in names.items() if other == split), split)
    settings = runs[0].settings
    return Experiment(f"{label} with {', '.join(settings)}" if settings else label, column, *place, runs)


def _one_a_seed(records: Iterable[Record]) -> dict[int, Record]:
    """Seed -> the record that stands for it."""
    done = [r for r in records if r.status == "done" and not r.quick]
    order = sorted(done, key=lambda r: (not r.custom_split, r.division == "closed", r.finished, r.main, r.path.name))
    return {r.seed: r for r in order}


def _why_left_out(record: Record, counted: Mapping[int, Record]) -> str:
    if record.quick:
        return "quick run"
    if record.status != "done":
        return "failed, and done since" if record.seed in counted else ""
    return "" if counted[record.seed] is record else "another run of the same recipe, split and seed"


def _comparisons(
    experiments: Sequence[Experiment], tables: Sequence[Filled], claims: Sequence[Claim]
) -> Iterator[Comparison]:
    """In the order of their first experiments; one that nothing is compared with stands alone."""
    above = _bases(experiments, tables)
    members: dict[Place, list[Experiment]] = {}
    for experiment in experiments:
        place = experiment.place
        if place not in above or place in above.values():
            members.setdefault(place, []).insert(0, experiment)
        if place in above:
            members.setdefault(above[place], []).append(experiment)
    several = len({e.split.partition("/")[0] for e in experiments}) > 1
    headings = Counter(_heading(group[0], several) for group in members.values())
    for group in members.values():
        base = group[0]
        heading = _heading(base, several)
        if headings[heading] > 1:
            heading += f" ({base.recipe}, {base.split})"
        logs = tuple(c for c in (claims_for(base.cell, claims) if base.cell else ()) if c.curve)
        yield Comparison(heading, _with_distinct_labels(group), logs, _reference(base, experiments))


def _heading(base: Experiment, several_datasets: bool) -> str:
    dataset = f"{base.split.partition('/')[0]} " if several_datasets and base.column != base.split else ""
    return f"{base.label}, {dataset}{base.column}"


def _bases(experiments: Sequence[Experiment], tables: Sequence[Filled]) -> dict[Place, Place]:
    """Experiment with a plug-in -> the one it is compared with, where there is such a one under the same metric."""
    by_place = {e.place: e for e in experiments}
    plain = {_without_plugin(e): e.place for e in reversed(experiments) if e.plugin is None}
    gained = dict(gained_over(tables))
    bases = dict[Place, Place]()
    for e in experiments:
        for base in (gained.get(e.place), plain.get(_without_plugin(e))):
            if e.plugin and base in by_place and base != e.place and by_place[base].metric == e.metric:
                bases.setdefault(e.place, base)
    return bases


def gained_over(tables: Sequence[Filled]) -> Iterator[tuple[Place, Place]]:
    """(run, the run a table takes its gain over) on the same split; the first table last, so that it counts."""
    for filled in reversed(tables):
        for row in filled.table.rows:
            for column in filled.table.columns:
                ours, base = (filled.cells.get((r, column.id)) for r in (row.id, row.gain_over or ""))
                if ours and base and ours.stored and base.stored and ours.split and ours.split == base.split:
                    yield (ours.stored, ours.split), (base.stored, ours.split)


def _without_plugin(experiment: Experiment) -> tuple[str, ...]:
    """Equal for experiments whose recipes differ in the plug-in alone."""
    resolved = experiment.runs[0].fields.get("resolved") or {}
    rest = settings_digest({k: v for k, v in resolved.items() if k != "plugin"})
    return experiment.split, experiment.metric, experiment.method, rest


def _with_distinct_labels(group: Sequence[Experiment]) -> tuple[Experiment, ...]:
    """The experiments; those of one label are told apart by their recipes."""
    labels = Counter(e.label for e in group)
    return tuple(replace(e, label=f"{e.label} ({e.recipe})") if labels[e.label] > 1 else e for e in group)


def _reference(base: Experiment, experiments: Sequence[Experiment]) -> Experiment | None:
    """The supervised experiment of the same folder of recipes with the same settings, if there is exactly one."""

    def identity(e: Experiment) -> tuple[str, ...]:
        return e.recipe.partition("/")[0], e.recipe.partition("+")[2], e.split, e.metric

    if base.method == "supervised":
        return None
    same = [e for e in experiments if e.method == "supervised" and identity(e) == identity(base)]
    return same[0] if len(same) == 1 else None
