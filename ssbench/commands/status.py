"""`status`: what every run is doing, here and in Slurm."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from ssbench.commands.common import Json, Runs, print_json, print_rows

EVERY = 2.0
"""Seconds between two looks of --watch."""


def status(
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look on until nothing runs or waits.")] = False,
    runs: Runs = None,
    json: Json = False,
) -> None:
    """What every run is doing: state, step, score, speed, time left, where, and why not."""
    from ssbench.jobs.status import COLUMNS, counts, summary, survey, texts
    from ssbench.paths import runs_root

    root = runs_root(runs)
    if watch and not json:
        _watch(root)
    rows = survey(root)
    if json:
        print_json({"runs": rows, "counts": counts(rows)})
        return
    if rows:
        print_rows(summary(rows), COLUMNS, [texts(row) for row in rows])
    else:
        print(f"no runs in {root} yet", file=sys.stderr)


def _watch(root: Path) -> None:
    """Show the rows until nothing runs or waits, or until Ctrl-C, which ends the display and no run."""
    from rich.console import Console

    from ssbench.jobs.status import StatusView, survey

    with suppress(KeyboardInterrupt), StatusView(Console()) as view:
        while True:
            rows = survey(root, report=view.warn)
            if not any(row["state"] in ("running", "waiting") for row in rows):
                return
            view.show(rows)
            time.sleep(EVERY)
