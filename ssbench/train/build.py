"""From a recipe to live objects: dataset, networks, plug-in, method, optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ssbench import find
from ssbench.data.dataset import Dataset
from ssbench.data.open import open_dataset
from ssbench.data.toy_stacks import ToyStacks
from ssbench.keyed import key
from ssbench.methods.base import MakeNet, Method
from ssbench.nets.segnet import SegNet
from ssbench.plugins.base import Plugin, Stack
from ssbench.recipe.recipe import OptimConfig, Recipe


def dataset_of(name: str, data_root: Path, form: str = "own") -> Dataset:
    """The prepared dataset, read through its cache where there is one; `form` as in `DataConfig`.

    Raises:
        DataError: not prepared, or its cache is of other files, with the command that mends it.
        RecipeError: neither built in nor imported below `data_root`.
    """
    dataset = open_dataset(name, data_root)
    return ToyStacks(dataset.root) if form == "grey_stacks" else dataset


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
    """The optimiser over (encoder, rest), each group remembering its `base` rate for the schedule.

    With `decay: weights` what is no weight matrix or kernel (biases, batch norm) is in groups without weight decay.
    """
    rates = (cfg.lr, cfg.lr * cfg.head)
    listed = [{"params": list(p), "lr": rate, "base": rate} for p, rate in zip(groups, rates, strict=True) if p]
    if cfg.decay == "weights":
        listed = [part for group in listed for part in _spared(group)]
    if cfg.name == "sgd":
        return torch.optim.SGD(listed, momentum=cfg.momentum, weight_decay=cfg.weight_decay)
    kind = torch.optim.Adam if cfg.name == "adam" else torch.optim.AdamW
    return kind(listed, weight_decay=cfg.weight_decay)


def _spared(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The group's weights, then its vectors without weight decay."""
    for many, changed in ((True, {}), (False, {"weight_decay": 0.0})):
        if params := [p for p in group["params"] if (p.ndim > 1) == many]:
            yield {**group, **changed, "params": params}


def _plugin_class(cfg: Any) -> type[Plugin]:
    """The plug-in whose Config this is: configs are nested in their classes."""
    import sys

    holder: Any = sys.modules[type(cfg).__module__]
    for part in type(cfg).__qualname__.split(".")[:-1]:
        holder = getattr(holder, part)
    made: type[Plugin] = holder
    return made
