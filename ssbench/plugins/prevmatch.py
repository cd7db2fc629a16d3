"""PrevMatch: former copies of the network, kept at its best epochs, give a second set of pseudo-labels.

Paper: Shin et al., "Revisiting and Maximizing Temporal Knowledge in Semi-supervised Semantic Segmentation" (2024).
Checked against: wooseok-shin/PrevMatch 69e6510, `prevmatch.py`, `prev_utils.py`, `util/train_utils.py`
(card: prevmatch 2, 3). The host is UniMatch there; its step is the host's own here, unchanged.
Departures: the list of former models is part of the checkpoint (the release starts anew with an empty one); draws
depend on seed and step alone, so that all processes draw the same; of a host with a teacher the teacher is kept (ours).
`select: val` is the release: epochs are chosen by the very images the run is scored on. `select: labeled` (ours, open
division) chooses by the labelled training images (card: prevmatch 5).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.nets.segnet import FrozenForward, SegNet
from ssbench.ops.confusion import mean_iou
from ssbench.ops.losses import pseudo_cross_entropy
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import global_sum, mean_of
from ssbench.plugins.base import Count, LossScale, Plugin, PluginConfig, Share, StepOutputs, StudentView, Weight

LABEL, CONF = "prevmatch_label", "prevmatch_conf"
"""Maps that are mixed along: the former models' label + 1 (0 where ground truth was pasted), and their confidence."""


class PrevMatch(Plugin):
    """L = (2 L_host + lambda L_prev) / (2 + lambda) once there is a former model; UniMatch's is 2 L_host = L_x + L_std.

    L_prev = mean(L_s1, L_s2) / 2 + L_fp / 2; on hosts without a feature-perturbed view the mean of the strong views.
    """

    zero: ClassVar = {"peak": 0.0}
    quick: ClassVar = {"threshold": 0.3}  # an untrained net is hardly surer

    class Config(PluginConfig):
        """Settings; `list_max_len`, `model_num`, `random_select` and `base_only_epoch` as the release names them."""

        name: Literal["prevmatch"] = "prevmatch"
        threshold: Share = 0.9  # release prev.conf_thresh: VOC, COCO, ADE20K; `average` reads none
        confidence: Literal["pixel", "average"] = "pixel"  # release conf_mode pixelwise; pixelavg on Cityscapes
        group: Count = 4  # release: images a process, Cityscapes 4; `average` is computed in such groups
        list_max_len: Count = 8  # release: VOC, Cityscapes 8; COCO, ADE20K 5
        model_num: Count = 3  # release: at most so many former models in a step
        random_select: bool = True  # release; off: always `model_num`
        base_only_epoch: Annotated[int, Field(ge=0)] = 0  # release: VOC, Cityscapes 0; COCO, ADE20K 5
        select: Literal["val", "labeled"] = "val"  # release; labeled: ours, open division
        peak: Weight = 1.0  # ours: factor on lambda, whose largest value is 1 in the release

        @model_validator(mode="after")
        def _read(self) -> PrevMatch.Config:
            if (
                self.confidence == "pixel"
            ):  # the released configuration of `average` has a threshold, which nothing reads
                self._refuse_unread("confidence: pixel", "group")
            return self

    matrix: Tensor
    best: Tensor

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        self.former = nn.ModuleList()  # the oldest first
        self._like: tuple[SegNet, ...] = ()  # in a tuple: a network that is only copied is no part of this module
        if cfg.select == "labeled":
            self.register_buffer("matrix", torch.zeros(classes, classes, dtype=torch.int64))  # of the epoch so far
            self.register_buffer("best", torch.tensor(-1.0, dtype=torch.float64))  # mIoU in percent

    @classmethod
    def uses(cls, cfg: Config) -> frozenset[str]:
        """All but `extras`: every method calls that when it is built, and here it hands over nothing to train."""
        return cls.needs - {"extras"}

    def extras(self, net: SegNet) -> nn.ModuleDict:
        """Nothing to train; remembers what a former model is built like, for the list of a checkpoint."""
        self._like = (net,)
        return nn.ModuleDict()

    def scale(self, t: Progress) -> LossScale:
        """2 / (2 + lambda) once there is a former model."""
        return LossScale(host=2 / (2 + self._factor(t))) if self.former else LossScale()

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Attach the former models' labels and confidence of the same images, so that the host mixes them along."""
        if not self.former or LABEL in pseudo.carry:
            return pseudo
        if pseudo.images is None:
            what = "prevmatch labels the weak images by former models, and this host's pseudo-labels come without them"
            raise RecipeError(what, "method", "hand the images on: Pseudo.of(..., images=...), or labels_of")
        conf, label = self._former_logits(pseudo.images, t).softmax(1).max(1)
        return pseudo.with_carry(**{LABEL: label + 1, CONF: conf})

    def loss(self, outputs: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """lambda / (2 + lambda) L_prev."""
        if self.cfg.select == "labeled":
            self._count(outputs)
        views = [view for view in outputs.views if LABEL in view.pseudo.carry]
        if not views:
            return {}
        terms = {view.name: self._former_loss(view) for view in views}
        strong = [term for name, term in terms.items() if name != "fp"]
        former = sum(strong[1:], strong[0]) / len(strong)
        if "fp" in terms:
            former = 0.5 * former + 0.5 * terms["fp"]  # release: 0.25, 0.25, 0.5
        factor = self._factor(t)
        return {"prev": factor / (2 + factor) * former}

    def end_epoch(self, net: SegNet, is_best: bool, t: Progress) -> None:
        """Append a frozen copy of `net` if this epoch is the best so far; the oldest goes where the list is full."""
        if self.cfg.select == "labeled":
            is_best = self._is_best_on_labels()
        following = t.epoch + 1
        is_used = self.cfg.base_only_epoch <= following < t.epochs  # the release copies when the next epoch begins
        if not (is_best and is_used and self.cfg.peak):
            return
        if len(self.former) == self.cfg.list_max_len:
            del self.former[0]  # before the copy, which would need room for one network more
        self.former.append(_frozen(net))

    def _factor(self, t: Progress) -> float:
        return float(self.cfg.peak) * ramp(t.epoch, t.epochs)

    def _former_logits(self, images: Tensor, t: Progress) -> Tensor:
        """B C H W: the weighted sum of the drawn models' logits in eval mode, without gradient."""
        chosen, weights = draw(len(self.former), self.cfg.model_num, self.cfg.random_select, t)
        nets = [net for net in self.former if isinstance(net, SegNet)]
        logits = [FrozenForward(nets[i])(images).logits * w for i, w in zip(chosen, weights, strict=True)]
        return sum(logits[1:], logits[0])

    def _former_loss(self, view: StudentView) -> Tensor:
        """Cross-entropy of a view against the former models' labels (card: prevmatch 3)."""
        pseudo, logits = view.pseudo, view.out.logits
        label, conf = pseudo.carry[LABEL] - 1, pseudo.carry[CONF]
        has_label = label >= 0
        label = label.clamp(min=0)
        if self.cfg.confidence == "pixel":
            return pseudo_cross_entropy(logits, label, has_label & (conf >= self.cfg.threshold), pseudo.valid)
        # Release pixelavg: the loss of a process's images, padding too, times the sum of their mean confidences.
        ce = F.cross_entropy(logits, label, reduction="none") * has_label
        each = zip(*(torch.split(part, self.cfg.group) for part in (ce, conf, pseudo.valid)), strict=True)
        groups = [
            ce.sum() * ((conf * valid).sum((1, 2)) / valid.sum((1, 2)).clamp(min=1)).sum() / valid.sum().clamp(min=1)
            for ce, conf, valid in each
        ]
        return mean_of(torch.stack(groups).sum(), len(groups))

    @torch.no_grad()
    def _count(self, outputs: StepOutputs) -> None:
        """Add the student's labelled pixels of all processes to the epoch's confusion matrix."""
        y, count = outputs.batch.labeled.y, self.classes**2
        cell = torch.where(y < self.classes, y * self.classes + outputs.labeled.logits.argmax(1), count).flatten()
        counts = torch.zeros(count + 1, dtype=torch.int64, device=y.device)
        counts.scatter_add_(0, cell, torch.ones_like(cell))  # bincount would wait for the device
        self.matrix += global_sum(counts[:-1].view_as(self.matrix))

    def _is_best_on_labels(self) -> bool:
        """Whether the epoch's mIoU on labelled training crops is the best so far; the next epoch is counted anew."""
        score = mean_iou(self.matrix)
        is_best = score > float(self.best)
        if is_best:
            self.best.fill_(score)
        self.matrix.zero_()
        return is_best

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """Make the list as long as the checkpoint's; then torch loads each former model as any other module."""
        start = f"{prefix}former."
        numbers = {int(name.removeprefix(start).partition(".")[0]) for name in state_dict if name.startswith(start)}
        count = max(numbers, default=-1) + 1
        if count and not self._like:
            raise RuntimeError("former models are loaded into a plug-in that has met no network")
        self.former = nn.ModuleList([*self.former][:count])
        while len(self.former) < count:
            self.former.append(_frozen(self._like[0]))
        super()._load_from_state_dict(state_dict, prefix, *rest)


def ramp(epoch: int, epochs: int) -> float:
    """lambda: rises from 0 in the first epoch to 1 in the middle one, then falls (card: prevmatch 3)."""
    middle = epochs // 2
    return epoch / middle if epoch < middle else 1 - (epoch - middle) / (epochs - middle)


def draw(former: int, most: int, is_random: bool, t: Progress) -> tuple[list[int], list[float]]:
    """Which of `former` models are asked in this step, and the weights of their logits, which sum to 1.

    In the release's order: how many (uniform in 1..most, or always `most`), which (without repetition), the weights
    (uniform on the simplex). The same for all passes of a step, on every process.
    """
    dice = rng(t.seed, t.step, "prevmatch")
    count = int(dice.integers(1, most + 1)) if is_random else most
    chosen = dice.choice(former, min(count, former), replace=False)
    return chosen.tolist(), dice.dirichlet(np.ones(len(chosen))).tolist()


def _frozen(net: SegNet) -> SegNet:
    """A copy that is not trained, batch-norm statistics included."""
    return copy.deepcopy(net).requires_grad_(False)
