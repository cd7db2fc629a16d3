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
from ssbench.inspect.networks import BARE, load_method, load_predictor, method_predictor, released_predictor
from ssbench.inspect.patches import PatchOptions, PatchTable
from ssbench.methods.base import Method
from ssbench.recipe.recipe import PROTOCOLS, EvalConfig, Recipe, load
from ssbench.splits.manifest import Partition
from ssbench.tables.claims import Claim
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import evaluate


def score_checkpoint(
    path: Path, recipe_name: str, protocol: str | None, subset: str | None, data_root: Path, device: str | None,
    patches: PatchOptions | None = None, overrides: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Score `path` under the recipe's protocol or a named one; the documented object of `ssbench eval --json`.

    Args:
        overrides: `--set` arguments for the recipe; its protocol is among what they change (`eval.crop=513`).
        patches: count by patches, too. The result is under "patches" (see `PatchTable.result`).
    Raises:
        DataError: the file or the data are missing or damaged.
        UsageError: an unknown protocol, or patches where no plug-in judges any.
    """
    recipe = load(recipe_name, (*BARE, *overrides), data_root=data_root)
    cfg = _protocol(recipe, protocol)
    dataset, team = dataset_of(recipe, data_root), join(device)
    method = load_method(recipe, path, dataset, team.device)
    predict = (
        method_predictor(recipe, method, team.device)
        if method
        else released_predictor(recipe, path, dataset, team.device)
    )
    table = None if patches is None else _patch_table(patches, recipe_name, method, cfg, dataset, team, data_root)
    subset = subset or cfg.report
    with Bars() as bars:
        score = evaluate(predict, dataset, subset, cfg, recipe.views, team, recipe.data.workers, bars.watch, table)
    is_volume = cfg.protocol == "volume"
    return {
        "checkpoint": str(path), "recipe": recipe.name, "protocol": protocol or cfg.protocol, "subset": subset,
        "metric": "dice" if is_volume else "miou", "value": score.value,
        "classes": list(dataset.classes[1:] if is_volume else dataset.classes), "per_class": score.per_class,
        "confusion": score.matrix, "volumes": score.volumes,
        **({} if table is None else {"patches": table.result(team)}),
    }  # fmt: skip


def scored_claim(path: Path, recipe_name: str, split: str | None, data_root: Path) -> Claim:
    """Score a released checkpoint under its recipe's protocol, as a claim of its authors; percent to two decimals.

    Raises:
        UsageError: no split is given.
        DataError: the file or the data are missing, damaged or of another network.
    """
    recipe = load(recipe_name, data_root=data_root)
    if split is None:
        raise UsageError(f"which split was {path.name} trained on?", "--split", "ssbench list splits")
    scored = score_checkpoint(path, recipe_name, None, None, data_root, None)
    encoder = str(getattr(recipe.net, "encoder", recipe.net.name))
    return Claim(
        method=recipe.method.name,
        plugin="+".join(p.name for p in recipe.plugins) or None,
        split=Partition.read(split, data_root).name,
        # The papers' word: they call ResNets with a deep stem (resnet101s) as those without.
        backbone=encoder.removesuffix("s") if encoder.startswith("resnet") else encoder,
        crop=recipe.views.crop,
        metric=scored["metric"],
        value=Decimal(f"{scored['value']:.2f}"),
        kind="checkpoint",
        source=f"released checkpoint {path.name} (SHA-256 {sha256(path)[:12]}), scored under {recipe.name}",
        note=f"{scored['protocol']} on {scored['subset']}",
    )


def _patch_table(
    options: PatchOptions, recipe_name: str, method: Method | None, cfg: EvalConfig, dataset: Dataset, team: Team,
    data_root: Path,
) -> PatchTable:  # fmt: skip
    """An empty table for the scored method, with the baseline's network beside it where one is given."""
    if cfg.protocol == "volume":
        raise UsageError(f"{dataset.name} is scored by volumes, which have no patches", "--patches", "leave it out")
    if method is None:
        what = "this file holds a bare network, without a classifier of patches"
        raise UsageError(what, "--patches", "score a best.pt of `ssbench run`")
    baseline = None
    if options.baseline is not None:
        without = () if options.recipe else ("plugin=none",)
        recipe = load(options.recipe or recipe_name, (*BARE, *without), data_root=data_root)
        baseline = load_predictor(recipe, options.baseline, dataset, team.device)
    return PatchTable(method, len(dataset.classes), cfg, options.over, baseline)


def _protocol(recipe: Recipe, name: str | None) -> EvalConfig:
    """The recipe's protocol, or a named one with the recipe's rule for absent classes where the name has none."""
    if name is None:
        return recipe.eval
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol '{name}'; {nearest(name, list(PROTOCOLS))}", "--protocol", "leave it out")
    return EvalConfig(**{"absent": recipe.eval.absent, **PROTOCOLS[name]})
