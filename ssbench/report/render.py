"""A filled table as text: for the terminal, as Markdown, as CSV. The same store gives the same bytes."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from ssbench.report.cells import Cell, Filled, Gain
from ssbench.report.table import Column, PaperTable, Row

if TYPE_CHECKING:
    from rich.console import RenderableType

SIGNS = "†‡§¶"
DASH = "-"


@dataclass(frozen=True)
class Line:
    """One line of the body: a heading over rows ("group"), a row ("row"), or the gains of a row ("gain")."""

    kind: str
    label: str
    texts: tuple[str, ...] = ()
    state: str = ""


def terminal(filled: Filled, width: int | None = None) -> str:
    """The table as plain text without colour; natural width unless `width` is given."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width or 10_000, force_terminal=False, color_system=None, legacy_windows=False)
    console.print(renderable(filled))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def renderable(filled: Filled) -> RenderableType:
    """What `rich` prints, with styles, so that a terminal shows colour."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = filled.table
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    grid.add_column("")
    grouped = any(column.group for column in table.columns)
    for before, column in zip([None, *table.columns], table.columns, strict=False):
        group = column.group if column.group and (before is None or before.group != column.group) else ""
        grid.add_column(Text(f"{group}\n{column.label}" if grouped else column.label), justify="right")
    grid.add_column("\nstate" if grouped else "state")
    styles = {"group": "bold", "row": "", "gain": "dim"}
    for i, line in enumerate(lines(filled)):
        if line.kind == "group" and i:
            grid.add_section()
        cells = [Text(t) for t in (line.label, *line.texts, line.state)]
        grid.add_row(*cells, style=styles[line.kind])
    below = [Text(t) for t in footer(filled)]
    return Group(Text(heading(table), style="bold"), Text(_legend(filled)), Text(), grid, Text(), *below)


def markdown(filled: Filled) -> str:
    """A pipe table with title, legend and footnotes."""
    table = filled.table
    heads = ["", *_heads(table, " "), "state"]
    body = [f"| {' | '.join(_escape(h) for h in heads)} |", "|---|" + "---:|" * len(table.columns) + "---|"]
    for line in lines(filled):
        texts = line.texts or ("",) * len(table.columns)
        label = f"**{_escape(line.label)}**" if line.kind == "group" else _escape(line.label)
        body.append(f"| {' | '.join([label, *map(_escape, texts), _escape(line.state)])} |")
    top = [f"### {heading(table)}", "", _escape(_legend(filled)), ""]
    return "\n".join([*top, *body, "", *(f"{_escape(note)}  " for note in footer(filled))]).rstrip() + "\n"


def csv_text(filled: Filled) -> str:
    """One line a row of the paper; five fields a column: printed, measured, sd, n, state."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    fields = ("printed", "measured", "sd", "n", "state")
    writer.writerow(["group", "row", "venue", *(f"{c.id} {f}" for c in filled.table.columns for f in fields)])
    for row in filled.table.rows:
        values: list[str] = []
        for column in filled.table.columns:
            cell = filled.cells.get((row.id, column.id))
            values += _csv_cell(cell) if cell else [""] * len(fields)
        writer.writerow([row.group or "", row.label, row.venue or "", *values])
    return out.getvalue()


def long_rows(filled: Filled) -> list[dict[str, Any]]:
    """One dict a cell; see `Filled.long`."""
    table = filled.table
    rows, columns = {r.id: r for r in table.rows}, {c.id: c for c in table.columns}
    return [_long(table, rows[row], columns[column], cell) for (row, column), cell in filled.cells.items()]


def lines(filled: Filled) -> Iterator[Line]:
    """The body of the table: group headings, rows, and below each row its gains."""
    table, group = filled.table, None
    signs = _signs(filled)
    for row in table.rows:
        if row.group != group:
            group = row.group
            yield Line("group", group or "")
        cells = [filled.cells.get((row.id, c.id)) for c in table.columns]
        yield Line("row", _label(row), tuple(_text(c, signs) for c in cells), _row_state(cells))
        yield from _gain_lines(filled, row)
    if table.mean_gains:
        yield Line("gain", "mean Δ", tuple(_mean_gain(filled, c) for c in table.columns))


def heading(table: PaperTable) -> str:
    """Name, title and metric."""
    metric = {"miou": "mIoU, %", "dice": "Dice, %"}.get(table.metric, table.metric.replace("_", " "))
    return f"{table.name}: {table.title} ({metric})"


def footer(filled: Filled) -> list[str]:
    """Caption, notes, what marks mean, failures, and which results were left out."""
    table, cells = filled.table, filled.cells.values()
    out = [table.caption.strip()] if table.caption.strip() else []
    out += [f"{letter}) {text.strip()}" for letter, text in table.notes.items()]
    out += [f"{sign} {mark}" for mark, sign in _signs(filled).items()]
    labels = {r.id: r.label for r in table.rows} | {c.id: _head(c, " ") for c in table.columns}
    out += [f"failed: {labels[c.row]}, {labels[c.column]}: {c.why}" for c in cells if c.why]
    left = Counter[str]()
    for place in {(c.stored, c.split, c.metric): c for c in cells}.values():
        left.update(dict(place.left_out))
    if left:
        out.append("not counted: " + ", ".join(f"{n} x {reason}" for reason, n in sorted(left.items())))
    return out


def _legend(filled: Filled) -> str:
    if any(c.printed is not None for c in filled.cells.values()):
        return "printed | measured mean ± sd (seeds), measured - printed; Δ: gains, computed here, paired by seed"
    return "measured mean ± sd (seeds); Δ: gains, computed here, paired by seed"


def _heads(table: PaperTable, sep: str) -> list[str]:
    return [_head(c, sep) for c in table.columns]


def _head(column: Column, sep: str) -> str:
    return f"{column.group}{sep}{column.label}" if column.group else column.label


def _label(row: Row) -> str:
    venue = f" [{row.venue}]" if row.venue else ""
    return row.label + venue + "".join(f" {note})" for note in row.notes)


def _signs(filled: Filled) -> dict[str, str]:
    """Mark -> sign, for the marks that occur, always in the same order."""
    found = sorted({m for c in filled.cells.values() for m in c.marks})
    return dict(zip(found, SIGNS, strict=False))


def _text(cell: Cell | None, signs: dict[str, str]) -> str:
    """printed | measured, difference; a state where neither number stands."""
    if cell is None:
        return DASH
    printed = f"{cell.printed:{'+' if cell.metric == 'miou_gain' else ''}}" if cell.printed is not None else ""
    measured: str = cell.state if cell.state in ("running", "failed") else ""
    if cell.mean is not None:
        measured = _spread(cell.mean, cell.sd, cell.n) + "".join(signs[m] for m in cell.marks)
        measured += f", {cell.difference:+.2f}" if cell.difference is not None else ""
    blank = DASH if cell.dash or cell.state == "quoted" else cell.state
    return " | ".join(t for t in (printed, measured) if t) or blank


def _spread(mean: float, sd: float | None, n: int) -> str:
    return f"{mean:.2f} ({n})" if sd is None else f"{mean:.2f} ± {sd:.2f} ({n})"


def _row_state(cells: list[Cell | None]) -> str:
    counts = Counter(c.state for c in cells if c is not None and c.state != "not printed")
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{n} {state}" for state, n in sorted(counts.items()))


def _gain_lines(filled: Filled, row: Row) -> Iterator[Line]:
    """Gains over another row, then gains over other columns; none where there is nothing to show."""
    columns = filled.table.columns
    if over := next((r for r in filled.table.rows if r.id == row.gain_over), None):
        texts = tuple(_gain_text(filled.gain(row.id, c.id, over.id, c.id)) for c in columns)
        if any(texts):
            yield Line("gain", f"  Δ over {over.label}", texts)
    texts = tuple(_gain_text(filled.gain(row.id, c.id, row.id, c.gain_over)) if c.gain_over else "" for c in columns)
    if any(texts):
        yield Line("gain", "  Δ over " + _over_columns(filled.table), texts)


def _over_columns(table: PaperTable) -> str:
    names = {c.id: c.label for c in table.columns}
    return ", ".join(dict.fromkeys(names[c.gain_over] for c in table.columns if c.gain_over))


def _gain_text(gain: Gain) -> str:
    printed = f"{gain.printed:+}" if gain.printed is not None else ""
    if not gain.pairs:
        return printed
    sd = statistics.stdev(gain.pairs) if len(gain.pairs) > 1 else None
    measured = ("+" if statistics.fmean(gain.pairs) >= 0 else "") + _spread(
        statistics.fmean(gain.pairs), sd, len(gain.pairs)
    )
    return f"{printed} | {measured}" if printed else measured


def _mean_gain(filled: Filled, column: Column) -> str:
    """Mean over rows of a column's gains; the measured one only where every row has it."""
    if not column.gain_over:
        return ""
    gains = [filled.gain(r.id, column.id, r.id, column.gain_over) for r in filled.table.rows]
    printed = [g.printed for g in gains if g.printed is not None]
    text = f"{sum(printed, Decimal()) / len(printed):+.2f}" if printed else ""
    if all(g.pairs for g in gains):
        text += f" | {statistics.fmean(statistics.fmean(g.pairs) for g in gains):+.2f}"
    return text


def _csv_cell(cell: Cell) -> list[str]:
    numbers = ["" if v is None else f"{v:.4f}" for v in (cell.mean, cell.sd)]
    printed = "" if cell.printed is None else str(cell.printed)
    return [printed, *numbers, str(cell.n) if cell.n else "", cell.state]


def _long(table: PaperTable, row: Row, column: Column, cell: Cell) -> dict[str, Any]:
    lasts = statistics.fmean(cell.lasts) if cell.lasts else None
    return {
        "paper": table.paper,
        "table": table.name,
        "group": row.group,
        "row": row.label,
        "column": _head(column, " "),
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
        "marks": list(cell.marks),
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


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
