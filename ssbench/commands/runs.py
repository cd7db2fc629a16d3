"""`check`, `run`, `eval`: recipes and what is done with them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssbench.commands.common import DataRoot, Device, Json, Overrides, Plugins, Results, Runs, print_json
from ssbench.errors import RecipeError, RunsFailed, SsbenchError, Stopped, UsageError

if TYPE_CHECKING:
    from ssbench.jobs.job import Outcome
    from ssbench.recipe.recipe import Recipe


class Division(StrEnum):
    """What a run claims."""

    closed = "closed"
    open = "open"


class Launcher(StrEnum):
    """Who starts the processes."""

    local = "local"
    slurm = "slurm"


class Over(StrEnum):
    """Classes that the agreement of two label sets is counted over."""

    union = "union"
    all_classes = "all_classes"


CLAIMS: dict[Division, Literal["closed", "open"]] = {Division.closed: "closed", Division.open: "open"}


def check(
    recipes: Annotated[list[str] | None, typer.Argument(help="Recipe names or YAML files.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every shipped recipe.")] = False,
    plugin: Plugins = None,
    write: Annotated[
        Path | None, typer.Option("--write", help="Also write the recipe, whole and commented, to this YAML file.")
    ] = None,
    overrides: Overrides = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Validate recipes; print each constant with its source."""
    from ssbench.console import say
    from ssbench.recipe.compose import with_plugins
    from ssbench.recipe.recipe import load, recipe_names

    names = with_plugins(recipe_names() if all_ else recipes or [], plugin or [])
    if not names:
        raise UsageError("no recipe given", "arguments", "ssbench check --all, or ssbench list recipes")
    if write is not None and len(names) != 1:
        raise UsageError(f"--write with {len(names)} recipes", "--write", "ssbench check RECIPE --write mine.yaml")
    loaded: list[Recipe] = []
    wrong: list[RecipeError] = []
    for name in names:
        try:
            loaded.append(load(name, overrides or (), data_root=data_root))
        except RecipeError as error:
            wrong.append(error)
    if json:
        print_json({"recipes": [_checked(recipe) for recipe in loaded], "errors": [vars(e) for e in wrong]})
    for recipe in loaded if not json else ():
        _print_checked(recipe, short=all_)
    for other in wrong[1:]:
        say(f"error: {other}")
    if wrong:
        raise wrong[0]
    if write is not None:
        _write_recipe(loaded[0], write)


def _write_recipe(recipe: Recipe, path: Path) -> None:
    from ssbench.console import say
    from ssbench.files import write_text
    from ssbench.recipe.written import recipe_text

    if path.suffix not in (".yaml", ".yml"):
        raise UsageError(f"'{path}' is no YAML file", "--write", "--write mine.yaml")
    if path.exists():
        raise UsageError(f"'{path}' is there already", str(path), "choose another name, or remove the file")
    write_text(path, recipe_text(recipe))
    say(f"{path}: {recipe.name}, whole; edit it, then: ssbench run {path} --split {recipe.data.dataset}/...")


def _checked(recipe: Recipe) -> dict[str, Any]:
    from ssbench.tables.printed import printed_scores

    sources = [{"name": n, "value": v, "source": m.comment, "at": str(m)} for n, v, m in recipe.sources()]
    about: dict[str, Any] = {"title": recipe.title, "paper": recipe.paper, "division": recipe.division}
    about |= {"expect": printed_scores(recipe.name)}
    return {"recipe": recipe.name, **about, "resolved": recipe.resolved(), "sources": sources}


def _print_checked(recipe: Recipe, short: bool) -> None:
    if short:
        print(f"ok {recipe.name}")
        return
    from ssbench.tables.printed import printed_scores

    print(f"{recipe.name}: {recipe.title}  ({recipe.path}, {recipe.division} division)")
    for split, score in printed_scores(recipe.name).items():
        print(f"  printed: {score} on {split}")
    for text in recipe.departures:
        print(f"  departure: {text}")
    lines = [(name, str(value), str(mark), mark.comment) for name, value, mark in recipe.sources()]
    name_width, value_width, place_width = (max(len(line[i]) for line in lines) for i in range(3))
    for name, value, place, comment in lines:
        print(f"  {name:{name_width}}  {value:{value_width}}  {place:{place_width}}  {comment}".rstrip())


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
    division: Annotated[Division | None, typer.Option("--division", help="Default: what the recipe says.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time (default: one a GPU; 1 on a CPU).")
    ] = None,
    launcher: Annotated[
        Launcher, typer.Option("--launcher", help="Processes here, or jobs of Slurm.")
    ] = Launcher.local,
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
    from ssbench.jobs.job import Places
    from ssbench.jobs.plan_file import jobs_of
    from ssbench.jobs.queue import default_workers, work
    from ssbench.paths import data_root as data_of
    from ssbench.paths import results_root, runs_root
    from ssbench.recipe.compose import with_plugins
    from ssbench.train.distributed import is_first_process

    places = Places(data_of(data_root), runs_root(runs), results_root(results))
    claim = None if division is None else CLAIMS[division]
    targets = with_plugins(targets or [], plugin or [])
    if record is not None:
        if targets or plan or split or seed or overrides or quick or division:
            raise UsageError("--from names the whole run", "--from", "leave out recipes, splits, seeds and overrides")
        targets, split, seed = _from_record(record, places.data)
    options = slurm_options(launcher is Launcher.slurm, slurm or [], detach, device)
    queue = jobs_of(plan, targets or [], split or [], seed or [], overrides or [], quick, places, claim)
    if options is None:
        outcomes = work(queue, places, device, jobs or default_workers(device))
    else:
        handed, outcomes = run_on_slurm(queue, places, device, options, jobs, wait=not detach)
        if detach:
            print_slurm_jobs(handed, json)
    if json and is_first_process() and not detach:
        print_json({"runs": [outcome.as_json() for outcome in outcomes]})
    for outcome in outcomes if is_first_process() and not (json or detach) else ():
        print(outcome)
    _raise_failed(outcomes)


def _from_record(record: Path, data_root: Path) -> tuple[list[str], list[str], list[int]]:
    """Target, split and seed of a stored run; says why its key would differ, if it would."""
    from ssbench.console import say
    from ssbench.recipe.identity import read_stored_run
    from ssbench.splits.manifest import Partition

    stored = read_stored_run(record, data_root)
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


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Our best.pt / checkpoint.pt, or the authors' released file.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe that says what the network is.")],
    split: Annotated[str | None, typer.Option("--split", help="The split it was trained on, for the record.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="A named protocol, not the recipe's.")] = None,
    subset: Annotated[str | None, typer.Option("--on", help="Subset (default: the protocol's reported one).")] = None,
    overrides: Overrides = None,
    patches: Annotated[bool, typer.Option("--patches", help="Also count by patches: MPMC's Table 4.")] = False,
    over: Annotated[Over, typer.Option("--over", help="Classes that patches' agreement is of.")] = Over.union,
    baseline: Annotated[Path | None, typer.Option("--baseline", help="Checkpoint that patches gain over.")] = None,
    baseline_recipe: Annotated[
        str | None, typer.Option("--baseline-recipe", help="Its recipe (default: RECIPE without its plug-in).")
    ] = None,
    device: Device = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Score a checkpoint; with --patches, tell where its patch classifier agrees, and what that gains."""
    from ssbench.inspect.patches import PatchOptions
    from ssbench.inspect.score import score_checkpoint
    from ssbench.paths import data_root as data_of
    from ssbench.splits.manifest import Partition

    if baseline and not patches:
        raise UsageError("--baseline is for --patches alone", "--baseline", "add --patches")
    if baseline_recipe and not baseline:
        raise UsageError("--baseline-recipe without a checkpoint", "--baseline-recipe", "add --baseline best.pt")
    root = data_of(data_root)
    trained = None if split is None else Partition.read(split, root)
    options = PatchOptions(over.value, baseline, baseline_recipe) if patches else None
    found = score_checkpoint(checkpoint, recipe, protocol, subset, root, device, options, overrides or ())
    found["split"] = None if trained is None else trained.name
    if json:
        print_json(found)
        return
    print(f"{found['metric']} {found['value']:.2f} on {found['subset']} ({found['protocol']})")
    for name, value in zip(found["classes"], found["per_class"], strict=True):
        print(f"  {name:20} {'-' if value is None else format(value, '.2f')}")
    if patches:
        _print_patches(found["patches"])


def _print_patches(found: dict[str, Any]) -> None:
    """The rows of MPMC's Table 4 as columns, percent and points of mIoU."""
    side = found["window"]
    print(f"{found['patches']} patches of {side} x {side} pixels, every {found['stride']}; agreement ({found['over']})")
    print(f"  {'agreement':>10}  {'% patches':>9}  {'mIoU':>6}  {'baseline':>8}  {'gain':>6}")
    for row in found["bins"]:
        forms = {"miou": ".2f", "baseline": ".2f", "gain": "+.2f"}
        miou, base, gain = ("-" if row[n] is None else format(row[n], form) for n, form in forms.items())
        print(f"  {row['agreement']:>10}  {row['share']:>9.1f}  {miou:>6}  {base:>8}  {gain:>6}")
