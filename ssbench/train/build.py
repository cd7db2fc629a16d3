"""Build what a recipe describes: dataset, networks, plug-in, method, optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ssbench.data.dataset import Dataset
from ssbench.data.open import open_dataset
from ssbench.data.toy_stacks import ToyStacks
from ssbench.data.wrapped import WithOtherImages
from ssbench.keyed import key
from ssbench.methods.base import MakeNet, Method
from ssbench.nets.segnet import SegNet
from ssbench.plugins.base import Plugin, Stack
from ssbench.plugins.promises import build_plugin
from ssbench.recipe.recipe import OptimConfig, Recipe
from ssbench.recipe.stored import RunHead
from ssbench.train.checkpoint import CheckpointFacts
from ssbench.views import tensors

UNDECAYED = (_BatchNorm, nn.GroupNorm, nn.LayerNorm, nn.Embedding)
"""Layers that `decay: modules` spares (Mask2Former release train_net.py; card: mask2former 6)."""


def dataset_of(recipe: Recipe, data_root: Path) -> Dataset:
    """The recipe's dataset, prepared below `data_root`; its errors are those of `open_dataset`."""
    dataset = open_dataset(recipe.data.dataset, data_root)
    if recipe.data.unlabeled is not None:
        return WithOtherImages(dataset, open_dataset(recipe.data.unlabeled, data_root))
    return ToyStacks(dataset.root) if recipe.data.form == "grey_stacks" else dataset


def net_maker(recipe: Recipe, classes: int, channels: int, seed: int) -> MakeNet:
    """A function that builds the network of a role ("student"). Its initial weights depend on seed and role alone.

    So a baseline and the same baseline with a plug-in start from the same weights: their difference is the plug-in's.
    """
    cls = recipe.classes[1]  # not by name: the net may be a user's file

    def make(role: str) -> SegNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "weights", role))
            net: SegNet = cls(recipe.net, classes, channels)
        return net

    return make


def plugin_of(recipe: Recipe, classes: int, seed: int) -> Plugin:
    """The recipe's plug-in, several of them stacked, or the identity."""
    plugins: list[Plugin] = []
    for cls, cfg in zip(recipe.classes[2:], recipe.plugins, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(seed, "weights", "plugin", cfg.name))
            plugins.append(build_plugin(cls, cfg, classes))
    if not plugins:
        return Plugin(Plugin.Config(), classes)
    return plugins[0] if len(plugins) == 1 else Stack(plugins)


def method_of(recipe: Recipe, classes: int, channels: int, seed: int) -> Method:
    """The method with its networks and plug-in, on the CPU."""
    cls = recipe.classes[0]
    plugin = plugin_of(recipe, classes, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "weights", "extras"))
        method: Method = cls(recipe.method, net_maker(recipe, classes, channels, seed), plugin, recipe.loss)
    return method


def checkpoint_facts(head: RunHead, recipe: Recipe, dataset: Dataset, method: Method) -> CheckpointFacts:
    """What the checkpoints of a run say of themselves."""
    mean, std = normalisation(recipe)
    return CheckpointFacts(
        run=head,
        dataset=recipe.data.dataset,
        classes=list(dataset.classes),
        palette=list(dataset.palette),
        channels=dataset.channels,
        ignore=dataset.ignore,
        mean=list(mean),
        std=list(std),
        networks=list(networks_of(method)),
    )


def networks_of(method: Method) -> dict[str, SegNet]:
    """The segmentation networks of a method by name, those of its plug-in left out; "net" is the student."""
    own = ((name, module) for name, module in method.named_modules() if isinstance(module, SegNet))
    return {name: net for name, net in own if not name.startswith(("plugin.", "extras."))}


def normalisation(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(mean, standard deviation) that the values of an image in [0, 1] are normalised by."""
    return tensors.STATISTICS.get(recipe.views.normalise, ((0.0,), (1.0,)))


def optimizer_of(
    cfg: OptimConfig,
    groups: tuple[Sequence[torch.nn.Parameter], Sequence[torch.nn.Parameter]],
    fused: bool = False,
    method: torch.nn.Module | None = None,
) -> Any:
    """The optimiser over (encoder, rest). Each group keeps its first rate as `base`, which the schedule multiplies.

    With `decay: weights`, vectors (biases, batch norm) are in groups of their own without weight decay. With `decay:
    modules`, so are the parameters of normalisations and embeddings of `method`.

    Args:
        fused: one kernel updates all parameters, at another rounding.
        method: whose parameters they are; only `decay: modules` reads it.
    """
    spared = _spared(cfg, [p for group in groups for p in group], method)
    param_groups: list[dict[str, Any]] = []
    for params, rate in zip(groups, (cfg.lr, cfg.lr * cfg.head), strict=True):
        group = {"lr": rate, "base": rate}
        if cfg.decay == "all":
            param_groups.append({"params": list(params), **group})
        else:
            param_groups.append({"params": [p for p in params if id(p) not in spared], **group})
            param_groups.append({"params": [p for p in params if id(p) in spared], **group, "weight_decay": 0.0})
    param_groups = [group for group in param_groups if group["params"]]
    options: dict[str, Any] = {"fused": True} if fused else {}
    if cfg.name == "sgd":
        return torch.optim.SGD(param_groups, momentum=cfg.momentum, weight_decay=cfg.weight_decay, **options)
    adam = torch.optim.Adam if cfg.name == "adam" else torch.optim.AdamW
    return adam(param_groups, weight_decay=cfg.weight_decay, **options)


def _spared(cfg: OptimConfig, params: Sequence[torch.nn.Parameter], method: torch.nn.Module | None) -> set[int]:
    """Identities of the parameters that are not decayed."""
    if cfg.decay == "weights":
        return {id(p) for p in params if p.ndim <= 1}
    if cfg.decay == "all" or method is None:
        return set()
    layers = [module for module in method.modules() if isinstance(module, UNDECAYED)]
    return {id(p) for layer in layers for p in layer.parameters(recurse=False)}
