"""Trained networks from a checkpoint: one that `ssbench run` wrote, or one that a baseline's authors released."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ssbench.data.dataset import Dataset
from ssbench.errors import DataError
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.nets.weights import load_checkpoint
from ssbench.recipe.recipe import Recipe
from ssbench.train import checkpoint
from ssbench.train.batched import BatchedPredictor
from ssbench.train.build import method_of, net_maker
from ssbench.train.precision import choose_computation, set_formats

BARE = ("net.weights=random",)
"""Settings for a recipe whose weights come from a checkpoint: it downloads and reads no ImageNet file."""


def load_predictor(recipe: Recipe, path: Path, dataset: Dataset, device: torch.device) -> BatchedPredictor:
    """B C H W images -> B K H W logits by the networks in `path`, in eval mode on `device`.

    Of a checkpoint of ours the method predicts (the teacher of a teacher-student method); of the authors' the network.

    Raises:
        DataError: missing, damaged, or of another recipe.
    """
    method = load_method(recipe, path, dataset, device)
    if method is None:
        return released_predictor(recipe, path, dataset, device)
    return method_predictor(recipe, method, device)


def method_predictor(recipe: Recipe, method: Method, device: torch.device) -> BatchedPredictor:
    """What a method predicts, in the number format of the recipe: as it was scored while it trained."""
    computation = choose_computation(recipe.schedule, device)
    set_formats(method, computation.passes)
    return BatchedPredictor(method.predict, device, computation.precision == "exact")


def released_predictor(recipe: Recipe, path: Path, dataset: Dataset, device: torch.device) -> BatchedPredictor:
    """`load_predictor` for a file known to be the authors'."""
    net = load_released(recipe, path, dataset).to(device)
    return BatchedPredictor(lambda x: net(x).logits, device)


def load_method(recipe: Recipe, path: Path, dataset: Dataset, device: torch.device) -> Method | None:
    """The method of a checkpoint of ours, in eval mode; None where the file is something else.

    Raises:
        DataError: missing, or of another recipe.
    """
    state = _method_state(path)
    if state is None:
        return None
    method = method_of(recipe, len(dataset.classes), dataset.channels, 0)
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        what = f"the checkpoint is of another recipe: {' '.join(str(error).split())[:200]}"
        raise DataError(what, str(path), "give the --recipe it was made by") from None
    return method.to(device).eval()


def load_released(recipe: Recipe, path: Path, dataset: Dataset) -> SegNet:
    """The recipe's network on the CPU, in eval mode, with the weights of a file that its authors released.

    Raises:
        DataError: missing, damaged, or of another network.
    """
    net = net_maker(recipe, len(dataset.classes), dataset.channels, 0)("student")
    load_checkpoint(net, path)
    return net.eval()


def _method_state(path: Path) -> dict[str, Any] | None:
    """The state of the method in a checkpoint of ours; None where the file is something else."""
    try:
        content = checkpoint.load(path)
    except DataError:
        # A released file may hold NumPy numbers, which only `load_checkpoint` reads. It also says what is damaged.
        if not path.is_file():
            raise
        return None
    is_ours = isinstance(content, dict) and "key" in content and isinstance(content.get("method"), dict)
    return content["method"] if is_ours else None
