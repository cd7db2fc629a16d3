"""Mean Teacher for segmentation: the student agrees with a moving average of itself.

Papers: Tarvainen and Valpola 2017; the "MT" / "Mean Teacher" rows of UPC and the "basic teacher-student" of MPMC
(Sec. 3.1) and WPL (Sec. 3.1). No released code stands behind those rows (card: mean_teacher 2).
`consistency: soft`, checked against TorchSemiSeg 5e0c29c `exp.voc/voc8.res50v3+.MeanTeacher` (card: mean_teacher 1):
squared error on probabilities of labelled and unlabelled images, weight 100, all passes in train mode, the student is
scored.
`consistency: hard` is the basic teacher-student: the teacher in eval mode labels the weak view, the student is
trained on the strong view, the teacher is scored.
Departures: the average is taken after the optimiser step (CPS: inside the next labelled forward, before it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import model_validator

from ssbench.data.batch import Batch, Labeled, Unlabeled
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
)
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops import ema
from ssbench.ops.progress import Progress
from ssbench.ops.reduce import mean_of, mean_one
from ssbench.plugins.base import BelowOne, MixedView, Share, StepOutputs, StudentView, Weight


class MeanTeacher(Method):
    """L = L_x + weight * L_consistency."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})

    class Config(MethodConfig):
        """Settings of Mean Teacher. The comment of a default names its source."""

        name: Literal["mean_teacher"] = "mean_teacher"
        consistency: Literal["soft", "hard"] = "soft"  # TorchSemiSeg; hard = MPMC, WPL Sec. 3.1
        weight: Weight | None = None  # soft 100 (TorchSemiSeg); hard 1 (ours: neither paper states one for this row)
        threshold: Share = 0.95  # hard only; ours: FixMatch's, no paper states one for this row
        ema: BelowOne = 0.99  # TorchSemiSeg: constant; hard: rises to it, as in U2PL
        ema_buffers: bool | None = None  # batch-norm statistics; soft: from own passes (TorchSemiSeg), hard: averaged

        @model_validator(mode="after")
        def _read(self) -> MeanTeacher.Config:
            if self.consistency == "soft":
                self._refuse_unread("consistency: soft", "threshold")
            return self

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Soft: labelled and unlabelled images pass apart."""
        return min(labeled, unlabeled) if cfg.consistency == "soft" else labeled + unlabeled

    @property
    def needs(self) -> Needs:
        """Soft: student and teacher see the same image. Hard: one strong view."""
        return Needs(strong=1 if self.cfg.consistency == "hard" else 0)

    @classmethod
    def calls(cls, cfg: Config) -> frozenset[str]:
        """Soft targets are those of the very image the student sees: nothing is mixed."""
        return cls.honours if cfg.consistency == "hard" else cls.honours - {"mix"}

    def build(self, make_net: MakeNet) -> None:
        """The teacher starts as a copy of the student."""
        self.teacher = frozen_copy(self.net)

    def step(self, batch: Batch, t: Progress) -> Step:
        """One consistency term, soft or hard."""
        if batch.unlabeled is None:
            raise ValueError("mean_teacher reads unlabelled images")
        variant = self._soft if self.cfg.consistency == "soft" else self._hard
        return variant(batch, batch.labeled, batch.unlabeled, t)

    def _soft(self, batch: Batch, labeled: Labeled, here: Unlabeled, t: Progress) -> Step:
        """Mean squared error of the probabilities of all images and classes; a plug-in acts on unlabelled images."""
        first, second = self.net(labeled.x), self.net(here.weak)
        everywhere = torch.ones_like(labeled.y, dtype=torch.bool)
        of_labeled = labels_of(self.teacher, labeled.x, everywhere, 0.0, train_mode=True)
        raw = labels_of(self.teacher, here.weak, here.valid, 0.0, train_mode=True)
        target = self.plugin.refine(raw.with_carry(truth=here.truth, **here.maps), t)
        known = (first.logits.softmax(1) - of_labeled.soft).square().mean(1)
        gap = (second.logits.softmax(1) - target.soft).square().mean(1) * target.keep
        weight = self.plugin.weigh(MixedView(here.weak, target, here.weak), frozen_forward(self.teacher), t)
        gap = gap if weight is None else gap * (weight if self.plugin.absolute else mean_one(weight))
        consistency = mean_of(known.sum() + gap.sum(), known.numel() + gap.numel())
        views = [StudentView("weak", here.weak, second, target, here.weak)]
        return self._total(batch, first, views, consistency, 100.0, t)

    def _hard(self, batch: Batch, labeled: Labeled, here: Unlabeled, t: Progress) -> Step:
        """Confident labels of the eval-mode teacher for the strong view."""
        raw = labels_of(self.teacher, here.weak, here.valid, self.cfg.threshold, train_mode=False)
        target = self.plugin.refine(raw.with_carry(truth=here.truth, **here.maps), t)
        mixed = self.plugin.mix(lambda: [MixedView(here.strong[0], target, here.weak)], batch, target, t)
        out = self.net(torch.cat([labeled.x, *(m.images for m in mixed)]))
        first, *outs = parts(out, [len(labeled.x), *(len(m.images) for m in mixed)])
        terms, views = self._teach_views(mixed, outs, frozen_forward(self.teacher), t)
        return self._total(batch, first, views, mean(terms), 1.0, t)

    def _total(
        self, batch: Batch, first: Out, views: Sequence[StudentView], term: torch.Tensor, default: float, t: Progress
    ) -> Step:
        sup = self.losses.supervised(first.logits, batch.labeled.y)
        extra = self.plugin.loss(StepOutputs(batch, first, tuple(views), self.net, frozen_forward(self.teacher)), t)
        weight = default if self.cfg.weight is None else self.cfg.weight
        shares = quality(views[0].pseudo)

        def printed(u: float) -> torch.Tensor:
            return sup + weight * u * term if u else sup

        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, consistency=term, **shares)

    def after_step(self, t: Progress) -> None:
        """EMA of parameters: constant decay for soft, capped for hard, whose teacher also takes the statistics."""
        soft = self.cfg.consistency == "soft"
        decay = self.cfg.ema if soft else ema.capped_decay(t.step, self.cfg.ema)
        buffers = not soft if self.cfg.ema_buffers is None else self.cfg.ema_buffers
        ema.update(self.teacher, self.net, decay, buffers)

    @property
    def labeller(self) -> SegNet:
        """The teacher."""
        return self.teacher

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """The network the source scores: the student (soft) or the teacher (hard)."""
        return (self.net if self.cfg.consistency == "soft" else self.teacher)(x).logits
