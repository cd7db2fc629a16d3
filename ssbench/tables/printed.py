"""Printed scores of a recipe, looked up in the tables: a printed number stands once, in its table."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from ssbench.paths import shipped
from ssbench.tables.cell import Cell, cells_of
from ssbench.tables.spec import PaperTable, table_names


def printed_scores(recipe: str) -> dict[str, float]:
    """Split -> the score, percent, that the papers print for a recipe without `--set`; of several, the first table's.

    The tables of the recipe's own folder come first, since they name their recipes by rule as well as by name. A cell
    that quotes a number of other images (`printed_on`) or under another protocol counts like any other.
    """
    own = recipe.partition("/")[0]
    scores: dict[str, float] = {}
    for table in sorted(table_names(), key=lambda name: name.partition("/")[0] != own):
        path = shipped("recipes") / f"{table}.yaml"
        if table.partition("/")[0] != own and recipe not in _text(path):
            continue
        for cell in _cells(table):
            plain = not (cell.overrides or cell.class_name or cell.analysis) and cell.role in ("B", "P")
            if plain and cell.recipe == recipe and cell.split and cell.printed is not None:
                scores.setdefault(cell.split, float(cell.printed))
    return scores


@lru_cache(maxsize=64)
def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@lru_cache(maxsize=64)
def _cells(table: str) -> tuple[Cell, ...]:
    return tuple(cells_of(PaperTable.read(table)))
