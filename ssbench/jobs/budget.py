"""`run --hours H`: how many steps each run may take, so that all of them together take about H hours on this machine.

All runs are made longer or shorter by one factor, so the rows of a table keep equal steps. A run's hours are those of
the plan where a run of its recipe is stored that was timed on this machine. Else its first steps are timed, and the
scores that it will take. What was decided is kept, because the same command must mean the same runs when it goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import floor, log10

from pydantic import BaseModel, ConfigDict

from ssbench.console import say
from ssbench.errors import HardwareError
from ssbench.files import read_model, write_json
from ssbench.jobs.cost import Device, WorkCache, cost, speed_kind, stored_speeds
from ssbench.jobs.job import Job, Places
from ssbench.jobs.targets import split_size
from ssbench.jobs.workload import WorkCounter
from ssbench.methods.base import Method
from ssbench.recipe.recipe import Recipe
from ssbench.results.store import ResultStore

FEWEST = 20
"""Steps below which a run shows nothing; a budget that allows fewer is refused."""

HoursOf = Callable[[Job], tuple[float, int]]
"""(hours of a job as its recipe stands, optimiser steps of its training)."""


class _BudgetFile(BaseModel):
    """`budgets/<digest>.json` below the run folders: the `--set` arguments of each job, by its name."""

    model_config = ConfigDict(strict=True)

    hours: float
    jobs: dict[str, list[str]]


def planned_hours(job: Job, places: Places, machine: str) -> tuple[float, int] | None:
    """(hours, steps) of a job by stored runs of its recipe on `machine`, as `ssbench plan` has them; None without such.

    Speeds of `plan --measure` are left out: they know nothing of the time that scoring takes. So are methods that
    train more than once, whose steps are not those of the schedule.
    """
    recipe = job.load_recipe(places)
    if recipe.classes[0].fit is not Method.fit:
        return None
    store = ResultStore(places.results)
    records = [record for record in store.select([(recipe.stored_name, "")]) if not record.quick]
    speed = stored_speeds(records, machine).get(speed_kind(recipe.resolved()))
    if speed is None:
        return None
    labeled, unlabeled, _ = split_size(job.split, places.data)
    counter = WorkCounter(places.data)
    work = WorkCache().get(recipe, labeled, unlabeled, lambda: counter.count(recipe, labeled, unlabeled))
    price = cost(work, speed, Device())
    say(f"{job}: {price.hours or 0.0:.2g} hours as its recipe stands, {price.basis}")
    return price.hours or 0.0, work.steps


def within_hours(jobs: Sequence[Job], hours: float, places: Places, hours_of: HoursOf) -> list[Job]:
    """The jobs with `schedule.steps` and `eval.every` set so that together they take about `hours`.

    Raises:
        HardwareError: fewer than `FEWEST` steps would be left for a run.
    """
    names = [str(job) for job in jobs]
    digest = hashlib.sha256("\n".join([repr(hours), *names]).encode()).hexdigest()[:16]
    path = places.runs / "budgets" / f"{digest}.json"
    if path.is_file():
        settings = read_model(path, _BudgetFile, "budget", "delete it: it is made again").jobs
        if set(names) <= set(settings):
            return [_with(job, settings[name]) for job, name in zip(jobs, names, strict=True)]
    costs: dict[Job, tuple[float, int]] = {}
    for job in jobs:
        alike = replace(job, seed=0)
        costs[job] = costs.get(alike) or hours_of(alike)
        costs[alike] = costs[job]
    factor = hours / max(sum(costs[job][0] for job in jobs), 1e-9)
    settings = {name: _settings(job, costs[job][1], factor, places) for job, name in zip(jobs, names, strict=True)}
    write_json(path, {"hours": hours, "jobs": settings})
    say(f"{hours:g} hours: {factor:.2g} times the recipes' steps ({path} keeps it)")
    return [_with(job, settings[name]) for job, name in zip(jobs, names, strict=True)]


def _settings(job: Job, steps: int, factor: float, places: Places) -> list[str]:
    recipe: Recipe = job.load_recipe(places)
    fitting = _two_digits(steps * factor)
    if fitting < FEWEST:
        needed = FEWEST / max(steps * factor, 1e-9)
        what = f"{job} would have {fitting} steps, fewer than {FEWEST}"
        raise HardwareError(what, "--hours", f"{needed:.1f} times the hours, fewer runs (--split), or a smaller crop")
    every = max(1, round(recipe.eval.every * fitting / steps))
    return [f"schedule.steps={fitting}", f"eval.every={every}"]


def _two_digits(steps: float) -> int:
    """Rounded down to two digits, so that a small change of the speed changes nothing."""
    if steps < 10:
        return floor(steps)
    unit = 10 ** (floor(log10(steps)) - 1)
    return int(floor(steps / unit) * unit)


def _with(job: Job, settings: Sequence[str]) -> Job:
    return replace(job, overrides=(*job.overrides, *settings))
