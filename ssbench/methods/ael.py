"""AEL: classes that the network predicts badly are pasted, mixed and counted more often.

Paper: Hu et al., "Semi-Supervised Semantic Segmentation via Adaptive Equalization Learning", NeurIPS 2021.
Checked against: hzhupku/SemiSeg-AEL 747c797, `train.py`, `semseg/` and its two configs (card: ael; the paper's text was
not at hand, so the release is the only source). A bank holds one confidence a class. It decides which classes are
pasted between labelled images, which image and region CutMix takes, and which pixels count; these are weighted by the
teacher's confidence. What the release does without saying so is an option with its value as default: absent classes
count as confidence 0, the divisor includes pixels without a label, padding counts. Its losses are divided by its eight
processes besides the usual average, which is `loss_scale: 0.125` in its recipes.
The release works per process on two labelled images and one of two unlabelled ones. Here `group` labelled images and
every single unlabelled image stand for a process (a draw of classes, a measurement, a divisor each), so the number of
devices changes nothing but the dropout masks, which are per process; a process must hold whole groups.
Departures: one class bank and one image bank for all processes (release: each its own, never shared, with an own order
of images); the region's grown and shrunken forms, off in both configs, are left out; the labelled order is shuffled
anew each epoch (release: frozen at 1/2 of Cityscapes).
Plug-ins: `refine` sees the teacher's two unlabelled images before they are mixed, region and image bank use its raw
labels; `weigh` enters the unlabelled term before its weights are normalised; extra terms share `loss_scale`.
The labels of the unlabelled images must reach the host within the step: its one transfer, see `synchronises`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from ssbench.data.batch import Batch, Labeled
from ssbench.data.plan import Needs, Plan
from ssbench.errors import RecipeError
from ssbench.keyed import rng
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
    streams,
)
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops import ema
from ssbench.ops import equalize as eq
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import global_sum
from ssbench.plugins.base import BelowOne, Count, MixedView, Share, StepOutputs, StudentView, Weight
from ssbench.views.regions import ael_half
from ssbench.views.settings import ViewsConfig

Masks: TypeAlias = NDArray[np.bool_]
Positive = Annotated[float, Field(gt=0)]
Classes: TypeAlias = tuple[Annotated[int, Field(ge=0)], ...]


class AEL(Method):
    """L = loss_scale * (L_x + aux_weight L_aux + weight (C(labelled) + C(mixed)))."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})
    behaviour = 2  # the fallback rectangle's corner is rounded as released
    synchronises = "connected components are found on the host, where the image bank lives: one transfer a step"

    class Config(MethodConfig):
        """Settings of AEL. The comment of a default names its source."""

        # "release" is both configs where none is named
        name: Literal["ael"] = "ael"
        threshold: Share = 0.0  # release: cityscapes_2 none, pascal_4 0.7
        weight: Weight = 1.0  # release
        aux_weight: Weight = 0.4  # release, where the net has an auxiliary head
        loss_scale: Positive = 1.0  # ours; release 0.125: losses are divided by 8 processes besides their average
        ema: BelowOne = 0.99  # release
        pair_mode: Literal["train", "eval"] = "train"  # release; U2PL's branch with_AEL: eval
        bank_momentum: BelowOne = 0.999  # release
        absent: Literal["zero", "skip"] = "zero"  # release; ours: skip
        confidence_power: Weight = 2.0  # release: gamma
        sampling_power: Weight = 1.0  # release
        normaliser: Literal["all", "counted"] = "all"  # release: pixels without a label are in the divisor
        padding: Literal["counted", "ignored"] = "counted"  # release
        group: Count = 2  # release: labelled images of a process
        pick: Count = 2  # release: unlabelled images loaded for one that is used
        paste_share: Share = 0.5  # release
        paste_scale: tuple[Positive, Positive] | None = (0.1, 2.0)  # release; null: the views' own
        paste_draws: Count = 3  # release: cityscapes_2 3, pascal_4 1
        paste_without: Classes = (0, 1, 2, 8, 10)  # release, for both data sets (card: ael 5: meant for Cityscapes)
        component_area: Share = 0.005  # release: cityscapes_2 0.005, pascal_4 0.03
        presence: Share = 0.01  # release: cityscapes_2 0.01, pascal_4 0.03

        @model_validator(mode="after")
        def _read(self) -> AEL.Config:
            if self.paste_scale is not None and self.paste_scale[0] > self.paste_scale[1]:
                raise ValueError(f"paste_scale {list(self.paste_scale)} ends below its start")
            if not self.paste_share:
                self._refuse_unread("paste_share: 0", "paste_scale", "paste_draws", "paste_without")
            return self

    bank: Tensor

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Labelled images and mixed ones pass apart."""
        return min(labeled, unlabeled // cfg.pick * (views or 1))

    @property
    def needs(self) -> Needs:
        """Images to paste between labelled ones, and a partner for each unlabelled one, chosen in `wants`."""
        cfg = self.cfg
        return Needs(partner="asked", pick=cfg.pick, donor=cfg.paste_share, donor_scale=cfg.paste_scale)

    @classmethod
    def check(cls, cfg: Config, loss: LossConfig, classes: int | None) -> None:
        """Refuse a pseudo-label loss that this method would not use, and exclusions that leave no class to paste."""
        if loss.pseudo != "ce":
            raise RecipeError(
                "the consistency of ael is a weighted cross entropy", "loss.pseudo", "--set loss.pseudo=ce"
            )
        if classes is not None and set(range(classes)) <= set(cfg.paste_without):
            what = f"paste_without leaves none of the {classes} classes"
            raise RecipeError(what, "method.paste_without", "--set 'method.paste_without=[]'")

    @classmethod
    def check_views(cls, cfg: Config, views: ViewsConfig) -> None:
        """Refuse a scale of pasted images where the weak pipeline draws none (acdc resizes, cps takes from a list)."""
        if cfg.paste_share and cfg.paste_scale is not None and "scale" not in type(views).model_fields:
            what = f"paste_scale {list(cfg.paste_scale)} has no effect: weak pipeline '{views.weak}' has no scale"
            raise RecipeError(what, "method.paste_scale", "paste_scale: null (--set method.paste_scale=null)")

    def build(self, make_net: MakeNet) -> None:
        """A teacher with a head of its own (for one step: the first update copies the student), and the two banks."""
        self.teacher = make_net("teacher").requires_grad_(False)
        self.register_buffer("bank", torch.full((self.net.classes,), 0.5))  # C
        self.images = torch.zeros(0, self.net.classes, dtype=torch.bool)  # N C, on the host
        self.ids: tuple[str, ...] = ()
        self.row: dict[str, int] = {}
        self._bank_on_host: NDArray[np.float32] | None = None  # the class bank as the last transfer brought it

    def attach(self, plan: Plan) -> None:
        """Random confidences, and an empty row for each unlabelled image."""
        self.ids, self.row = plan.unlabeled, {id: k for k, id in enumerate(plan.unlabeled)}
        self.images = torch.zeros(len(self.ids), self.net.classes, dtype=torch.bool)
        start = rng(plan.seed, "ael bank").random(self.net.classes, np.float32)
        self.bank.copy_(torch.from_numpy(start))
        self._bank_on_host = None

    def get_extra_state(self) -> Tensor:
        """The image bank, which is no buffer because it never leaves the host."""
        return self.images.clone()

    def set_extra_state(self, state: Tensor) -> None:
        """The image bank of a checkpoint."""
        self.images, self._bank_on_host = state.cpu().clone(), None

    def wants(self, batch: Batch, t: Progress) -> Sequence[str]:
        """For each unlabelled image one in which the teacher last saw the class drawn for it; any if there is none."""
        partners = []
        for place, c in self._draw_classes(batch, t):
            with_class = np.flatnonzero(self.images[:, c].numpy())
            dice = rng(t.seed, t.step, "ael partner", place)
            row = dice.choice(with_class) if len(with_class) else dice.integers(len(self.ids))
            partners.append(self.ids[int(row)])
        return partners

    def step(self, batch: Batch, t: Progress) -> Step:
        """The forward passes in the order of the release (card: ael 7)."""
        classes = self._draw_classes(batch, t)  # before anything of this step moves the bank
        batch = replace(batch, labeled=self._paste_classes(batch, t))
        labeled, here, there = streams(batch)
        out = self.net(labeled.x)
        sup, aux = self.losses.supervised(out.logits, labeled.y), self._auxiliary(out, labeled.y)
        known = labels_of(self.teacher, labeled.x, labeled.y != 255, self.cfg.threshold, train_mode=True)
        both, valid = torch.cat([here.weak, there.weak]), torch.cat([here.valid, there.valid])
        pair = labels_of(self.teacher, both, valid, self.cfg.threshold, self.cfg.pair_mode == "train")
        self._measure(out, labeled.y)
        masks = self._to_host(pair.label, classes, batch, t)
        maps = {name: torch.cat([layer, there.maps[name]]) for name, layer in here.maps.items()}
        refined, n = self.plugin.refine(pair.with_carry(**maps), t), len(here.weak)
        first, second = refined.permuted(slice(n)), refined.permuted(slice(n, None))

        def cutmix() -> list[MixedView]:
            region = self._region(masks, t).to(here.weak.device, non_blocking=True)
            image = paste(here.weak, there.weak, region)
            return [MixedView(image, first.pasted(second, region), image)]

        mixed, teach = self.plugin.mix(cutmix, batch, first, t), frozen_forward(self.teacher)
        outs = parts(self.net(torch.cat([m.images for m in mixed])), [len(m.images) for m in mixed])
        views = [
            StudentView(f"s{k}", m.images, o, m.pseudo, m.weak)
            for k, (m, o) in enumerate(zip(mixed, outs, strict=True), 1)
        ]
        of_labeled = self._consistency("labeled", out.logits, known, None, self.cfg.group, t)
        weights = [self.plugin.weigh(m, teach, t) for m in mixed]
        pairs = zip(views, weights, strict=True)
        of_mixed = mean([self._consistency(v.name, v.out.logits, v.pseudo, w, 1, t) for v, w in pairs])
        extra = self.plugin.loss(StepOutputs(batch, out, tuple(views), self.net, teach), t)

        def printed(u: float) -> Tensor:
            consistency = of_labeled + u * of_mixed if u else of_labeled  # a plug-in's warm-up keeps the labelled term
            total: Tensor = sup + self.cfg.aux_weight * aux + self.cfg.weight * consistency
            return total

        terms = {"sup": sup, "aux": aux, "labeled": of_labeled, "mixed": of_mixed}
        shares = quality(pair, torch.cat([here.truth, there.truth]))
        step = self._finish(self.plugin.scale(t), printed, extra, **terms, **shares)
        return Step(step.loss * self.cfg.loss_scale, step.terms)

    def after_step(self, t: Progress) -> None:
        """EMA of parameters; the teacher's batch statistics come from its own passes."""
        ema.update(self.teacher, self.net, ema.capped_decay(t.step, self.cfg.ema))

    @property
    def labeller(self) -> SegNet:
        """The teacher."""
        return self.teacher

    def predict(self, x: Tensor) -> Tensor:
        """The teacher."""
        return self.teacher(x).logits

    def _auxiliary(self, out: Out, y: Tensor) -> Tensor:
        return out.logits.new_zeros(()) if out.aux is None else self.losses.supervised(out.aux, y)

    def _paste_classes(self, batch: Batch, t: Progress) -> Labeled:
        """Adaptive copy-paste (card: ael 5): pixels of the drawn classes from another labelled image, if one came."""
        labeled, donor = batch.labeled, batch.donor
        if donor is None:
            return labeled
        cfg, count = self.cfg, len(labeled.x)
        probabilities = eq.class_probabilities(self._bank(), 0.5, cfg.paste_without)
        chosen = np.zeros((count, len(probabilities)), np.bool_)
        for k in range(count):
            dice = rng(t.seed, t.step, "ael paste", (t.rank * count + k) // cfg.group)
            chosen[k, dice.choice(len(probabilities), cfg.paste_draws, p=probabilities)] = True
        region = eq.class_region(donor.y, torch.from_numpy(chosen).to(donor.y.device, non_blocking=True))
        return replace(labeled, x=paste(labeled.x, donor.x, region), y=paste(labeled.y, donor.y, region))

    def _draw_classes(self, batch: Batch, t: Progress) -> list[tuple[int, int]]:
        """(place in the whole batch, class drawn for it) of this process's unlabelled images (card: ael 6)."""
        count = len(batch.unlabeled.ids) if batch.unlabeled is not None else 0
        probabilities = eq.class_probabilities(self._bank(), 1.0)
        places = range(t.rank * count, (t.rank + 1) * count)
        return [
            (k, int(rng(t.seed, t.step, "ael class", k).choice(len(probabilities), p=probabilities))) for k in places
        ]

    def _bank(self) -> NDArray[np.float32]:
        """The class bank before this step on the host: what the last step's transfer brought, else fetched."""
        if self._bank_on_host is None:
            self._bank_on_host = self.bank.cpu().numpy().copy()
        return self._bank_on_host

    @torch.no_grad()
    def _measure(self, out: Out, y: Tensor) -> None:
        """The class bank after the student's labelled pass (card: ael 4)."""
        measured = eq.class_confidence(out.logits, y, self.cfg.group)
        self.bank.copy_(eq.update_bank(self.bank, *measured, self.cfg.bank_momentum, self.cfg.absent))

    def _to_host(self, label: Tensor, classes: Sequence[tuple[int, int]], batch: Batch, t: Progress) -> Masks:
        """The step's one transfer: where each partner has the class drawn for it (n H W bool, returned), which classes
        each unlabelled image shows (for the image bank) and the class bank (for the next step's draws).

        Args:
            label: 2n H W, the teacher's raw labels of the unlabelled images, then of their partners.
        """
        _, here, there = streams(batch)
        n, device = len(classes), label.device
        drawn = torch.tensor([c for _, c in classes]).to(device, non_blocking=True)
        row = torch.tensor([self.row.get(id, -1) + 1 for id in (*here.ids, *there.ids)]).to(device, non_blocking=True)
        shown = torch.cat([row[:, None], eq.presence(label, self.net.classes, self.cfg.presence)], 1)
        everyone = shown.new_zeros(2, t.world * n, shown.shape[1])
        everyone[:, t.rank * n : (t.rank + 1) * n] = shown.view(2, n, -1)
        masks, presence, bank = to_host([label[n:] == drawn[:, None, None], global_sum(everyone), self.bank])
        self._bank_on_host = bank.numpy()
        for at, *present in presence.flatten(0, 1).tolist():  # the same order on all processes: a later row overwrites
            if at > 0:
                self.images[at - 1] = torch.tensor(present, dtype=torch.bool)
        return masks.numpy()

    def _region(self, masks: Masks, t: Progress) -> Tensor:
        """n H W bool: the partner's region, a box around a part of the drawn class or half the image (card: ael 6)."""
        region = np.zeros_like(masks)
        for k, mask in enumerate(masks):
            dice = rng(t.seed, t.step, "ael box", t.rank * len(masks) + k)
            box = eq.component_box(mask, self.cfg.component_area, dice)
            if box is None:
                region[k] = ael_half(dice, mask.shape)
            else:
                region[k][box] = True
        return torch.from_numpy(region)

    def _consistency(
        self, name: str, logits: Tensor, target: Pseudo, weight: Tensor | None, group: int, t: Progress
    ) -> Tensor:
        """C (card: ael 8): pixels drawn by the class the student predicts, weighted by the teacher's confidence."""
        cfg, counted = self.cfg, target.counted
        weighed = target.conf**cfg.confidence_power * self._draw_kept(name, logits.detach().argmax(1), group, t)
        if cfg.padding == "ignored":
            weighed = weighed * target.valid
        ce = F.cross_entropy(logits, target.label, reduction="none")
        if weight is not None and self.plugin.absolute:
            ce = ce * weight
        elif weight is not None:
            weighed = weighed * weight
        return eq.weighted_mean(ce, weighed, counted, group, cfg.normaliser)

    def _draw_kept(self, name: str, predicted: Tensor, group: int, t: Progress) -> Tensor:
        """B H W bool; each group of images has its own random planes, the same on any number of processes."""
        kept, shape = [], (self.net.classes, *predicted.shape[1:])
        for k, labels in enumerate(torch.split(predicted, group), t.rank * -(-len(predicted) // group)):
            planes = torch.rand(shape, generator=t.generator(f"ael keep {name} {k}"), device=predicted.device)
            kept.append(eq.keep_map(labels, self.bank, self.cfg.sampling_power, planes))
        return torch.cat(kept)


def to_host(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Copies of the tensors on the CPU in one transfer, so that the host waits for the device once.

    Args:
        tensors: any shapes and types, all on one device.
    """
    flat = [x.detach().contiguous().view(-1).view(torch.uint8) for x in tensors]
    order = sorted(range(len(flat)), key=lambda i: -tensors[i].element_size())  # so that every type is aligned
    joined = torch.cat([flat[i] for i in order]).cpu()
    copies: dict[int, Tensor] = {}
    start = 0
    for i in order:
        end = start + len(flat[i])
        copies[i] = joined[start:end].view(tensors[i].dtype).view(tensors[i].shape)
        start = end
    return [copies[i] for i in range(len(tensors))]
