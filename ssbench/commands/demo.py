"""`demo`: the whole job on the built-in toy data, on a CPU, offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ssbench.commands.common import Json, print_json, print_table


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for data, runs, results, picture.")] = Path("demo"),
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Prepare toy data, run a small matrix, print its table, draw predictions: minutes on two cores, resumable."""
    from ssbench.inspect.demo import run_demo

    made = run_demo(out, seed or [0])
    if json:
        cells = made.filled.long()
        print_json({"table": "toy/table1", "cells": cells, "picture": str(made.picture), "seconds": made.seconds})
        return
    print_table(made.filled)
    print(f"\npredictions: {made.picture}")
