"""AEL for its tests: a method with a known bank, donors to paste from, a plug-in that notes what it sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from builders import CLASSES, build
from torch import Tensor

from ssbench.data.batch import Batch, Labeled
from ssbench.methods.ael import AEL
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import MixedView, Plugin, StepOutputs

TAU = 0.3
BANK = [0.1, 0.8, 0.4, 0.95]


def ael(chosen: Plugin | None = None, **settings: Any) -> AEL:
    method = build("ael", chosen, **{"paste_without": (0,), **settings})
    assert isinstance(method, AEL)
    method.bank.copy_(torch.tensor(BANK))
    return method


def own(batch: Batch) -> Batch:
    """The batch with donors of noise, labelled 1 in a square and 2 in the one beside it, else 255."""
    g = torch.Generator().manual_seed(99)
    y = torch.full_like(batch.labeled.y, 255)
    y[:, 10:30, 10:30], y[:, 10:30, 30:50] = 1, 2
    donor = Labeled(torch.randn(batch.labeled.x.shape, generator=g), y, batch.labeled.ids)
    return replace(batch, donor=donor)


class Probe(Plugin):
    """Notes what the host mixed, and what it was asked to weigh."""

    def __init__(self) -> None:
        super().__init__(Plugin.Config(), CLASSES)
        self.mixed: list[MixedView] = []
        self.refined: list[Pseudo] = []
        self.seen: list[StepOutputs] = []

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        self.refined.append(pseudo)
        return pseudo

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        self.mixed += host()
        return self.mixed[-1:]

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        self.seen.append(seen)
        return {}


def chances(bank: Sequence[float], power: float, without: Sequence[int] = ()) -> list[float]:
    raised = [0.0 if c in without else float(np.exp((1 - b) ** power)) for c, b in enumerate(bank)]
    return [r / sum(raised) for r in raised]


def measured(bank: Tensor, logits: Tensor, y: Tensor, momentum: float = 0.999) -> Tensor:
    """The confidence bank of AEL, for one group."""
    p = logits.detach().softmax(1)
    m = [p[:, c][y == c].mean() if (y == c).any() else torch.zeros(()) for c in range(CLASSES)]
    return momentum * bank + (1 - momentum) * torch.stack(m)
