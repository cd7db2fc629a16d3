"""CutMix-Seg: consistency of a student on CutMixed images with a moving-average teacher.

Papers: French et al., "Semi-supervised semantic segmentation needs strong, varied perturbations", BMVC 2020; and the
"CutMix-Seg" rows of S4MC, which are the U2PL trainer without its contrastive loss.
Checked against: Britefury/cutmix-semisup-seg af6183a for `variant: original` (card: cutmix_seg 1, 2), s4mcontext/s4mc
63905af for `variant: s4mc` (card: cutmix_seg 4; its three debugging leftovers are not copied: one step an epoch, an
active contrastive block, mixing an image with itself at batch size 1).
Departures of `original`: the shared DeepLabV3+ instead of DeepLab v2, batch-norm not frozen in train mode. Of `s4mc`:
the teacher starts as a copy of the student (release: with a head of its own, which only moves its statistics before
it becomes a copy), and is one at the first step after the warm-up only (release: at each step of that epoch).
Plug-ins: in `s4mc`, `refine` sees the teacher's pass on the mixed images; in `original`, both passes before mixing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator

from ssbench.data.batch import Batch, Unlabeled
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
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops import ema
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import global_sum, mean_of, mean_one, world_size
from ssbench.plugins.base import BelowOne, MixedView, Share, StepOutputs, StudentView, Weight


class CutMixSeg(Method):
    """L = L_x + L_u."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})

    class Config(MethodConfig):
        """Settings of CutMix-Seg. The comment of a default names its source."""

        name: Literal["cutmix_seg"] = "cutmix_seg"
        variant: Literal["original", "s4mc"] = "s4mc"  # the rows of the five papers
        weight: Weight = 1.0  # French et al.: cons_weight; S4MC: unsup_weight
        mix_probability: Share = 0.5  # S4MC App. D (original mixes always)
        warmup_epochs: Annotated[int, Field(ge=0)] = 1  # S4MC release: supervised only, then teacher := student
        threshold: Share = 0.97  # original: confidence of the teacher
        confidence: Literal["scalar", "pixel"] = "scalar"  # original: the batch's confident share scales the loss
        ema: BelowOne = 0.99  # both

        @model_validator(mode="after")
        def _read(self) -> CutMixSeg.Config:
            unread = ("threshold", "confidence") if self.variant == "s4mc" else ("mix_probability", "warmup_epochs")
            self._refuse_unread(f"variant: {self.variant}", *unread)
            return self

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Original: each stream passes alone; S4MC: the labelled one in the warm-up."""
        apart = labeled if cfg.warmup_epochs else labeled + unlabeled
        return min(labeled, unlabeled) if cfg.variant == "original" else apart

    @property
    def needs(self) -> Needs:
        """Original: two independent unlabelled batches with colour views. S4MC: geometry only, partner in the batch."""
        original = self.cfg.variant == "original"
        return Needs(strong=1, partner="other" if original else None)

    @classmethod
    def calls(cls, cfg: Config) -> frozenset[str]:
        """Original mixes probabilities, which no plug-in's labels could replace."""
        return cls.honours if cfg.variant == "s4mc" else cls.honours - {"mix"}

    def build(self, make_net: MakeNet) -> None:
        """The teacher starts as a copy of the student. `teaching`: whether the warm-up is over."""
        self.teacher = frozen_copy(self.net)
        original = self.cfg.variant == "original"
        self.register_buffer("teaching", torch.tensor(original or self.cfg.warmup_epochs == 0))
        self.teaching: torch.Tensor

    def step(self, batch: Batch, t: Progress) -> Step:
        """One of the two variants; the S4MC one starts with supervised epochs."""
        if self.cfg.variant == "original":
            return self._original(batch, t)
        return self._warmup(batch, t) if t.epoch < self.cfg.warmup_epochs else self._s4mc(batch, t)

    def _warmup(self, batch: Batch, t: Progress) -> Step:
        out = self.net(batch.labeled.x)
        with torch.no_grad():  # only to move the teacher's batch-norm statistics, as the release does
            self.teacher.train()
            self.teacher(batch.labeled.x)
        return self._total(batch, out, [], None, t)

    def _s4mc(self, batch: Batch, t: Progress) -> Step:
        """Labels from the eval-mode teacher before mixing, confidence from its train-mode pass on the mixed images."""
        if (here := batch.unlabeled) is None:
            raise ValueError("cutmix_seg reads unlabelled images")
        if t.epoch == self.cfg.warmup_epochs and t.step % t.steps_per_epoch == 0:
            ema.update(self.teacher, self.net, 0.0)
        raw = labels_of(self.teacher, here.weak, here.valid, 0.0, train_mode=False)
        target = raw.with_carry(truth=here.truth, **here.maps)
        mixed = self.plugin.mix(lambda: [self._cutmix(here, target, t)], batch, target, t)
        both = torch.cat([batch.labeled.x, *(m.images for m in mixed)])
        sizes = [len(batch.labeled.x), *(len(m.images) for m in mixed)]
        out, *outs = parts(self.net(both), sizes)
        with torch.no_grad():
            self.teacher.train()
            _, *teacher_outs = parts(self.teacher(both), sizes)
        teach, views, terms = frozen_forward(self.teacher), [], []
        for k, (m, student, teacher) in enumerate(zip(mixed, outs, teacher_outs, strict=True), 1):
            probs = teacher.logits.softmax(1)
            mixed_labels = replace(m.pseudo, images=m.weak, probs=probs, logits=teacher.logits, feats=teacher.feats)
            judged = replace(mixed_labels, conf=probs.amax(1))
            pseudo = self.plugin.refine(judged, t)
            weight = self.plugin.weigh(replace(m, pseudo=pseudo), teach, t)
            views.append(StudentView(f"s{k}", m.images, student, pseudo, m.weak))
            terms.append(_scaled_ce(student.logits, pseudo, weight, self.plugin.absolute))
        return self._total(batch, out, views, mean(terms), t)

    def _cutmix(self, here: Unlabeled, target: Pseudo, t: Progress) -> MixedView:
        """With probability `mix_probability`, each image with a box of the next one; else the images as they are."""
        if t.chance("cutmix") >= self.cfg.mix_probability:
            return MixedView(here.weak, target, here.weak)
        order = torch.arange(len(here.weak), device=here.weak.device).roll(-1)
        image = paste(here.weak, here.weak[order], here.boxes[0])
        return MixedView(image, target.pasted(target.permuted(order), here.boxes[0]), image)

    def _original(self, batch: Batch, t: Progress) -> Step:
        """Squared error to the mixed teacher probabilities, scaled by the confident share (card: cutmix_seg 1)."""
        labeled, here, there = streams(batch)
        out, box, tau = self.net(labeled.x), here.boxes[0], self.cfg.threshold
        labels = [labels_of(self.teacher, u.weak, u.valid, tau, train_mode=True) for u in (here, there)]
        first, second = [
            self.plugin.refine(raw.with_carry(truth=u.truth, **u.maps), t)
            for raw, u in zip(labels, (here, there), strict=True)
        ]
        image, pseudo = paste(here.strong[0], there.strong[0], box), first.pasted(second, box)
        student = self.net(image)
        gap = (student.logits.softmax(1) - paste(first.soft, second.soft, box)).square().sum(1) * pseudo.valid
        kept = pseudo.keep.to(gap.dtype)
        gap = gap * (kept if self.cfg.confidence == "pixel" else global_sum(kept.mean()) / world_size())
        mixed = MixedView(image, pseudo, paste(here.weak, there.weak, box))
        weight = self.plugin.weigh(mixed, frozen_forward(self.teacher), t)
        gap = gap if weight is None else gap * (weight if self.plugin.absolute else mean_one(weight))
        views = [StudentView("s1", image, student, pseudo, mixed.weak)]
        return self._total(batch, out, views, mean_of(gap.sum(), gap.numel()), t)

    def _total(
        self, batch: Batch, out: Out, views: Sequence[StudentView], term: torch.Tensor | None, t: Progress
    ) -> Step:
        sup = self.losses.supervised(out.logits, batch.labeled.y)
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, frozen_forward(self.teacher)), t)
        terms = {} if term is None else {"unsup": term, **quality(views[0].pseudo)}

        def printed(u: float) -> torch.Tensor:
            return sup if term is None or not u else sup + self.cfg.weight * u * term

        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, **terms)

    def after_step(self, t: Progress) -> None:
        """EMA: of parameters, decay rising from the end of the warm-up (S4MC); of buffers too, constant (original)."""
        if self.cfg.variant == "original":
            ema.update(self.teacher, self.net, self.cfg.ema, buffers=True)
            return
        since = t.step - self.cfg.warmup_epochs * t.steps_per_epoch
        if since >= 0:
            ema.update(self.teacher, self.net, ema.capped_decay(since, self.cfg.ema))
            self.teaching.fill_(True)

    @property
    def labeller(self) -> SegNet:
        """The teacher; during the warm-up, when it has learned nothing, the student."""
        return self.teacher if self.teaching else self.net

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        """The teacher; during the warm-up, when it has learned nothing, the student (S4MC release)."""
        return self.labeller(x).logits


def _scaled_ce(logits: torch.Tensor, pseudo: Pseudo, weight: torch.Tensor | None, absolute: bool) -> torch.Tensor:
    """Mean CE over kept pixels times all / kept pixels (S4MC release; card: cutmix_seg 4); 0 when nothing is kept."""
    kept = pseudo.counted.to(logits.dtype)
    ce = F.cross_entropy(logits, pseudo.label, reduction="none") * kept
    share = global_sum(kept.new_full((), kept.numel())) / global_sum(kept.sum()).clamp(min=1)
    if weight is None:
        return mean_of(ce.sum(), kept.sum()) * share
    return mean_of((ce * weight).sum(), kept.sum() if absolute else (kept * weight).sum()) * share
