"""Mean Teacher for segmentation: the student agrees with a moving average of itself.

Papers: Tarvainen and Valpola 2017; the "MT" / "Mean Teacher" rows of UPC and the "basic teacher-student" of MPMC
(Sec. 3.1) and WPL (Sec. 3.1). No released code stands behind those rows (specs: cutmix_seg 9). Checked against:
TorchSemiSeg 5e0c29c `exp.voc/voc8.res50v3+.MeanTeacher` for `consistency: soft` (specs: cps 7): squared error on
probabilities of labelled and unlabelled images, weight 100, all passes in train mode, the student is scored.
`consistency: hard` is the basic teacher-student: the teacher in eval mode labels the weak view, the student is
trained on the strong view, the teacher is scored.
Departures: the average is taken after the optimiser step (CPS: inside the next labelled forward, before it).
"""

from __future__ import annotations

from typing import Literal

import torch

from ssbench.data.batch import Batch, Needs
from ssbench.methods.base import (
    MakeNet,
    Method,
    MethodConfig,
    Step,
    frozen_copy,
    frozen_forward,
    labels_of,
    recorded,
    rows,
    summed,
)
from ssbench.ops import ema
from ssbench.ops.progress import Progress
from ssbench.ops.reduce import mean_of
from ssbench.plugins.base import Mixed, Seen, View


class MeanTeacher(Method):
    """L = L_x + weight * L_consistency."""

    honours = frozenset({"prepare", "extras", "pace", "refine", "mix", "weigh", "loss"})

    class Config(MethodConfig):
        """Settings."""

        name: Literal["mean_teacher"] = "mean_teacher"
        consistency: Literal["soft", "hard"] = "soft"  # TorchSemiSeg; hard = MPMC, WPL Sec. 3.1
        weight: float | None = None  # soft 100 (TorchSemiSeg), hard 1 (MPMC Eq. 1)
        threshold: float = 0.95  # hard only: FixMatch's, as WPL Sec. 3.1
        ema: float = 0.99  # TorchSemiSeg
        ema_buffers: bool = False  # TorchSemiSeg: batch-norm statistics from the teacher's own passes

    @property
    def needs(self) -> Needs:
        """Soft: student and teacher see the same image. Hard: one strong view."""
        return Needs(strong=1 if self.cfg.consistency == "hard" else 0)

    def build(self, make_net: MakeNet) -> None:
        """The teacher starts as a copy of the student."""
        self.teacher = frozen_copy(self.net)

    def step(self, batch: Batch, t: Progress) -> Step:
        """One consistency term, soft or hard."""
        return self._soft(batch, t) if self.cfg.consistency == "soft" else self._hard(batch, t)

    def _soft(self, batch: Batch, t: Progress) -> Step:
        labeled, here = batch.labeled, batch.unlabeled
        assert here is not None  # noqa: S101  `needs` asks for it
        first, second = self.net(labeled.x), self.net(here.weak)
        everywhere = torch.ones_like(labeled.y, dtype=torch.bool)
        told = labels_of(self.teacher, labeled.x, everywhere, 0.0, train_mode=True)
        target = self.plugin.refine(labels_of(self.teacher, here.weak, here.valid, 0.0, train_mode=True), t)
        assert told.probs is not None and target.probs is not None  # noqa: S101  un-mixed
        gap = (second.logits.softmax(1) - target.probs).square().mean(1) * target.keep
        mixed, teach = Mixed(here.weak, target, here.weak), frozen_forward(self.teacher)
        weight = self.plugin.weigh(mixed, teach, t)
        gap = gap if weight is None else gap * weight * (weight.numel() / weight.sum())
        known = (first.logits.softmax(1) - told.probs).square().mean(1)
        consistency = mean_of(known.sum() + gap.sum(), known.numel() + gap.numel())
        sup = self.losses.supervised(first.logits, labeled.y)
        view = View("weak", here.weak, second, target, here.weak)
        return self._total(batch, first, (view,), sup, consistency, 100.0, t)

    def _hard(self, batch: Batch, t: Progress) -> Step:
        labeled, here = batch.labeled, batch.unlabeled
        assert here is not None  # noqa: S101  `needs` asks for it
        target = labels_of(self.teacher, here.weak, here.valid, self.cfg.threshold, train_mode=False)
        target = self.plugin.refine(target, t)
        mixed = self.plugin.mix(lambda: [Mixed(here.strong[0], target, here.weak)], batch, target, t)
        teach, n = frozen_forward(self.teacher), len(labeled.x)
        out = self.net(torch.cat([labeled.x, *(m.images for m in mixed)]))
        first = rows(out, slice(n))
        views = tuple(
            View(f"s{k + 1}", m.images, rows(out, slice(n + k * len(m.images), n + (k + 1) * len(m.images))), m.pseudo, m.weak)
            for k, m in enumerate(mixed)
        )
        each = [self.losses.pseudo(v.out.logits, v.pseudo, self.plugin.weigh(m, teach, t)) for v, m in zip(views, mixed, strict=True)]
        sup = self.losses.supervised(first.logits, labeled.y)
        return self._total(batch, first, views, sup, sum(each[1:], each[0]) / len(each), 1.0, t)

    def _total(
        self, batch: Batch, first: object, views: tuple[View, ...], sup: torch.Tensor, term: torch.Tensor,
        default: float, t: Progress,
    ) -> Step:
        extra = self.plugin.loss(Seen(batch, first, views, self.net, frozen_forward(self.teacher)), t)  # type: ignore[arg-type]
        pace = self.plugin.pace(t)
        weight = default if self.cfg.weight is None else self.cfg.weight
        host = sup + weight * term if pace.unlabeled else sup
        return Step(summed(host, pace, extra), recorded(sup=sup, consistency=term, **extra))

    def after_step(self, t: Progress) -> None:
        """EMA of parameters, decay capped at `ema`."""
        ema.update(self.teacher, self.net, ema.capped_decay(t.step, self.cfg.ema), self.cfg.ema_buffers)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """The network the source scores: the student (soft) or the teacher (hard)."""
        return (self.net if self.cfg.consistency == "soft" else self.teacher)(x).logits
