"""Plug-ins each of which breaks one promise, and what is kept of the others is kept."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from ssbench.data.batch import Batch
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import MixedView, Plugin, PluginConfig, StepOutputs


class Sound(Plugin):
    """Keeps every promise: a head of its own, a buffer, keyed noise, a strength."""

    zero: ClassVar = {"strength": 0.0}

    class Config(PluginConfig):
        strength: float = 1.0

    seen: Tensor

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        self.register_buffer("seen", torch.zeros(()))
        self._head: list[nn.Module] = []

    def extras(self, net: SegNet) -> nn.ModuleDict:
        self._head = [nn.Conv2d(self.classes, 1, 1)]
        return nn.ModuleDict({"head": self._head[0]} if self.cfg.strength else {})

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        if not self.cfg.strength:
            return None
        return self.weight(mixed, teach, t)

    @property
    def weight(self) -> Callable[..., Tensor]:
        """What `weigh` answers; a property, because other names than the hooks' are not public methods."""
        return self._weight

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        return torch.rand(mixed.pseudo.conf.shape, generator=t.generator("sound"))

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        if not self.cfg.strength:
            return {}
        self.seen += 1
        return {"own": self.seen * self._head[0](seen.labeled.logits).square().mean()}


class TeachesItself(Sound):
    """Its weights hold on to the graph of the module that modules them."""

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        return self._head[0](teach(mixed.weak).logits)[:, 0].sigmoid()


class LabelsWithGradient(Sound):
    """Hands on a map that the student's pass modules."""

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        return pseudo.with_carry(own=self._head[0](pseudo.soft)[:, 0]) if self.cfg.strength else pseudo


class Forgetful(Sound):
    """Counts in an attribute that no checkpoint holds."""

    def __init__(self, cfg: Any, classes: int) -> None:
        super().__init__(cfg, classes)
        self.count = 0

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        self.count += 1
        return mixed.pseudo.conf ** (1 / self.count)


class DrawsFromTorch(Sound):
    """Takes from the stream that dropout takes from."""

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        return torch.rand_like(mixed.pseudo.conf)


class DrawsFromNumpy(Sound):
    """Takes from numpy's global stream."""

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        return mixed.pseudo.conf ** float(np.random.random())  # noqa: NPY002  what must not be


class DrawsFromPython(Sound):
    """Takes from Python's global stream."""

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        return mixed.pseudo.conf ** random.random()  # noqa: S311  what must not be


class NotZeroAtZero(Sound):
    """Adds a little whatever the strength is."""

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        return {**super().loss(seen, t), "little": 1e-6 * seen.labeled.logits.square().mean()}


class StirsWeightsAtZero(Sound):
    """At strength zero the loss is the host's, the gradient is not."""

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        value = seen.labeled.logits.mean()
        return {**super().loss(seen, t), "nothing": value - value.detach()}


class Waits(Sound):
    """Asks the device for a number."""

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        return mixed.pseudo.conf * mixed.pseudo.conf.mean().item()


class Stray(Sound):
    """Has parameters no optimiser knows of."""

    def __init__(self, cfg: Any, classes: int) -> None:
        super().__init__(cfg, classes)
        self.factor = nn.Parameter(torch.ones(()))


class Unused(Sound):
    """Trains a module that enters no loss."""

    def extras(self, net: SegNet) -> nn.ModuleDict:
        modules = super().extras(net)
        return nn.ModuleDict({**modules, "more": nn.Linear(2, 2)}) if self.cfg.strength else modules


class Twice(Sound):
    """Hands the student's own parameters on as its module."""

    def extras(self, net: SegNet) -> nn.ModuleDict:
        modules = super().extras(net)
        return nn.ModuleDict({**modules, "net": next(net.children())}) if self.cfg.strength else modules


class Infinite(Sound):
    """A loss that is no number."""

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        return {name: value / 0 for name, value in super().loss(seen, t).items()}


class Negative(Sound):
    """Weights below zero."""

    def _weight(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        return mixed.pseudo.conf - 2


class SoftKeep(Sound):
    """A rule that is no yes or no."""

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        return replace(pseudo, keep=pseudo.keep.int()) if self.cfg.strength else pseudo


class NoViews(Sound):
    """Mixes nothing at all."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        return [] if self.cfg.strength else host()


class Raises(Sound):
    """Fails."""

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        return {"own": seen.labeled.feats["layer9"].mean()}


class Diary(nn.Module):
    """A module whose state is itself."""

    def get_extra_state(self) -> Any:
        return self

    def set_extra_state(self, state: Any) -> None:
        """Nothing to do."""


class Pickles(Sound):
    """Saves an object of its own making."""

    def __init__(self, cfg: Any, classes: int) -> None:
        super().__init__(cfg, classes)
        self.diary = Diary()
