"""U2PL: uncertain pixels leave the pseudo-label loss and serve as negatives of a pixel contrastive loss.

Paper: Wang et al., "Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels", CVPR 2022.
Checked against: Haochen-Wang409/U2PL ab3d2be `train_semi.py`, `u2pl/utils/loss_helper.py` (card: u2pl); the branch
`with_AEL`, which made its higher Cityscapes numbers, is another algorithm (card: u2pl 13) and not here.
`contrastive_impl: release` has the release's three defects (card: u2pl 8): negatives of a class must also be labelled
with it; class v reads the bank of the v-th valid class; in the one-hot labels the first image of a process carries the
classes of all its images, the others none. `paper` has none of them. Which one made the tables is unknown.
What the release computes per process of `group` images is computed per group here: percentiles, the kept share,
prototypes, the mean over classes, mixing partners. So the number of processes changes nothing; banks hold the keys
of all processes, as in the release. The labelled cross entropy of VOC is a mean over the whole batch, not per process.
Departures: rectangles are drawn per image with the data; pixels are found by rank in a fixed number of operations,
which draws from the same distributions; of the release's mixing operators only CutMix; no momentum prototypes (off, and
broken, in the release); a network without a representation head (`rep: false`, U-Net) lends its penultimate features;
with `pseudo: dice` (ACDC) L_u is a Dice loss over the kept pixels without the all / kept factor.
Plug-ins: `refine` sees the eval-mode pass before mixing and the train-mode pass on the mixed images, whose `keep`
counts; `weigh` and `teach` get the latter pass instead of a third one. The contrastive loss ignores weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.plan import Needs, count_groups
from ssbench.errors import RecipeError
from ssbench.methods.base import (
    LossConfig,
    MakeNet,
    Method,
    MethodConfig,
    Step,
    frozen_forward,
    labels_of,
    mean,
    parts,
    quality,
)
from ssbench.nets.precision import full
from ssbench.nets.segnet import FrozenForward, Out, SegNet
from ssbench.ops import class_memory, confidence, contrast, ema
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import gather_rows
from ssbench.plugins.base import BelowOne, Count, MixedView, Share, StepOutputs, StudentView, Weight

Teach: TypeAlias = Callable[[Tensor], Out]
Epochs = Annotated[int, Field(ge=0)]
Percent = Annotated[float, Field(ge=0, le=100)]
HalfPercent = Annotated[float, Field(ge=0, le=50)]  # the lowest and the highest entropies may not overlap


class U2PL(Method):
    """L = L_x + weight * L_u + contrastive_weight * L_c."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})
    behaviour = 2  # one-hot labels of `contrastive_impl: release` as released; repeated list drawn once a run

    class Config(MethodConfig):
        """Settings of U2PL. The comment of a default names its source."""

        name: Literal["u2pl"] = "u2pl"
        contrastive_impl: Literal["release", "paper"] = "release"  # ours: which made the tables is open (card: u2pl 8)
        warmup_epochs: Epochs = 1  # release sup_only_epoch: VOC 1, Cityscapes 0
        ema: BelowOne = 0.99  # release net.ema_decay
        mix_probability: Share = 0.5  # release: one coin a step
        weight: Weight = 1.0  # release: unsupervised.loss_weight is absent
        drop_percent: Percent = 80  # release unsupervised.drop_percent: keeps 80 %, rising to 100 %
        low_entropy: HalfPercent = 20  # release contrastive.low_entropy_threshold: percent, falling to 0
        low_rank: Count = 3  # release contrastive.low_rank
        high_rank: Count = 20  # release contrastive.high_rank
        anchor_above: BelowOne = 0.3  # release current_class_threshold
        negative_below: Annotated[float, Field(gt=0, le=1)] = 1.0  # release current_class_negative_threshold
        anchors: Count = 256  # release num_queries; the paper's 50 is swapped (card: u2pl 9)
        negatives: Count = 50  # release num_negatives; the paper's 256 is swapped (card: u2pl 9)
        temperature: Annotated[float, Field(gt=0)] = 0.5  # release
        contrastive_weight: Weight = 0.25  # release: 1, gradient / 4 processes once too often (card: u2pl 9); paper 0.1
        bank: Count = 30_000  # release: slots of a class
        bank_first: Count = 50_000  # release: slots of class 0
        bank_on: Literal["device", "cpu"] = "device"  # ours; release: cpu, which waits for the device at every step
        aux_weight: Weight = 0.4  # release net.aux_loss.loss_weight, where the network has the head
        padding: Literal["counted", "ignored"] = "counted"  # release: pseudo-labels on padding count
        group: Count = 4  # release: unlabelled images a process, VOC 4, Cityscapes 2

        @model_validator(mode="after")
        def _ranks(self) -> U2PL.Config:
            if self.high_rank <= self.low_rank:
                # Of two classes the rules of own/u2pl give high_rank 2, so that low_rank 1 is what is left.
                fix = f"low_rank={self.high_rank - 1}" if self.high_rank > 1 else f"high_rank={self.low_rank + 1}"
                what = f"high_rank {self.high_rank} must be above low_rank {self.low_rank}"
                raise ValueError(f"{what}: --set method.{fix}")
            return self

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Only in the warm-up do labelled images pass alone."""
        return labeled if cfg.warmup_epochs else labeled + unlabeled

    @property
    def needs(self) -> Needs:
        """Weak views and a region each; partners are in the batch."""
        return Needs(strong=1, repeats="drawn")

    @classmethod
    def check(cls, cfg: Config, loss: LossConfig, classes: int | None) -> None:
        """Refuse ranks that leave no pixel of an unlabelled image as a negative: the contrastive loss would be 0.

        An unlabelled pixel is a negative of the classes on its ranks low_rank..high_rank - 1 (card: u2pl 7).
        """
        if classes is None or classes > cfg.low_rank or not cfg.contrastive_weight:
            return
        what = f"low_rank {cfg.low_rank} leaves u2pl no negatives: the dataset has {classes} classes"
        fix = f"--set method.low_rank={classes - 1}" if classes > 1 else "--set method.contrastive_weight=0"
        raise RecipeError(what, "method.low_rank", fix)

    @classmethod
    def check_batches(cls, cfg: Config, labeled: int, unlabeled: int) -> None:
        """Batches that form whole groups."""
        count_groups(cfg.group, unlabeled, labeled)

    def build(self, make_net: MakeNet) -> None:
        """A teacher with a head of its own, banks, and whether the warm-up is over."""
        self.teacher = make_net("teacher").requires_grad_(False)
        sizes = [self.cfg.bank_first] + [self.cfg.bank] * (self.net.classes - 1)
        self.bank = class_memory.Bank(sizes, _width(self.net), self.cfg.bank_on == "cpu")
        self.register_buffer("teaching", torch.tensor(self.cfg.warmup_epochs == 0))
        self.teaching: Tensor
        cfg, self.release = self.cfg, self.cfg.contrastive_impl == "release"
        self.rule = contrast.Rule(cfg.anchor_above, cfg.negative_below, cfg.low_rank, cfg.high_rank, self.release)
        # Banks are equal on all processes by construction; DDP need not send them, and cannot from the CPU.
        self._ddp_params_and_buffers_to_ignore = ["bank.keys", "bank.seen", "bank.starts", "bank.limits"]

    def step(self, batch: Batch, t: Progress) -> Step:
        """The forward passes in the order of the release; the warm-up first (card: u2pl 3)."""
        if t.epoch < self.cfg.warmup_epochs:
            return self._warmup(batch, t)
        if (here := batch.unlabeled) is None:
            raise ValueError("u2pl reads unlabelled images")
        if t.epoch == self.cfg.warmup_epochs:  # for one epoch the teacher is the student (card: u2pl 3)
            ema.update(self.teacher, self.net, 0.0)
        valid = here.valid if self.cfg.padding == "ignored" else torch.ones_like(here.valid)
        raw = labels_of(self.teacher, here.weak, valid, 0.0, train_mode=False)
        raw = raw.with_carry(truth=here.truth, **here.maps)
        target = self.plugin.refine(raw, t)
        mixed = self.plugin.mix(lambda: [self._cutmix(here, target, t)], batch, target, t)
        both = torch.cat([batch.labeled.x, *(m.images for m in mixed)])
        sizes = [len(batch.labeled.x), *(len(m.images) for m in mixed)]
        out, *outs = parts(self.net(both), sizes)
        known, *teacher_outs = parts(self._teacher_in_train_mode(both), sizes)
        teach = FrozenForward(self.teacher, [(m.weak, o) for m, o in zip(mixed, teacher_outs, strict=True)])
        views, unsup, con = [], [], []
        for k, (m, student, teacher) in enumerate(zip(mixed, outs, teacher_outs, strict=True), 1):
            pseudo = self._filtered(replace(m.pseudo, images=m.weak), teacher, t)
            weight = self.plugin.weigh(replace(m, pseudo=pseudo), teach, t)
            views.append(StudentView(f"s{k}", m.images, student, pseudo, m.weak))
            unsup.append(self._unsupervised(student.logits, pseudo, weight))
            con.append(self._contrastive(batch.labeled, out, known, views[-1], teacher, t))
        return self._total(batch, out, views, {"unsup": mean(unsup), "contrast": mean(con)}, teach, t)

    def _warmup(self, batch: Batch, t: Progress) -> Step:
        """Labelled images only; the teacher, still as it was made, gathers batch-norm statistics."""
        out = self.net(batch.labeled.x)
        self._teacher_in_train_mode(batch.labeled.x)
        return self._total(batch, out, [], {}, frozen_forward(self.teacher), t)

    @torch.no_grad()
    def _teacher_in_train_mode(self, x: Tensor) -> Out:
        """The teacher in train mode: batch statistics, channel dropout (card: u2pl 3)."""
        was = self.teacher.training
        self.teacher.train()
        out = self.teacher(x)
        self.teacher.train(was)
        return out

    def _cutmix(self, here: Unlabeled, target: Pseudo, t: Progress) -> MixedView:
        """With probability `mix_probability`, each image with a box of the next one of its group."""
        if t.chance("cutmix") >= self.cfg.mix_probability:
            return MixedView(here.weak, target, here.weak)
        order = torch.arange(len(here.weak), device=here.weak.device)
        order = order.view(count_groups(self.cfg.group, len(order)), -1).roll(-1, 1).flatten()
        image = paste(here.weak, here.weak[order], here.boxes[0])
        return MixedView(image, target.pasted(target.permuted(order), here.boxes[0]), image)

    def _filtered(self, mixed: Pseudo, teacher: Out, t: Progress) -> Pseudo:
        """The mixed labels, kept where the entropy of the train-mode pass is below its percentile (card: u2pl 6)."""
        level = 1 - (1 - self.cfg.drop_percent / 100) * (1 - t.epoch / t.epochs)
        probs = teacher.logits.softmax(1)
        entropy = _entropy(probs)
        keep = entropy < self._percentile(entropy, mixed, level)
        judged = replace(mixed, keep=keep, conf=probs.amax(1), probs=probs, logits=teacher.logits, feats=teacher.feats)
        return self.plugin.refine(judged, t)

    def _unsupervised(self, logits: Tensor, pseudo: Pseudo, weight: Tensor | None) -> Tensor:
        """Mean over groups of the (weighted) mean over kept pixels times all / kept pixels; 0 where none is kept."""
        if self.losses.cfg.pseudo == "dice":
            return self.losses.pseudo(logits, pseudo, weight)
        ce = F.cross_entropy(logits, pseudo.label, reduction="none")
        kept = (pseudo.counted & pseudo.valid).to(ce.dtype)
        weighed = kept if weight is None else kept * weight
        below = kept if self.plugin.absolute else weighed
        maps = (ce * weighed, below, kept, pseudo.valid)
        total, over, used, every = (x.view(count_groups(self.cfg.group, len(ce)), -1).sum(1) for x in maps)
        return (total / over.clamp(min=1e-12) * every / used.clamp(min=1)).mean()

    def _contrastive(
        self, labeled: Labeled, out: Out, known: Out, view: StudentView, teacher: Out, t: Progress
    ) -> Tensor:
        """Mean over groups of their InfoNCE, once the step's keys of all groups are in the banks (card: u2pl 7)."""
        labelled, count = labeled.y != 255, count_groups(self.cfg.group, len(view.images), len(labeled.y))
        truth = _grid(labeled.y, labelled, labelled, out, known)
        grids = truth.joined_by_group(_grid(*self._extremes(view.pseudo, t), view.out, teacher), count)
        picked = [contrast.pick(grid, len(labelled) // count, self.rule) for grid in grids]
        keys, masks = torch.cat([contrast.pixels(g.key) for g in grids]), torch.cat([p.negatives for p in picked], 1)
        self.bank.insert(gather_rows(keys), gather_rows(masks.T).T.contiguous())
        groups = zip(grids, picked, self._draw_uniform(count, view.name, t), strict=True)
        return mean(
            [contrast.contrastive_loss(g, p, self.bank, u, self.cfg.temperature, self.release) for g, p, u in groups]
        )

    def _extremes(self, pseudo: Pseudo, t: Progress) -> tuple[Tensor, Tensor, Tensor]:
        """Labels (255 = none), and the masks of lowest and highest entropy; pasted ground truth counts as lowest."""
        share, entropy = self.cfg.low_entropy / 100 * (1 - t.epoch / t.epochs), _entropy(pseudo.soft)
        truth, counted = pseudo.valid & pseudo.trusted_mask(), pseudo.valid & ~pseudo.trusted_mask()
        low = (entropy <= self._percentile(entropy, pseudo, share)) & counted | truth
        high = (entropy >= self._percentile(entropy, pseudo, 1 - share)) & counted
        return pseudo.label.where(pseudo.valid, 255), low, high

    def _percentile(self, entropy: Tensor, pseudo: Pseudo, level: float) -> Tensor:
        """B 1 1, by group and over all pixels but pasted ground truth."""
        return confidence.group_quantiles(
            entropy, pseudo.valid & ~pseudo.trusted_mask(), level, count_groups(self.cfg.group, len(entropy))
        )

    def _draw_uniform(self, groups: int, view: str, t: Progress) -> list[tuple[Tensor, Tensor]]:
        """For each group uniform numbers for anchors (C Q) and negatives (C Q M), drawn for those of all processes."""
        shape = (groups * t.world, self.net.classes, self.cfg.anchors)
        own = slice(t.rank * groups, (t.rank + 1) * groups)
        of_anchors, of_negatives = (t.generator(f"u2pl {purpose} {view}") for purpose in ("anchors", "negatives"))
        anchors = torch.rand(shape, generator=of_anchors, device=t.device)
        negatives = torch.rand((*shape, self.cfg.negatives), generator=of_negatives, device=t.device)
        return list(zip(anchors[own], negatives[own], strict=True))

    def _total(
        self, batch: Batch, out: Out, views: Sequence[StudentView], terms: dict[str, Tensor], teach: Teach, t: Progress
    ) -> Step:
        sup = self.losses.labeled(out, batch.labeled.y, self.cfg.aux_weight)
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, teach), t)
        shares = quality(views[0].pseudo) if views else {}

        def printed(u: float) -> Tensor:
            if not terms or not u:
                return sup + 0 * _representation(out).sum()  # release: every parameter has a gradient in every step
            cfg, unsup, con = self.cfg, terms["unsup"], terms["contrast"]
            total: Tensor = sup + cfg.weight * u * unsup + cfg.contrastive_weight * u * con
            return total

        return self._finish(self.plugin.scale(t), printed, extra, sup=sup, **terms, **shares)

    def after_step(self, t: Progress) -> None:
        """EMA of parameters alone; a copy for one epoch; nothing during the warm-up."""
        since = t.step - self.cfg.warmup_epochs * t.steps_per_epoch
        if since < 0:
            return
        decay = 0.0 if t.epoch == self.cfg.warmup_epochs else ema.capped_decay(since, self.cfg.ema)
        ema.update(self.teacher, self.net, decay)
        self.teaching.fill_(True)

    @property
    def labeller(self) -> SegNet:
        """The teacher; during the warm-up, when it has learned nothing, the student."""
        return self.teacher if self.teaching else self.net

    def predict(self, x: Tensor) -> Tensor:
        """The teacher; during the warm-up the student (release)."""
        return self.labeller(x).logits


def _grid(label: Tensor, low: Tensor, high: Tensor, out: Out, teacher: Out) -> contrast.FeatureGrid:
    probs = full(teacher.feats["logits"]).softmax(1)
    return contrast.FeatureGrid.of(label, low, high, _representation(out), _representation(teacher), probs)


def _representation(out: Out) -> Tensor:
    return full(out.feats["penultimate"]) if out.rep is None else out.rep


def _width(net: SegNet) -> int:
    """Channels of a network's representation."""
    channels = next(m.in_channels for m in net.modules() if isinstance(m, nn.Conv2d))
    width: int = _representation(frozen_forward(net)(torch.zeros(1, channels, 65, 65))).shape[1]
    return width


def _entropy(probs: Tensor) -> Tensor:
    return -confidence.negative_entropy(probs)
