"""A filled table as text: for the terminal, as Markdown, as CSV. The same store gives the same bytes."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ssbench.tables.cell import Cell, Filled
from ssbench.tables.claims import Claim
from ssbench.tables.layout import footer, head, heading, legend, lines
from ssbench.tables.spec import Column, PaperTable, Row
from ssbench.tables.verdict import Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

FIELDS = ("printed", "measured", "sd", "n", "state", "verdict")


def terminal(filled: Filled, width: int | None = None, claims: Sequence[Claim] | None = None) -> str:
    """The table as plain text without colour; natural width unless `width` is given."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width or 10_000, force_terminal=False, color_system=None, legacy_windows=False)
    console.print(renderable(filled, claims))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def renderable(filled: Filled, claims: Sequence[Claim] | None = None) -> RenderableType:
    """What `rich` prints, with styles, so that a terminal shows colour."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = filled.table
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("", overflow="fold")
    grouped = any(column.group for column in table.columns)
    for before, column in zip([None, *table.columns], table.columns, strict=False):
        group = column.group if column.group and (before is None or before.group != column.group) else ""
        above = Text(f"{group}\n{column.label}" if grouped else column.label)
        grid.add_column(above, justify="right", overflow="fold")
    grid.add_column("\nstate" if grouped else "state", overflow="fold")
    styles = {"group": "bold", "row": "", "gain": "dim", "claim": "dim italic"}
    for i, line in enumerate(lines(filled, claims)):
        if line.kind == "group" and i:
            grid.add_section()
        cells = [Text(t) for t in (line.label, *line.texts, line.state)]
        grid.add_row(*cells, style=styles[line.kind])
    below = [Text(t) for t in footer(filled, claims)]
    return Group(Text(heading(table), style="bold"), Text(legend(filled)), Text(), grid, Text(), *below)


def markdown(filled: Filled, claims: Sequence[Claim] | None = None) -> str:
    """A pipe table with title, legend and footnotes."""
    table = filled.table
    heads = ["", *(head(c) for c in table.columns), "state"]
    body = [f"| {' | '.join(_escape(h) for h in heads)} |", "|---|" + "---:|" * len(table.columns) + "---|"]
    for line in lines(filled, claims):
        texts = line.texts or ("",) * len(table.columns)
        label = f"**{_escape(line.label)}**" if line.kind == "group" else _escape(line.label)
        body.append(f"| {' | '.join([label, *map(_escape, texts), _escape(line.state)])} |")
    top = [f"### {heading(table)}", "", _escape(legend(filled)), ""]
    notes = [f"{_escape(note)}  " for note in footer(filled, claims)]
    return "\n".join([*top, *body, "", *notes]).rstrip() + "\n"


def csv_text(filled: Filled) -> str:
    """One line a row of the paper; the `FIELDS` of each column side by side."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["group", "row", "venue", *(f"{c.id} {f}" for c in filled.table.columns for f in FIELDS)])
    for row in filled.table.rows:
        values: list[str] = []
        for column in filled.table.columns:
            cell = filled.cells.get((row.id, column.id))
            values += _csv_cell(cell, filled.verdicts.get((row.id, column.id))) if cell else [""] * len(FIELDS)
        writer.writerow([row.group or "", row.label, row.venue or "", *values])
    return out.getvalue()


def long_rows(filled: Filled) -> list[dict[str, Any]]:
    """One dict a cell; see `Filled.long`."""
    table = filled.table
    rows, columns = {r.id: r for r in table.rows}, {c.id: c for c in table.columns}
    return [
        _long(table, rows[row], columns[column], cell) | _judged(filled.verdicts.get((row, column)))
        for (row, column), cell in filled.cells.items()
    ]


def _csv_cell(cell: Cell, verdict: Verdict | None) -> list[str]:
    numbers = ["" if v is None else f"{v:.4f}" for v in (cell.mean, cell.sd)]
    printed = "" if cell.printed is None else str(cell.printed)
    return [printed, *numbers, str(cell.n) if cell.n else "", cell.state, verdict.text if verdict else ""]


def _long(table: PaperTable, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    lasts = statistics.fmean(cell.lasts) if cell.lasts else None
    return {
        "paper": table.paper,
        "table": table.name,
        "group": row.group,
        "row": row.label,
        "column": head(column),
        "split": cell.split,
        "recipe": cell.recipe,
        "metric": cell.metric,
        "printed": None if cell.printed is None else float(cell.printed),
        "measured": _round(cell.mean),
        "sd": _round(cell.sd),
        "n": cell.n,
        "difference": _round(cell.difference),
        "state": cell.state,
        "last_epoch": _round(lasts),
        "seeds": [seed for seed, _ in cell.scores],
        "marks": list(cell.said),
        "why": cell.why,
        "left_out": dict(cell.left_out),
        "venue": row.venue,
        "role": cell.role,
        "method": cell.method,
        "plugin": cell.plugin,
        "backbone": cell.backbone,
        "crop": cell.crop,
        "class": cell.class_name,
        "set": list(cell.overrides),
        "row_id": row.id,
        "column_id": column.id,
    }


def _judged(verdict: Verdict | None) -> dict[str, Any]:
    """The verdict's fields; None where there is none, or nothing was compared."""
    told = verdict if verdict and verdict.word != "not compared" else None
    return {
        "verdict": verdict.text if verdict else None,
        "noise": _round(told.noise) if told else None,
        "spread": _round(told.spread) if told else None,
        "spread_source": told.source if told else None,
    }


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
