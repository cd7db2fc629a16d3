"""`run --launcher slurm`: the part of `run` that Slurm does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssbench.commands.common import print_json
from ssbench.errors import UsageError

if TYPE_CHECKING:
    from ssbench.jobs.job import Cell, Done, Places
    from ssbench.jobs.launch import Handed
    from ssbench.jobs.slurm import Wish


def wish_of(remote: bool, given: Sequence[str], detach: bool, device: str | None) -> Wish | None:
    """What `--launcher`, `--slurm` and `--detach` ask for; None for processes of this machine.

    Raises:
        UsageError: options of Slurm without Slurm, or none it knows. HardwareError: no Slurm here.
    """
    from ssbench.console import say
    from ssbench.jobs import slurm

    if not remote:
        if given or detach:
            option = "--slurm" if given else "--detach"
            raise UsageError(f"{option} without --launcher slurm", option, "add --launcher slurm")
        return None
    wish = slurm.wish(given)
    slurm.need()
    if device != "cpu" and not any(name.startswith("g") for name in wish.parameters):
        say("no GPU is asked for: --slurm gpus-per-node=1")
    return wish


def launched(
    wanted: Sequence[Cell], places: Places, device: str | None, wish: Wish, jobs: int | None, wait: bool
) -> tuple[Handed, list[Done]]:
    """The queue handed to Slurm, and what became of its cells: without a `wait`, of those that needed no job."""
    from ssbench.console import say, stderr
    from ssbench.jobs.launch import hand_over
    from ssbench.jobs.status_view import View
    from ssbench.jobs.waiting import wait_for

    handed = hand_over(wanted, places, device, wish, jobs)
    for wrong in [done.error for done in handed.over.values() if done.error]:
        say(f"error: {wrong}")
    fresh = len(handed.placed) - handed.attached
    old = [f"{len(handed.over)} need no job"] if handed.over else []
    old += [f"{handed.attached} Slurm has already"] if handed.attached else []
    say(f"{fresh} of {len(wanted)} runs submitted" + (f" ({', '.join(old)})" if old else ""))
    if handed.placed:
        say(f"Slurm jobs {', '.join(handed.arrays)}; logs in {handed.places.runs / 'slurm'}")
    if not wait:
        return handed, list(handed.over.values())
    if handed.placed:
        say("Ctrl-C stops waiting, not the jobs")
    with View(stderr) as view:
        return handed, wait_for(handed, view)


def print_jobs(handed: Handed, json: bool) -> None:
    """Cells and their jobs, on stdout."""
    rows = [
        {
            "recipe": cell.recipe,
            "split": cell.split,
            "seed": cell.seed,
            "job": handed.placed[cell].job if cell in handed.placed else None,
            "logs": str(handed.placed[cell].logs) if cell in handed.placed else None,
            "state": handed.over[cell].as_json()["state"] if cell in handed.over else "with Slurm",
        }
        for cell in handed.cells
    ]
    if json:
        print_json({"jobs": rows})
        return
    for cell, row in zip(handed.cells, rows, strict=True):
        print(f"{row['job']} {cell}" if row["job"] else str(handed.over[cell]))
