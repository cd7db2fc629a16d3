"""`table`: a paper's layout, printed beside measured."""

from __future__ import annotations

import fcntl
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssbench.commands.common import Json, Results, Runs, print_json, print_table

if TYPE_CHECKING:
    from ssbench.report.table import PaperTable


class Format(StrEnum):
    """How a table is written."""

    rich = "rich"
    md = "md"
    csv = "csv"


FORMATS: dict[Format, Literal["rich", "md", "csv"]] = {Format.rich: "rich", Format.md: "md", Format.csv: "csv"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(table)


def table(
    name: Annotated[str, typer.Argument(help="paper/table1, or a YAML file.")],
    format: Annotated[Format, typer.Option("--format", help="rich, md or csv.")] = Format.rich,
    long: Annotated[bool, typer.Option("--long", help="CSV with one row a cell.")] = False,
    runs: Runs = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Print a table: what the paper printed, what was measured (mean, sd, n), the difference, the state."""
    from ssbench.paths import results_root, runs_root
    from ssbench.report.store import ResultStore
    from ssbench.report.table import PaperTable

    read = PaperTable.read(name)
    filled = read.fill(ResultStore(results_root(results)), running=_running(read, runs_root(runs)))
    if json:
        print_json({"table": read.name, "title": read.title, "paper": read.paper, "cells": filled.long()})
    elif long:
        print_long(filled.long())
    else:
        print_table(filled, FORMATS[format])


def print_long(cells: list[dict[str, object]]) -> None:
    """CSV with one row a cell: the columns of the contract, then why a number is what it is."""
    import csv
    import sys

    fields = ("paper", "table", "group", "row", "column", "split", "recipe", "metric", "printed", "measured", "sd", "n",
              "difference", "state", "last_epoch", "seeds", "marks", "why")  # fmt: skip
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(fields)
    for cell in cells:
        writer.writerow([_flat(cell[field]) for field in fields])


def _flat(value: object) -> object:
    return " ".join(map(str, value)) if isinstance(value, list) else value


def _running(table: PaperTable, root: Path) -> frozenset[tuple[str, str]]:
    """(stored name, split) of cells whose run some process holds now."""
    places = {(cell.stored, cell.split) for cell in table.cells() if cell.stored and cell.split}
    return frozenset(
        (recipe, split)
        for recipe, split in places
        if recipe and split and any(map(_held, root.joinpath(recipe, split.replace("/", "-")).glob("seed*/lock")))
    )


def _held(lock: Path) -> bool:
    """Whether a process has the lock; it is given back when its process ends, however it ends."""
    try:
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
