"""Score a checkpoint, ours or one the authors released (`ssbench eval`, `ssbench import CHECKPOINT`)."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from ssbench.console import Bars
from ssbench.data.dataset import Dataset
from ssbench.errors import UsageError, nearest
from ssbench.files import sha256
from ssbench.inspect.networks import method_predictor
from ssbench.inspect.opened import CheckpointUse, open_checkpoint
from ssbench.inspect.patches import PatchOptions, PatchTable
from ssbench.methods.base import Method
from ssbench.recipe.recipe import PROTOCOLS, EvalConfig, Recipe
from ssbench.splits.manifest import Partition
from ssbench.tables.claims import Claim, backbone_of
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import evaluate


def score_checkpoint(
    path: Path, recipe_name: str | None, protocol: str | None, subset: str | None, data_root: Path, device: str | None,
    patches: PatchOptions | None = None, overrides: Sequence[str] = (), entry: str | None = None,
    as_saved: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Score `path` under the recipe's protocol or a named one; the documented object of `ssbench eval --json`.

    Args:
        recipe_name: None for a checkpoint of ours, which knows its recipe.
        overrides: `--set` arguments for the recipe; its protocol is among what they change (`eval.crop=513`).
        patches: count by patches, too. The result is under "patches" (see `PatchTable.result`).
        entry, as_saved: see `opened.CheckpointUse`.
    Raises:
        DataError: the file or the data are missing or damaged, or the data have other classes.
        UsageError: an unknown protocol, a released file without a recipe, or patches where no plug-in judges any.
    """
    team = join(device)
    opened = open_checkpoint(path, CheckpointUse(recipe_name, tuple(overrides), entry, as_saved), data_root, True)
    recipe, dataset = opened.recipe, opened.dataset
    assert dataset is not None  # noqa: S101  asked for
    cfg = _protocol(recipe, protocol)
    method = opened.method(team.device) if patches is not None else None
    predict = opened.predictor(team.device) if method is None else method_predictor(recipe, method, team.device)
    table = None if patches is None else _patch_table(patches, recipe_name, method, cfg, dataset, team, data_root)
    subset = subset or cfg.report
    with Bars() as bars:
        score = evaluate(predict, dataset, subset, cfg, recipe.views, team, recipe.data.workers, bars.watch, table)
    is_volume, classes = cfg.protocol == "volume", list(opened.outputs.classes)
    return {
        "checkpoint": str(path), "recipe": recipe.name, "protocol": protocol or cfg.protocol, "subset": subset,
        "metric": "dice" if is_volume else "miou", "value": score.value,
        "classes": classes[1:] if is_volume else classes, "per_class": score.per_class,
        "confusion": score.matrix, "volumes": score.volumes,
        **({} if table is None else {"patches": table.result(team)}),
    }  # fmt: skip


def scored_claim(
    path: Path, recipe_name: str | None, split: str | None, data_root: Path, entry: str | None = None,
    as_saved: bool = False,
) -> Claim:  # fmt: skip
    """Score a released checkpoint under its recipe's protocol, as a claim of its authors; percent to two decimals.

    Raises:
        UsageError: no split is given.
        DataError: the file or the data are missing, damaged or of another network.
    """
    opened = open_checkpoint(path, CheckpointUse(recipe_name, (), entry, as_saved), data_root)
    recipe = opened.recipe
    if split is None and opened.facts is not None:
        split = opened.facts.run.split
    if not split:
        raise UsageError(f"which split was {path.name} trained on?", "--split", "ssbench list splits")
    scored = score_checkpoint(path, recipe_name, None, None, data_root, None, entry=entry, as_saved=as_saved)
    return Claim(
        method=recipe.method.name,
        plugin="+".join(p.name for p in recipe.plugins) or None,
        split=Partition.read(split, data_root).name,
        backbone=backbone_of(recipe.resolved()["net"]),
        crop=recipe.views.crop,
        metric=scored["metric"],
        value=Decimal(f"{scored['value']:.2f}"),
        kind="checkpoint",
        source=f"released checkpoint {path.name} (SHA-256 {sha256(path)[:12]}), scored under {recipe.name}",
        note=f"{scored['protocol']} on {scored['subset']}",
    )


def _patch_table(
    options: PatchOptions, recipe_name: str | None, method: Method | None, cfg: EvalConfig, dataset: Dataset,
    team: Team, data_root: Path,
) -> PatchTable:  # fmt: skip
    """An empty table for the scored method, with the baseline's network beside it where one is given."""
    if cfg.protocol == "volume":
        raise UsageError(f"{dataset.name} is scored by volumes, which have no patches", "--patches", "leave it out")
    if method is None:
        what = "this file holds a bare network, without a classifier of patches"
        raise UsageError(what, "--patches", "score a best.pt of `ssbench run`")
    baseline = None
    if options.baseline is not None:
        without = ("plugin=none",) if options.recipe is None and recipe_name is not None else ()
        use = CheckpointUse(options.recipe or recipe_name, without)
        baseline = open_checkpoint(options.baseline, use, data_root).predictor(team.device)
    return PatchTable(method, len(dataset.classes), cfg, options.over, baseline)


def _protocol(recipe: Recipe, name: str | None) -> EvalConfig:
    """The recipe's protocol, or a named one with the recipe's rule for absent classes where the name has none."""
    if name is None:
        return recipe.eval
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol '{name}'; {nearest(name, list(PROTOCOLS))}", "--protocol", "leave it out")
    return EvalConfig(**{"absent": recipe.eval.absent, **PROTOCOLS[name]})
