"""A method's `fit` without any training: which trainings it asks for, and what it computes between them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ssbench.data.plan import Mixture, Plan
from ssbench.jobs.forward_counts import Passes, counting
from ssbench.methods.base import Method
from ssbench.recipe.quick import CROP
from ssbench.views.sample import Maps


class Rehearsal:
    """What `fit` may ask of the trainer. trainings: steps of each; between: passes in no training, of images whole."""

    def __init__(self, plan: Plan, epochs: int, channels: int) -> None:
        self.plan, self.epochs = plan, epochs
        self.trainings: list[int] = []
        self.between: Passes = {}
        self.method: Method | None = None
        self._channels = channels

    def rehearse(self, method: Method) -> None:
        """Run the method's `fit`; its networks are asked about one empty image at a time."""
        self.method = method
        method.fit(self)

    def train(self) -> None:
        """See `methods.base.Loop`."""
        self.trainings.append(self.plan.steps_per_epoch * self.epochs)

    @property
    def stages(self) -> _Stages:
        """See `methods.base.Loop`."""
        return _Stages(self)

    def passes(self, ids: Sequence[str], ask: Callable[[Tensor], Any]) -> None:
        """Adds what `ask` sends through networks for one image, for every one of them."""
        assert self.method is not None  # noqa: S101  its `fit` is what calls this
        with counting(self.method) as found:
            ask(torch.zeros(1, self._channels, CROP, CROP))
        for way, images in found.items():
            self.between[way] = self.between.get(way, 0.0) + images * len(ids)


class _Stages:
    """The stages of `methods.base.StagedTraining`, only counted."""

    def __init__(self, counted: Rehearsal) -> None:
        self.counted, self.epochs, self.folder = counted, counted.epochs, Path()
        self.labeled, self.unlabeled = counted.plan.labeled, counted.plan.unlabeled

    def train(
        self, name: str, unlabeled: Sequence[str] = (), repeats: int = 1, maps: Maps | None = None,
        keep: Collection[int] = (), last: bool = False,
    ) -> None:  # fmt: skip
        plan = self.counted.plan
        assert isinstance(plan, Mixture)  # noqa: S101  as engine.stages asks too
        steps = replace(plan, unlabeled=tuple(unlabeled), repeats=repeats).steps_per_epoch
        self.counted.trainings.append(steps * self.epochs)

    def network(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        assert self.counted.method is not None  # noqa: S101  its `fit` is what calls this
        return torch.no_grad()(self.counted.method.predict)

    def measure(self, name: str, ids: Sequence[str], value: Callable[[Tensor], float]) -> dict[str, float]:
        self.counted.passes(ids, value)
        return dict.fromkeys(ids, 0.0)

    def store(
        self, name: str, ids: Sequence[str], maps: Sequence[str], draw: Callable[[Tensor], Mapping[str, Image.Image]]
    ) -> None:
        self.counted.passes(ids, draw)
