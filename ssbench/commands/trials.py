"""What `run` does besides whole runs: sweeps, the first steps of a run, and runs within a budget of hours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ssbench.commands.common import print_json
from ssbench.errors import UsageError

if TYPE_CHECKING:
    from ssbench.jobs.job import Job, Places
    from ssbench.jobs.sweep import Combination


def check_trial(limit: int | None, hours: float | None, is_elsewhere: bool) -> None:
    """UsageError for a trial or a budget that makes no sense with the other options."""
    if limit is not None and hours is not None:
        raise UsageError("--limit tries a run, --hours does one", "--limit", "leave out one of them")
    if (limit is not None or hours is not None) and is_elsewhere:
        word = "--limit" if limit is not None else "--hours"
        raise UsageError(f"{word} is for real runs on this machine", word, "leave out --quick and --launcher slurm")


def sweep_jobs(
    plan: Path | None,
    names: tuple[list[str], list[str], list[int], list[str]],
    product: Sequence[Combination],
    quick: bool,
    places: Places,
    division: Literal["closed", "open"] | None,
) -> list[Job]:
    """The jobs of every combination of a sweep, each once; names: targets, splits, seeds, overrides."""
    from ssbench.jobs.plan_file import jobs_of

    targets, splits, seeds, overrides = names
    jobs: list[Job] = []
    for combination in product:
        jobs += jobs_of(plan, targets, splits, seeds, [*overrides, *combination], quick, places, division)
    return list(dict.fromkeys(jobs))


def try_first_steps(queue: Sequence[Job], places: Places, device: str | None, limit: int, json: bool) -> None:
    """The first steps of each job, one after another. What goes wrong is raised as a whole run would raise it."""
    from ssbench.console import Bars
    from ssbench.jobs.limited import run_limited
    from ssbench.train.distributed import join

    team = join(device)
    with Bars() as bars:
        tried = [run_limited(job, places, team, bars, limit) for job in queue]
    if json:
        print_json({"tried": [run.as_json() for run in tried]})
        return
    for run in tried:
        print(run)


def jobs_within_hours(queue: list[Job], places: Places, device: str | None, hours: float | None) -> list[Job]:
    """The jobs with as many steps as fit, by stored runs or by their first steps here; without a budget as they are."""
    if hours is None:
        return queue
    from ssbench.console import Bars
    from ssbench.jobs.budget import planned_hours, within_hours
    from ssbench.jobs.limited import TIMED, run_limited
    from ssbench.train.distributed import join
    from ssbench.train.machine import hardware

    team = join(device)
    machine = str(hardware(team.device)["name"])
    with Bars() as bars:

        def hours_of(job: Job) -> tuple[float, int]:
            if (planned := planned_hours(job, places, machine)) is not None:
                return planned
            run = run_limited(job, places, team, bars, TIMED)
            return run.hours or 0.0, run.total

        return within_hours(queue, hours, places, hours_of)
