"""From a recipe to live objects: dataset, networks, plug-in, method, optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ssbench import find
from ssbench.data.dataset import Dataset
from ssbench.errors import DataError
from ssbench.keyed import key
from ssbench.methods.base import MakeNet, Method
from ssbench.nets.segnet import SegNet
from ssbench.plugins.base import Plugin, Stack
from ssbench.recipe import OptimConfig, Recipe


def dataset_of(name: str, data_root: Path) -> Dataset:
    """The prepared dataset.

    Raises:
        DataError: not prepared, with the command that prepares it.
    """
    cls = find.load("dataset", name)
    root = data_root / name
    if not (root / "ledger.json").is_file():
        raise DataError(f"{name} is not prepared", str(root), f"ssbench prepare {name} --data-root {data_root}")
    made: Dataset = cls(root)
    return made


def net_maker(recipe: Recipe, classes: int, channels: int, seed: int) -> MakeNet:
    """A function of a role ("student") that builds a network; its random start depends on seed and role alone.

    So a baseline and the same baseline with a plug-in start from the same weights.
    """
    cls = find.load("net", recipe.net.name)

    def make(role: str) -> SegNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "weights", role))
            net: SegNet = cls(recipe.net, classes, channels)
        return net

    return make


def plugin_of(recipe: Recipe, classes: int, seed: int) -> Plugin:
    """The recipe's plug-in, several of them stacked, or the identity."""
    made: list[Plugin] = []
    for cfg in recipe.plugins:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "weights", "plugin", cfg.name))
            made.append(_plugin_class(cfg)(cfg, classes))
    if not made:
        return Plugin(Plugin.Config(), classes)
    return made[0] if len(made) == 1 else Stack(made)


def method_of(recipe: Recipe, classes: int, channels: int, seed: int) -> Method:
    """The method with its networks and plug-in, on the CPU."""
    cls = find.load("method", recipe.method.name)
    plugin = plugin_of(recipe, classes, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "weights", "extras"))
        made: Method = cls(recipe.method, net_maker(recipe, classes, channels, seed), plugin, recipe.loss)
    return made


def optimizer_of(cfg: OptimConfig, groups: tuple[Sequence[torch.nn.Parameter], Sequence[torch.nn.Parameter]]) -> Any:
    """The optimiser over (encoder, rest), each group remembering its `base` rate for the schedule."""
    rates = (cfg.lr, cfg.lr * cfg.head)
    listed = [{"params": list(p), "lr": rate, "base": rate} for p, rate in zip(groups, rates, strict=True) if p]
    if cfg.name == "sgd":
        return torch.optim.SGD(listed, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    kind = torch.optim.Adam if cfg.name == "adam" else torch.optim.AdamW
    return kind(listed, weight_decay=cfg.weight_decay)


def _plugin_class(cfg: Any) -> type[Plugin]:
    """The plug-in whose Config this is: configs are nested in their classes."""
    import sys

    holder: Any = sys.modules[type(cfg).__module__]
    for part in type(cfg).__qualname__.split(".")[:-1]:
        holder = getattr(holder, part)
    assert isinstance(holder, type) and issubclass(holder, Plugin)  # noqa: S101  find.load gave this config
    return holder
