"""Which runs a report is about, and which of them are shown side by side.

A line is one recipe on one split, over its seeds. A group is a baseline and the same baseline with plug-ins: those that
a table takes a gain of over it, and those whose resolved recipes differ from its own in the plug-in alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ssbench.results.record import Record
from ssbench.results.store import ResultStore, settings_digest
from ssbench.tables.cell import Cell, Filled
from ssbench.tables.claims import Claim, claims_for

Place = tuple[str, str]
"""(stored name of the recipe, split)."""


@dataclass(frozen=True)
class Run:
    """One done run. record: its head; whole: every field of its file (DESIGN section 9)."""

    record: Record
    whole: Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One recipe on one split. runs: by seed, at least one; cell: a table's cell that they fill, if any."""

    label: str
    recipe: str
    split: str
    runs: tuple[Run, ...]
    cell: Cell | None = None

    @property
    def place(self) -> Place:
        """What it is kept under."""
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
class Group:
    """Lines to compare: what the others are taken over, then the others; or one that stands alone.

    claims: published logs of the first. reference: a supervised line on the same split, for scale.
    """

    title: str
    split: str
    lines: tuple[Line, ...]
    claims: tuple[Claim, ...] = ()
    reference: Line | None = None

    @property
    def heading(self) -> str:
        """Title and split."""
        return f"{self.title}, {self.split}"

    def pairs(self) -> Iterator[tuple[Line, Line]]:
        """(baseline, baseline + plug-in) of each plug-in."""
        return ((self.lines[0], line) for line in self.lines[1:])


@dataclass(frozen=True)
class Failure:
    """A failed run that no later run of its seed has mended."""

    record: Record
    whole: Mapping[str, Any]


@dataclass(frozen=True)
class Runs:
    """What a report is about: every line, once; the lines in groups; left_out: records not shown, by reason."""

    lines: tuple[Line, ...]
    groups: tuple[Group, ...]
    failed: tuple[Failure, ...]
    left_out: Mapping[str, int]


def collect(store: ResultStore, tables: Sequence[Filled], claims: Sequence[Claim], everything: bool) -> Runs:
    """The runs behind the tables and, with `everything`, all others of the store.

    Of several records of a seed the one a table shows counts: on the published list before one's own, in the closed
    division before the open one, the last finished. DataError names a record that is no record.
    """
    cells = _cells(tables)
    records: dict[Place, list[Record]] = {place: store.runs(*place) for place in cells}
    for record in store.records() if everything else ():
        known = records.setdefault((record.recipe, record.split), [])
        known += [record] if record not in known else []
    labels = _labels(cells, tables)
    lines, failed, left_out = list[Line](), list[Failure](), Counter[str]()
    for place, found in records.items():
        counted = _one_a_seed(found)
        left_out.update(reason for r in found if (reason := _left_out(r, counted)))
        failed += [Failure(r, r.full()) for r in found if r.status != "done" and not r.quick and r.seed not in counted]
        if counted:
            runs = tuple(Run(counted[seed], counted[seed].full()) for seed in sorted(counted))
            lines.append(Line(_label(place, runs, labels), *place, runs, cells.get(place)))
    return Runs(tuple(lines), tuple(_groups(lines, tables, claims)), tuple(failed), left_out)


def _cells(tables: Sequence[Filled]) -> dict[Place, Cell]:
    """The first cell of each run that a table of ours may have, in the tables' order."""
    out: dict[Place, Cell] = {}
    for filled in tables:
        for cell in filled.cells.values():
            if cell.stored and cell.split and cell.role != "Q":
                out.setdefault((cell.stored, cell.split), cell)
    return out


def _labels(cells: Mapping[Place, Cell], tables: Sequence[Filled]) -> dict[Place, str]:
    """Each run as the first table that shows it calls its row; rows of one name with the heading above them."""
    names: dict[int, str] = {}
    for filled in tables:
        rows = filled.table.rows
        often = Counter(row.label for row in rows)
        shown = {r.id: f"{r.label}, {r.group}" if r.group and often[r.label] > 1 else r.label for r in rows}
        names |= {id(cell): shown[cell.row] for cell in filled.cells.values()}
    return {place: names[id(cell)] for place, cell in cells.items()}


def _label(place: Place, runs: Sequence[Run], labels: Mapping[Place, str]) -> str:
    """As a table calls the run; else as one calls its recipe elsewhere, with the settings given; else its name."""
    if place in labels:
        return labels[place]
    plain = place[0].partition("+")[0]
    known = next((label for (recipe, _), label in labels.items() if recipe == plain), plain)
    settings = given(runs[0].whole.get("departures") or ())
    return f"{known} with {', '.join(settings)}" if settings else known


def given(departures: Iterable[str]) -> tuple[str, ...]:
    """The `--set` arguments of a run, as its record has them among its departures."""
    return tuple(d.removeprefix("set ") for d in departures if d.startswith("set "))


def _one_a_seed(found: Iterable[Record]) -> dict[int, Record]:
    """Seed -> the record that stands for it."""
    done = [r for r in found if r.status == "done" and not r.quick]
    order = sorted(done, key=lambda r: (not r.custom_split, r.division == "closed", r.finished, r.main, r.path.name))
    return {r.seed: r for r in order}


def _left_out(record: Record, counted: Mapping[int, Record]) -> str:
    if record.quick:
        return "quick run"
    if record.status != "done":
        return "failed, and done since" if record.seed in counted else ""
    return "" if counted[record.seed] is record else "another run of the same recipe, split and seed"


def _groups(lines: Sequence[Line], tables: Sequence[Filled], claims: Sequence[Claim]) -> Iterator[Group]:
    """In the order of their first lines; a line that nothing is compared with is a group of its own."""
    above = _bases(lines, tables)
    members: dict[Place, list[Line]] = {}
    for line in lines:
        if line.place not in above or line.place in above.values():
            members.setdefault(line.place, []).insert(0, line)
        if line.place in above:
            members.setdefault(above[line.place], []).append(line)
    heads = Counter((found[0].label, found[0].split) for found in members.values())
    for found in members.values():
        base = found[0]
        title = f"{base.label} ({base.recipe})" if heads[base.label, base.split] > 1 else base.label
        logs = tuple(c for c in (claims_for(base.cell, claims) if base.cell else ()) if c.curve)
        yield Group(title, base.split, _distinct(found), logs, _reference(base, lines))


def _bases(lines: Sequence[Line], tables: Sequence[Filled]) -> dict[Place, Place]:
    """What each line with a plug-in is compared with, where there is such a line under the same metric."""
    there = {line.place: line for line in lines}
    plain = {_without_plugin(line): line.place for line in reversed(lines) if line.plugin is None}
    gained = dict(_gained(tables))
    out = dict[Place, Place]()
    for line in lines:
        for base in (gained.get(line.place), plain.get(_without_plugin(line))):
            if line.plugin and base in there and base != line.place and there[base].metric == line.metric:
                out.setdefault(line.place, base)
    return out


def _gained(tables: Sequence[Filled]) -> Iterator[tuple[Place, Place]]:
    """(run, the run a table takes its gain over) on the same split; the first table last, so that it counts."""
    for filled in reversed(tables):
        for row in filled.table.rows:
            for column in filled.table.columns:
                ours, base = (filled.cells.get((r, column.id)) for r in (row.id, row.gain_over or ""))
                if ours and base and ours.stored and base.stored and ours.split and ours.split == base.split:
                    yield (ours.stored, ours.split), (base.stored, ours.split)


def _without_plugin(line: Line) -> tuple[str, ...]:
    """Equal for lines whose recipes differ in the plug-in alone."""
    resolved = line.runs[0].whole.get("resolved") or {}
    rest = settings_digest({k: v for k, v in resolved.items() if k != "plugin"})
    return line.split, line.metric, line.method, rest


def _distinct(lines: Sequence[Line]) -> tuple[Line, ...]:
    """The lines, those of one label told apart by their recipes."""
    labels = Counter(line.label for line in lines)
    return tuple(replace(ln, label=f"{ln.label} ({ln.recipe})") if labels[ln.label] > 1 else ln for ln in lines)


def _reference(base: Line, lines: Sequence[Line]) -> Line | None:
    """The supervised line of the same folder of recipes, with the same settings, where there is exactly one."""

    def identity(line: Line) -> tuple[str, ...]:
        return line.recipe.partition("/")[0], line.recipe.partition("+")[2], line.split, line.metric

    if base.method == "supervised":
        return None
    found = [line for line in lines if line.method == "supervised" and identity(line) == identity(base)]
    return found[0] if len(found) == 1 else None
