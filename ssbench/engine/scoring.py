"""Scoring a checkpoint that is already there: ours, or one the authors released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ssbench.engine import checkpoint as files
from ssbench.engine.build import dataset_of, method_of, net_maker
from ssbench.engine.console import Bars
from ssbench.engine.distributed import join
from ssbench.engine.evaluate import Predict, evaluate
from ssbench.errors import DataError, UsageError, nearest
from ssbench.nets.weights import load_checkpoint
from ssbench.recipe import PROTOCOLS, EvalConfig, Recipe, load


def score_checkpoint(
    path: Path, recipe_name: str, protocol: str | None, subset: str | None, data_root: Path, device: str | None
) -> dict[str, Any]:
    """Score `path` under the recipe's or a named protocol; the documented object of `ssbench eval --json`.

    Raises:
        DataError: the file or the data are missing or damaged. UsageError: an unknown protocol.
    """
    recipe = load(recipe_name, ("net.weights=random",), data_root=data_root)
    cfg = _protocol(recipe, protocol)
    dataset, team = dataset_of(recipe.data.dataset, data_root, recipe.data.form), join(device)
    predict = predictor(recipe, path, len(dataset.classes), dataset.channels, team.device)
    on = subset or cfg.report
    with Bars() as bars:
        found = evaluate(predict, dataset, on, cfg, recipe.views, team, recipe.data.workers, bars.watch)
    classes = dataset.classes[1:] if cfg.protocol == "volume" else dataset.classes
    return {
        "checkpoint": str(path), "recipe": recipe.name, "protocol": protocol or cfg.protocol, "subset": on,
        "metric": "dice" if cfg.protocol == "volume" else "miou", "value": found.value, "classes": list(classes),
        "per_class": found.per_class, "confusion": found.matrix, "volumes": found.volumes,
    }  # fmt: skip


def predictor(recipe: Recipe, path: Path, classes: int, channels: int, device: Any) -> Predict:
    """Images -> logits by the networks in `path`: a method's (ours) or a bare network's (the authors')."""
    if (found := _ours(path)) is not None:
        method = method_of(recipe, classes, channels, 0)
        try:
            method.load_state_dict(found)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            what = f"the checkpoint is of another recipe: {reason}"
            raise DataError(what, str(path), "give the --recipe it was made by") from None
        method.to(device).eval()
        return method.predict
    net = net_maker(recipe, classes, channels, 0)("student")
    load_checkpoint(net, path)
    net.to(device).eval()
    return lambda x: net(x).logits


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
