"""Supervised baseline: labelled images only.

Paper: the "Supervised" / "SupOnly" rows of every table. Checked against: UniMatch 0324f3d `supervised.py` and U2PL
ab3d2be (specs: unimatch 1.5, u2pl 10), which both pass over the labelled list alone and drop the last batch.
Departures: none. `epoch_of` names the two readings in use: "labeled" is the authors' very short schedule (80 epochs
of 92 images are 400 steps), "unlabeled" gives the row as many steps as its semi-supervised neighbours.
"""

from __future__ import annotations

from typing import Literal

from ssbench.data.batch import Batch, Needs
from ssbench.methods.base import Method, MethodConfig, Step, frozen_forward, recorded, summed
from ssbench.ops.progress import Progress
from ssbench.plugins.base import Seen


class Supervised(Method):
    """L = L_x."""

    honours = frozenset({"prepare", "extras", "pace", "loss"})

    class Config(MethodConfig):
        """Settings."""

        name: Literal["supervised"] = "supervised"
        epoch_of: Literal["labeled", "unlabeled"] = "labeled"  # released scripts

    @property
    def needs(self) -> Needs:
        """Labelled images only."""
        return Needs(unlabeled=False, epoch_of=self.cfg.epoch_of)

    def step(self, batch: Batch, t: Progress) -> Step:
        """Cross-entropy (or the task's labelled loss) of the labelled batch."""
        out = self.net(batch.labeled.x)
        sup = self.losses.supervised(out.logits, batch.labeled.y)
        extra = self.plugin.loss(Seen(batch, out, (), self.net, frozen_forward(self.net)), t)
        return Step(summed(sup, self.plugin.pace(t), extra), recorded(sup=sup, **extra))
