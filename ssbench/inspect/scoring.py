"""Scoring a checkpoint that is already there: ours, or one the authors released."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssbench.console import Bars
from ssbench.data.dataset import Dataset
from ssbench.errors import DataError, UsageError, nearest
from ssbench.inspect.patches import Asked, PatchTable
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.nets.weights import load_checkpoint
from ssbench.recipe.recipe import PROTOCOLS, EvalConfig, Recipe, load
from ssbench.train import checkpoint as files
from ssbench.train.build import dataset_of, method_of, net_maker
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import Predict, evaluate


def score_checkpoint(
    path: Path, recipe_name: str, protocol: str | None, subset: str | None, data_root: Path, device: str | None,
    patches: Asked | None = None, overrides: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """Score `path` under the recipe's or a named protocol; the documented object of `ssbench eval --json`.

    overrides: `--set` arguments for the recipe, its protocol (`eval.crop=513`) among them.

    patches: count by patches too; what is found is under "patches" then (`engine.patches.PatchTable.result`).

    Raises:
        DataError: the file or the data are missing or damaged. UsageError: an unknown protocol, or patches where none
        are judged.
    """
    recipe = load(recipe_name, ("net.weights=random", *overrides), data_root=data_root)
    cfg = _protocol(recipe, protocol)
    dataset, team = dataset_of(recipe.data.dataset, data_root, recipe.data.form), join(device)
    method = restored(recipe, path, len(dataset.classes), dataset.channels, team.device)
    predict = method.predict if method else bare(recipe, path, len(dataset.classes), dataset.channels, team.device)
    table = None if patches is None else _patch_table(patches, recipe_name, method, cfg, dataset, team, data_root)
    on = subset or cfg.report
    with Bars() as bars:
        found = evaluate(predict, dataset, on, cfg, recipe.views, team, recipe.data.workers, bars.watch, table)
    classes = dataset.classes[1:] if cfg.protocol == "volume" else dataset.classes
    return {
        "checkpoint": str(path), "recipe": recipe.name, "protocol": protocol or cfg.protocol, "subset": on,
        "metric": "dice" if cfg.protocol == "volume" else "miou", "value": found.value, "classes": list(classes),
        "per_class": found.per_class, "confusion": found.matrix, "volumes": found.volumes,
        **({} if table is None else {"patches": table.result(team)}),
    }  # fmt: skip


def predictor(recipe: Recipe, path: Path, classes: int, channels: int, device: Any) -> Predict:
    """Images -> logits by the networks in `path`: a method's (ours) or a bare network's (the authors')."""
    method = restored(recipe, path, classes, channels, device)
    return method.predict if method else bare(recipe, path, classes, channels, device)


def restored(recipe: Recipe, path: Path, classes: int, channels: int, device: Any) -> Method | None:
    """The method of a checkpoint of ours, in eval mode; None where the file is something else."""
    if (found := _ours(path)) is None:
        return None
    method = method_of(recipe, classes, channels, 0)
    try:
        method.load_state_dict(found)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        what = f"the checkpoint is of another recipe: {reason}"
        raise DataError(what, str(path), "give the --recipe it was made by") from None
    return method.to(device).eval()


def bare(recipe: Recipe, path: Path, classes: int, channels: int, device: Any) -> Predict:
    """Images -> logits by the recipe's network alone, with the weights of a file of the authors'."""
    net = bare_net(recipe, path, classes, channels).to(device)
    return lambda x: net(x).logits


def bare_net(recipe: Recipe, path: Path, classes: int, channels: int) -> SegNet:
    """The recipe's network on the CPU, in eval mode, with the weights of a file of the authors'."""
    net = net_maker(recipe, classes, channels, 0)("student")
    load_checkpoint(net, path)
    return net.eval()


def _patch_table(
    asked: Asked, recipe: str, method: Method | None, cfg: EvalConfig, dataset: Dataset, team: Team, data_root: Path
) -> PatchTable:
    """An empty table for the scored method, with the baseline's network beside it where one is asked for."""
    if cfg.protocol == "volume":
        raise UsageError(f"{dataset.name} is scored by volumes, which have no patches", "--patches", "leave it out")
    if method is None:
        what = "this file holds a bare network, without a classifier of patches"
        raise UsageError(what, "--patches", "score a best.pt of `ssbench run`")
    baseline = None
    if asked.baseline is not None:
        alone = () if asked.recipe else ("plugin=none",)
        theirs = load(asked.recipe or recipe, ("net.weights=random", *alone), data_root=data_root)
        baseline = predictor(theirs, asked.baseline, len(dataset.classes), dataset.channels, team.device)
    return PatchTable(method, len(dataset.classes), cfg, asked.over, baseline)


def _ours(path: Path) -> dict[str, Any] | None:
    """The method's state in a checkpoint of ours; None where the file is something else."""
    try:
        found = files.load(path)
    except DataError:  # the authors' files may hold what only `load_checkpoint` reads; it also says what is damaged
        if not path.is_file():
            raise
        return None
    mine = isinstance(found, dict) and "key" in found and "method" in found
    return found["method"] if mine else None


def _protocol(recipe: Recipe, name: str | None) -> EvalConfig:
    if name is None:
        return recipe.eval
    if name not in PROTOCOLS:
        raise UsageError(f"no protocol '{name}'; {nearest(name, list(PROTOCOLS))}", "--protocol", "leave it out")
    return EvalConfig(**{**recipe.eval.model_dump(include={"absent"}), **PROTOCOLS[name]})
