"""Supervised baseline: labelled images only.

Paper: the "Supervised" / "SupOnly" rows of every table. Checked against: UniMatch 0324f3d `supervised.py` and U2PL
ab3d2be (card: supervised 1, 2), which pass over the labelled list alone. `schedule.last` decides about its last
incomplete batch (UniMatch drops it: 80 epochs of 92 images are 400 steps; U2PL and AugSeg keep it: 480). UniMatch V2
f6afb4d repeats a short list (`list_at_least`; card: unimatch_v2 6).
Departures: a kept last batch is filled with images of the same epoch instead of being smaller. `epoch_of` names the two
readings in use: "labeled" is the authors' very short schedule, "unlabeled" gives the row as many steps as its
semi-supervised neighbours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs
from ssbench.methods.base import Method, MethodConfig, Step, frozen_forward
from ssbench.ops.progress import Progress
from ssbench.plugins.base import StepOutputs, Weight


class Supervised(Method):
    """L = L_x, and aux_weight times the same of an auxiliary head."""

    honours = frozenset({"prepare", "extras", "scale", "loss", "end_epoch"})

    class Config(MethodConfig):
        """Settings of the supervised baseline. The comment of a default names its source."""

        added: ClassVar[Mapping[str, Any]] = {"aux_weight": 0.4, "list_at_least": 0}
        name: Literal["supervised"] = "supervised"
        epoch_of: Literal["labeled", "unlabeled"] = "labeled"  # released scripts
        aux_weight: Weight = 0.4  # U2PL train_sup.py, where the network has the auxiliary head
        list_at_least: Annotated[int, Field(ge=0)] = 0  # UniMatch V2: images an epoch passes over, by repetition

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """The labelled images."""
        return labeled

    @property
    def needs(self) -> Needs:
        """Labelled images only."""
        return Needs(unlabeled=False, epoch_of=self.cfg.epoch_of, at_least=self.cfg.list_at_least)

    def step(self, batch: Batch, t: Progress) -> Step:
        """Cross-entropy (or the task's labelled loss) of the labelled batch."""
        out = self.net(batch.labeled.x)
        sup = self.losses.labeled(out, batch.labeled.y, self.cfg.aux_weight)
        extra = self.plugin.loss(StepOutputs(batch, out, (), self.net, frozen_forward(self.net)), t)
        return self._finish(self.plugin.scale(t), lambda _: sup, extra, sup=sup)
