"""A plan for people, as text, and a plan's file (`ssbench plan --json`) as jobs to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ssbench.errors import RecipeError, UsageError
from ssbench.files import read_model
from ssbench.jobs.job import Job, Places
from ssbench.jobs.planned import THERE, DatasetDisk, PlannedAnalysis, PlannedRun, RunPlan
from ssbench.jobs.targets import AnalysisJob, split_size, target_analyses, target_jobs
from ssbench.recipe.recipe import Division, load
from ssbench.splits.manifest import dataset_of_split

AGAIN = "make it again: ssbench plan TABLE... --json > plan.json"
MAX_BYTES = 64_000_000
COLUMNS = ("recipe", "split", "seeds", "state", "hours", "basis", "cells")
GIB = 2**30


class PlanFile(BaseModel):
    """What is read of a plan's file."""

    model_config = ConfigDict(strict=True, frozen=True)

    plan: Literal[1]
    runs: list[PlannedRun]
    analyses: list[PlannedAnalysis] = []


def jobs_of(
    plan: Path | None,
    targets: Sequence[str],
    splits: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    quick: bool,
    places: Places,
    division: Division | None = None,
) -> list[Job]:
    """The jobs of a plan's file, or those of recipes and tables (`target_jobs`; seed 0 where none is given).

    Raises:
        UsageError: both or neither, or a plan and something that only recipes and tables leave open. Else as both.
    """
    if (plan is None) == (not targets):
        raise UsageError("either recipes and tables, or a plan", "arguments", "ssbench run TABLE, or --plan FILE")
    if plan is None:
        return target_jobs(targets, splits, seeds or [0], overrides, quick, places, division)
    if splits or seeds or overrides or quick or division:
        what = "a plan says itself which splits, seeds and settings are run"
        raise UsageError(what, "--plan", "leave out --split, --seed, --set, --quick and --division")
    return planned_jobs(plan, places)


def analyses_of(
    plan: Path | None, targets: Sequence[str], splits: Sequence[str], seeds: Sequence[int], places: Places
) -> list[AnalysisJob]:
    """The analyses behind a plan's file, or behind the tables among the targets (`target_analyses`)."""
    if plan is None:
        return target_analyses(targets, splits, seeds or [0], places)
    file = read_model(plan, PlanFile, "plan", AGAIN, max_bytes=MAX_BYTES)
    return [a.job for a in file.analyses if a.state != "done"]


def planned_jobs(path: Path, places: Places) -> list[Job]:
    """The chosen runs of the plan in `path`.

    Raises:
        UsageError: no such file, or a plan without a chosen run. DataError: a damaged file. RecipeError: a recipe has
        changed since, so that its run would be another one than was planned.
    """
    if not path.is_file():
        raise UsageError("no such plan", str(path), AGAIN)
    jobs = []
    for at, run in enumerate(read_model(path, PlanFile, "plan", AGAIN, max_bytes=MAX_BYTES).runs, 1):
        if not run.chosen:
            continue
        dataset, digest = dataset_of_split(run.split, places.data), split_size(run.split, places.data)[2]
        recipe = load(run.recipe, run.overrides, data_root=places.data, dataset=dataset)
        if run.key is not None and digest is not None and recipe.key(digest, run.seed) != run.key:
            what = f"run {at}, {run.recipe} on {run.split}, is not what was planned: its recipe or split has changed"
            raise RecipeError(what, str(path), AGAIN)
        jobs.append(Job(run.recipe, run.split, run.seed, tuple(run.overrides)))
    if not jobs:
        raise UsageError("the plan has nothing left to run", str(path), AGAIN)
    return jobs


def rows(plan: RunPlan) -> list[tuple[str, ...]]:
    """A row (`COLUMNS`) for each recipe and split, in the plan's order, over its seeds."""
    groups: dict[tuple[str, str], list[PlannedRun]] = {}
    for run in plan.runs:
        groups.setdefault((run.name, run.split), []).append(run)
    return [_row(runs) for runs in groups.values()]


def _row(runs: Sequence[PlannedRun]) -> tuple[str, ...]:
    first, known = runs[0], [run.hours for run in runs if run.hours is not None]
    states = Counter(run.state if run.chosen or run.state in THERE else "left out" for run in runs)
    return (
        first.name,
        first.split,
        ",".join(str(run.seed) for run in runs),
        ", ".join(f"{count} {state}" for state, count in states.items()),
        _hours(sum(known)) if len(known) == len(runs) else "?",
        first.basis if any(run.state != "done" for run in runs) else "",
        str(first.closes),
    )


def summary(plan: RunPlan) -> Iterator[str]:
    """The totals, a line each."""
    request, states = plan.request, Counter(run.state for run in plan.runs)
    counted = ", ".join(f"{states[state]} {state}" for state in ("done", "running", "partial", "failed", "missing"))
    shared = sum(len(run.also) for run in plan.runs)
    yield f"{len(plan.runs)} runs: {counted}" + (f"; {shared} more are the same under another name" if shared else "")
    if plan.not_yet:
        yield f"{sum(plan.not_yet.values())} cells have no recipe yet: {', '.join(plan.not_yet)}"
    if plan.analyses:
        there = sum(analysis.state == "done" for analysis in plan.analyses)
        yield f"{len(plan.analyses)} analyses of these runs: {there} done; running the table makes the others"
    if request.budget is not None:
        cells, gains = plan.closes
        fitting = f"{len(plan.todo)} of them fit {request.budget:g} hours"
        yield f"{fitting}; they close {cells} cells and {gains} gains"
    for basis, hours in plan.hours_by_basis.items():
        yield f"{_hours(hours)} hours: {basis}"
    yield f"{_hours(plan.wall_hours)} hours on {request.gpus} at a time" if plan.todo else "nothing is left to do"
    short = " (too little)" if plan.checkpoints > plan.free else ""
    yield f"{plan.checkpoints / GIB:.1f} GiB of checkpoints, {plan.free / GIB:.0f} GiB free{short}"
    for dataset in plan.datasets:
        yield _disk(dataset)


def _disk(dataset: DatasetDisk) -> str:
    name, size = dataset.name, dataset.bytes
    if dataset.prepared:
        return f"{name}: prepared, {(size or 0) / GIB:.1f} GiB"
    text = "size not published" if size is None else f"{size / GIB:.1f} GiB of archives, twice with its files"
    return f"{name}: not prepared ({text if size != 0 else 'nothing to download'}): ssbench prepare {name}"


def _hours(hours: float) -> str:
    if 0 < hours < 0.01:
        return "<0.01"
    return f"{hours:.2f}" if hours < 1 else f"{hours:.1f}"
