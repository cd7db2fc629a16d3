"""Finds stored runs of a table's rows under other settings, which the table itself does not show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from ssbench.paths import quoted
from ssbench.recipe.stored import set_arguments
from ssbench.results.store import ResultStore
from ssbench.tables.cell import Cell, Filled, stored_name

SHOWN = 5
"""Settings that are named; of more, how many there are."""
_WITH_SET = re.compile(r"(.+)\+[0-9a-f]{6}")

Settings = tuple[str, ...]
"""`--set` arguments."""


def other_settings(filled: Filled, store: ResultStore) -> list[tuple[Settings, int]]:
    """Settings that runs of the table's rows are stored under besides the cells' own, and how many cells have such.

    Only settings that hold for a whole table count: those that a run has in addition to its cell's.
    """
    cells = [cell for cell in filled.cells.values() if cell.recipe and cell.split]
    shown = {(cell.stored, cell.split) for cell in cells}
    counts: Counter[Settings] = Counter()
    names: dict[str, list[str]] = {}
    for cell in {(cell.recipe, cell.split, cell.overrides): cell for cell in cells}.values():
        for name in names.setdefault(str(cell.recipe), _names_below(str(cell.recipe), store)):
            if (name, cell.split) not in shown:
                counts.update(set(_additions(name, cell, store)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def notes(filled: Filled, store: ResultStore, given: Settings = ()) -> Iterator[str]:
    """A line for each of the first `SHOWN` settings, with the command that shows the table under them.

    Args:
        given: the settings that it is shown under now.
    """
    others = other_settings(filled, store)
    for settings, count in others[:SHOWN]:
        words = " ".join(f"--set {quoted(text)}" for text in (*given, *settings))
        cells = "a cell has a run" if count == 1 else f"{count} cells have runs"
        yield f"{cells} with other settings: ssbench table {quoted(filled.table.name)} {words}"
    if len(others) > SHOWN:
        yield f"{len(others) - SHOWN} other settings have runs, too: ssbench list runs"


def _names_below(recipe: str, store: ResultStore) -> list[str]:
    """Names that runs of `recipe` with `--set` are stored under."""
    folder = store.folder(recipe, "any").parent.parent
    last, parent = recipe.rpartition("/")[2], recipe.rpartition("/")[0]
    listed = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    matches = [name for name in listed if (parts := _WITH_SET.fullmatch(name)) and parts[1] == last]
    return [f"{parent}/{name}" if parent else name for name in matches]


def _additions(name: str, cell: Cell, store: ResultStore) -> Iterator[Settings]:
    """What the runs stored as `name` set on the cell's split besides what the cell sets."""
    for record in store.runs(name, str(cell.split)):
        settings = set_arguments((store.whole(record) or {}).get("departures"))
        own = len(cell.overrides)
        is_of_cell = settings[:own] == cell.overrides and stored_name(str(cell.recipe), settings) == name
        if record.status == "done" and is_of_cell and settings[own:]:
            yield settings[own:]
