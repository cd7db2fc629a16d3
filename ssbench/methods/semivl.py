"""SemiVL: UniMatch's step on a vision-language network, with labels of a frozen CLIP as a second teacher.

Paper: Hoyer et al., "SemiVL: Semi-Supervised Semantic Segmentation with Vision-Language Guidance", ECCV 2024, Secs.
3.2-3.5. Checked against: google-research/semivl 13ee65d6, `semivl.py` and `utils/train_utils.py` (card: semivl 8, 9).
The traps of the release are options with its value as default, as in UniMatch (`partner: same`).
Departures: `confidence: average` is computed image by image, which is what the release computes with its one image a
process; with more it would multiply the loss of all images by the confidence of each (card: semivl 8).
The guidance terms are this host's `weigh`: weights of a plug-in go into them, the pseudo-label losses stay as they are
(card: semivl 10).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.data.batch import Batch, Unlabeled
from ssbench.data.plan import Needs
from ssbench.methods.base import Method, MethodConfig, Step, frozen_forward, labels_of, mean, parts, quality, streams
from ssbench.nets.segnet import Out
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import global_sum, mean_of
from ssbench.plugins.base import BelowOne, MixedView, Share, StepOutputs, StudentView, Weight

GUIDE = "semivl_guide"
"""The map of guidance labels among those that are mixed along: class + 1; 0 where the frozen encoder is not sure."""


class SemiVL(Method):
    """L = (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2 + lambda(t) (0.25 G_s1 + 0.25 G_s2 + 0.5 G_fp)."""

    honours = frozenset({"prepare", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})
    network = "semivl"

    class Config(MethodConfig):
        """Settings of SemiVL. The comment of a default names its source."""

        name: Literal["semivl"] = "semivl"
        threshold: Share = 0.95  # release experiments.py conf_thresh; with confidence: average every pixel counts
        confidence: Literal["pixel", "average"] = "pixel"  # release conf_mode pixelwise; pixelavg on Cityscapes
        partner: Literal["same", "other"] = "same"  # release: one loader zipped with itself
        feature_drop: BelowOne = 0.5  # release fp_rate
        strong_weight: Weight = 0.5  # release: 0.25 for each of two views
        feature_weight: Weight = 0.5  # release
        guidance: Weight = 0.1  # release maskclip_consistency_lambda, at the first step
        guidance_end: Weight = 0.0  # release, at the last step
        guidance_threshold: Share = 0.9  # release mcc_conf_thresh

    @property
    def needs(self) -> Needs:
        """Two strong views, and a second draw to paste from."""
        return Needs(strong=2, partner=self.cfg.partner)

    def step(self, batch: Batch, t: Progress) -> Step:
        """The forward passes in the order of the release (card: semivl 8)."""
        cfg, (labeled, here, there) = self.cfg, streams(batch)
        threshold = cfg.threshold if cfg.confidence == "pixel" else 0.0
        other = labels_of(self.net, there.weak, there.valid, threshold, train_mode=False)
        pasted = self.plugin.refine(other.with_carry(**self._guided(there)), t)
        guided = self._guided(here)
        out, weak = self._joint(labeled.x, here.weak, t)
        target = Pseudo.of(weak.logits, here.valid, threshold, weak.feats, here.weak)
        target = self.plugin.refine(target.with_carry(**guided), t)

        def cutmix() -> list[MixedView]:
            pairs = zip(here.strong, there.strong, here.boxes, strict=True)
            return [
                MixedView(paste(a, b, box), target.pasted(pasted, box), paste(here.weak, there.weak, box))
                for a, b, box in pairs
            ]

        mixed, teach = self.plugin.mix(cutmix, batch, target, t), frozen_forward(self.net)
        strong = parts(self.net(torch.cat([m.images for m in mixed])), [len(m.images) for m in mixed])
        assert weak.perturbed is not None  # noqa: S101  `_joint` perturbs
        views = [*mixed, MixedView(here.weak, target, here.weak)]
        scores = [*(each.logits for each in strong), weak.perturbed]
        losses = [self._consistency(z, view.pseudo) for z, view in zip(scores, views, strict=True)]
        guides = [self._guidance(z, view, teach, t) for z, view in zip(scores, views, strict=True)]
        sup = self.losses.supervised(out.logits, labeled.y)
        seen = [
            StudentView(f"s{k}", m.images, each, m.pseudo, m.weak)
            for k, (m, each) in enumerate(zip(mixed, strong, strict=True), 1)
        ]
        seen.append(StudentView("fp", here.weak, Out(weak.perturbed, feats=weak.feats), target, here.weak))
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(seen), self.net, teach), t)
        factor = cfg.guidance * (1 - t.fraction) + cfg.guidance_end * t.fraction
        unsup, guide = (cfg.strong_weight * mean(x[:-1]) + cfg.feature_weight * x[-1] for x in (losses, guides))

        def printed(u: float) -> Tensor:
            return (sup + u * unsup) / 2 + factor * u * guide if u else sup / 2

        names = [*(f"s{k}" for k in range(1, len(losses))), "fp"]
        terms = dict(zip(names, losses, strict=True)) | quality(target, here.truth)
        terms |= {"guidance": guide, "guided": _share(target.carry[GUIDE] > 0, here.valid)}
        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, **terms)

    def _joint(self, x: Tensor, weak: Tensor, t: Progress) -> tuple[Out, Out]:
        """One pass over labelled and weak images, the decoder also on perturbed features of both."""
        drop = [
            torch.cat([self._drop(t, len(x), wide, f"labeled {k}"), self._drop(t, len(weak), wide, f"weak {k}")])
            for k, wide in enumerate(self.net.perturb_channels)
        ]
        labeled, unlabeled = parts(self.net(torch.cat([x, weak]), drop), [len(x), len(weak)])
        return labeled, unlabeled

    def _drop(self, t: Progress, images: int, channels: int, which: str) -> Tensor:
        """Multipliers of one map; drawn apart for each stream, so that sharing the batch out changes none of them."""
        return t.channel_drop(images, channels, self.cfg.feature_drop, f"feature drop {which}")

    def _guided(self, images: Unlabeled) -> dict[str, Tensor]:
        """The batch's own maps, and the frozen encoder's labels of the weak images; none on padding."""
        net: Any = self.net  # `network` says which: it has a frozen encoder beside the trained one
        label, is_sure = net.guide(images.weak, self.cfg.guidance_threshold)
        return {**images.maps, GUIDE: torch.where(is_sure & images.valid, label + 1, 0)}

    def _consistency(self, logits: Tensor, target: Pseudo) -> Tensor:
        """The loss against the network's own labels, under one of two ways to use its confidence."""
        if self.cfg.confidence == "pixel":
            return self.losses.pseudo(logits, target)
        # Release pixelavg: every pixel counts, padding too; the image's loss times its mean confidence where valid.
        ce = F.cross_entropy(logits, target.label, reduction="none") * target.keep
        valid = target.valid.sum((1, 2)).clamp(min=1)
        confidence = (target.conf * target.valid).sum((1, 2)) / valid
        return mean_of((ce.sum((1, 2)) * confidence / valid).sum(), len(logits))

    def _guidance(self, logits: Tensor, view: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        """Cross-entropy with the frozen encoder's labels, summed where there is one, over all pixels.

        With a plug-in's weights W: the weighted mean where there is a label, times the share of such pixels, so that
        the scale stays (card: semivl 10); with `absolute` ones the sum of W CE over all pixels.
        """
        guide = view.pseudo.carry[GUIDE]
        label, has_label = (guide - 1).clamp(min=0), guide > 0
        ce = F.cross_entropy(logits, label, reduction="none") * has_label
        pseudo = replace(view.pseudo, label=label, keep=has_label)
        weight = self.plugin.weigh(replace(view, pseudo=pseudo), teach, t)
        if weight is None:
            return mean_of(ce.sum(), ce.numel())
        if self.plugin.absolute:
            return mean_of((ce * weight).sum(), ce.numel())
        # Of all processes: `mean_of` gives a process's own part, whose mean over processes is the share.
        share = global_sum(has_label.sum()) / global_sum(ce.new_full((), ce.numel()))
        return share * mean_of((ce * weight).sum(), (has_label * weight).sum())


def _share(chosen: Tensor, of: Tensor) -> Tensor:
    """Pixels of `chosen` per pixel of `of`, both bool, over all processes."""
    return mean_of(chosen.sum().to(torch.float32), of.sum())
