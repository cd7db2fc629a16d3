"""A filled table as text in every format, and tables as files. The same store gives the same bytes."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ssbench.errors import UsageError
from ssbench.files import write_text
from ssbench.results.stale import WhyStale, is_never_stale
from ssbench.results.store import ResultStore
from ssbench.tables import html, latex
from ssbench.tables.cell import Cell, Filled, Verdict
from ssbench.tables.claims import Claim
from ssbench.tables.fill import fill
from ssbench.tables.layout import column_label, footer, heading, legend, lines
from ssbench.tables.spec import PaperTable

if TYPE_CHECKING:
    from rich.console import RenderableType

Format = Literal["rich", "md", "csv", "latex", "html"]
ENDINGS: dict[Format, str] = {"rich": "txt", "md": "md", "csv": "csv", "latex": "tex", "html": "html"}
CSV_FIELDS = ("printed", "measured", "sd", "n", "state", "verdict", "level")


def render(
    filled: Filled, how: Format = "rich", width: int | None = None, claims: Sequence[Claim] | None = None
) -> str:
    """The paper's layout as text, the same bytes for the same store.

    width: folds the terminal table. claims: of `claims.all_claims`, shown below the rows they are about (not in CSV,
    where each is a line of `claims.claim_rows`, and not in LaTeX). UsageError for another format.
    """
    match how:
        case "rich":
            return _plain_text(filled, width, claims)
        case "md":
            return _markdown(filled, claims)
        case "csv":
            return _csv(filled)
        case "latex":
            return latex.document(filled)
        case "html":
            return html.document(filled, claims)
    raise UsageError(f"no table format '{how}'", "--format", f"one of {', '.join(ENDINGS)}")


def write_tables(
    names: Iterable[str], store: ResultStore, folder: Path, how: Format = "md", why_stale: WhyStale = is_never_stale,
    data_root: Path | None = None, overrides: Sequence[str] = (),
) -> Iterator[tuple[Path, bool]]:  # fmt: skip
    """Write each table into `folder`; (path, whether its file was new or has changed), one by one.

    The file of `mpmc/table3` is `mpmc-table3.md`. No cell is "running", so that every machine writes the same bytes. A
    file that already holds them is not written again.

    Args:
        data_root: where the tables of imported datasets are. overrides: `--set` of every cell's run.
    """
    for name in names:
        table = PaperTable.read(name, data_root)
        path = folder / f"{table.name.replace('/', '-')}.{ENDINGS[how]}"
        text = render(fill(table, store, why_stale=why_stale, overrides=overrides), how)
        changed = not path.is_file() or path.read_bytes() != text.encode()
        if changed:
            write_text(path, text)
        yield path, changed


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
        texts = (line.label, *(cell.text for cell in line.cells), line.state)
        grid.add_row(*map(Text, texts), style=styles[line.kind])
    below = [Text(note) for note in footer(filled, claims)]
    return Group(Text(heading(table), style="bold"), Text(legend(filled)), Text(), grid, Text(), *below)


def long_rows(filled: Filled) -> list[dict[str, Any]]:
    """One dict a cell, in the order of the table; numbers rounded to four digits, None where there is none."""
    table = filled.table
    rows, columns = {r.id: r for r in table.rows}, {c.id: c for c in table.columns}
    out = []
    for (row_id, column_id), cell in filled.cells.items():
        row, verdict = rows[row_id], filled.verdicts.get((row_id, column_id))
        compared = verdict if verdict and verdict.word != "not compared" else None
        out.append({
            "paper": table.paper,
            "table": table.name,
            "group": row.group,
            "row": row.label,
            "column": column_label(columns[column_id]),
            "split": cell.split,
            "recipe": cell.recipe,
            "metric": cell.metric,
            "printed": None if cell.printed is None else float(cell.printed),
            "measured": _rounded(cell.mean),
            "sd": _rounded(cell.sd),
            "n": cell.n,
            "difference": _rounded(cell.difference),
            "state": cell.state,
            "last_epoch": _rounded(statistics.fmean(cell.lasts) if cell.lasts else None),
            "seeds": [seed for seed, _ in cell.scores],
            "marks": list(cell.remarks),
            "why": cell.why,
            "left_out": dict(cell.left_out),
            "versions": dict(cell.versions),
            "venue": row.venue,
            "role": cell.role,
            "method": cell.method,
            "plugin": cell.plugin,
            "backbone": cell.backbone,
            "crop": cell.crop,
            "class": cell.class_name,
            "set": list(cell.overrides),
            "row_id": row_id,
            "column_id": column_id,
            "verdict": verdict.text if verdict else None,
            "noise": _rounded(compared.noise) if compared else None,
            "spread": _rounded(compared.spread) if compared else None,
            "spread_source": compared.source if compared else None,
            "level": cell.level,
        })  # fmt: skip
    return out


def _plain_text(filled: Filled, width: int | None, claims: Sequence[Claim] | None) -> str:
    """The terminal's table without colour; natural width unless `width` is given."""
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, width=width or 10_000, force_terminal=False, color_system=None, legacy_windows=False)
    console.print(renderable(filled, claims))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()) + "\n"


def _markdown(filled: Filled, claims: Sequence[Claim] | None) -> str:
    """A pipe table with title, legend and footnotes."""
    columns = filled.table.columns
    heads = ["", *(column_label(c) for c in columns), "state"]
    body = [f"| {' | '.join(map(_escape, heads))} |", "|---|" + "---:|" * len(columns) + "---|"]
    for line in lines(filled, claims):
        texts = [cell.text for cell in line.cells] or [""] * len(columns)
        label = f"**{_escape(line.label)}**" if line.kind == "group" else _escape(line.label)
        body.append(f"| {' | '.join([label, *map(_escape, texts), _escape(line.state)])} |")
    top = [f"### {heading(filled.table)}", "", _escape(legend(filled)), ""]
    notes = [f"{_escape(note)}  " for note in footer(filled, claims)]
    return "\n".join([*top, *body, "", *notes]).rstrip() + "\n"


def _csv(filled: Filled) -> str:
    """One line a row of the paper; the `CSV_FIELDS` of each column side by side."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    columns = filled.table.columns
    writer.writerow(["group", "row", "venue", *(f"{c.id} {field}" for c in columns for field in CSV_FIELDS)])
    for row in filled.table.rows:
        keys = [(row.id, column.id) for column in columns]
        values = [v for key in keys for v in _csv_cell(filled.cells.get(key), filled.verdicts.get(key))]
        writer.writerow([row.group or "", row.label, row.venue or "", *values])
    return out.getvalue()


def _csv_cell(cell: Cell | None, verdict: Verdict | None) -> list[str]:
    """The `CSV_FIELDS` of one cell."""
    if cell is None:
        return [""] * len(CSV_FIELDS)
    numbers = ["" if v is None else f"{v:.4f}" for v in (cell.mean, cell.sd)]
    printed = "" if cell.printed is None else str(cell.printed)
    seeds, word = str(cell.n) if cell.n else "", verdict.text if verdict else ""
    return [printed, *numbers, seeds, cell.state, word, cell.level or ""]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
