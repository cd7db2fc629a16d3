"""Which numbers of a table stand in bold and which are underlined, worked out again by the paper's own rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Literal

from ssbench.tables.cell import CUSTOM, Filled
from ssbench.tables.spec import Column, Row

Place = tuple[str, str]
Mark = Literal["", "bold", "underline"]


@dataclass(frozen=True)
class Marks:
    """How the two numbers of a cell are set."""

    printed: Mark = ""
    measured: Mark = ""


def emphasis(filled: Filled) -> dict[Place, Marks]:
    """(row, column) -> marks, by `table.Emphasis`, for printed and for measured numbers each among their kind.

    Ranked are numbers of one metric, measured ones only among those on lists of one family; equal numbers rank
    equally; a number alone in its field has no mark.
    """
    printed = {where: float(c.printed) for where, c in filled.cells.items() if c.printed is not None}
    measured = {where: round(c.mean, 2) for where, c in filled.cells.items() if c.mean is not None}
    first, second = _marks(filled, printed, lists=False), _marks(filled, measured, lists=True)
    return {where: Marks(first.get(where, ""), second.get(where, "")) for where in filled.cells}


def _marks(filled: Filled, numbers: dict[Place, float], lists: bool) -> dict[Place, Mark]:
    rule = filled.table.emphasis
    found: dict[Place, Mark] = {}
    for places in _fields(filled, numbers, lists):
        ranked = sorted({numbers[p] for p in places}, reverse=True)
        if rule.bold == "best" and len(places) > 1:
            found |= {p: "bold" for p in places if numbers[p] == ranked[0]}
        if rule.underline == "second" and len(ranked) > 1:
            found |= {p: "underline" for p in places if numbers[p] == ranked[1]}
    if rule.bold == "plugin":
        found |= {p: "bold" for p in numbers if filled.cells[p].plugin}
    return found


def _fields(filled: Filled, numbers: Iterable[Place], lists: bool) -> Iterable[list[Place]]:
    """The numbers that are ranked against each other; `lists`: apart by split family."""
    rows = {r.id: r for r in filled.table.rows}
    columns = {c.id: c for c in filled.table.columns}
    fields: dict[Hashable, list[Place]] = defaultdict(list)
    for place in numbers:
        cell = filled.cells[place]
        field = _field(filled.table.emphasis.within, rows[place[0]], columns[place[1]])
        family = (cell.split or "").rpartition("/")[0], CUSTOM in cell.marks
        fields[cell.metric, field, family if lists else None].append(place)
    return fields.values()


def _field(within: str, row: Row, column: Column) -> Hashable:
    if within == "row":
        return row.id
    if within == "block":
        return row.group, column.group
    return (column.id, row.group) if within == "group" else column.id
