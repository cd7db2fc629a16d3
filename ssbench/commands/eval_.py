"""`eval`: scores a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ssbench import paths
from ssbench.commands.common import Checkpoint, DataRoot, Device, Json, NetworkRecipe, Overrides, print_json
from ssbench.errors import UsageError


def evaluate(
    checkpoint: Checkpoint,
    recipe: NetworkRecipe,
    split: Annotated[str | None, typer.Option("--split", help="The split it was trained on, for the record.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="A named protocol, not the recipe's.")] = None,
    subset: Annotated[str | None, typer.Option("--on", help="Subset (default: the protocol's reported one).")] = None,
    overrides: Overrides = None,
    patches: Annotated[bool, typer.Option("--patches", help="Also count by patches: MPMC's Table 4.")] = False,
    over: Annotated[
        Literal["union", "all_classes"], typer.Option("--over", help="Classes that patches' agreement is of.")
    ] = "union",
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
    from ssbench.splits.manifest import Partition

    if baseline and not patches:
        raise UsageError("--baseline is for --patches alone", "--baseline", "add --patches")
    if baseline_recipe and not baseline:
        raise UsageError("--baseline-recipe without a checkpoint", "--baseline-recipe", "add --baseline best.pt")
    root = paths.data_root(data_root)
    trained = None if split is None else Partition.read(split, root)
    options = PatchOptions(over, baseline, baseline_recipe) if patches else None
    scores = score_checkpoint(checkpoint, recipe, protocol, subset, root, device, options, overrides or ())
    scores["split"] = None if trained is None else trained.name
    if json:
        print_json(scores)
        return
    print(f"{scores['metric']} {scores['value']:.2f} on {scores['subset']} ({scores['protocol']})")
    for name, value in zip(scores["classes"], scores["per_class"], strict=True):
        print(f"  {name:20} {'-' if value is None else format(value, '.2f')}")
    if patches:
        _print_patches(scores["patches"])


def _print_patches(scores: dict[str, Any]) -> None:
    """The rows of MPMC's Table 4 as columns, percent and points of mIoU."""
    side = scores["window"]
    print(
        f"{scores['patches']} patches of {side} x {side} pixels, every {scores['stride']}; agreement ({scores['over']})"
    )
    print(f"  {'agreement':>10}  {'% patches':>9}  {'mIoU':>6}  {'baseline':>8}  {'gain':>6}")
    for row in scores["bins"]:
        forms = {"miou": ".2f", "baseline": ".2f", "gain": "+.2f"}
        miou, base, gain = ("-" if row[n] is None else format(row[n], form) for n, form in forms.items())
        print(f"  {row['agreement']:>10}  {row['share']:>9.1f}  {miou:>6}  {base:>8}  {gain:>6}")
