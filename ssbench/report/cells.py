"""The cells of a table: which run fills each, and what the store has for it."""

from __future__ import annotations

import hashlib
import json
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from ssbench.errors import UsageError
from ssbench.recipe import recipe_names
from ssbench.report.store import Record, ResultStore
from ssbench.report.table import UNSTATED, Column, PaperTable, Part, Row, Spec

State = Literal["quoted", "not printed", "not yet", "not run", "running", "measured", "failed"]
SCORED = ("miou", "dice", "iou")  # what a run's record holds; other metrics need an analysis of their own
NO_RUN: tuple[State, ...] = ("quoted", "not printed", "not yet")
SHORT_NETS = {"resnet50": "r50", "resnet101": "r101", "xception65": "xc65", "vit_b16": "vitb16"}
CUSTOM, OPEN = "own split list", "open division"
MIXED, CHANGED = "seeds ran under different settings", "the recipe has changed since"


@dataclass(frozen=True)
class Cell:
    """One place of a table. Scores are in percent.

    recipe: what `recipe.load` takes; overrides: its `--set` arguments; stored: the name results are kept under.
    printed: as in the paper, None for nothing; dash: the paper shows a dash here, so nobody needs the run.
    state: "quoted" by the paper and never run here; "not printed" (a dash); "not yet" (we have no recipe); "not run";
    "running"; "measured"; "failed". scores, lasts: per seed, at the best-on-val and at the last epoch.
    marks: what a measured number must not be shown without. why: reasons of failed seeds. left_out: results of this
    recipe and split that do not count here, by reason.
    """

    row: str
    column: str
    role: str | None
    method: str | None
    plugin: str | None
    backbone: str | None
    crop: int | None
    recipe: str | None
    overrides: tuple[str, ...]
    split: str | None
    metric: str
    class_name: str | None
    printed: Decimal | None
    dash: bool
    state: State = "not yet"
    scores: tuple[tuple[int, float], ...] = ()
    lasts: tuple[float, ...] = ()
    marks: tuple[str, ...] = ()
    why: str = ""
    left_out: tuple[tuple[str, int], ...] = ()

    @property
    def stored(self) -> str | None:
        """The name results are kept under."""
        return None if self.recipe is None else stored_name(self.recipe, self.overrides)

    @property
    def n(self) -> int:
        """How many seeds count."""
        return len(self.scores)

    @property
    def mean(self) -> float | None:
        """Mean over seeds, percent."""
        return statistics.fmean(s for _, s in self.scores) if self.scores else None

    @property
    def sd(self) -> float | None:
        """Sample standard deviation (n - 1 in the denominator); None below two seeds."""
        return statistics.stdev(s for _, s in self.scores) if self.n > 1 else None

    @property
    def difference(self) -> float | None:
        """Measured minus printed."""
        return None if self.mean is None or self.printed is None else self.mean - float(self.printed)


@dataclass(frozen=True)
class Gain:
    """An improvement of one cell over another: as the printed numbers give it, and over the seeds both have."""

    printed: Decimal | None
    pairs: tuple[float, ...]


@dataclass(frozen=True)
class Filled:
    """A table with its cells filled."""

    table: PaperTable
    cells: Mapping[tuple[str, str], Cell]

    def gain(self, row: str, column: str, over_row: str, over_column: str) -> Gain:
        """Cell (row, column) minus cell (over_row, over_column), each seed paired with itself.

        Scores of different splits, or only one of them marked, are not paired.
        """
        ours, base = self.cells.get((row, column)), self.cells.get((over_row, over_column))
        if ours is None or base is None:
            return Gain(None, ())
        printed = None if ours.printed is None or base.printed is None else ours.printed - base.printed
        alike = ours.split == base.split and ours.marks == base.marks
        theirs = dict(base.scores) if alike else {}
        return Gain(printed, tuple(score - theirs[seed] for seed, score in ours.scores if seed in theirs))

    def wanted(self, roles: str = "BPA") -> list[Cell]:
        """The runs behind the table that we have a recipe for: one cell of each (stored name, split), in its order.

        roles: letters of `Spec.role`; cells without a role (a table of no paper) are always wanted.
        """
        runs: dict[tuple[str | None, str | None], Cell] = {}
        for cell in self.cells.values():
            if cell.split and (cell.role is None or cell.role in roles) and cell.state not in NO_RUN:
                runs.setdefault((cell.stored, cell.split), cell)
        return list(runs.values())

    def render(self, how: Literal["rich", "md", "csv"] = "rich", width: int | None = None) -> str:
        """The paper's layout as text, the same bytes for the same store; `width` folds the terminal table."""
        from ssbench.report import render

        makers: dict[str, Callable[[], str]] = {
            "rich": lambda: render.terminal(self, width),
            "md": lambda: render.markdown(self),
            "csv": lambda: render.csv_text(self),
        }
        if how not in makers:
            raise UsageError(f"no table format '{how}'", "--format", "rich, md or csv")
        return makers[how]()

    def long(self) -> list[dict[str, Any]]:
        """One dict a cell, in the order of the table; numbers rounded to four digits, None where there is none."""
        from ssbench.report.render import long_rows

        return long_rows(self)


def stored_name(recipe: str, overrides: Iterable[str] = ()) -> str:
    """The folder of a recipe's results, as `Recipe.stored_name` gives it for these `--set` arguments."""
    name = f"custom/{Path(recipe).stem}" if recipe.endswith((".yaml", ".yml")) else recipe
    if given := "\n".join(overrides):
        name += f"+{hashlib.sha256(given.encode()).hexdigest()[:6]}"
    return name


def suggest_recipe(
    paper: str | None, method: str | None, plugin: str | None, backbone: str | None, crop: int | None, split: str | None
) -> str | None:
    """The recipe a cell has when its table names none: `<paper>/<plugin or none>_<method>_<dataset>_<net>[_<crop>]`.

    For example `mpmc/mpmc_unimatch_voc_r101_321`: nets are shortened by `SHORT_NETS`, the crop is there where the
    table states one. None where paper, method, backbone or split is unknown. `set` is not part of the name: cells
    that differ in it share a recipe.
    """
    if not (paper and method and backbone and split):
        return None
    tail = f"_{crop}" if crop else ""
    return f"{paper}/{plugin or 'none'}_{method}_{split.split('/')[0]}_{SHORT_NETS.get(backbone, backbone)}{tail}"


def cells_of(table: PaperTable) -> list[Cell]:
    """Every cell that a part of a row covers, row by row, nothing filled."""
    return [
        _cell(table, row, part, column, None if part.printed is None else i)
        for row in table.rows
        for part in row.pieces
        for i, column in enumerate(table.over(part))
        if part.printed is None or i < len(part.printed)
    ]


def fill(
    table: PaperTable,
    store: ResultStore,
    *,
    running: frozenset[tuple[str, str]] = frozenset(),
    division: Literal["closed", "open"] = "closed",
    settings: Mapping[str, str] | None = None,
) -> Filled:
    """Look every cell up in the store.

    A result counts when it is done, is of the asked division, is no quick run and has the cell's metric; with
    `division="open"` open runs count, marked, where there is no closed one. A result on the user's own list of that
    name counts, marked, only where there is none on the published list. One record a seed counts: the last finished,
    or one with the settings of the recipe as it stands when these are given.

    Args:
        running: (stored name, split) of runs at work now.
        settings: stored name -> `store.settings_digest` of the recipe as it stands; results under others are marked.
    """
    known = {*recipe_names()}
    runs: dict[tuple[str, str], list[Record]] = {}
    filled: dict[tuple[str, str], Cell] = {}
    for cell in cells_of(table):
        place = (cell.stored or "", cell.split or "")
        if all(place) and place not in runs:
            runs[place] = store.runs(*place)
        found = _measured(cell, runs.get(place, []), division, (settings or {}).get(place[0]))
        filled[cell.row, cell.column] = replace(found, state=_state(found, place in running, known))
    return Filled(table, filled)


def _cell(table: PaperTable, row: Row, part: Part, column: Column, index: int | None) -> Cell:
    got, given = _merged(table.defaults, column, row, part)
    split, family = got.pop("split", None), got.pop("family", None)
    if split and family:
        split = None if family == UNSTATED else f"{family}/{split.rpartition('/')[2]}"
    identity: dict[str, Any] = {name: got.get(name) for name in ("method", "plugin", "backbone", "crop")} | {
        "split": split
    }
    metric = got.get("metric") or table.metric
    recipe = got.get("recipe") or suggest_recipe(table.paper, **identity) if metric in SCORED else None
    if recipe and recipe.endswith((".yaml", ".yml")):
        recipe = str(table.folder / recipe)
    printed = None if index is None or part.printed is None else part.printed[index]
    return Cell(
        row=row.id,
        column=column.id,
        role=got.get("role"),
        recipe=recipe,
        overrides=tuple(f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in sorted(given.items())),
        metric=metric,
        class_name=column.class_name,
        printed=printed,
        dash=table.paper is not None and index is not None and printed is None,
        **identity,
    )


def _merged(*specs: Spec) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields as the narrowest place gives them, and `set` of all places together."""
    out: dict[str, Any] = {}
    given: dict[str, Any] = {}
    for spec in specs:
        out |= {name: getattr(spec, name) for name in Spec.model_fields if name in spec.model_fields_set}
        given |= spec.overrides
    return out, given


def _measured(cell: Cell, runs: list[Record], division: str, digest: str | None) -> Cell:
    """The cell with the scores, marks and reasons that `runs` give it."""
    left_out: Counter[str] = Counter()
    counted: list[Record] = []
    for run in runs:
        reason = _left_out(cell, run, division)
        if reason:
            left_out[reason] += 1
        elif run.status == "done":
            counted.append(run)
    kept = _best_kind(counted)
    left_out.update(_kind(r) for r in counted if _kind(r) != _kind(kept[0]))
    seeds = {r.seed: r for r in sorted(kept, key=lambda r: (r.settings == digest, r.finished, r.main, r.path.name))}
    left_out["earlier run of the same seed"] += len(kept) - len(seeds)
    chosen = [seeds[s] for s in sorted(seeds)]
    failed = [r for r in runs if r.status != "done" and r.seed not in seeds and not _left_out(cell, r, division)]
    return replace(
        cell,
        scores=tuple((r.seed, value) for r in chosen if (value := _score(cell, r, "best")) is not None),
        lasts=tuple(value for r in chosen if (value := _score(cell, r, "last")) is not None),
        marks=_marks(chosen, digest),
        why="; ".join(f"seed {r.seed}: {r.reason or r.status}" for r in failed),
        left_out=tuple(sorted((k, v) for k, v in left_out.items() if v)),
    )


def _left_out(cell: Cell, run: Record, division: str) -> str:
    """Why a result cannot count for this cell; "" when it can."""
    if run.quick:
        return "quick run"
    if run.division != division and run.division != "closed":
        return OPEN
    wanted = "miou" if cell.metric == "iou" else cell.metric
    return "" if run.metric == wanted else f"scored by {run.metric}"


def _kind(run: Record) -> str:
    return CUSTOM if run.custom_split else OPEN if run.division == "open" else ""


def _best_kind(runs: list[Record]) -> list[Record]:
    """The runs on published lists in the closed division, else the open ones, else those on the user's own lists."""
    for kind in ("", OPEN, CUSTOM):
        if kept := [r for r in runs if _kind(r) == kind]:
            return kept
    return []


def _marks(chosen: list[Record], digest: str | None) -> tuple[str, ...]:
    found = {_kind(r) for r in chosen} - {""}
    if any(r.custom_split and r.division == "open" for r in chosen):
        found.add(OPEN)
    if len({r.settings for r in chosen}) > 1:
        found.add(MIXED)
    if digest and any(r.settings != digest for r in chosen):
        found.add(CHANGED)
    return tuple(m for m in (CUSTOM, OPEN, MIXED, CHANGED) if m in found)


def _score(cell: Cell, run: Record, which: Literal["best", "last"]) -> float | None:
    """The reported score of a run, or the IoU of the column's class."""
    if cell.class_name is None:
        return run.best if which == "best" else run.last
    full = run.full()
    names = [_plain(name) for name in full.get("classes") or []]
    values = (full.get("per_class") or {}).get(which) or []
    wanted = _plain(cell.class_name)
    return values[names.index(wanted)] if wanted in names and len(values) == len(names) else None


def _plain(name: str) -> str:
    """ "TV/Monitor" and "tvmonitor" are one class."""
    return "".join(c for c in name.lower() if c.isalnum())


def _state(cell: Cell, running: bool, known: set[str]) -> State:
    if cell.role == "Q":
        return "quoted"
    if cell.scores:
        return "measured"
    if running:
        return "running"
    if cell.why:
        return "failed"
    if cell.dash:
        return "not printed"
    exists = cell.recipe is not None and (cell.recipe in known or Path(cell.recipe).is_file())
    return "not run" if exists else "not yet"
