"""What tables and recipes ask for: runs, the cells each fills, and the baselines its gains are taken over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ssbench.errors import UsageError
from ssbench.jobs.run import Places
from ssbench.recipe.recipe import is_table_name, load
from ssbench.results.store import ResultStore
from ssbench.tables.cell import Cell, Filled
from ssbench.tables.printed import printed_scores
from ssbench.tables.spec import PaperTable

What = tuple[str, tuple[str, ...], str]
"""Recipe, overrides, split."""


@dataclass
class Wanted:
    """What some tables and recipes ask for: cells and baselines of each run, in order; cells without a recipe."""

    cells: dict[What, list[str]] = field(default_factory=dict)
    bases: dict[What, list[What]] = field(default_factory=dict)
    not_yet: Counter[str] = field(default_factory=Counter)


def wanted(targets: Sequence[str], splits: Sequence[str], places: Places) -> Wanted:
    """What these tables and recipes ask for; of tables, only on `splits` where some are given.

    UsageError for a recipe without a split; RecipeError for what cannot be read.
    """
    found, store = Wanted(), ResultStore(places.results)
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            _of_table(PaperTable.read(target).fill(store), splits, found)
        else:
            for split in _splits_of(target, splits, places):
                found.cells.setdefault((target, (), split), [])
    return found


def _splits_of(target: str, splits: Sequence[str], places: Places) -> Sequence[str]:
    """The splits asked for, or those the recipe states a printed score of."""
    printed = list(printed_scores(load(target, data_root=places.data).name))
    if not (splits or printed):
        raise UsageError(f"'{target}' needs a split", "--split", "ssbench list splits")
    return splits or printed


def _of_table(filled: Filled, splits: Sequence[str], found: Wanted) -> None:
    """Adds the runs that `ssbench run TABLE` does, with every cell they fill."""
    name, runs = filled.table.name, {(cell.stored, cell.split) for cell in filled.wanted()}
    for cell in filled.cells.values():
        what = _what(cell)
        if splits and cell.split not in splits:
            continue
        if cell.state == "not yet" and (cell.role is None or cell.role in "BPA"):
            found.not_yet[name] += 1
        elif what and (cell.stored, cell.split) in runs:
            found.cells.setdefault(what, []).append(f"{name} {cell.row}/{_column(cell)}")
            bases = [_what(base) for base in _bases(filled, cell)]
            found.bases.setdefault(what, []).extend(base for base in bases if base and base != what)


def _what(cell: Cell) -> What | None:
    return (cell.recipe, cell.overrides, cell.split) if cell.recipe and cell.split else None


def _column(cell: Cell) -> str:
    """Its column; those of one class each go by one name, and their class."""
    return cell.column if cell.class_name is None else f"classes#{cell.column}"


def _bases(filled: Filled, cell: Cell) -> Iterator[Cell]:
    """The cells a gain of this one is taken over."""
    table = filled.table
    over_row = next((row.gain_over for row in table.rows if row.id == cell.row), None)
    over_column = next((column.gain_over for column in table.columns if column.id == cell.column), None)
    for row, column in ((over_row, cell.column), (cell.row, over_column)):
        if row and column and (row, column) in filled.cells and cell.class_name is None:
            yield filled.cells[row, column]
