"""UniMatch: two strong views and a feature-perturbed view share the labels of one weak view.

Paper: Yang et al., "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation", CVPR 2023.
Checked against: LiheYoung/UniMatch 0324f3d, `unimatch.py` and `more-scenarios/medical/unimatch.py` (card: unimatch
3, 10). The traps of the release are options with its value as default: `partner: same` (an image is mixed with
itself), `weak_labels: train` (labels from batch statistics), `pseudo_over: valid` of the task's loss.
Departures: labelled and unlabelled orders are shuffled independently (upstream pairs them by a shared sampler).
"""

from __future__ import annotations

from typing import Literal

import torch

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs
from ssbench.methods.base import (
    Method,
    MethodConfig,
    Step,
    frozen_forward,
    labels_of,
    mean,
    parts,
    quality,
    streams,
)
from ssbench.nets.segnet import Out
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import BelowOne, MixedView, Share, StepOutputs, StudentView, Weight


class UniMatch(Method):
    """L = (L_x + 0.25 L_s1 + 0.25 L_s2 + 0.5 L_fp) / 2."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})

    class Config(MethodConfig):
        """Settings of UniMatch. The comment of a default names its source."""

        name: Literal["unimatch"] = "unimatch"
        threshold: Share = 0.95  # config: pascal, coco, acdc 0.95; cityscapes 0
        partner: Literal["same", "other"] = "same"  # release: one sampler for both iterators; medical: other
        weak_labels: Literal["train", "eval"] = "train"  # release: labels of the joint train-mode forward
        feature_drop: BelowOne = 0.5  # Sec. 3.2, Dropout2d
        strong_weight: Weight = 0.5  # release: 0.25 for each of two views
        feature_weight: Weight = 0.5  # release

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """All strong views pass together."""
        return min(labeled + unlabeled, unlabeled * (views or 2))

    @property
    def needs(self) -> Needs:
        """Two strong views, and a second draw to paste from."""
        return Needs(strong=2, partner=self.cfg.partner)

    def step(self, batch: Batch, t: Progress) -> Step:
        """The forward passes in the order of the release (card: unimatch 3)."""
        cfg, (labeled, here, there) = self.cfg, streams(batch)
        other = labels_of(self.net, there.weak, there.valid, cfg.threshold, train_mode=False)
        pasted = self.plugin.refine(other.with_carry(**there.maps), t)
        out, weak = self._joint(labeled.x, here.weak, t)
        if cfg.weak_labels == "eval":
            target = labels_of(self.net, here.weak, here.valid, cfg.threshold, train_mode=False)
        else:
            target = Pseudo.of(weak.logits, here.valid, cfg.threshold, weak.feats, here.weak)
        target = self.plugin.refine(target.with_carry(**here.maps), t)

        def cutmix() -> list[MixedView]:
            pairs = zip(here.strong, there.strong, here.boxes, strict=True)
            return [
                MixedView(paste(a, b, box), target.pasted(pasted, box), paste(here.weak, there.weak, box))
                for a, b, box in pairs
            ]

        mixed, teach = self.plugin.mix(cutmix, batch, target, t), frozen_forward(self.net)
        strong = self.net(torch.cat([m.images for m in mixed]))
        sup = self.losses.supervised(out.logits, labeled.y)
        each_view, views = self._teach_views(mixed, parts(strong, [len(m.images) for m in mixed]), teach, t)
        assert weak.perturbed is not None  # noqa: S101  `_joint` perturbs
        weight = self.plugin.weigh(MixedView(here.weak, target, here.weak), teach, t)
        fp = self.losses.pseudo(weak.perturbed, target, weight)
        views.append(StudentView("fp", here.weak, Out(weak.perturbed, feats=weak.feats), target, here.weak))
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, teach), t)
        terms = {f"s{k}": s for k, s in enumerate(each_view, 1)} | {"fp": fp} | quality(target, here.truth)
        unsup = cfg.strong_weight * mean(each_view) + cfg.feature_weight * fp

        def printed(u: float) -> torch.Tensor:
            return (sup + u * unsup) / 2 if u else sup / 2

        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, **terms)

    def _joint(self, x: torch.Tensor, weak: torch.Tensor, t: Progress) -> tuple[Out, Out]:
        """One pass over labelled and weak images, the decoder also on perturbed features of both."""
        drop = [
            torch.cat([self._drop(t, len(x), wide, f"labeled {k}"), self._drop(t, len(weak), wide, f"weak {k}")])
            for k, wide in enumerate(self.net.perturb_channels)
        ]
        labeled, unlabeled = parts(self.net(torch.cat([x, weak]), drop), [len(x), len(weak)])
        return labeled, unlabeled

    def _drop(self, t: Progress, images: int, channels: int, which: str) -> torch.Tensor:
        """Multipliers of one map; drawn apart for each stream, so that sharing the batch out changes none of them."""
        return t.channel_drop(images, channels, self.cfg.feature_drop, f"feature drop {which}")
