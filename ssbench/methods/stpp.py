"""ST and ST++: pseudo-label all unlabelled images off line, then train again from scratch on everything.

Paper: Yang et al., "ST++: Make Self-training Work Better for Semi-supervised Semantic Segmentation", CVPR 2022, Secs.
3.1-3.3. Checked against: LiheYoung/ST-PlusPlus f4e7a571 `main.py`, `dataset/semi.py`, `model/semseg/base.py`
(card: stpp 1 to 3). `variant: st` is plain self-training with strong augmentation (three stages). `st++` (six) first
uses the half of the images whose labels were stable while the first network trained. The networks that label are the
best on val, as released (card: stpp 1; `label_with: last` leaves val out of the training); those that rank the images
are the raw ends of epochs.
Departures: every training starts from the same weights, new layers included (release: these are drawn anew); batch norm
sees the whole batch (release: each GPU's part, 8 images; card: stpp 5); unlabelled lists are sorted by id before equal
reliabilities are ranked; with fewer than three epochs the first checkpoints coincide, at epoch 1.
Plug-ins: a batch has one loss, so weights of pseudo-labels are scaled to a mean of 1, the weight of a labelled pixel.
No teacher exists while the student trains: `teach` is the student in eval mode. A plug-in that mixes gets weak images,
the stored entropies (`Pseudo.carry["entropy"]`, nats) and, as labelled images, one drawn for each unlabelled one; its K
copies are coloured afterwards (card: upc 3) and weigh 1/K each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs, Plan
from ssbench.data.stored import Stored, entropy_picture
from ssbench.errors import RecipeError
from ssbench.methods.base import (
    Loop,
    LossConfig,
    Method,
    MethodConfig,
    StagedTraining,
    Step,
    frozen_forward,
    parts,
    quality,
)
from ssbench.ops import losses
from ssbench.ops.confidence import entropy, restricted
from ssbench.ops.confusion import confusion, iou
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import global_sum
from ssbench.plugins.base import Count, MixedView, StepOutputs, StudentView

Scale = Annotated[float, Field(gt=0)]


class STPlusPlus(Method):
    """L = mean cross-entropy of labelled and pseudo-labelled pixels together."""

    honours = frozenset({"prepare", "extras", "scale", "mix", "weigh", "loss"})
    one_mean = True
    without: ClassVar[Mapping[str, str]] = {
        "refine": "its pseudo-labels are stored before a training, not given by a network in each step",
        "end_epoch": "it trains several networks, one after the other",
    }
    synchronises = "with a plug-in that mixes, mixed pictures are coloured on the host: a transfer each way"

    class Config(MethodConfig):
        """Settings of ST and ST++. The comment of a default names its source."""

        name: Literal["stpp"] = "stpp"
        variant: Literal["st", "st++"] = "st++"  # Sec. 3.2; Sec. 3.3
        label_with: Literal["best", "last"] = "best"  # release (card: stpp 1); the author advises last (thread #30)
        double_below: Annotated[int, Field(ge=0)] = 200  # release main.py: shorter lists count twice (card: stpp 2)
        added: ClassVar[Mapping[str, Any]] = {"first_steps": None, "image_labels": False}
        epoch_of: Literal["labeled", "unlabeled"] = "labeled"  # release; of the first training
        first_steps: Count | None = None  # release: as many epochs as the others; steps for UPC Table 4 alone
        scales: Annotated[tuple[Scale, ...], Field(min_length=1)] = (0.5, 0.75, 1.0, 1.5, 2.0)  # release base.py
        flip: bool = True  # release base.py
        image_labels: bool = False  # which classes an unlabelled image shows is known: UPC Table 4 (card: upc 5)

        @model_validator(mode="after")
        def _read(self) -> STPlusPlus.Config:
            if self.epoch_of == "unlabeled":
                self._refuse_unread("epoch_of: unlabeled", "double_below")
            return self

    @property
    def needs(self) -> Needs:
        """Mixtures; uncoloured, and with labelled images to paste from, for a plug-in that mixes."""
        mixes = "mix" in self.plugin.needs
        return Needs(mixture="plain" if mixes else "coloured", donor=float(mixes))

    @classmethod
    def check(cls, cfg: Config, loss: LossConfig, classes: int | None) -> None:
        """Refuse losses that cannot be one mean over all pixels."""
        if loss.supervised != "ce":
            what = f"loss.supervised '{loss.supervised}' with stpp, which has one loss for all pixels"
            raise RecipeError(what, "loss.supervised", "--set loss.supervised=ce")

    def attach(self, plan: Plan) -> None:
        """Refuse a split in which there is nothing to label."""
        if not plan.unlabeled:
            raise RecipeError("the split has no unlabelled images, which stpp labels", "--split",
                              "method: {name: supervised}, or a split that labels less")  # fmt: skip

    def fit(self, loop: Loop) -> None:
        """Three or six stages (card: stpp 1)."""
        run, whole = loop.stages, loop.stages.unlabeled
        if self.cfg.image_labels:  # asked before anything is trained, for the answer may be no
            self._known = run.image_labels(whole)
        keep = self._ranking_epochs(run) if self.cfg.variant == "st++" else self._labelling_epochs(run)
        run.train("supervised", repeats=self._first_repeats(run), keep=keep, steps=self.cfg.first_steps)
        if self.cfg.variant == "st":
            self._label(run, "label", whole, by="supervised")
            self._retrain(run, "all", whole, last=True)
            return
        reliable, rest = self._rank(run)
        self._label(run, "label_reliable", reliable, by="supervised")
        self._retrain(run, "reliable", reliable)
        self._label(run, "label_rest", rest, by="reliable")
        self._retrain(run, "all", whole, last=True)

    def _first_repeats(self, run: StagedTraining) -> int:
        """How often the labelled list stands in the first training's epoch."""
        if self.cfg.epoch_of == "unlabeled":
            return _ceil_share(run.unlabeled, run.labeled)
        return 2 if len(run.labeled) < self.cfg.double_below else 1

    def _ranking_epochs(self, run: StagedTraining) -> list[int]:
        """The epochs (from 1) whose networks rank: after a third, two thirds, all."""
        return [max(k * run.epochs // 3, 1) for k in (1, 2, 3)]

    def _labelling_epochs(self, run: StagedTraining) -> list[int]:
        """The last epoch, where its networks label."""
        return [run.epochs] if self.cfg.label_with == "last" else []

    def _retrain(self, run: StagedTraining, name: str, unlabeled: Sequence[str], last: bool = False) -> None:
        maps = Stored(run.folder, frozenset(unlabeled), self.net.classes, self._map_names)
        run.train(
            name,
            unlabeled,
            _ceil_share(unlabeled, run.labeled),
            maps,
            () if last else self._labelling_epochs(run),
            last,
        )

    def _rank(self, run: StagedTraining) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The reliable half of the unlabelled images, and the rest."""
        nets = [run.network("supervised", epoch) for epoch in self._ranking_epochs(run)]

        def image_reliability(x: Tensor) -> float:
            return reliability([net(x)[0].argmax(0) for net in nets], self.net.classes)

        return split_in_halves(run.measure("reliability", run.unlabeled, image_reliability))

    def _label(self, run: StagedTraining, name: str, ids: Sequence[str], by: str) -> None:
        net = run.network(by, None if self.cfg.label_with == "best" else run.epochs)
        run.store(name, ids, self._map_names, lambda x, id: self._label_image(net, x, self._classes_of(id)))

    def _classes_of(self, id: str) -> frozenset[int] | None:
        """The classes known to be in an unlabelled image; None where its labels are not read."""
        return self._known(id) if self.cfg.image_labels else None

    @property
    def _map_names(self) -> tuple[str, ...]:
        return ("pseudo", "entropy") if "mix" in self.plugin.needs else ("pseudo",)

    @torch.no_grad()
    def _label_image(
        self, net: Callable[[Tensor], Tensor], x: Tensor, classes: frozenset[int] | None = None
    ) -> dict[str, Image.Image]:
        """Labels of one image, and its entropies as shares of log C in 8 bits; both over `classes` alone, if given."""
        probs = sum_predictions(net, x, self.cfg.scales, self.cfg.flip)  # 1 C H W
        if classes is not None:
            probs = restricted(probs, classes) * (len(self.cfg.scales) * (1 + self.cfg.flip))
        label = Image.fromarray(probs[0].argmax(0).byte().cpu().numpy()).convert("P")
        if "entropy" not in self._map_names:
            return {"pseudo": label}
        unsure = entropy(probs / (len(self.cfg.scales) * (1 + self.cfg.flip)))[0]
        return {"entropy": entropy_picture(unsure, self.net.classes), "pseudo": label}

    def step(self, batch: Batch, t: Progress) -> Step:
        """One loss over labelled and pseudo-labelled pixels (card: stpp 2)."""
        labeled, mixed = batch.labeled, self._mix(batch, t)
        teach = frozen_forward(self.net)
        weights = [self.plugin.weigh(m, teach, t) for m in mixed]
        both = self.net(torch.cat([labeled.x, *(m.images for m in mixed)]))
        out, *outs = parts(both, [len(labeled.x), *(len(m.images) for m in mixed)])
        scale = self.plugin.scale(t)
        if scale.unlabeled:
            target = torch.cat([labeled.y, *(_target(m.pseudo) for m in mixed)])
            host = _mean_ce(both.logits, target, _pixel_weights(labeled.y, mixed, weights, scale.unlabeled))
        else:
            host = losses.cross_entropy(out.logits, labeled.y)
        pairs = enumerate(zip(mixed, outs, strict=True), 1)
        views = tuple(StudentView(f"s{k}", m.images, o, m.pseudo, m.weak) for k, (m, o) in pairs)
        extra = self.plugin.loss(StepOutputs(batch, out, views, self.net, teach), t)
        shares = quality(mixed[0].pseudo) if mixed else {}
        return self._finish(scale, lambda _: host, extra, ce=host, **shares)

    def _mix(self, batch: Batch, t: Progress) -> list[MixedView]:
        """What the student sees of the unlabelled images; nothing where the batch has none."""
        here = batch.unlabeled
        if here is None:
            return []
        label, everywhere = here.maps["pseudo"].long(), torch.ones_like(here.valid)
        carry = {"truth": here.truth, **{name: here.maps[name] for name in self._map_names[1:]}}
        stored = Pseudo(label, everywhere.to(here.weak.dtype), everywhere, here.valid, carry=carry)
        if here.colour is None or batch.donor is None:
            return list(self.plugin.mix(lambda: [MixedView(here.strong[0], stored, here.weak)], batch, stored, t))
        with_donor = replace(batch, labeled=batch.donor)
        copies = self.plugin.mix(lambda: [MixedView(here.weak, stored, here.weak)], with_donor, stored, t)
        coloured = [(m, *here.colour(m.images, k)) for k, m in enumerate(copies)]
        return [replace(m, images=x, pseudo=_without(m.pseudo, erased)) for m, x, erased in coloured]


def reliability(labels: Sequence[Tensor], classes: int) -> float:
    """Mean over all maps but the last of their mIoU with the last, in [0, 1] (ST++ Sec. 3.3).

    An image's mIoU is the mean over the classes present in either map.

    Args:
        labels: two or more H W integer maps of one image, by a network's checkpoints from early to last.
    """
    *early, last = labels
    agreements = [float(iou(confusion(label, last, classes)).nanmean()) for label in early]
    return sum(agreements) / len(agreements)


def split_in_halves(scores: Mapping[str, float]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The floor(n / 2) ids of the largest scores, and the rest, each from the largest down; ties in the order given."""
    ranked = sorted(scores, key=lambda id: scores[id], reverse=True)
    cut = len(ranked) // 2
    return tuple(ranked[:cut]), tuple(ranked[cut:])


def sum_predictions(
    predict: Callable[[Tensor], Tensor], x: Tensor, scales: Sequence[float], flip: bool = True
) -> Tensor:
    """B C H W sum of probabilities, one term a scale and, with `flip`, another of the mirror image, turned back.

    Every term is a softmax at its own size, resized to that of x. Sizes are truncated, resizing is bilinear with
    corners aligned (ST++ release, `model/semseg/base.py`).

    Args:
        predict: B 3 h w images -> B C h w logits, at any size.
        x: B 3 H W.
    """
    height, width = x.shape[-2:]
    terms: list[Tensor] = []
    for scale in scales:
        small = _resized(x, int(height * scale), int(width * scale))
        terms.append(_resized(predict(small).softmax(1), height, width))
        if flip:
            terms.append(_resized(predict(small.flip(-1)).softmax(1).flip(-1), height, width))
    return sum(terms[1:], terms[0])


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if tuple(x.shape[-2:]) == (height, width):
        return x  # the identity
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)


def _ceil_share(some: Sequence[str], of: Sequence[str]) -> int:
    return max(-(-len(some) // len(of)), 1)


def _target(pseudo: Pseudo) -> Tensor:
    """B H W labels, 255 where no pixel may teach."""
    keep = pseudo.valid & pseudo.counted
    return torch.where(keep, pseudo.label, losses.IGNORE)


def _without(pseudo: Pseudo, erased: Tensor) -> Pseudo:
    """The labels after a cutout (B H W bool), which hides pasted pixels too."""
    return replace(pseudo, valid=pseudo.valid & ~erased)


def _pixel_weights(
    known: Tensor, mixed: Sequence[MixedView], weights: Sequence[Tensor | None], factor: float
) -> Tensor | None:
    """B H W weights of all rows: 1 on labelled ones, factor / copies on average on others; None = all 1."""
    if not mixed or (factor == 1 and len(mixed) == 1 and weights[0] is None):
        return None
    scaled = [factor * _of_mean_one(weight, m.pseudo) / len(mixed) for m, weight in zip(mixed, weights, strict=True)]
    return torch.cat([torch.ones_like(known, dtype=scaled[0].dtype), *scaled])


def _of_mean_one(weight: Tensor | None, pseudo: Pseudo) -> Tensor:
    """B H W weights scaled to a mean of 1 over the pixels that teach, of all processes."""
    if weight is None:
        return torch.ones_like(pseudo.conf)
    teaches = _target(pseudo) != losses.IGNORE
    total, count = global_sum((weight * teaches).sum()), global_sum(teaches.sum())
    return weight * torch.where(total > 0, count / total, 1.0)


def _mean_ce(logits: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Mean cross-entropy of B C H W logits over pixels whose target is not 255, weighted where weights are given."""
    if weight is None:
        return losses.cross_entropy(logits, target)
    known = target != losses.IGNORE
    return losses.pseudo_cross_entropy(logits, target.where(known, torch.zeros_like(target)), known, known, weight)
