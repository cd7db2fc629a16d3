"""`eval`: scores a checkpoint, and counts what tables show besides scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ssbench import paths
from ssbench.commands.common import (
    Checkpoint,
    ClassesAsSaved,
    DataRoot,
    Device,
    Entry,
    Json,
    NetworkRecipe,
    Overrides,
    Results,
    print_json,
)
from ssbench.errors import UsageError


def evaluate(
    checkpoint: Checkpoint,
    recipe: NetworkRecipe = None,
    split: Annotated[str | None, typer.Option("--split", help="The split it was trained on, for the record.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="A named protocol, not the recipe's.")] = None,
    subset: Annotated[str | None, typer.Option("--on", help="Subset (default: the protocol's reported one).")] = None,
    overrides: Overrides = None,
    entry: Entry = None,
    classes_as_saved: ClassesAsSaved = False,
    patches: Annotated[bool, typer.Option("--patches", help="Also count by patches: MPMC's Table 4.")] = False,
    over: Annotated[
        Literal["union", "all_classes"], typer.Option("--over", help="Classes that patches' agreement is of.")
    ] = "union",
    boxes: Annotated[
        bool,
        typer.Option("--boxes", help="Also the boxes of its detector (WPL) by class, on unlabelled images."),
    ] = False,
    pixels: Annotated[
        bool, typer.Option("--pixels", help="Also its pseudo-labels by class, apart by the boxes of --baseline.")
    ] = False,
    store: Annotated[
        bool, typer.Option("--store", help="Keep what is counted beside the run's record, where tables find it.")
    ] = False,
    baseline: Annotated[
        Path | None, typer.Option("--baseline", help="Checkpoint that patches gain over, or whose detector has boxes.")
    ] = None,
    baseline_recipe: Annotated[
        str | None, typer.Option("--baseline-recipe", help="Its recipe (default: RECIPE without its plug-in).")
    ] = None,
    device: Device = None,
    data_root: DataRoot = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Score a checkpoint; with --patches, --boxes or --pixels, also what tables show besides scores."""
    from ssbench.inspect.analyse import CheckpointAnalyses
    from ssbench.inspect.patches import PatchOptions
    from ssbench.inspect.score import score_checkpoint
    from ssbench.jobs.job import Places
    from ssbench.results.analysis import AnalysisKind
    from ssbench.splits.manifest import Partition
    from ssbench.train.distributed import refuse_device

    if baseline and not (patches or pixels):
        raise UsageError("--baseline is for --patches and --pixels alone", "--baseline", "add --patches")
    _refuse_unfit(patches, boxes, pixels, store, split)
    if baseline_recipe and not baseline:
        raise UsageError("--baseline-recipe without a checkpoint", "--baseline-recipe", "add --baseline best.pt")
    refuse_device(device)
    root = paths.data_root(data_root)
    trained = None if split is None else Partition.read(split, root)
    options = PatchOptions(over, baseline, baseline_recipe) if patches else None
    scores = score_checkpoint(
        checkpoint, recipe, protocol, subset, root, device, options, overrides or (), entry, classes_as_saved
    )
    scores["split"] = None if trained is None else trained.name
    chosen: dict[AnalysisKind, bool] = {"patches": patches and store, "boxes": boxes, "pixels": pixels}
    kinds = [kind for kind, is_wanted in chosen.items() if is_wanted]
    if kinds and trained is not None:
        places = Places(root, paths.runs_root(None), paths.results_root(results))
        name, settings = recipe or scores["recipe"], (*_own_settings(checkpoint, recipe), *(overrides or ()))
        asked = CheckpointAnalyses(checkpoint, name, settings, baseline, baseline_recipe, store)
        scores["analyses"] = asked.make(kinds, trained.name, places, device, scores)
    if json:
        print_json(scores)
        return
    print(f"{scores['metric']} {scores['value']:.2f} on {scores['subset']} ({scores['protocol']})")
    for name, value in zip(scores["classes"], scores["per_class"], strict=True):
        print(f"  {name:20} {'-' if value is None else format(value, '.2f')}")
    if patches:
        _print_patches(scores["patches"])
    for kind, values in scores.get("analyses", {}).items():
        if kind != "patches":
            _print_by_class(kind, values)


def _own_settings(checkpoint: Path, recipe: str | None) -> tuple[str, ...]:
    """The `--set` arguments of the run that wrote a checkpoint, where its own recipe is used."""
    from ssbench.train.checkpoint import read_facts

    facts = read_facts(checkpoint) if recipe is None else None
    return facts.run.overrides if facts else ()


def _refuse_unfit(patches: bool, boxes: bool, pixels: bool, store: bool, split: str | None) -> None:
    if store and not (patches or boxes or pixels):
        raise UsageError("--store keeps analyses, a score belongs to its run", "--store", "add --patches")
    if (store or boxes or pixels) and split is None:
        raise UsageError("which split was it trained on?", "--split", "ssbench list splits")


def _print_by_class(kind: str, values: Mapping[str, Mapping[str, float | None]]) -> None:
    """Percent right, a class a line."""
    quantities = list(next(iter(values.values())))
    print(f"{kind}: percent right" + "".join(f"  {quantity:>9}" for quantity in quantities))
    for name, shares in values.items():
        cells = (shares.get(quantity) for quantity in quantities)
        print(f"  {name:20}" + "".join(f"  {'-' if cell is None else format(cell, '.2f'):>9}" for cell in cells))


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
