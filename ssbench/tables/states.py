"""What the cells of a row are, in a few words: "3 reproduced, 1 short by 1.20, 4 not run"."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ssbench.tables.cell import NO_RUN, Cell, Filled
from ssbench.tables.spec import Column, PaperTable

SILENT = ("not run", *NO_RUN)  # states that a cell with a printed number does not show itself


def row_state(filled: Filled, cells: Sequence[Cell]) -> str:
    """The states of a row's cells, with verdicts in the place of "measured"; nothing for dashes.

    Every cell's state can be told from it and the cell: where cells without a measured number are of two states, the
    columns of the rarer one are named.
    """
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.state != "not printed":
            found.setdefault(_word(filled, cell), []).append(cell)
    if len(found) == 1:
        return "".join(_told(filled, word, members) for word, members in found.items())
    shown = [word for word in found if word not in SILENT]
    silent = sorted((word for word in found if word in SILENT), key=lambda word: len(found[word]))
    named = [f"{_columns(filled.table, found[word])} {word}" for word in silent[:-1]]
    counted = [f"{len(found[word])} {_told(filled, word, found[word])}" for word in [*shown, *silent[-1:]]]
    return ", ".join([*named, *counted])


def _word(filled: Filled, cell: Cell) -> str:
    verdict = filled.verdicts.get((cell.row, cell.column))
    return verdict.word if verdict else cell.state


def _told(filled: Filled, word: str, cells: list[Cell]) -> str:
    """The word; for "short" and "better" with the largest difference."""
    if word not in ("short", "better"):
        return word
    by = max(abs(filled.verdicts[c.row, c.column].by) for c in cells)
    return f"{word} by {'up to ' if len(cells) > 1 else ''}{by:.2f}"


def _columns(table: PaperTable, cells: list[Cell]) -> str:
    """The columns of some cells; a group by its heading alone where all of it is meant."""
    wanted = {c.column for c in cells}
    groups = groupby(table.columns, key=lambda column: column.group)
    return ", ".join(filter(None, (_named(group, list(columns), wanted) for group, columns in groups)))


def _named(group: str | None, columns: list[Column], wanted: set[str]) -> str:
    labels = [c.label for c in columns if c.id in wanted]
    if group and len(labels) == len(columns):
        return group
    return f"{group or ''} {', '.join(labels)}".strip() if labels else ""
