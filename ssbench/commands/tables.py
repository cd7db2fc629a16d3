"""`table`: a paper's layout, printed beside measured."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ssbench.commands.common import Json, Results, print_json


class Format(StrEnum):
    """How a table is written."""

    rich = "rich"
    md = "md"
    csv = "csv"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(table)


def table(
    name: Annotated[str, typer.Argument(help="paper/table1, or a YAML file.")],
    format: Annotated[Format, typer.Option("--format", help="rich, md or csv.")] = Format.rich,
    long: Annotated[bool, typer.Option("--long", help="CSV with one row a cell.")] = False,
    results: Results = None,
    json: Json = False,
) -> None:
    """Print a table: what the paper printed, what was measured (mean, sd, n), the difference, the state."""
    from ssbench.paths import results_root
    from ssbench.report.store import ResultStore
    from ssbench.report.table import PaperTable

    filled = PaperTable.read(name).fill(ResultStore(results_root(results)))
    if json:
        print_json({"table": name, "cells": filled.long()})
    elif long:
        print(filled.long_csv(), end="")
    else:
        print(filled.render(format.value), end="")
