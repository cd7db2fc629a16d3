"""What several commands share: options, checks of paths, printing."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssbench.console import Bars
    from ssbench.tables.cell import Filled
    from ssbench.tables.claims import Claim
    from ssbench.tables.render import Format

DataRoot = Annotated[Path | None, typer.Option("--data-root", help="Prepared data (default: $SSBENCH_DATA or ./data).")]
Runs = Annotated[Path | None, typer.Option("--runs", help="Run folders (default: $SSBENCH_RUNS or ./runs).")]
Results = Annotated[
    Path | None, typer.Option("--results", help="Result records (default: $SSBENCH_RESULTS or ./results).")
]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a constant: optim.lr=0.01.")]
Plugins = Annotated[
    list[str] | None, typer.Option("--plugin", help="Lay a plug-in over the recipe: its name, or FILE.py; repeatable.")
]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one).")]
Workers = Annotated[int | None, typer.Option("--workers", min=1, help="Processes (default: one a core).")]
Checkpoint = Annotated[Path, typer.Argument(help="Our best.pt / checkpoint.pt, or the authors' released file.")]
NetworkRecipe = Annotated[
    str | None, typer.Option("--recipe", help="The recipe of the network (default: what a best.pt of ours says).")
]
Entry = Annotated[
    str | None, typer.Option("--entry", help="Which network of several: student, teacher, ema, or the file's name.")
]
ClassesAsSaved = Annotated[
    bool, typer.Option("--classes-as-saved", help="Label values mean what the checkpoint's classes say.")
]
AllowLeak = Annotated[
    bool, typer.Option("--allow-leak", help="Run a split of your own that trains on images of val or test.")
]
Bands = Annotated[
    str | None, typer.Option("--bands", help="Bands to take of pictures of several, from 1: 1,2,3 leaves out alpha.")
]
Depth16 = Annotated[
    Literal["full", "percentile"] | None,
    typer.Option("--depth16", help="16-bit pictures: the high byte, or each from its 1st to its 99th percentile."),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]


def finite(value: float | None) -> float | None:
    """Callback of options with a number: NaN passes every bound, and infinity most. BadParameter for both."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def read_bands(text: str | None) -> tuple[int, ...]:
    """Bands as "1,2,3"; () for none. UsageError unless they are one or three numbers from 1."""
    if text is None:
        return ()
    bands = tuple(int(part) if part.isascii() and part.strip().isdigit() else 0 for part in text.split(","))
    if len(bands) not in (1, 3) or min(bands) < 1:
        raise UsageError(f"--bands {text!r} is neither one nor three bands", "--bands", "for instance --bands 1,2,3")
    return bands


def require_paths(*paths: Path) -> None:
    """DataError for the first file or folder that does not exist."""
    for path in paths:
        if not path.exists():
            raise DataError(f"no file or folder '{path}'", str(path.absolute()), "check the path")


def progress_bars() -> Bars:
    """Progress of a preparation, a line for each stage; to be used as a context manager."""
    from ssbench.console import Bars

    return Bars(leave=True)


def print_damaged(damaged: Mapping[Path, DataError]) -> dict[str, Any]:
    """Name on stderr what was passed over, so that one damaged file does not hide all others, and is not hidden.

    Returns what --json adds to its object: {"damaged": [{file, what, fix}, ...]}, or nothing where all was readable.
    """
    from ssbench.console import say

    for error in damaged.values():
        say(f"ignored: {error}")
    return damaged_rows(damaged)


def damaged_rows(damaged: Mapping[Path, DataError]) -> dict[str, Any]:
    """The part of a --json object that lists the files passed over: empty where all was readable."""
    rows = [{"file": str(path), "what": error.what, "fix": error.fix} for path, error in damaged.items()]
    return {"damaged": rows} if rows else {}


def print_json(value: Any) -> None:
    """One object on stdout."""
    print(json.dumps(value, indent=1, ensure_ascii=False))


def print_rows(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], is_prose: bool = False) -> None:
    """A table on stdout: drawn at a terminal, tab-separated elsewhere.

    Args:
        is_prose: it stands among sentences for people, so it is aligned by spaces elsewhere, too.
    """
    if not sys.stdout.isatty():
        texts = [[str(cell) for cell in row] for row in (columns, *rows)]
        widths = [max(len(row[k]) for row in texts) for k in range(len(columns))]
        for line in texts:
            cells = [f"{t:>{w}}" if _is_number(t) else f"{t:{w}}" for t, w in zip(line, widths, strict=True)]
            print(f"  {'  '.join(cells)}".rstrip() if is_prose else "\t".join(line))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # A name that is cut off is of no use: the first column keeps its width, the others are folded.
    table = Table(title=title)
    for k, name in enumerate(columns):
        is_right = bool(rows) and all(_is_number(str(row[k])) for row in rows)
        table.add_column(name, no_wrap=k == 0, overflow="fold", justify="right" if is_right else "left")
    for row in rows:
        # Text, because rich would read "[1/8]" in a plain string as markup.
        table.add_row(*(Text(str(cell)) for cell in row))
    Console().print(table)


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).removeprefix("-").isdecimal()


def print_grid(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[tuple[str, str]]], notes: Sequence[str]
) -> None:
    """A narrow table of (word, style) cells at a terminal, and notes below it."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, box=None, padding=(0, 1, 0, 0), pad_edge=False, title_justify="left")
    for at, name in enumerate(columns):
        table.add_column(escape(name), no_wrap=at == 0)
    for row in rows:
        table.add_row(*(Text(word, style) for word, style in row))
    console = Console()
    console.print(table)
    for note in notes:
        console.print(Text(f" {note}"))


def print_table(filled: Filled, how: Format = "rich", claims: Sequence[Claim] | None = None) -> None:
    """A paper's table on stdout; with colour, and folded to its width, at a terminal."""
    from ssbench.tables.render import render, renderable

    if how != "rich" or not sys.stdout.isatty():
        print(render(filled, how, claims=claims), end="")
        return
    from rich.console import Console

    Console().print(renderable(filled, claims))
