"""`status`: what every run is doing, here and in Slurm."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ssbench.commands.common import DataRoot, Json, Runs, print_json, print_rows

EVERY = 2.0
"""Seconds between two looks of --watch."""


def status(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Only runs of these tables and recipes (default: all).")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look on until nothing runs or waits.")] = False,
    data_root: DataRoot = None,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """What every run is doing: state, step, score, speed, time left, where, and why not."""
    from ssbench.jobs.status import COLUMNS, counts, summary, survey, texts
    from ssbench.paths import runs_root

    root = runs_root(runs)
    is_shown = _filter(targets or (), data_root)
    if watch and not json:
        _watch(root, is_shown)
    rows = [row for row in survey(root) if is_shown(row)]
    if json:
        print_json({"runs": rows, "counts": counts(rows)})
        return
    if rows:
        print_rows(summary(rows), COLUMNS, [texts(row) for row in rows])
    else:
        print(f"no runs in {root} yet", file=sys.stderr)


def _filter(targets: Sequence[str], data_root: Path | None) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a row is of one of these tables and recipes; of any, where none is given."""
    from ssbench.recipe.compose import is_table_name, read_recipe
    from ssbench.tables.cell import cells_of
    from ssbench.tables.spec import PaperTable

    places: set[tuple[str, str]] = set()
    names: set[str] = set()
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            cells = cells_of(PaperTable.read(target, data_root))
            places |= {(cell.stored, cell.split) for cell in cells if cell.stored and cell.split}
        else:
            names.add(read_recipe(target)[0].name)

    def is_of_targets(row: Mapping[str, Any]) -> bool:
        recipe, split = str(row["recipe"]), str(row["split"])
        of_recipe = any(recipe == name or recipe.startswith(f"{name}+") for name in names)
        return not targets or of_recipe or (recipe, split) in places

    return is_of_targets


def _watch(root: Path, is_shown: Callable[[Mapping[str, Any]], bool]) -> None:
    """Show the rows until nothing runs or waits, or until Ctrl-C, which ends the display and no run."""
    from rich.console import Console

    from ssbench.jobs.status import StatusView, survey

    with suppress(KeyboardInterrupt), StatusView(Console()) as view:
        while True:
            rows = [row for row in survey(root, report=view.warn) if is_shown(row)]
            if not any(row["state"] in ("running", "waiting") for row in rows):
                return
            view.show(rows)
            time.sleep(EVERY)
