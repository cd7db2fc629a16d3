"""What every run below a runs folder is doing, read from files and locks there; Slurm is asked for its own jobs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ssbench.errors import SsbenchError
from ssbench.files import LOCK, is_locked
from ssbench.jobs import progress as progress_file
from ssbench.jobs import slurm
from ssbench.jobs.queue_file import FOLDER, Queue, queues
from ssbench.jobs.slurm import JobState

Row = dict[str, Any]
Ask = Callable[[Sequence[str]], Mapping[str, JobState]]
STATES = ("running", "waiting", "stopped", "failed", "done")
"""stopped: by a request or a kill; the command that began the run goes on with it."""

EMPTY: Row = dict.fromkeys((
    "recipe", "split", "seed", "quick", "state", "why", "host", "pid", "job", "device", "stage", "doing", "step",
    "steps", "epoch", "epochs", "metric", "score", "best", "images_per_s", "eta_s", "starts", "started", "updated",
    "folder",
))  # fmt: skip
"""The fields of a row, as `ssbench status --json` documents them; None where nothing is known.

score, best: percent, of the epochs' select subset. eta_s: seconds to the last step of its stage. started, updated:
seconds since 1970, of this start. starts: how often it was begun. job: Slurm's. folder: below the runs folder.
"""
KILLED = "its process ended without a word; the same command goes on"


def survey(runs: Path, only: Iterable[str] | None = None, ask: Ask | None = None) -> list[Row]:
    """A row a run: those at work first, then those that wait, in the order they will be done in.

    only: folders below `runs`, not all. ask: what Slurm knows of jobs (default: Slurm is asked).
    """
    chosen = None if only is None else set(only)
    folders = _folders(runs) if chosen is None else (runs / name for name in chosen if (runs / name / LOCK).is_file())
    rows = {row["folder"]: row for row in (row_of(folder, runs) for folder in folders)}
    board = queues(runs)
    for cell, why in [*_in_line(board), *_with_slurm([q for q in board if q.launcher == "slurm"], ask)]:
        if chosen is None or cell["folder"] in chosen:
            _wait(rows, cell, why)
    return sorted(rows.values(), key=lambda row: STATES.index(row["state"]))


def counts(rows: list[Row]) -> dict[str, int]:
    """How many are in each state."""
    found = Counter(row["state"] for row in rows)
    return {state: found[state] for state in STATES}


def row_of(folder: Path, runs: Path) -> Row:
    """One run."""
    told, below = progress_file.read(folder), folder.relative_to(runs)
    row = {**EMPTY, **_from_path(below), **{name: told[name] for name in EMPTY if name in told}, "folder": str(below)}
    if is_locked(folder / LOCK):
        return {**row, "state": "running", "why": ""}
    if not told:
        return {**row, "state": "done" if (folder / "record.json").is_file() else "stopped", "why": ""}
    if row["state"] == "running":
        return {**row, "state": "stopped", "why": KILLED, "doing": "", "eta_s": None}
    return row


def _folders(runs: Path) -> Iterator[Path]:
    """Run folders: those with a lock. What a run keeps in folders of its own is not looked through."""
    for folder, below, files in os.walk(runs):
        if LOCK in files:
            below.clear()
            yield Path(folder)
        below[:] = sorted(set(below) - ({FOLDER, "slurm"} if Path(folder) == runs else set()))


def _from_path(below: Path) -> Row:
    """What the folder's name tells of a run that has not told more: the recipe, the split (with dashes), the seed."""
    quick, parts = below.parts[0] == "quick", below.parts[below.parts[0] == "quick" :]
    seed = parts[-1].removeprefix("seed")
    recipe, split = "/".join(parts[:-2]), parts[-2] if len(parts) > 1 else ""
    return {"recipe": recipe, "split": split, "seed": int(seed) if seed.isdigit() else None, "quick": quick}


def _wait(rows: dict[str, Row], cell: Mapping[str, Any], why: str) -> None:
    """A cell in a queue's line: waiting, unless somebody has it in work or is done with it."""
    row = rows.get(
        cell["folder"], {**EMPTY, **{name: cell[name] for name in EMPTY if name in cell}, "state": "waiting"}
    )
    if row["state"] in ("waiting", "stopped", "failed"):
        rows[cell["folder"]] = {**row, "state": "waiting", "why": why, "job": cell["job"] or row["job"]}


def _in_line(board: list[Queue]) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Cells before local queues, and in whose line they are."""
    for queue in board:
        for cell in queue.cells if queue.launcher == "local" else ():
            yield cell, f"in line, process {queue.pid} on {queue.host}"


def _with_slurm(board: list[Queue], ask: Ask | None) -> Iterator[tuple[Mapping[str, Any], str]]:
    """Cells of jobs that Slurm still has; where it cannot be asked, that is said of each."""
    if not board:
        return
    known, unknown = dict[str, JobState](), ""
    try:
        known.update((ask or slurm.states)(sorted({job for queue in board for job in queue.jobs.values()})))
    except SsbenchError as error:
        unknown = error.what
    for queue in board:
        for cell in queue.cells:
            state = known.get(cell["job"])
            if unknown or (state is not None and state.lives):
                yield cell, f"Slurm job {cell['job']}: {state or unknown}"
