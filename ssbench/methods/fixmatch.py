"""FixMatch for segmentation: confident weak-view labels teach a CutMixed strong view.

Paper: Sohn et al. 2020 (FixMatch), in the form of UniMatch (Yang et al. 2023, Sec. 3.1). Checked against: UniMatch
0324f3d `fixmatch.py` (card: fixmatch 1). S4MC states an EMA teacher (0.99) for its FixMatch rows without releasing
code: `teacher: ema` is our reading of it (card: fixmatch 2).
Departures: the labelled and unlabelled orders are shuffled independently (upstream pairs them by a shared sampler).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import model_validator

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs
from ssbench.methods.base import (
    MakeNet,
    Method,
    MethodConfig,
    Step,
    frozen_copy,
    frozen_forward,
    labels_of,
    mean,
    parts,
    quality,
    streams,
)
from ssbench.nets.segnet import SegNet
from ssbench.ops import ema
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import BelowOne, MixedView, Share, StepOutputs


class FixMatch(Method):
    """L = (L_x + L_s) / 2."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})

    class Config(MethodConfig):
        """Settings of FixMatch. The comment of a default names its source."""

        name: Literal["fixmatch"] = "fixmatch"
        threshold: Share = 0.95  # FixMatch; 0 on Cityscapes (UniMatch)
        partner: Literal["same", "other"] = "same"  # release: both iterators share one sampler
        teacher: Literal["self", "ema"] = "self"  # release; S4MC Sec. 3.1 states EMA
        ema: BelowOne = 0.99  # S4MC Sec. 4.1

        @model_validator(mode="after")
        def _read(self) -> FixMatch.Config:
            if self.teacher == "self":
                self._refuse_unread("teacher: self", "ema")
            return self

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Each strong view passes alone; with a teacher the labelled images do, too."""
        return unlabeled if cfg.teacher == "self" else min(labeled, unlabeled)

    @property
    def needs(self) -> Needs:
        """One strong view, and a second draw to paste from."""
        return Needs(strong=1, partner=self.cfg.partner)

    def build(self, make_net: MakeNet) -> None:
        """An EMA teacher where asked for."""
        self.ema_net: SegNet | None = frozen_copy(self.net) if self.cfg.teacher == "ema" else None

    def step(self, batch: Batch, t: Progress) -> Step:
        """The forward passes in the order of the release (card: fixmatch 1)."""
        labeled, here, there = streams(batch)
        teacher, tau = self.labeller, self.cfg.threshold
        other = labels_of(teacher, there.weak, there.valid, tau, train_mode=False)
        pasted = self.plugin.refine(other.with_carry(**there.maps), t)
        if self.ema_net is None:
            both = self.net(torch.cat([labeled.x, here.weak]))
            out, weak = parts(both, [len(labeled.x), len(here.weak)])
            target = Pseudo.of(weak.logits, here.valid, tau, weak.feats, here.weak)
        else:
            target = labels_of(teacher, here.weak, here.valid, tau, train_mode=False)
            out = self.net(labeled.x)
        target = self.plugin.refine(target.with_carry(**here.maps), t)

        def cutmix() -> list[MixedView]:
            box = here.boxes[0]
            image, weak = paste(here.strong[0], there.strong[0], box), paste(here.weak, there.weak, box)
            return [MixedView(image, target.pasted(pasted, box), weak)]

        mixed, teach = self.plugin.mix(cutmix, batch, target, t), frozen_forward(teacher)
        terms, views = self._teach_views(mixed, [self.net(m.images) for m in mixed], teach, t)
        sup, strong = self.losses.supervised(out.logits, labeled.y), mean(terms)
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, teach), t)
        shares = quality(target, here.truth)

        def printed(u: float) -> torch.Tensor:
            return (sup + u * strong) / 2 if u else sup / 2

        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, s=strong, **shares)

    def after_step(self, t: Progress) -> None:
        """Moving average of parameters; the teacher's batch-norm statistics follow by buffer averaging."""
        if self.ema_net is not None:
            ema.update(self.ema_net, self.net, ema.capped_decay(t.step, self.cfg.ema), buffers=True)

    @property
    def labeller(self) -> SegNet:
        """The EMA teacher where there is one."""
        return self.ema_net or self.net

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """The EMA teacher where there is one."""
        return self.labeller(x).logits
