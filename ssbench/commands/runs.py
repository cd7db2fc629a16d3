"""`check`, `run`, `eval`: recipes and what is done with them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssbench.commands.common import DataRoot, Json, Results, Runs, print_json
from ssbench.errors import RunsFailed, UsageError

Overrides = Annotated[list[str] | None, typer.Option("--set", help="Override a constant: optim.lr=0.01.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda or cuda:1 (default: cuda where there is one).")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(check)
    app.command()(run)
    app.command(name="eval")(evaluate)


def check(
    recipes: Annotated[list[str] | None, typer.Argument(help="Recipe names or YAML files.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every shipped recipe.")] = False,
    overrides: Overrides = None,
    json: Json = False,
) -> None:
    """Validate recipes; print each constant with its source."""
    from ssbench.recipe import load, recipe_names

    names = list(recipe_names()) if all_ else recipes or []
    if not names:
        raise UsageError("no recipe given", "arguments", "ssbench check --all, or ssbench list recipes")
    loaded = [load(name, overrides or ()) for name in names]
    if json:
        print_json([{"recipe": r.name, "resolved": r.resolved(), "sources": _sources(r)} for r in loaded])
        return
    for recipe in loaded:
        if all_:
            print(f"ok {recipe.name}")
            continue
        print(f"{recipe.name}  ({recipe.path})")
        for name, value, mark in recipe.sources():
            print(f"  {name} = {value!r:24}  {mark.comment or '-':40}  {mark}")


def _sources(recipe: Any) -> list[dict[str, Any]]:
    return [{"name": n, "value": v, "source": m.comment, "at": str(m)} for n, v, m in recipe.sources()]


def run(
    targets: Annotated[list[str], typer.Argument(help="Recipes (name or YAML file) or tables (paper/table1).")],
    split: Annotated[list[str] | None, typer.Option("--split", help="Split, e.g. voc/classic/1_16; may be repeated.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed; may be repeated.")] = None,
    overrides: Overrides = None,
    quick: Annotated[bool, typer.Option("--quick", help="Toy data, small net, a few steps: does it run at all?")] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Runs at a time, each in a process of its own.")] = 1,
    device: Device = None,
    data_root: DataRoot = None,
    runs: Runs = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Train and score what is missing; go on where a run was cut off; never repeat what is done."""
    from ssbench.engine.console import say
    from ssbench.engine.queue import Cell, cells, work
    from ssbench.engine.run import Places
    from ssbench.paths import data_root as data_of
    from ssbench.paths import results_root, runs_root

    places = Places(data_of(data_root), runs_root(runs), results_root(results))
    wanted: list[Cell] = cells(targets, split or [], seed or [0], overrides or [], quick, places)
    done = work(wanted, places, device, jobs)
    if json:
        print_json({"runs": [d.as_json() for d in done]})
    else:
        for one in done:
            print(one)
    failed = [d for d in done if d.error]
    if failed:
        say(f"{len(failed)} of {len(done)} runs failed")
        raise failed[0].as_error() if len(done) == 1 else RunsFailed(f"{len(failed)} of {len(done)} runs failed",
            ", ".join(str(f.cell) for f in failed), "the errors stand above; the same command runs what is missing")


def evaluate(
    checkpoint: Annotated[Path, typer.Argument(help="Our best.pt / checkpoint.pt, or the authors' released file.")],
    recipe: Annotated[str, typer.Option("--recipe", help="The recipe that says what the network is.")],
    split: Annotated[str | None, typer.Option("--split", help="For the record only: the split it was trained on.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="A named protocol instead of the recipe's.")] = None,
    subset: Annotated[str | None, typer.Option("--on", help="Subset (default: the protocol's reported one).")] = None,
    device: Device = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Score a checkpoint."""
    from ssbench.engine.scoring import score_checkpoint
    from ssbench.paths import data_root as data_of

    found = score_checkpoint(checkpoint, recipe, protocol, subset, data_of(data_root), device)
    if split is not None:
        found["split"] = split
    if json:
        print_json(found)
        return
    print(f"{found['metric']} {found['value']:.2f} on {found['subset']} ({found['protocol']})")
    for name, value in zip(found["classes"], found["per_class"], strict=True):
        print(f"  {name:20} {'-' if value is None else format(value, '.2f')}")


