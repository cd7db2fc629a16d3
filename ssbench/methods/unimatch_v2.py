"""UniMatch V2: an EMA teacher labels weak views; two strong views see complementary halves of the feature channels.

Paper: Yang et al., "UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation", TPAMI 2025 (arXiv
2410.10777). Checked against: LiheYoung/UniMatch-V2 f6afb4d, `unimatch_v2.py` and `model/semseg/dpt.py` (card:
unimatch_v2 4, 5). Against UniMatch the stream of perturbed features and the train-mode self-teacher are gone; a teacher
of averaged weights, and dropout of channels inside the strong views, are new.
The release mixes and drops per process of `group` images; so does this, whatever the number of processes.
Readings that are ours: maps of unequal width (a ResNet's) draw one mask a width; where a plug-in replaces the two mixed
views by others, these are paired in their order, and an odd last one gets the mask alone (card: unimatch_v2 5).
Departures: labelled and unlabelled orders are shuffled independently (upstream pairs them by a shared seed); losses are
means over the whole batch, not per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs, count_groups
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
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.plugins.base import BelowOne, Count, MixedView, Share, StepOutputs


class UniMatchV2(Method):
    """L = (L_x + (L_s1 + L_s2) / 2) / 2."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})
    trial: ClassVar = {"threshold": 0.0}  # in eval mode an untrained network is as unsure of every class

    class Config(MethodConfig):
        name: Literal["unimatch_v2"] = "unimatch_v2"
        threshold: Share = 0.95  # release configs/*.yaml conf_thresh, on every dataset
        ema: BelowOne = 0.996  # release unimatch_v2.py: the cap of the teacher's decay
        dropout: Literal["complementary", "none"] = "complementary"  # Sec. 3.3; none: ours, for ablations
        group: Count = 4  # release: unlabelled images a process, VOC and COCO 4, Cityscapes and ADE20K 2

    @property
    def needs(self) -> Needs:
        """Two strong views; partners are in the batch. A long labelled list is read whole."""
        return Needs(strong=2, repeats="whole")

    @classmethod
    def check_batches(cls, cfg: Config, labeled: int, unlabeled: int) -> None:
        """Unlabelled images form whole groups."""
        count_groups(cfg.group, unlabeled)

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Labelled images pass alone, all strong views together."""
        return min(labeled, unlabeled * (views or 2))

    def build(self, make_net: MakeNet) -> None:
        """The teacher starts as a copy of the student."""
        self.teacher = frozen_copy(self.net)

    def step(self, batch: Batch, t: Progress) -> Step:
        """The forward passes in the order of the release (card: unimatch_v2 4)."""
        labeled, here = batch.labeled, batch.unlabeled
        if here is None:
            raise ValueError("unimatch_v2 reads unlabelled images")
        target = labels_of(self.teacher, here.weak, here.valid, self.cfg.threshold, train_mode=False)
        target = self.plugin.refine(target.with_carry(**here.maps), t)
        order = reversed_groups(len(here.weak), self.cfg.group, here.weak.device)

        def cutmix() -> list[MixedView]:
            labels = replace(target, logits=None, probs=None, images=None, feats={})  # the rest is never pasted
            partner = labels.permuted(order)
            return [
                MixedView(paste(s, s[order], box), target.pasted(partner, box), paste(here.weak, here.weak[order], box))
                for s, box in zip(here.strong, here.boxes, strict=True)
            ]

        mixed, teach = self.plugin.mix(cutmix, batch, target, t), frozen_forward(self.teacher)
        out = self.net(labeled.x)
        each_view, views = self._teach_views(mixed, self._strong(mixed, t), teach, t)
        sup, strong = self.losses.supervised(out.logits, labeled.y), mean(each_view)
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, teach), t)
        terms = {f"s{k}": s for k, s in enumerate(each_view, 1)} | quality(target, here.truth)

        def printed(u: float) -> Tensor:
            return (sup + u * strong) / 2 if u else sup / 2

        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, **terms)

    def _strong(self, mixed: Sequence[MixedView], t: Progress) -> list[Out]:
        """The student's outputs on the strong views, in one pass."""
        sizes = [len(view.images) for view in mixed]
        images = torch.cat([view.images for view in mixed])
        if self.cfg.dropout == "none":
            return parts(self.net(images), sizes)
        masks = {wide: self._masks(sizes, wide, t) for wide in dict.fromkeys(self.net.perturb_channels)}
        return parts(self.net(images, [masks[wide] for wide in self.net.perturb_channels], True), sizes)

    def _masks(self, sizes: list[int], channels: int, t: Progress) -> Tensor:
        """Multipliers of every view's channels, one view after the other: pairs of views complement each other."""
        masks: list[Tensor] = []
        for k in range(0, len(sizes), 2):
            masks += complementary_masks(sizes[k], channels, self.cfg.group, f"complementary {k} {channels}", t)
        return torch.cat(masks[: len(sizes)])

    def after_step(self, t: Progress) -> None:
        """Moving average of parameters and buffers (card: unimatch_v2 4)."""
        ema.update(self.teacher, self.net, ema.capped_decay(t.step, self.cfg.ema), buffers=True)

    @property
    def labeller(self) -> SegNet:
        """The teacher."""
        return self.teacher

    def predict(self, x: Tensor) -> Tensor:
        """The teacher, whose best epoch on val the paper prints."""
        return self.teacher(x).logits


def complementary_masks(images: int, channels: int, group: int, purpose: str, t: Progress) -> tuple[Tensor, Tensor]:
    """Two masks [images, channels] with entries 0 and 2 that add up to 2, drawn by a fair coin for each channel.

    In each group of b images, floor(b / 2) chosen at random keep all channels in both views: entries of 1. So of a
    group of one none does. Drawn for the images of all processes, of which these are this process's.

    Raises:
        RecipeError: the images do not form whole groups.
    """
    first = t.channel_drop(images, channels, 0.5, purpose)
    count = count_groups(group, images) if images else 1
    size = images // count
    keys = torch.rand(count * t.world, size, generator=t.generator(f"{purpose} kept"), device=t.device)
    rank = keys.chunk(t.world)[t.rank].argsort(1).argsort(1)
    is_kept = (rank < size // 2).flatten()[:, None]
    return first.where(~is_kept, 1.0), (2 - first).where(~is_kept, 1.0)


def reversed_groups(images: int, group: int, device: torch.device) -> Tensor:
    """Indices of the image that is pasted into each: the group in reverse, so an odd group's middle one is its own."""
    size = images // count_groups(group, images) if images else 1
    places = torch.arange(images, device=device)
    return places - 2 * (places % size) + size - 1
