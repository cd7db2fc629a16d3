"""Mask2Former: supervised by its set loss, or trained again on pseudo-labels of its supervised self.

Papers: Cheng et al., "Masked-attention Mask Transformer for Universal Image Segmentation", CVPR 2022 (network, loss,
inference); the UPC paper's rows "Mask2Former" and "Mask2Former w/ UPC" (training on few labels). Checked against:
facebookresearch/Mask2Former 9b0651c6 (card: mask2former 1, 4, 7). `training: supervised` is the rows without UPC;
`self_training` trains, labels all unlabelled images, and trains again from the first weights on half labelled and
half pseudo-labelled batches. How the UPC paper self-trains is stated in part only: the readings are named in the card
(card: mask2former 8).
Departures: float32 throughout (release: mixed precision); every image has its own colours before patches are pasted.
Plug-ins: only those that mix. A set loss has no term of a pixel that others could weigh, select or compare.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import torch
from PIL import Image
from pydantic import Field, model_validator
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs, Plan
from ssbench.data.stored import Stored, entropy_picture
from ssbench.errors import RecipeError
from ssbench.methods.base import Loop, LossConfig, MakeNet, Method, MethodConfig, StagedTraining, Step, mean, quality
from ssbench.ops.confidence import entropy
from ssbench.ops.losses import IGNORE
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.set_loss import QueryOutput, SetLossConfig, mask_targets, pad_labels, set_loss
from ssbench.plugins.base import Count, MixedView, Share, Weight

MAPS = ("pseudo", "entropy")
NO_PIXELS = "its loss compares sets of masks and has no term of a pixel to weigh, select or compare"


class Mask2Former(Method):
    """L = L_x + weight x L_u, both the set loss; L_u the mean over the mixed copies."""

    honours = frozenset({"prepare", "scale", "mix"})
    synchronises = "the matching of queries and masks is computed on the host, and the number of masks is needed there"
    network = "mask2former"
    without: ClassVar[Mapping[str, str]] = dict.fromkeys(("refine", "weigh", "extras", "loss"), NO_PIXELS)

    class Config(MethodConfig):
        """Settings; the loss's are the release's (card: mask2former 4)."""

        name: Literal["mask2former"] = "mask2former"
        training: Literal["supervised", "self_training"] = (
            "self_training"  # UPC paper: rows without and with the plug-in
        )
        steps: tuple[Count, Count] | None = None  # of the supervised training and the second; UPC paper: 30000, 60000
        weight: Weight = 1.0  # ours: of L_u, which the paper calls lambda and gives no value
        label_with: Literal["best", "last"] = "best"  # ours: the teacher is the network of the supervised row
        class_weight: Weight = 2.0  # release
        mask_weight: Weight = 5.0  # release
        dice_weight: Weight = 5.0  # release
        no_object: Weight = 0.1  # release
        points: Count = 12_544  # release: 112 x 112
        oversample: Annotated[float, Field(ge=1, le=100)] = 3.0  # release
        uncertain: Share = 0.75  # release

        @model_validator(mode="after")
        def _read(self) -> Mask2Former.Config:
            if self.training == "supervised":
                self._refuse_unread("training: supervised", "weight", "label_with")
            return self

    @classmethod
    def calls(cls, cfg: Config) -> frozenset[str]:
        """Supervised, nothing is mixed."""
        return cls.honours - {"mix"} if cfg.training == "supervised" else cls.honours

    @classmethod
    def check(cls, cfg: Config, loss: LossConfig, classes: int | None) -> None:
        """Refuse settings of pixel losses, which nothing reads."""
        if loss != LossConfig():
            what = "mask2former has its own set loss, so `loss` is never read"
            raise RecipeError(
                what, "loss", "--set loss.supervised=ce --set loss.pseudo=ce; the weights are settings of the method"
            )

    @classmethod
    def check_batches(cls, cfg: Config, labeled: int, unlabeled: int) -> None:
        """Refuse a second training without unlabelled images in a batch."""
        if cfg.training == "self_training" and not unlabeled:
            what = "self-training reads unlabelled images in every step, and the batch has none"
            raise RecipeError(what, "schedule.unlabeled_batch", f"--set schedule.unlabeled_batch={labeled}")

    def build(self, make_net: MakeNet) -> None:
        """The loss's constants. RecipeError for another network."""
        if self.net.own_method != "mask2former":
            raise RecipeError(f"mask2former trains no {type(self.net).__name__}", "net", "net: {name: mask2former}")
        c = self.cfg
        weights = (c.class_weight, c.mask_weight, c.dice_weight, c.no_object)
        self.set_loss = SetLossConfig(*weights, c.points, c.oversample, c.uncertain)

    @property
    def needs(self) -> Needs:
        """Labelled images, and beside them as many unlabelled ones as the recipe says, with their stored maps."""
        return Needs(mixture="plain", composition="fixed" if self.cfg.training == "self_training" else "drawn")

    def attach(self, plan: Plan) -> None:
        """Refuse a split in which there is nothing to label."""
        if self.cfg.training == "self_training" and not plan.unlabeled:
            raise RecipeError("the split has no unlabelled images, which self-training labels", "--split",
                              "method: {training: supervised}, or a split that labels less")  # fmt: skip

    def fit(self, loop: Loop) -> None:
        """One training, or two with the labelling between them (card: mask2former 8)."""
        run, cfg = loop.stages, self.cfg
        first, second = cfg.steps or (None, None)
        repeats = self._repeats(run, first)
        if cfg.training == "supervised":
            run.train("supervised", repeats=repeats, last=True, steps=first)
            return
        keep = [run.epochs] if cfg.label_with == "last" else []
        run.train("supervised", repeats=repeats, keep=keep, steps=first)
        scores = run.scorer("supervised", None if cfg.label_with == "best" else run.epochs)
        run.store("label", run.unlabeled, MAPS, lambda x, _: self._label_image(scores, x))
        maps = Stored(run.folder, frozenset(run.unlabeled), self.net.classes, MAPS)
        run.train("self_training", run.unlabeled, maps=maps, last=True, steps=second)

    def _repeats(self, run: StagedTraining, steps: int | None) -> int:
        """How often the labelled list stands in an epoch of the supervised training: once for each unlabelled image.

        With a number of steps an epoch is as long as it takes for the schedule's number of epochs.
        """
        if steps is None:
            return max(-(-len(run.unlabeled) // len(run.labeled)), 1)
        return max(1, round(steps / run.epochs * run.batch / len(run.labeled)))

    @torch.no_grad()
    def _label_image(self, scores: Callable[[Tensor], Tensor], x: Tensor) -> dict[str, Image.Image]:
        """Labels and entropies of one image 1 3 H W.

        Scores are sums over queries and no distribution: they are divided by their sum over classes (card: upc 4).
        """
        sums = scores(x)
        probs = sums / sums.sum(1, keepdim=True)
        label = Image.fromarray(sums[0].argmax(0).byte().cpu().numpy()).convert("P")
        return {"entropy": entropy_picture(entropy(probs)[0], self.net.classes), "pseudo": label}

    def step(self, batch: Batch, t: Progress) -> Step:
        """The set loss of labelled images, and with pseudo-labels of the mixed ones (card: mask2former 4, 8)."""
        mixed, scale = self._mix(batch, t), self.plugin.scale(t)
        images = [batch.labeled.x, *(view.images for view in mixed)]
        labels = [batch.labeled.y, *(_target(view.pseudo) for view in mixed)]
        parts = _parts(self.net(torch.cat(images)).sets, [len(x) for x in images])
        losses = [self._set_loss(*each, f"points {k}", t) for k, each in enumerate(zip(parts, labels, strict=True))]
        sup, unsup = _total(losses[0]), [_total(terms) for terms in losses[1:]]
        named = dict(losses[0])
        if not unsup:
            return self._finish(scale, lambda _: sup, {}, sup=sup, **named)
        shares = quality(mixed[0].pseudo)
        both = mean(unsup)
        return self._finish(
            scale, lambda factor: sup + factor * self.cfg.weight * both, {}, sup=sup, unsup=both, **named, **shares
        )

    def _mix(self, batch: Batch, t: Progress) -> list[MixedView]:
        """The unlabelled images as the student sees them; none in a supervised training."""
        here = batch.unlabeled
        if here is None or self.cfg.training == "supervised":
            return []
        everywhere = torch.ones_like(here.valid)
        carry = {"truth": here.truth, **{name: layer for name, layer in here.maps.items() if name != "pseudo"}}
        label = here.maps["pseudo"].long()
        stored = Pseudo(label, everywhere.to(here.weak.dtype), everywhere, here.valid, carry=carry)
        return list(self.plugin.mix(lambda: [MixedView(here.weak, stored, here.weak)], batch, stored, t))

    def _set_loss(self, outputs: Sequence[QueryOutput], labels: Tensor, purpose: str, t: Progress) -> dict[str, Tensor]:
        """The weighted terms of some images; their sides are padded as the network's are."""
        height, width = (4 * side for side in outputs[0].masks.shape[-2:])
        targets = mask_targets(pad_labels(labels, height, width), self.net.classes, t.rank)
        return set_loss(outputs, targets, self.set_loss, t.generator(purpose))


def _total(terms: Mapping[str, Tensor]) -> Tensor:
    return terms["class"] + terms["mask"] + terms["dice"]


def _parts(outputs: Sequence[QueryOutput], sizes: Sequence[int]) -> list[list[QueryOutput]]:
    """The outputs of consecutive parts of a batch, of `sizes` images."""
    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    rows = [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]
    return [[QueryOutput(output.classes[here], output.masks[here]) for output in outputs] for here in rows]


def _target(pseudo: Pseudo) -> Tensor:
    """B H W labels, 255 where no pixel may teach."""
    return torch.where(pseudo.valid & pseudo.counted, pseudo.label, IGNORE)
