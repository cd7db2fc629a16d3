"""AugSeg: strong colour changes, and labelled patches pasted into images of which the teacher is unsure.

Paper: Zhao et al., "Augmentation Matters: A Simple-yet-Effective Approach to Semi-Supervised Semantic Segmentation",
CVPR 2023. Checked against: ZhenZHAO/AugSeg 7ead870 and its 55 logs (card: augseg). The colour operations are the
`augseg` strong view of the data; the rest is here, in the release's order. What the release does without the paper
saying so is an option with its value as default: teacher = student for the first epoch, buffers averaged, padding
labelled and counted, L_u divided by all pixels (`pseudo_over: valid` of the task's loss).
The release mixes per process of `group` images, with one order and one box size each; so does this, whatever the
number of processes. Departures: the labelled cross entropy is a mean over the whole batch, not per process; random
decisions are drawn anew for every image and group (release: equal on all processes and in both loaders, a slip).
Plug-ins: `refine` sees the weak view before mixing, an image's confidence comes from the teacher's raw probabilities;
pasted labelled pixels are `trusted` and hold 0 in maps a plug-in carries.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Field
from torch import Tensor

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.plan import Needs, count_groups
from ssbench.errors import RecipeError
from ssbench.keyed import rng
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
from ssbench.ops import confidence, ema
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import BelowOne, Count, MixedView, Share, StepOutputs, StudentView, Weight

Epochs = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Beta: TypeAlias = tuple[Positive, Positive]
"""The two parameters of a Beta distribution."""


class AugSeg(Method):
    """L = L_x + weight * L_u."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})
    behaviour = 2  # the repeated labelled list is drawn once a run, not cut

    class Config(MethodConfig):
        """Settings of AugSeg. The comment of a default names its source."""

        name: Literal["augseg"] = "augseg"
        threshold: Annotated[float, Field(ge=-1, le=1)] = 0.95  # release VOC; below 0 on Cityscapes: none
        weight: Weight = 1.0  # release, all logs
        ema: BelowOne = 0.999  # release VOC; Cityscapes 0.996
        ema_buffers: bool = True  # release: batch-norm statistics are averaged too
        warmup_epochs: Epochs = 0  # release sup_only_epoch: coded, never used
        copy_epochs: Epochs = 1  # release: after the warm-up the teacher is a copy for an epoch
        mix_probability: Share = 1.0  # release: the mix's trigger
        inject: Literal["unsure", "always", "never"] = "unsure"  # Sec. 3.3; the others: ours, for ablations
        inject_beta: Beta = (8.0, 2.0)  # release: box of the labelled patch, mean share 0.2
        mix_beta: Beta = (4.0, 4.0)  # release: box of the unlabelled mix, mean share 0.5
        extra_weak: bool = False  # release: weak images join the student's pass for batch norm; off in every log
        aux_weight: Weight = 0.4  # release: an auxiliary head is coded, never configured
        padding: Literal["counted", "ignored"] = "counted"  # release: the teacher labels padding too
        group: Count = 8  # release: unlabelled images a process, VOC 8, Cityscapes 4

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Only in the warm-up do labelled images pass alone."""
        return labeled if cfg.warmup_epochs else labeled + unlabeled

    @property
    def needs(self) -> Needs:
        """One strong view; partners are in the batch."""
        return Needs(strong=1, repeats="drawn")

    @classmethod
    def check_batches(cls, cfg: Config, labeled: int, unlabeled: int) -> None:
        """Batches of one size, which form whole groups."""
        if labeled != unlabeled:
            what = f"{labeled} labelled and {unlabeled} unlabelled images"
            raise RecipeError(
                what, "schedule", f"augseg pastes one into the other: --set schedule.labeled_batch={unlabeled}"
            )
        count_groups(cfg.group, unlabeled)

    def build(self, make_net: MakeNet) -> None:
        """The teacher starts as a copy of the student."""
        self.teacher = frozen_copy(self.net)

    def step(self, batch: Batch, t: Progress) -> Step:
        """The forward passes in the order of the release (card: augseg 4)."""
        cfg, labeled, here = self.cfg, batch.labeled, batch.unlabeled
        if here is None:
            raise ValueError("augseg reads unlabelled images")
        if t.epoch < cfg.warmup_epochs:
            return self._total(batch, self.net(labeled.x), [], {}, t)
        valid = here.valid if cfg.padding == "ignored" else torch.ones_like(here.valid)
        raw = labels_of(self.teacher, here.weak, valid, cfg.threshold, train_mode=False)
        confident, target = image_confidence(raw.soft, valid), self.plugin.refine(raw.with_carry(**here.maps), t)
        mixed = self.plugin.mix(lambda: [self._mix(labeled, here, target, confident, t)], batch, target, t)
        images = [labeled.x, *([here.weak] if cfg.extra_weak else []), *(m.images for m in mixed)]
        out, *outs = parts(self.net(torch.cat(images)), [len(x) for x in images])
        terms, views = self._teach_views(mixed, outs[-len(mixed) :], frozen_forward(self.teacher), t)
        shares = {"counted": _counted_share(views[0].pseudo), **quality(target, here.truth)}
        return self._total(batch, out, views, {"unsup": mean(terms), **shares}, t)

    def _mix(self, labeled: Labeled, here: Unlabeled, target: Pseudo, confident: Tensor, t: Progress) -> MixedView:
        """Labelled boxes into a copy of the batch, boxes of that copy into the batch; one order for both (Sec. 3.3)."""
        strong = here.strong[0]
        if t.chance("augseg mix") >= self.cfg.mix_probability:
            return MixedView(strong, target, here.weak)
        self.check_batches(self.cfg, len(labeled.x), len(strong))
        order = self._draw_order(len(strong), t)
        injected = self._draw_injections(confident, t)[:, None, None]
        inner = self._draw_boxes(strong, self.cfg.inject_beta, "inner box", t) & injected
        outer = self._draw_boxes(strong, self.cfg.mix_beta, "outer box", t)
        truth = ground_truth(labeled.y, target, self.cfg.padding == "ignored").permuted(order)
        pseudo = target.pasted(target.pasted(truth, inner).permuted(order), outer)
        images, weak = (paste(x, paste(x, labeled.x[order], inner)[order], outer) for x in (strong, here.weak))
        return MixedView(images, pseudo, weak)

    def _draw_injections(self, confident: Tensor, t: Progress) -> Tensor:
        """B bool: images that take a labelled patch, with probability 1 - confidence."""
        if self.cfg.inject != "unsure":
            return torch.full_like(confident, self.cfg.inject == "always", dtype=torch.bool)
        coins = torch.rand(len(confident) * t.world, generator=t.generator("augseg toss"), device=t.device)
        return _rows_of_process(coins, t) >= confident

    def _draw_order(self, images: int, t: Progress) -> Tensor:
        """B indices: a random order within each group."""
        count = count_groups(self.cfg.group, images)
        keys = torch.rand(count * t.world, images // count, generator=t.generator("augseg order"), device=t.device)
        first = torch.arange(0, images, images // count, device=t.device)[:, None]
        return (_rows_of_process(keys, t).argsort(1) + first).flatten()

    def _draw_boxes(self, like: Tensor, beta: tuple[float, float], purpose: str, t: Progress) -> Tensor:
        """B H W bool: a box an image, of one size in each group, its centre uniform from an eighth of the side on."""
        shape, count = (like.shape[-2], like.shape[-1]), count_groups(self.cfg.group, len(like))
        places = torch.rand(len(like) * t.world, 2, generator=t.generator(f"augseg {purpose}"), device=t.device)
        ranks = range(t.rank * count, (t.rank + 1) * count)
        cuts = [math.sqrt(1 - rng(t.seed, t.step, f"augseg {purpose}", k).beta(*beta)) for k in ranks]
        pairs = zip(cuts, _rows_of_process(places, t).chunk(count), strict=True)
        return torch.cat([boxes(centres, shape, cut) for cut, centres in pairs])

    def _total(
        self, batch: Batch, out: Out, views: Sequence[StudentView], terms: dict[str, Tensor], t: Progress
    ) -> Step:
        sup = self.losses.labeled(out, batch.labeled.y, self.cfg.aux_weight)
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, frozen_forward(self.teacher)), t)

        def printed(u: float) -> Tensor:
            return sup + self.cfg.weight * u * terms["unsup"] if terms and u else sup

        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, **terms)

    def after_step(self, t: Progress) -> None:
        """EMA of parameters and buffers, rising to `ema`; a copy at first (card: augseg 8)."""
        start = self.cfg.warmup_epochs * t.steps_per_epoch
        copying = t.epoch < self.cfg.warmup_epochs + self.cfg.copy_epochs
        decay = 0.0 if copying else ema.capped_decay(t.step - start, self.cfg.ema)
        ema.update(self.teacher, self.net, decay, buffers=self.cfg.ema_buffers)

    @property
    def labeller(self) -> SegNet:
        """The teacher."""
        return self.teacher

    def predict(self, x: Tensor) -> Tensor:
        """The teacher."""
        return self.teacher(x).logits


def image_confidence(probs: Tensor, valid: Tensor) -> Tensor:
    """B in [0, 1]: mean over valid pixels of (1 - entropy / ln C) x largest probability. probs: B C H W."""
    certain = 1 + confidence.negative_entropy(probs) / math.log(probs.shape[1])
    return (certain * probs.amax(1) * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)


def boxes(centres: Tensor, shape: tuple[int, int], cut: float) -> Tensor:
    """B H W bool: boxes of sides int(side x cut), clipped to the picture (card: augseg 5).

    Args:
        centres: B 2 uniform numbers in [0, 1), row and column, mapped to whole pixels from side // 8 to side - 1.
    """
    inside = []
    for axis, side in enumerate(shape):
        low, half = side // 8, int(side * cut) // 2
        centre = low + (centres[:, axis, None] * (side - low)).long()
        line = torch.arange(side, device=centres.device)
        inside.append((line >= centre - half) & (line < centre + half))
    return inside[0][:, :, None] & inside[1][:, None, :]


def ground_truth(y: Tensor, like: Pseudo, only_labelled: bool) -> Pseudo:
    """Ground truth (B H W, 255 = none) as pseudo-labels to paste: certain and trusted where there is a label.

    Pixels without one teach nothing, but stay valid, so that L_u is still divided by them, unless `only_labelled`.
    """
    labelled = y != 255
    valid = labelled if only_labelled else torch.ones_like(labelled)
    carry = {name: torch.zeros_like(value) for name, value in like.carry.items()}
    return Pseudo(y.where(labelled, 0), torch.ones_like(like.conf), labelled, valid, trusted=labelled, carry=carry)


def _counted_share(pseudo: Pseudo) -> Tensor:
    """Share of pixels that enter the loss, pasted ones included, as the release logs it."""
    return (pseudo.counted & pseudo.valid).float().mean()


def _rows_of_process(draws: Tensor, t: Progress) -> Tensor:
    """This process's rows of random numbers drawn for all processes, so that their number changes none."""
    return draws.chunk(t.world)[t.rank]
