"""The data of a filled table: `Cell`, `Gain`, `Verdict`, `Filled`; and the empty cells of a `PaperTable`.

`fill.fill` makes a `Filled`; layout, render, html and latex show one.
"""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from ssbench.results.analysis import AnalysisKind
from ssbench.tables.spec import UNSTATED, PaperTable, RowPart, TableColumn, TableRow

CellState = Literal["quoted", "not printed", "not yet", "not run", "running", "measured", "failed"]
ReproductionLevel = Literal["quoted", "claimed by a log", "checkpoint re-scored", "one seed", "three seeds or more"]
NO_RUN: tuple[CellState, ...] = ("quoted", "not printed", "not yet")
ANALYSED: dict[str, tuple[AnalysisKind, str]] = {
    "patch_share": ("patches", "share"),
    "miou_gain": ("patches", "gain"),
    "box_accuracy": ("boxes", "accuracy"),
    "pixel_accuracy": ("pixels", ""),  # the quantity is the cell's `pixels`
}
"""Metrics that no record of a run holds: the analysis that does, and the quantity in it."""
SHORT_NETS = {"resnet50": "r50", "resnet101": "r101", "xception65": "xc65", "vit_b16": "vitb16"}
CUSTOM, OPEN = "own split list", "open division"
MIXED, CHANGED = "seeds ran under different settings", "the recipe has changed since"
STALE = "stale"
"""How a remark begins that a number was made from other data, or by other code, than the present ones."""
CellKey = tuple[str, str]
"""(row id, column id)."""


@dataclass(frozen=True)
class Cell:
    """One place of a table. Scores are in percent.

    recipe: what `recipe.load` takes; overrides: its `--set` arguments; stored: the name results are kept under.
    printed: as in the paper, None for nothing; dash: the paper shows a dash here, so nobody needs the run.
    state: "quoted" by the paper and never run here; "not printed" (a dash); "not yet" (we have no recipe); "not run";
    "running"; "measured"; "failed". scores, lasts: per seed, at the best-on-val and at the last epoch.
    marks: what a measured number must not be shown without. apart: why it must not be compared with the printed one.
    protocol: how the measured number was scored. why: reasons of failed seeds. left_out: results of this recipe and
    split that do not count here, by reason. versions: behaviour versions above 1 of what computed the scores.
    analysis, entry, quantity, beside: of a number that is no score, the analysis and the place in it that hold it, and
    the recipe of the second run it reads. level: how well the number is backed; `level` holds the rule.
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
    printed_on: str | None = None
    scored: str | None = None
    state: CellState = "not yet"
    scores: tuple[tuple[int, float], ...] = ()
    lasts: tuple[float, ...] = ()
    marks: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    protocol: str = ""
    why: str = ""
    left_out: tuple[tuple[str, int], ...] = ()
    versions: tuple[tuple[str, int], ...] = ()
    analysis: AnalysisKind | None = None
    entry: str | None = None
    quantity: str = ""
    beside: str | None = None
    level: ReproductionLevel | None = None

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
    def remarks(self) -> tuple[str, ...]:
        """Everything a measured number must be shown with: `marks` and `apart`, each once."""
        return tuple(dict.fromkeys((*self.marks, *self.apart)))

    @property
    def difference(self) -> float | None:
        """Measured minus printed; None where one is missing, or where they must not be compared."""
        if self.mean is None or self.printed is None or self.apart:
            return None
        return self.mean - float(self.printed)


@dataclass(frozen=True)
class Gain:
    """An improvement of one cell over another: as the printed numbers give it, and over the seeds both have."""

    printed: Decimal | None
    pairs: tuple[float, ...]

    @property
    def error(self) -> float | None:
        """Standard error of the mean of `pairs`; None below two."""
        return statistics.stdev(self.pairs) / math.sqrt(len(self.pairs)) if len(self.pairs) > 1 else None


VerdictWord = Literal["reproduced", "within noise", "short", "better", "not compared"]


@dataclass(frozen=True)
class Verdict:
    """How a measured mean stands to its printed number; `verdict` holds the rule.

    by: measured minus printed, percent. noise: how far they may lie apart at 95 %. spread: standard deviation of a
    seed. source: where the prior of the spread is from. All but the word are empty where nothing is compared.
    """

    word: VerdictWord
    by: float = math.nan
    noise: float = math.nan
    spread: float = math.nan
    source: str = ""

    @property
    def text(self) -> str:
        """The word; with the difference where it matters."""
        return f"{self.word} by {abs(self.by):.2f}" if self.word in ("short", "better") else self.word


@dataclass(frozen=True)
class Filled:
    """A table with its cells filled. verdicts: of the cells that are measured and printed."""

    table: PaperTable
    cells: Mapping[CellKey, Cell]
    verdicts: Mapping[CellKey, Verdict]

    def gain(self, row: str, column: str, over_row: str, over_column: str) -> Gain:
        """Cell (row, column) minus cell (over_row, over_column), each seed paired with itself.

        Scores of different splits or protocols, or only one of them marked, are not paired.
        """
        ours, base = self.cells.get((row, column)), self.cells.get((over_row, over_column))
        if ours is None or base is None:
            return Gain(None, ())
        printed = None if ours.printed is None or base.printed is None else ours.printed - base.printed
        alike = (ours.split, ours.marks, ours.protocol) == (base.split, base.marks, base.protocol)
        base_scores = dict(base.scores) if alike else {}
        return Gain(printed, tuple(score - base_scores[seed] for seed, score in ours.scores if seed in base_scores))

    def runnable(self, roles: str = "BPA") -> list[Cell]:
        """The runs behind the table that we have a recipe for: one cell of each (stored name, split), in its order.

        roles: letters of `CellFields.role`; cells without a role (a table of no paper) always count.
        """
        runs: dict[tuple[str | None, str | None], Cell] = {}
        for cell in self.cells.values():
            if cell.split and (cell.role is None or cell.role in roles) and cell.state not in NO_RUN:
                runs.setdefault((cell.stored, cell.split), cell)
        return list(runs.values())


def stored_name(recipe: str, overrides: Iterable[str] = ()) -> str:
    """The folder of a recipe's results, as `Recipe.stored_name` gives it for these `--set` arguments."""
    name = f"custom/{Path(recipe).stem}" if recipe.endswith((".yaml", ".yml")) else recipe
    if lines := "\n".join(overrides):
        name += f"+{hashlib.sha256(lines.encode()).hexdigest()[:6]}"
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
        for i, column in enumerate(table.covered(part))
    ]


def _cell(table: PaperTable, row: TableRow, part: RowPart, column: TableColumn, index: int | None) -> Cell:
    fields = table.fields(column, row, part)
    overrides = sorted(fields.pop("overrides").items())
    split, family = fields.get("split"), fields.get("family")
    if split and family:
        split = None if family == UNSTATED else f"{family}/{split.rpartition('/')[2]}"
    run: dict[str, Any] = {name: fields.get(name) for name in ("method", "plugin", "backbone", "crop")}
    run["split"] = split
    metric = fields.get("metric") or table.metric
    recipe, beside = fields.get("recipe") or suggest_recipe(table.paper, **run), fields.get("beside")
    analysis, quantity = ANALYSED.get(metric, (None, ""))
    recipe, beside = (
        str(table.folder / name) if name and name.endswith((".yaml", ".yml")) else name for name in (recipe, beside)
    )
    printed = None if index is None or part.printed is None else part.printed[index]
    return Cell(
        row=row.id,
        column=column.id,
        role=fields.get("role"),
        recipe=recipe,
        overrides=tuple(f"{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in overrides),
        metric=metric,
        class_name=column.class_name,
        printed=printed,
        dash=table.paper is not None and index is not None and printed is None,
        printed_on=fields.get("printed_on") if printed is not None else None,
        scored=fields.get("scored") if printed is not None else None,
        analysis=analysis,
        entry=(column.class_name or column.label) if analysis else None,
        quantity=quantity or fields.get("pixels") or "",
        beside=beside if analysis else None,
        **run,
    )
