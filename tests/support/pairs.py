"""Every method, every pair of a method with a plug-in that `ssbench.methods.hosting` lets through; found, not listed.

A new file in methods/ or plugins/ is covered as it stands: the settings are its Config's defaults, and its quick ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from builders import CLASSES, batch_for, build, progress
from torch import Tensor

from ssbench import find
from ssbench.certify.pair import LATE
from ssbench.data.batch import Batch
from ssbench.methods.base import Method, Step
from ssbench.methods.hosting import fit
from ssbench.nets.segnet import Out
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin, StepOutputs

METHODS, PLUGINS = find.names("method"), find.names("plugin")
HONOURS = {name: find.load("method", name).honours for name in METHODS}
PAIRS = [(m, p) for m in METHODS for p in PLUGINS if not fit(find.load("method", m), find.load("plugin", p)).reason]


def one_step(method: Method, step: int = LATE) -> Step:
    torch.manual_seed(step)
    t = progress(step)
    return method(batch_for(method, t, seed=step), t)


class Watch(Plugin):
    """Changes nothing and notes which hooks were called."""

    def __init__(self, cfg: Any = None, classes: int = CLASSES) -> None:
        super().__init__(cfg or Plugin.Config(), classes)
        self.called: list[str] = []

    def scale(self, t: Progress) -> LossScale:
        self.called.append("scale")
        return super().scale(t)

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        self.called.append("refine")
        assert not pseudo.soft.requires_grad
        return super().refine(pseudo, t)

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        self.called.append("weigh")
        assert mixed.images.shape == mixed.weak.shape
        assert mixed.pseudo.label.shape == mixed.images[:, 0].shape
        return super().weigh(mixed, teach, t)

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        self.called.append("loss")
        assert all(view.out.logits.requires_grad for view in seen.views)
        assert seen.labeled.logits.requires_grad
        return super().loss(seen, t)


class WatchMix(Watch):
    """The same for `mix`, which some settings refuse."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        self.called.append("mix")
        return super().mix(host, batch, weak, t)


class Constant(Plugin):
    """Weighs all pixels alike: a weighted mean is the mean."""

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        return 3 * mixed.pseudo.conf.new_ones(mixed.pseudo.conf.shape)


class Slow(Plugin):
    """Halves the host's loss and adds 2."""

    def scale(self, t: Progress) -> LossScale:
        return LossScale(0.5)

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        return {"two": seen.labeled.logits.sum() * 0 + 2}


class Labelled(Plugin):
    """Turns the unlabelled terms off, as a warm-up does."""

    def scale(self, t: Progress) -> LossScale:
        return LossScale(unlabeled=False)


def hosting(method: str, cls: type[Plugin]) -> tuple[Method, Plugin]:
    """A method that hosts a plug-in of a test's, under settings where it calls its hooks, and that plug-in."""
    chosen = cls(cls.Config(), CLASSES)
    settings = fit(find.load("method", method), cls).method
    return build(method, chosen, **settings), chosen
