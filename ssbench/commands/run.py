"""`run`: trains and scores what is missing of recipes and tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssbench import paths
from ssbench.commands import common
from ssbench.errors import RunsFailed, SsbenchError, Stopped, UsageError

if TYPE_CHECKING:
    from ssbench.jobs.job import Job, Outcome, Places
    from ssbench.jobs.slurm import SlurmOptions
    from ssbench.jobs.sweep import Combination
    from ssbench.jobs.targets import AnalysisJob

    AnalysisEnd = tuple[AnalysisJob, SsbenchError | None]


class TrackerName(StrEnum):
    """What `--track` takes: the keys of `tracking.TRACKERS`."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    TRACKIO = "trackio"
    MLFLOW = "mlflow"


Targets = Annotated[list[str] | None, typer.Argument(help="Recipes (name or YAML file) or tables (paper/table1).")]
Plan = Annotated[Path | None, typer.Option("--plan", help="Instead: the runs of this `ssbench plan --json`.")]
Record = Annotated[Path | None, typer.Option("--from", help="Instead: the run of this record, from the record alone.")]
Split = Annotated[list[str] | None, typer.Option("--split", help="Such as voc/classic/1_16; repeatable.")]
Seed = Annotated[list[int] | None, typer.Option("--seed", min=0, help="Default 0; may be repeated.")]
Sweep = Annotated[
    list[str] | None, typer.Option("--sweep", help="plugin.tau=0.1,0.5,1: a run of each; several: their product.")
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", min=1, help="Only the first so many steps, on the real data; stores nothing."),
]
Hours = Annotated[
    float | None,
    typer.Option(
        "--hours",
        min=0.001,
        callback=common.finite,
        help="Steps so that all runs together take so long here, by stored runs or timed steps.",
    ),
]
Quick = Annotated[bool, typer.Option("--quick", help="Toy data, small net, a few steps: does it run?")]
Division = Annotated[
    Literal["closed", "open"] | None, typer.Option("--division", help="Default: what the recipe says.")
]
Track = Annotated[
    list[TrackerName] | None,
    typer.Option("--track", help="Send each epoch to this tracker too, kept below the runs folder; repeatable."),
]
Jobs = Annotated[
    int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time (default: one a GPU; 1 on a CPU).")
]
Launcher = Annotated[Literal["local", "slurm"], typer.Option("--launcher", help="Processes here, or jobs of Slurm.")]
Slurm = Annotated[
    list[str] | None, typer.Option("--slurm", help="sbatch's key=value: partition, time, gpus-per-node, cpus, ...")
]
Detach = Annotated[bool, typer.Option("--detach", help="Submit to Slurm, print the jobs, do not wait.")]


def run(
    targets: Targets = None,
    plan: Plan = None,
    record: Record = None,
    plugin: common.Plugins = None,
    split: Split = None,
    seed: Seed = None,
    overrides: common.Overrides = None,
    sweep: Sweep = None,
    limit: Limit = None,
    hours: Hours = None,
    quick: Quick = False,
    division: Division = None,
    allow_leak: common.AllowLeak = False,
    track: Track = None,
    jobs: Jobs = None,
    launcher: Launcher = "local",
    slurm: Slurm = None,
    detach: Detach = False,
    device: common.Device = None,
    data_root: common.DataRoot = None,
    runs: common.Runs = None,
    results: common.Results = None,
    json: common.Json = False,
) -> None:
    """Train and score what is missing; go on where a run was cut off; never repeat what is done."""
    from ssbench.commands.remote import slurm_options
    from ssbench.commands.trials import check_trial, jobs_within_hours, sweep_jobs, try_first_steps
    from ssbench.inspect.analyse import make_analyses
    from ssbench.jobs.job import Places
    from ssbench.jobs.plan_file import analyses_of
    from ssbench.jobs.queue import default_workers, work
    from ssbench.jobs.sweep import combinations
    from ssbench.recipe.compose import with_plugins
    from ssbench.train.distributed import refuse_device

    refuse_device(device, here=launcher == "local")
    places = Places(paths.data_root(data_root), paths.runs_root(runs), paths.results_root(results))
    targets = with_plugins(targets or [], plugin or [])
    overrides = [*(overrides or []), *(["data.allow_leak=true"] if allow_leak else [])]
    if record is not None:
        others = targets or plan or split or seed or overrides or sweep or quick or division
        targets, split, seed = _from_record(record, places.data, bool(others))
    options, product = slurm_options(launcher == "slurm", slurm or [], detach, device), combinations(sweep or ())
    check_trial(limit, hours, options is not None or quick)
    queue = sweep_jobs(plan, (targets, split or [], seed or [], overrides), product, quick, places, division)
    if limit is not None:
        try_first_steps(queue, places, device, limit, json)
        return
    trackers = tuple(map(str, track or ()))
    queue = [replace(job, track=trackers) for job in jobs_within_hours(queue, places, device, hours)]
    analyses_to_do = analyses_of(plan, targets, split or [], seed or [], places)
    if options is None:
        outcomes = work(queue, places, device, jobs or default_workers(device))
        analyses = make_analyses(analyses_to_do, places, device, quick)
    else:
        outcomes, analyses = _on_slurm(queue, places, device, options, jobs, detach, json, bool(analyses_to_do)), []
    if not detach:
        _print(outcomes, analyses, (sweep or (), product), json)
    _raise_failed(outcomes, analyses)


def _on_slurm(
    queue: Sequence[Job],
    places: Places,
    device: str | None,
    options: SlurmOptions,
    jobs: int | None,
    detach: bool,
    json: bool,
    has_analyses: bool,
) -> list[Outcome]:
    """The outcomes of a queue handed to Slurm; its jobs are printed where nobody waits for them."""
    from ssbench.commands.remote import print_slurm_jobs, run_on_slurm
    from ssbench.console import say

    handed, outcomes = run_on_slurm(queue, places, device, options, jobs, wait=not detach)
    if has_analyses:
        say("the tables' analyses are made by the same command without --launcher, once the runs are done")
    if detach:
        print_slurm_jobs(handed, json)
    return outcomes


def _print(
    outcomes: Sequence[Outcome],
    analyses: Sequence[AnalysisEnd],
    sweep: tuple[Sequence[str], Sequence[Combination]],
    json: bool,
) -> None:
    """The outcomes and analyses; of a sweep its table instead of a line a run."""
    from ssbench.jobs.sweep import sweep_columns, sweep_rows
    from ssbench.train.distributed import is_first_process

    if not is_first_process():
        return
    columns, rows = sweep_columns(sweep[0]), sweep_rows(sweep[1], outcomes) if sweep[0] else []
    if json:
        ends = [{"analysis": str(a), "error": str(error) if error else None} for a, error in analyses]
        table = {"sweep": [dict(zip(columns, row, strict=True)) for row in rows]} if sweep[0] else {}
        shown = {"runs": [outcome.as_json() for outcome in outcomes], **({"analyses": ends} if ends else {})}
        common.print_json(shown | table)
        return
    if sweep[0]:
        common.print_rows("sweep", columns, rows)
    for outcome in outcomes if not sweep[0] else ():
        print(outcome)
    for analysis, error in analyses:
        print(f"{'not made' if error else 'analysed'} {analysis}" + (f": {error.what}" if error else ""))


def _from_record(record: Path, data_root: Path, has_others: bool) -> tuple[list[str], list[str], list[int]]:
    """Target, split and seed of a stored run; says why its key would differ, if it would.

    Raises:
        UsageError: other options name a run, too.
    """
    if has_others:
        raise UsageError("--from names the whole run", "--from", "leave out recipes, splits, seeds and overrides")
    from ssbench.console import say
    from ssbench.recipe.identity import read_recorded_run
    from ssbench.splits.manifest import Partition

    stored = read_recorded_run(record, data_root)
    differs = [stored.differs] if stored.differs else []
    if Partition.read(stored.split, data_root).sha256 != stored.split_sha256:
        differs.append(f"the list of {stored.split} is not the one of then")
    if differs:
        say(f"{record}: the present code gives this run another key: {'; '.join(differs)}")
    return [str(record)], [stored.split], [stored.seed]


def _raise_failed(outcomes: list[Outcome], analyses: Sequence[AnalysisEnd]) -> None:
    """Exit code 6 when runs or analyses failed; a single run that could not begin keeps the code of its error.

    Runs that were only stopped (by Slurm; here that ends the whole queue) are code 75, if none failed.
    """
    stopped = [outcome for outcome in outcomes if isinstance(outcome.error, Stopped)]
    failed = [outcome for outcome in outcomes if outcome.error and outcome not in stopped] or stopped
    if len(outcomes) == 1 and (error := outcomes[0].error):
        raise typer.Exit(RunsFailed.code if error.code == SsbenchError.code else error.code)
    if failed and failed == stopped:
        raise Stopped(f"{len(failed)} of {len(outcomes)} runs stopped", "Slurm", "run the same command again")
    if failed:
        where = ", ".join(str(outcome.job) for outcome in failed)
        fix = "the errors stand above; the same command runs what is missing"
        raise RunsFailed(f"{len(failed)} of {len(outcomes)} runs failed", where, fix)
    if failures := [analysis for analysis, error in analyses if error]:
        what = f"{len(failures)} of {len(analyses)} analyses could not be made"
        raise RunsFailed(what, ", ".join(map(str, failures)), "the errors stand above")
