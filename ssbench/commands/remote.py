"""`run --launcher slurm`: the part of `run` that Slurm does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ssbench.commands.common import print_json
from ssbench.errors import UsageError

if TYPE_CHECKING:
    from ssbench.jobs.job import Job, Outcome, Places
    from ssbench.jobs.slurm import SlurmOptions
    from ssbench.jobs.slurm_queue import SlurmQueue


def slurm_options(is_slurm: bool, texts: Sequence[str], detach: bool, device: str | None) -> SlurmOptions | None:
    """The options of `--launcher`, `--slurm` and `--detach`; None for processes of this machine.

    Raises:
        UsageError: options of Slurm without Slurm, or none it knows. HardwareError: no Slurm here.
    """
    from ssbench.console import say
    from ssbench.jobs.slurm import parse_options, require_slurm

    if not is_slurm:
        if texts or detach:
            option = "--slurm" if texts else "--detach"
            raise UsageError(f"{option} without --launcher slurm", option, "add --launcher slurm")
        return None
    options = parse_options(texts)
    require_slurm()
    if device != "cpu" and not any(name.startswith("g") for name in options.parameters):
        say("no GPU is asked for: --slurm gpus-per-node=1")
    return options


def run_on_slurm(
    jobs: Sequence[Job], places: Places, device: str | None, options: SlurmOptions, parallel: int | None, wait: bool
) -> tuple[SlurmQueue, list[Outcome]]:
    """The queue handed to Slurm, and the outcomes of its jobs: without a `wait`, of those that needed no job."""
    from ssbench.console import say, stderr
    from ssbench.jobs.slurm_queue import hand_over, wait_for
    from ssbench.jobs.status import StatusView

    queue = hand_over(jobs, places, device, options, parallel)
    for error in [outcome.error for outcome in queue.outcomes.values() if outcome.error]:
        say(f"error: {error}")
    others = [f"{len(queue.outcomes)} need no job"] if queue.outcomes else []
    others += [f"{queue.attached} Slurm has already"] if queue.attached else []
    fresh = len(queue.placements) - queue.attached
    say(f"{fresh} of {len(jobs)} runs submitted" + (f" ({', '.join(others)})" if others else ""))
    if queue.placements:
        say(f"Slurm jobs {', '.join(queue.arrays)}; logs in {queue.places.runs / 'slurm'}")
    if not wait:
        return queue, list(queue.outcomes.values())
    if queue.placements:
        say("Ctrl-C stops waiting, not the jobs")
    with StatusView(stderr) as view:
        return queue, wait_for(queue, view)


def print_slurm_jobs(queue: SlurmQueue, json: bool) -> None:
    """Runs and their Slurm jobs, on stdout."""
    rows = []
    for job in queue.jobs:
        place, outcome = queue.placements.get(job), queue.outcomes.get(job)
        rows.append({
            "recipe": job.recipe,
            "split": job.split,
            "seed": job.seed,
            "job": place.slurm_job if place else None,
            "logs": str(place.logs) if place else None,
            "state": outcome.state if outcome else "with Slurm",
        })  # fmt: skip
        if not json:
            print(f"{place.slurm_job} {job}" if place else str(outcome))
    if json:
        print_json({"jobs": rows})
