"""The demonstration: toy data, every cell of `toy/table1`, its table, a picture of predictions."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssbench.console import say
from ssbench.errors import RunsFailed
from ssbench.inspect.pictures import Shown, gallery
from ssbench.jobs.queue import cells, work
from ssbench.jobs.run import Places, run_folder
from ssbench.prepare.prepare import prepare
from ssbench.recipe.recipe import load
from ssbench.results.store import ResultStore
from ssbench.tables.spec import PaperTable

TABLE = "toy/table1"
PICTURED = (
    ("supervised", "toy/none_supervised"),
    ("FixMatch", "toy/none_fixmatch"),
    ("UniMatch", "toy/none_unimatch"),
    ("UniMatch + S4MC", "toy/s4mc_unimatch"),
)
PICTURED_SPLIT = "toy/ours/1_16"


@dataclass(frozen=True)
class Made:
    """What the demonstration made."""

    filled: Any
    picture: Path
    seconds: float


def run_demo(out: Path, seeds: Sequence[int]) -> Made:
    """Do what is missing of the demonstration in folder `out`, and show all of it.

    Raises:
        RunsFailed: a run failed; the others are done. Stopped: a signal came; the same command goes on.
    """
    began = time.monotonic()
    places = Places(out / "data", out / "runs", out / "results")
    say("1/3 toy data")
    prepare("toy", places.data)
    wanted = cells([TABLE], [], seeds, [], False, places)
    say(f"2/3 {len(wanted)} runs; Ctrl-C stops, the same command goes on")
    done = work(wanted, places, "cpu", jobs=min(os.cpu_count() or 1, 4))
    if failed := [d for d in done if d.error]:
        raise RunsFailed(f"{len(failed)} of {len(done)} runs failed", str(out), "the errors stand above")
    say("3/3 table and picture")
    filled = PaperTable.read(TABLE).fill(ResultStore(places.results))
    picture = out / "predictions.png"
    shown = [
        Shown(label, load(name), run_folder(load(name), PICTURED_SPLIT, seeds[0], places) / "best.pt")
        for label, name in PICTURED
    ]
    gallery(shown, "test", 6, places.data, picture)
    return Made(filled, picture, round(time.monotonic() - began, 1))
