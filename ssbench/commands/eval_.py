"""`eval`: scores a checkpoint, and counts what tables show besides scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssbench import paths
from ssbench.commands import common
from ssbench.errors import UsageError

if TYPE_CHECKING:
    from ssbench.results.analysis import AnalysisKind


Split = Annotated[str | None, typer.Option("--split", help="The split it was trained on, for the record.")]
Protocol = Annotated[str | None, typer.Option("--protocol", help="A named protocol, not the recipe's.")]
Subset = Annotated[str | None, typer.Option("--on", help="Subset (default: the protocol's reported one).")]
Patches = Annotated[bool, typer.Option("--patches", help="Also count by patches: MPMC's Table 4.")]
Over = Annotated[Literal["union", "all_classes"], typer.Option("--over", help="Classes that patches' agreement is of.")]
Boxes = Annotated[
    bool, typer.Option("--boxes", help="Also the boxes of its detector (WPL) by class, on unlabelled images.")
]
Pixels = Annotated[
    bool, typer.Option("--pixels", help="Also its pseudo-labels by class, apart by the boxes of --baseline.")
]
Store = Annotated[
    bool, typer.Option("--store", help="Keep what is counted beside the run's record, where tables find it.")
]
Baseline = Annotated[
    Path | None, typer.Option("--baseline", help="Checkpoint that patches gain over, or whose detector has boxes.")
]
BaselineRecipe = Annotated[
    str | None, typer.Option("--baseline-recipe", help="Its recipe (default: RECIPE without its plug-in).")
]


def evaluate(
    checkpoint: common.Checkpoint,
    recipe: common.NetworkRecipe = None,
    split: Split = None,
    protocol: Protocol = None,
    subset: Subset = None,
    overrides: common.Overrides = None,
    entry: common.Entry = None,
    classes_as_saved: common.ClassesAsSaved = False,
    patches: Patches = False,
    over: Over = "union",
    boxes: Boxes = False,
    pixels: Pixels = False,
    store: Store = False,
    baseline: Baseline = None,
    baseline_recipe: BaselineRecipe = None,
    device: common.Device = None,
    data_root: common.DataRoot = None,
    results: common.Results = None,
    json: common.Json = False,
) -> None:
    """Score a checkpoint; with --patches, --boxes or --pixels, also what tables show besides scores."""
    from ssbench.inspect.analyse import CheckpointAnalyses
    from ssbench.inspect.patches import PatchOptions
    from ssbench.inspect.score import score_checkpoint
    from ssbench.jobs.job import Places
    from ssbench.splits.manifest import Partition
    from ssbench.train.distributed import refuse_device

    chosen: dict[AnalysisKind, bool] = {"patches": patches, "boxes": boxes, "pixels": pixels}
    _refuse_unfit(chosen, store, split, baseline, baseline_recipe)
    refuse_device(device)
    root = paths.data_root(data_root)
    trained = None if split is None else Partition.read(split, root)
    options = PatchOptions(over, baseline, baseline_recipe) if patches else None
    scores = score_checkpoint(
        checkpoint, recipe, protocol, subset, root, device, options, overrides or (), entry, classes_as_saved
    )
    scores["split"] = None if trained is None else trained.name
    # Patches are counted with the score already; only to be stored they are an analysis.
    kinds = [kind for kind, is_chosen in chosen.items() if is_chosen and (store or kind != "patches")]
    if kinds and trained is not None:
        places = Places(root, paths.runs_root(None), paths.results_root(results))
        name, settings = recipe or scores["recipe"], (*_own_settings(checkpoint, recipe), *(overrides or ()))
        analyses = CheckpointAnalyses(checkpoint, name, settings, baseline, baseline_recipe, store)
        scores["analyses"] = analyses.make(kinds, trained.name, places, device, scores)
    if json:
        common.print_json(scores)
    else:
        _print_scores(scores)


def _print_scores(scores: dict[str, Any]) -> None:
    print(f"{scores['metric']} {scores['value']:.2f} on {scores['subset']} ({scores['protocol']})")
    for name, value in zip(scores["classes"], scores["per_class"], strict=True):
        print(f"  {name:20} {'-' if value is None else format(value, '.2f')}")
    if "patches" in scores:
        _print_patches(scores["patches"])
    for kind, values in scores.get("analyses", {}).items():
        if kind != "patches":
            _print_by_class(kind, values)


def _own_settings(checkpoint: Path, recipe: str | None) -> tuple[str, ...]:
    """The `--set` arguments of the run that wrote a checkpoint, where its own recipe is used."""
    from ssbench.train.checkpoint import read_facts

    facts = read_facts(checkpoint) if recipe is None else None
    return facts.run.overrides if facts else ()


def _refuse_unfit(
    chosen: Mapping[AnalysisKind, bool],
    store: bool,
    split: str | None,
    baseline: Path | None,
    baseline_recipe: str | None,
) -> None:
    if baseline and not (chosen["patches"] or chosen["pixels"]):
        raise UsageError("--baseline is for --patches and --pixels alone", "--baseline", "add --patches")
    if baseline_recipe and not baseline:
        raise UsageError("--baseline-recipe without a checkpoint", "--baseline-recipe", "add --baseline best.pt")
    if store and not any(chosen.values()):
        raise UsageError("--store keeps analyses, a score belongs to its run", "--store", "add --patches")
    if (store or chosen["boxes"] or chosen["pixels"]) and split is None:
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
