"""Opens a checkpoint for use: which recipe its network is of, what its outputs mean, which of its networks is read.

A checkpoint of `ssbench run` says all of that itself. Of a released file the recipe says what the network is, and the
classes are taken on trust.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ssbench.console import say
from ssbench.data.dataset import Dataset
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.inspect.networks import (
    BARE,
    Outputs,
    load_method,
    load_released,
    method_predictor,
    net_predictor,
    network_named,
    scored_networks,
)
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.recipe.overrides import override
from ssbench.recipe.recipe import Recipe, load, resolve
from ssbench.recipe.stored import recipe_text_of, without_own_plugins
from ssbench.train.batched import BatchedPredictor
from ssbench.train.build import dataset_of, networks_of
from ssbench.train.checkpoint import CheckpointFacts, read_facts


@dataclass(frozen=True)
class SavedOutputs:
    """`Outputs` that a checkpoint holds."""

    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...]
    channels: int


@dataclass(frozen=True)
class CheckpointUse:
    """What the person says of a checkpoint.

    recipe: None takes the one in the file. overrides: `--set` arguments. entry: which network of several. as_saved:
    keep the class names of the file, whatever the dataset calls its label values.
    """

    recipe: str | None = None
    overrides: tuple[str, ...] = ()
    entry: str | None = None
    as_saved: bool = False


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint and what it is used with. dataset: None where the file alone says what is needed.

    facts: None for a file of others, and of an older version of this package.
    """

    path: Path
    recipe: Recipe
    facts: CheckpointFacts | None
    outputs: Outputs
    dataset: Dataset | None
    entry: str | None

    def method(self, device: torch.device) -> Method | None:
        """The method in the file, in eval mode; None for a released file. Errors as of `networks.load_method`."""
        return load_method(self.recipe, self.path, self.outputs, device)

    def predictor(self, device: torch.device) -> BatchedPredictor:
        """B C H W images -> B K H W logits of the chosen network, or of the one the scores come from.

        Raises:
            DataError: damaged, of another recipe, or without a network of the name asked for.
        """
        method = self.method(device)
        if method is None or self.entry is not None:
            return net_predictor(self._network(method, device), device)
        self._say_trust()
        self._say_which(method)
        return method_predictor(self.recipe, method, device)

    def network(self, device: torch.device) -> SegNet:
        """The chosen network, or the one the scores come from; errors as of `predictor`.

        Raises:
            UsageError: the method's prediction takes several networks.
        """
        return self._network(self.method(device), device)

    def _network(self, method: Method | None, device: torch.device) -> SegNet:
        """`network`, where the method in the file has been read."""
        if method is None:
            net = load_released(self.recipe, self.path, self.outputs, self.entry).to(device)
            self._say_trust()
            return net
        self._say_trust()
        if self.entry is not None:
            return network_named(method, self.entry, self.path)
        self._say_which(method)
        nets = scored_networks(method, self.outputs.channels)
        if len(nets) != 1:
            what = f"{type(method).__name__} predicts with {len(nets)} networks"
            raise UsageError(what, "--recipe", "choose one: --entry student")
        return next(iter(nets.values()))

    def _say_trust(self) -> None:
        """Say that nobody knows what the outputs of a file without class names mean."""
        if self.facts is None and self.dataset is not None:
            say(f"{self.path.name} names no classes: its outputs are taken for those of {self.dataset.name}, in order")

    def _say_which(self, method: Method) -> None:
        """Say which of several networks the scores come from."""
        scored = scored_networks(method, self.outputs.channels)
        others = [name for name in networks_of(method) if name not in scored]
        if others:
            names = " and ".join(f"'{name}'" for name in scored)
            say(f"{self.path.name}: reads the network {names}; also inside: {', '.join(others)} (--entry {others[0]})")


def open_checkpoint(path: Path, use: CheckpointUse, data_root: Path, needs_data: bool = False) -> OpenedCheckpoint:
    """Find the recipe and the classes of a checkpoint. The networks are not built yet.

    Args:
        needs_data: the dataset itself is read (to score), not only its classes.
    Raises:
        UsageError: a released file without a recipe. DataError: missing, damaged, its dataset is missing, or has other
        classes than those it was trained on.
    """
    facts = read_facts(path)
    recipe = _recipe(path, use, facts, data_root)
    is_own_data = facts is not None and recipe.data.dataset == facts.dataset
    dataset = _dataset_if_here(recipe, data_root) if is_own_data and not needs_data else dataset_of(recipe, data_root)
    if facts is None:
        assert dataset is not None  # noqa: S101  only facts spare it
        return OpenedCheckpoint(path, recipe, facts, dataset, dataset, use.entry)
    saved = SavedOutputs(tuple(facts.classes), tuple(facts.palette), facts.channels)
    is_read = needs_data or not is_own_data
    if dataset is not None and is_read and tuple(dataset.classes) != saved.classes:
        _check_classes(path, facts, dataset, use, needs_data)
    return OpenedCheckpoint(path, recipe, facts, saved, dataset, use.entry)


def _dataset_if_here(recipe: Recipe, data_root: Path) -> Dataset | None:
    """The dataset a checkpoint was trained on, None where it is not here: the file itself says what is needed."""
    try:
        return dataset_of(recipe, data_root)
    except SsbenchError:
        return None


def _recipe(path: Path, use: CheckpointUse, facts: CheckpointFacts | None, data_root: Path) -> Recipe:
    """The recipe the person names, or the one in the file with the person's overrides."""
    if use.recipe is not None:
        dataset = None if facts is None else facts.run.split.partition("/")[0]  # for recipes own/<method>
        return load(use.recipe, (*BARE, *use.overrides), data_root=data_root, dataset=dataset)
    if facts is None:
        what = f"'{path.name}' does not say which network it holds"
        raise UsageError(what, "--recipe", "give the recipe of its network: --recipe NAME (ssbench list recipes)")
    text = without_own_plugins(recipe_text_of(facts.run, path), facts.run)
    for line in (*BARE, *use.overrides):
        text = override(text, line)
    # Checked when it was trained; its dataset may not be here.
    overrides = (*facts.run.overrides, *use.overrides)
    return resolve(facts.run.name, path, text, overrides, False, data_root, is_checked=False)


def _check_classes(path: Path, facts: CheckpointFacts, dataset: Dataset, use: CheckpointUse, needs_data: bool) -> None:
    """Refuse a dataset whose label values mean something else, unless the person says that they do not.

    To score, both must have as many classes in any case.
    """
    ours, theirs = facts.classes, list(dataset.classes)
    if use.as_saved and not (needs_data and len(ours) != len(theirs)):
        return
    what = f"{path.name} was trained on '{facts.dataset}' with the classes {_listed(ours)}; '{dataset.name}' has "
    what += f"{_listed(theirs)}" + (", in another order" if sorted(ours) == sorted(theirs) else "")
    fix = "leave out --recipe, the file knows its own" if use.recipe else f"use it with '{facts.dataset}'"
    if len(ours) == len(theirs) or not needs_data:
        fix += ", or add --classes-as-saved where the label values mean what the file's classes say"
    raise DataError(what, str(path), fix)


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")
