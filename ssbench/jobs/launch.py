"""A queue put into Slurm's hands: what is missing is submitted; what Slurm has already is not submitted twice."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssbench.errors import SsbenchError
from ssbench.jobs import queue_file as board
from ssbench.jobs import slurm
from ssbench.jobs.job import Cell, Done, Places
from ssbench.jobs.run import Order
from ssbench.jobs.slurm_job import Task


@dataclass(frozen=True)
class Placed:
    """Where a cell is: its job, its place among that job's cells, the folder of the job's logs, its run folder."""

    job: str
    at: int
    logs: Path
    folder: Path


@dataclass(frozen=True)
class Handed:
    """A queue as Slurm has it.

    over: cells that need no job, for they are done or wrong. attached: how many had one already.
    """

    cells: tuple[Cell, ...]
    places: Places
    over: Mapping[Cell, Done]
    placed: Mapping[Cell, Placed]
    attached: int

    @property
    def arrays(self) -> list[str]:
        """The numbers for scancel."""
        return sorted({place.job.partition("_")[0] for place in self.placed.values()}, key=int)


def hand_over(
    wanted: Sequence[Cell], places: Places, device: str | None, wish: slurm.Wish, parallel: int | None
) -> Handed:
    """Submit the cells that are neither done nor with Slurm already, `parallel` jobs at a time.

    Raises:
        HardwareError: no submitit, no Slurm, or it does not answer. UsageError: sbatch refuses the options.
    """
    slurm.need()
    there = Places(places.data.resolve(), places.runs.resolve(), places.results.resolve())
    over = {cell: done for cell in wanted if (done := _needless(cell, there)) is not None}
    entries = {cell: cell.posted(there) for cell in wanted if cell not in over}
    with board.alone(there.runs):
        known = living(there.runs)
        placed = {cell: known[entry["folder"]] for cell, entry in entries.items() if entry["folder"] in known}
        fresh = {cell: entry for cell, entry in entries.items() if cell not in placed}
        submitted = _submitted(fresh, there, device, wish, parallel) if fresh else {}
    return Handed(tuple(wanted), there, over, {**placed, **submitted}, len(placed))


def _needless(cell: Cell, places: Places) -> Done | None:
    """What became of a cell that needs no job."""
    try:
        recipe = cell.loaded(places)
        record = None if cell.quick else Order.of(recipe, cell.split, cell.seed, places).recorded()
    except SsbenchError as error:
        return Done(cell, error=error)
    return None if record is None else Done(cell, record, repeated=True)


def living(runs: Path) -> dict[str, Placed]:
    """Run folder (below `runs`) -> its place, of cells whose jobs live; queues with no such job leave the board."""
    queues = [queue for queue in board.queues(runs) if queue.launcher == "slurm"]
    known = slurm.states([job for queue in queues for job in queue.jobs.values()])
    living = {job for job, state in known.items() if state.lives}
    found: dict[str, Placed] = {}
    for queue in queues:
        if not living & set(queue.jobs.values()):
            queue.path.unlink(missing_ok=True)
        found |= {name: p for name, p in _places(queue.cells, Path(queue.folder), runs).items() if p.job in living}
    return found


def _places(cells: Sequence[Mapping[str, Any]], logs: Path, runs: Path) -> dict[str, Placed]:
    """Run folder -> place, of cells on the board; a job does its cells in their order there."""
    found: dict[str, Placed] = {}
    for cell in cells:
        at = sum(place.job == cell["job"] for place in found.values())
        found[cell["folder"]] = Placed(cell["job"], at, logs, runs / cell["folder"])
    return found


def _submitted(
    fresh: Mapping[Cell, dict[str, Any]], places: Places, device: str | None, wish: slurm.Wish, parallel: int | None
) -> dict[Cell, Placed]:
    """The cells submitted, and posted on the board."""
    logs = places.runs / "slurm" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    logs.mkdir(parents=True)
    listed, now = list(fresh), time.time()
    parts = [tuple(listed[at : at + wish.runs]) for at in range(0, len(listed), wish.runs)]
    jobs = slurm.submit([Task(part, places, device, now, logs) for part in parts], wish, logs, parallel)
    posted = [{**fresh[cell], "job": job} for part, job in zip(parts, jobs, strict=True) for cell in part]
    board.post_slurm(places.runs, jobs[0], logs, posted)
    known = _places(posted, logs, places.runs)
    return {cell: known[entry["folder"]] for cell, entry in fresh.items()}
