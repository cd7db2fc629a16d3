"""`demo`: the whole job on the built-in toy data, on a CPU, offline.

Every cell of `toy/table1` is run, then its table is printed and a picture of predictions is drawn.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench import paths
from ssbench.commands.common import Json, print_json, print_table
from ssbench.errors import RunsFailed

if TYPE_CHECKING:
    from ssbench.jobs.job import Places

TABLE = "toy/table1"
PICTURED = (
    ("supervised", "toy/none_supervised"),
    ("FixMatch", "toy/none_fixmatch"),
    ("UniMatch", "toy/none_unimatch"),
    ("UniMatch + S4MC", "toy/s4mc_unimatch"),
)
PICTURED_SPLIT = "toy/ours/1_16"
WORDS = {"identical": "the same to the last digit", "within": "within what seeds scatter", "worse": "worse than that",
         "better": "better than that"}  # fmt: skip


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for data, runs, results, picture.")] = Path("demo"),
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed; may be repeated.")] = None,
    json: Json = False,
) -> None:
    """Prepare toy data, run a small matrix, print its table, draw predictions: minutes on two cores, resumable."""
    from ssbench.console import say
    from ssbench.jobs.job import Places
    from ssbench.jobs.queue import work
    from ssbench.jobs.targets import target_jobs
    from ssbench.prepare.prepare import prepare
    from ssbench.results.store import ResultStore
    from ssbench.tables.fill import fill
    from ssbench.tables.render import long_rows
    from ssbench.tables.spec import PaperTable

    began, seeds = time.monotonic(), seed or [0]
    places = Places(out / "data", out / "runs", out / "results")
    say("1/3 toy data")
    prepare("toy", places.data)
    jobs = target_jobs([TABLE], [], seeds, [], False, places)
    say(f"2/3 {len(jobs)} runs; Ctrl-C stops, the same command goes on")
    outcomes = work(jobs, places, "cpu", workers=min(os.cpu_count() or 1, 4))
    if failed := [outcome for outcome in outcomes if outcome.error]:
        raise RunsFailed(f"{len(failed)} of {len(outcomes)} runs failed", str(out), "the errors stand above")
    say("3/3 table and picture")
    filled = fill(PaperTable.read(TABLE), ResultStore(places.results))
    compared = compare_with_stored(places.results, paths.shipped("results"))
    picture = out / "predictions.png"
    _draw_predictions(places, seeds[0], picture)
    if json:
        seconds = round(time.monotonic() - began, 1)
        facts = {"table": TABLE, "cells": long_rows(filled), "picture": str(picture), "seconds": seconds}
        print_json(facts | {"compared": list(compared)})
        return
    print_table(filled)
    print(f"\npredictions: {picture}")
    for line in compared:
        print(line)


def compare_with_stored(results: Path, stored: Path) -> list[str]:
    """What the gate's rule says of the demonstration's runs against the records that the project stores, in words."""
    from ssbench.results.baseline import read_runs, scored
    from ssbench.results.gate import compare_scores
    from ssbench.results.store import ResultStore

    new = read_runs(results)
    before = read_runs(stored, {run.place for run in new}) if stored.is_dir() else []
    if not before:
        return [f"compared with nothing: there are no stored records of {TABLE} in {stored}"]
    neighbours = [scored(record) for record in ResultStore(stored).records({"toy"}) if record.main]
    outcome = compare_scores(before, new, neighbours=neighbours)
    counts = Counter(cell.verdict for cell in outcome.cells)
    words = ", ".join(f"{count} {WORDS.get(verdict, verdict)}" for verdict, count in counts.items())
    machines = [", ".join(sorted({run.machine.partition(", threads")[0] for run in runs})) for runs in (before, new)]
    where = f"both on {machines[0]}" if machines[0] == machines[1] else f"stored on {machines[0]}, here {machines[1]}"
    lines = [f"compared with the stored records, cell by cell: {words} ({where})"]
    tested = [cell for cell in outcome.cells if cell.test is not None and cell.verdict != "identical"]
    if tested:
        lowest = max(tested, key=lambda cell: cell.drop)
        test = lowest.test
        assert test is not None  # noqa: S101  chosen for having one
        lines.append(f"largest drop: {lowest.drop:.2f} at {lowest.name}; seeds explain up to {test.tolerance:.2f}")
    if machines[0] != machines[1]:
        lines.append("another processor sums in another order, so the same seed gives other numbers")
    lines.append("something is worse than seeds explain" if outcome.failures else "nothing is worse than seeds explain")
    return lines


def _draw_predictions(places: Places, seed: int, picture: Path) -> None:
    """Six test images, labelled by the best network of each recipe in PICTURED."""
    from ssbench.inspect.pictures import SheetColumn, write_sheet
    from ssbench.jobs.job import run_folder
    from ssbench.recipe.recipe import load

    columns = []
    for label, name in PICTURED:
        recipe = load(name)
        columns.append(SheetColumn(label, recipe, run_folder(recipe, PICTURED_SPLIT, seed, places) / "best.pt"))
    write_sheet(columns, "test", 6, places.data, picture)
