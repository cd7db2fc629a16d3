"""Class-wise thresholds: a class the teacher is seldom sure of need not be as sure to be learned from.

Ours, an example; no paper. The teacher's mean confidence in each class is kept as a moving average; a class half as
sure as the surest one gets, at strength 1, half its threshold. Hosts: every method that has a teacher's confidence.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import global_sum
from ssbench.plugins.base import Plugin, PluginConfig


class Classwise(Plugin):
    """keep = confidence >= tau * (1 - strength * (1 - sureness of the pixel's class / that of the surest class))."""

    zero: ClassVar = {"strength": 0.0}  # then the host's own rule stands

    class Config(PluginConfig):
        """Settings."""

        name: Literal["classwise"] = "classwise"
        tau: float = Field(0.9, ge=0, le=1)  # ours
        strength: float = Field(1.0, ge=0, le=1)  # ours
        momentum: float = Field(0.99, ge=0, lt=1)  # ours

    sureness: Tensor

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        self.register_buffer("sureness", torch.ones(classes))  # C; a buffer, so it is saved and resumed

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """The host's `keep` replaced."""
        if self.cfg.strength == 0:
            return pseudo
        self._learn(pseudo)
        threshold = self.cfg.tau * (1 - self.cfg.strength * (1 - self.sureness / self.sureness.max()))  # C
        return replace(pseudo, keep=(pseudo.conf >= threshold[pseudo.label]) & pseudo.valid)

    def _learn(self, pseudo: Pseudo) -> None:
        """Move towards the mean confidence of each class in this batch, of all processes; absent classes stay."""
        member = torch.nn.functional.one_hot(pseudo.label, self.classes) * pseudo.valid[..., None]  # B H W C
        count = global_sum(member.sum((0, 1, 2)))
        total = global_sum((member * pseudo.conf[..., None]).sum((0, 1, 2)))
        moved = torch.lerp(total / count.clamp(min=1), self.sureness, self.cfg.momentum)
        self.sureness.copy_(torch.where(count > 0, moved, self.sureness))
