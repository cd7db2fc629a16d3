"""Options and printing the commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from ssbench.report.cells import Filled

DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Prepared data (default: $SSBENCH_DATA or ./data).")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Run folders (default: $SSBENCH_RUNS or ./runs).")]
Results = Annotated[
    Path | None, typer.Option("--results", help="Result records (default: $SSBENCH_RESULTS or ./results).")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def print_json(value: Any) -> None:
    """One object on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout: drawn at a terminal, tab-separated elsewhere."""
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def print_table(filled: Filled, how: Literal["rich", "md", "csv"] = "rich") -> None:
    """A paper's table on stdout; with colour at a terminal, never narrower than its columns need."""
    plain = filled.render(how)
    if how != "rich" or not sys.stdout.isatty():
        print(plain, end="")
        return
    from rich.console import Console

    from ssbench.report.render import renderable

    width = max(Console().width, *(len(line) for line in plain.splitlines()))
    Console(width=width).print(renderable(filled))
