"""`run`: trains and scores what is missing of recipes and tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ssbench import paths
from ssbench.commands.common import AllowLeak, DataRoot, Device, Json, Overrides, Plugins, Results, Runs, print_json
from ssbench.errors import RunsFailed, SsbenchError, Stopped, UsageError

if TYPE_CHECKING:
    from ssbench.jobs.job import Outcome
    from ssbench.jobs.targets import WantedAnalysis

    AnalysisEnd = tuple[WantedAnalysis, SsbenchError | None]


def run(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Recipes (name or YAML file) or tables (paper/table1).")
    ] = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", help="Instead: the runs of this `ssbench plan --json`.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option("--from", help="Instead: the run of this record, from the record alone.")
    ] = None,
    plugin: Plugins = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Such as voc/classic/1_16; repeatable.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", min=0, help="Default 0; may be repeated.")] = None,
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="Toy data, small net, a few steps: does it run?")] = False,
    division: Annotated[
        Literal["closed", "open"] | None, typer.Option("--division", help="Default: what the recipe says.")
    ] = None,
    allow_leak: AllowLeak = False,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time (default: one a GPU; 1 on a CPU).")
    ] = None,
    launcher: Annotated[
        Literal["local", "slurm"], typer.Option("--launcher", help="Processes here, or jobs of Slurm.")
    ] = "local",
    slurm: Annotated[
        list[str] | None, typer.Option("--slurm", help="sbatch's key=value: partition, time, gpus-per-node, cpus, ...")
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Submit to Slurm, print the jobs, do not wait.")] = False,
    device: Device = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Train and score what is missing; go on where a run was cut off; never repeat what is done."""
    from ssbench.commands.remote import print_slurm_jobs, run_on_slurm, slurm_options
    from ssbench.console import say
    from ssbench.inspect.analyse import make_analyses
    from ssbench.jobs.job import Places
    from ssbench.jobs.plan_file import analyses_of, jobs_of
    from ssbench.jobs.queue import default_workers, work
    from ssbench.recipe.compose import with_plugins
    from ssbench.train.distributed import is_first_process, refuse_device

    refuse_device(device, here=launcher == "local")
    places = Places(paths.data_root(data_root), paths.runs_root(runs), paths.results_root(results))
    targets = with_plugins(targets or [], plugin or [])
    overrides = [*(overrides or []), *(["data.allow_leak=true"] if allow_leak else [])]
    if record is not None:
        if targets or plan or split or seed or overrides or quick or division:
            raise UsageError("--from names the whole run", "--from", "leave out recipes, splits, seeds and overrides")
        targets, split, seed = _from_record(record, places.data)
    options = slurm_options(launcher == "slurm", slurm or [], detach, device)
    queue = jobs_of(plan, targets or [], split or [], seed or [], overrides or [], quick, places, division)
    analyses: list[AnalysisEnd] = []
    if options is None:
        outcomes = work(queue, places, device, jobs or default_workers(device))
        analyses = make_analyses(analyses_of(plan, targets, split or [], seed or [], places), places, device, quick)
    else:
        handed, outcomes = run_on_slurm(queue, places, device, options, jobs, wait=not detach)
        if analyses_of(plan, targets, split or [], seed or [], places):
            say("the tables' analyses are made by the same command without --launcher, once the runs are done")
        if detach:
            print_slurm_jobs(handed, json)
    if is_first_process() and not detach:
        _print(outcomes, analyses, json)
    _raise_failed(outcomes)
    if failed := [analysis for analysis, error in analyses if error]:
        what = f"{len(failed)} of {len(analyses)} analyses could not be made"
        raise RunsFailed(what, ", ".join(map(str, failed)), "the errors stand above")


def _print(outcomes: Sequence[Outcome], analyses: Sequence[AnalysisEnd], json: bool) -> None:
    if json:
        made = [{"analysis": str(a), "error": str(error) if error else None} for a, error in analyses]
        print_json({"runs": [outcome.as_json() for outcome in outcomes], **({"analyses": made} if made else {})})
        return
    for outcome in outcomes:
        print(outcome)
    for analysis, error in analyses:
        print(f"{'not made' if error else 'analysed'} {analysis}" + (f": {error.what}" if error else ""))


def _from_record(record: Path, data_root: Path) -> tuple[list[str], list[str], list[int]]:
    """Target, split and seed of a stored run; says why its key would differ, if it would."""
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


def _raise_failed(outcomes: list[Outcome]) -> None:
    """Exit code 6 when runs failed; a single one that could not begin keeps the code of its error, said already.

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
