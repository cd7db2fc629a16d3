"""Trained networks from a checkpoint: one that `ssbench run` wrote, or one that a baseline's authors released."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch

from ssbench.console import say
from ssbench.errors import DataError
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.nets.weights import entry_named, load_checkpoint
from ssbench.recipe.recipe import Recipe
from ssbench.train import checkpoint
from ssbench.train.batched import BatchedPredictor
from ssbench.train.build import method_of, net_maker, networks_of
from ssbench.train.precision import choose_computation, set_formats

BARE = ("net.weights=random",)
"""Settings for a recipe whose weights come from a checkpoint: it downloads and reads no ImageNet file."""


class Outputs(Protocol):
    """What the outputs of a network mean, in order of their index: a dataset says it, or a checkpoint."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names."""

    @property
    def palette(self) -> tuple[tuple[int, int, int], ...]:
        """Colours."""

    @property
    def channels(self) -> int:
        """Of the images that go in."""


def load_predictor(recipe: Recipe, path: Path, outputs: Outputs, device: torch.device) -> BatchedPredictor:
    """B C H W images -> B K H W logits by the networks in `path`, in eval mode on `device`.

    Of a checkpoint of ours the method predicts (the teacher of a teacher-student method); of the authors' the network.

    Raises:
        DataError: missing, damaged, or of another recipe.
    """
    method = load_method(recipe, path, outputs, device)
    if method is None:
        return net_predictor(load_released(recipe, path, outputs).to(device), device)
    return method_predictor(recipe, method, device)


def method_predictor(recipe: Recipe, method: Method, device: torch.device) -> BatchedPredictor:
    """What a method predicts, in the number format of the recipe: as it was scored while it trained."""
    computation = choose_computation(recipe.schedule, device)
    set_formats(method, computation.passes)
    return BatchedPredictor(method.predict, device, computation.precision == "exact")


def net_predictor(net: SegNet, device: torch.device) -> BatchedPredictor:
    """What a bare network on `device` predicts."""
    return BatchedPredictor(lambda x: net(x).logits, device)


def load_method(recipe: Recipe, path: Path, outputs: Outputs, device: torch.device) -> Method | None:
    """The method of a checkpoint of ours, in eval mode; None where the file is something else.

    Raises:
        DataError: missing, or of another recipe.
    """
    state, had_own_plugin = _method_state(path)
    if state is None:
        return None
    method = method_of(recipe, len(outputs.classes), outputs.channels, 0)
    own = method.state_dict()
    if had_own_plugin:  # its modules only train; they are left out where it is
        state = {name: v for name, v in state.items() if name in own or not name.startswith(("plugin.", "extras."))}
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        what = f"the checkpoint is of another recipe: {' '.join(str(error).split())[:200]}"
        raise DataError(what, str(path), "give the --recipe it was made by") from None
    return method.to(device).eval()


def load_released(recipe: Recipe, path: Path, outputs: Outputs, entry: str | None = None) -> SegNet:
    """The recipe's network on the CPU, in eval mode, with the weights of a file that its authors released.

    Says which network of several is read, and what the file says of itself that was left out.

    Raises:
        DataError: missing, damaged, of another network, or without the entry asked for.
    """
    net = net_maker(recipe, len(outputs.classes), outputs.channels, 0)("student")
    facts = load_checkpoint(net, path, entry)
    if others := facts["others"]:
        say(
            f"{path.name}: reads the network '{facts['entry']}'; also inside: {', '.join(others)} (--entry {others[0]})"
        )
    for note in facts["notes"]:
        say(note)
    return net.eval()


def scored_networks(method: Method, channels: int) -> dict[str, SegNet]:
    """The networks that a method's prediction takes, by name."""
    # A method's `predict` says which of its networks is scored; running it shows which one that is.
    ran: list[SegNet] = []
    nets = networks_of(method)
    device = next(method.parameters()).device
    hooks = [net.register_forward_hook(lambda module, *_: ran.append(module)) for net in nets.values()]
    with torch.no_grad():
        method.predict(torch.zeros(1, channels, 65, 65, device=device))
    for hook in hooks:
        hook.remove()
    return {name: net for name, net in nets.items() if any(net is other for other in ran)}


def network_named(method: Method, entry: str, path: Path) -> SegNet:
    """The network of a method called so, or the one that is what the name stands for ("teacher", "student", "ema").

    Raises:
        DataError: it has none of this name.
    """
    nets = networks_of(method)
    name = entry_named(entry, nets)
    if name is None:
        what = f"{path.name} has no network '{entry}' (it has: {', '.join(nets)})"
        raise DataError(what, str(path), "--entry with one of these")
    return nets[name]


def _method_state(path: Path) -> tuple[dict[str, Any] | None, bool]:
    """(state of the method in a checkpoint of ours, whether its run had a plug-in of the user's own).

    The state is None where the file is something else.
    """
    try:
        content = checkpoint.load(path)
    except DataError:
        # A released file may hold NumPy numbers, which only `load_checkpoint` reads. It also says what is damaged.
        if not path.is_file():
            raise
        return None, False
    if not (isinstance(content, dict) and "key" in content and isinstance(content.get("method"), dict)):
        return None, False
    facts = checkpoint.facts_of(content, path)
    identity = facts.run.identity if facts else None
    return content["method"], any(file.role.startswith("plugin ") for file in (identity.files if identity else ()))
