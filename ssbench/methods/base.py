"""The contract of a method: it owns its networks, and a step returns the loss and its named terms.

Also here: the settings and functions of the task's losses, and helpers that several methods share.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import torch
from PIL import Image
from pydantic import model_validator
from torch import Tensor, nn

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.plan import Needs, Plan
from ssbench.errors import RecipeError
from ssbench.methods.hosting import unhosted
from ssbench.nets.segnet import FrozenForward, Out, SegNet
from ssbench.ops import losses
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import mean_of
from ssbench.plugins.base import Count, LossScale, MixedView, Plugin, Settings, Share, StudentView
from ssbench.views.sample import Maps
from ssbench.views.settings import ViewsConfig


class MethodConfig(Settings):
    """Settings of a method."""


class LossConfig(Settings):
    """The task's losses: how labelled pixels and pseudo-labelled pixels are scored."""

    supervised: Literal["ce", "ohem", "ce_dice"] = "ce"
    pseudo: Literal["ce", "dice"] = "ce"
    pseudo_over: Literal["valid", "kept"] = "valid"  # UniMatch divides by non-padded pixels, not by confident ones
    ohem_threshold: Share = 0.7  # UniMatch, CPS, U2PL
    ohem_min_kept: Count = 200_000  # UniMatch, per group
    ohem_group: Count = 2  # UniMatch: images per process

    @property
    def behaviour(self) -> int:
        """Version of the computation, which enters the run key above 1. 2: hard examples are averaged by group."""
        return 2 if self.supervised == "ohem" else 1

    @model_validator(mode="after")
    def _read(self) -> LossConfig:
        if self.pseudo == "dice":
            self._refuse_unread("pseudo: dice", "pseudo_over")
        if self.supervised != "ohem":
            self._refuse_unread(f"supervised: {self.supervised}", "ohem_threshold", "ohem_min_kept", "ohem_group")
        return self


@dataclass(frozen=True)
class Losses:
    """The losses of a `LossConfig` as functions. absolute: whether weights stay out of the divisor (but for Dice)."""

    cfg: LossConfig
    absolute: bool = False

    def supervised(self, logits: Tensor, target: Tensor) -> Tensor:
        """Scalar loss of B C H W logits against B H W labels, 255 = ignore."""
        if self.cfg.supervised == "ohem":
            return losses.ohem(logits, target, self.cfg.ohem_threshold, self.cfg.ohem_min_kept, self.cfg.ohem_group)
        loss = losses.ce_dice if self.cfg.supervised == "ce_dice" else losses.cross_entropy
        return loss(logits, target)

    def labeled(self, out: Out, target: Tensor, aux_weight: float) -> Tensor:
        """`supervised` of a network's output, plus `aux_weight` times that of its auxiliary head if it has one."""
        sup = self.supervised(out.logits, target)
        return sup if out.aux is None else sup + aux_weight * self.supervised(out.aux, target)

    def pseudo(self, logits: Tensor, target: Pseudo, weight: Tensor | None = None) -> Tensor:
        """Scalar loss of B C H W logits against pseudo-labels; weight: B H W or None."""
        keep = target.counted
        if self.cfg.pseudo == "dice":
            return losses.dice(logits, target.label, keep & target.valid, weight)
        over = target.valid & keep if self.cfg.pseudo_over == "kept" else target.valid
        return losses.pseudo_cross_entropy(logits, target.label, keep, over, weight, self.absolute)


@dataclass(frozen=True)
class Step:
    """What a step returns: the loss to minimise, and named terms (detached scalars) to record."""

    loss: Tensor
    terms: dict[str, Tensor]


class Loop(Protocol):
    """The part of the trainer that a method's `fit` uses."""

    def train(self) -> None:
        """Train to the end of the schedule, from wherever the run stands."""

    @property
    def stages(self) -> StagedTraining:
        """For methods that train more than once; first read before anything is trained."""


class StagedTraining(Protocol):
    """Several trainings in one run, and what is computed between them; for methods whose `needs` are a mixture.

    `fit` runs from its top whenever a run is resumed. A call that was finished is skipped, and one that was interrupted
    continues where it stopped.
    """

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    batch: int
    epochs: int
    folder: Path

    def train(
        self, name: str, unlabeled: Sequence[str] = (), repeats: int = 1, maps: Maps | None = None,
        keep: Collection[int] = (), last: bool = False, steps: int | None = None,
    ) -> None:  # fmt: skip
        """Train all epochs from the run's first weights, with a new optimiser, on a mixture (`data.plan.Mixture`).

        Args:
            unlabeled, repeats: the mixture's unlabelled images, and how often the labelled list stands in it.
            maps: the stored maps of the unlabelled ones; {} for a labelled one. Pickles to loader workers.
            keep: epochs (from 1) whose networks `network` will load.
            last: this training's score is the run's. `fit` ends with one such call.
            steps: train the nearest number of whole epochs to so many steps; None: as many epochs as the schedule says.
        """

    def network(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        """B C H W images -> logits of an earlier training: of its best epoch on val, or of an epoch in `keep`."""

    def scorer(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        """One image 1 C H W -> 1 K H W scores of that network under the recipe's protocol, none negative."""

    def measure(self, name: str, ids: Sequence[str], value: Callable[[Tensor], float]) -> dict[str, float]:
        """`value` of every image (1 3 H W, native size, normalised), by id, in the order of `ids`."""

    def image_labels(self, ids: Sequence[str]) -> Callable[[str], frozenset[int]]:
        """An image's id -> the classes known to be in it, background too; DataError where some of `ids` has none."""

    def store(
        self, name: str, ids: Sequence[str], maps: Sequence[str],
        draw: Callable[[Tensor, str], Mapping[str, Image.Image]],
    ) -> None:  # fmt: skip
        """Write `draw` of every image (as in `measure`) and its id to files `folder/<map>/<id>.png`.

        The first of `maps` holds labels, mode P, and is compared with the hidden labels for the record.
        """


MakeNet = Callable[[str], SegNet]


class Method(nn.Module):
    """A baseline. `forward` is `step`, so that DDP wraps the method and not its networks.

    honours: the plug-in hooks it calls. synchronises: why its step waits for the device, empty if it does not.
    two_students: whether it trains two networks that teach each other. one_mean: whether labelled and pseudo-labelled
    pixels share one mean, so that a plug-in's weights cannot stay out of its divisor.
    """

    Config: ClassVar[type[MethodConfig]] = MethodConfig
    honours: ClassVar[frozenset[str]] = frozenset()
    synchronises: ClassVar[str] = ""
    two_students: ClassVar[bool] = False
    one_mean: ClassVar[bool] = False
    network: ClassVar[str] = ""
    """The one network it can train, by name; empty: any."""
    without: ClassVar[Mapping[str, str]] = {}
    """Why its step does not call a hook, for the refusal of plug-ins that need it."""
    trial: ClassVar[Mapping[str, Any]] = {}
    """Settings for trials of it alone on small untrained networks, where no pixel would be taught otherwise."""
    behaviour: ClassVar[int] = 1
    """Version of the computation. Raise it when the computation changes: above 1 it enters the run key."""

    def __init__(self, cfg: Any, make_net: MakeNet, plugin: Plugin, loss: LossConfig) -> None:
        super().__init__()
        method, name = type(self), type(plugin).__name__
        if refusal := unhosted(method.__name__, method, cfg, name, plugin, plugin.needs, plugin.absolute):
            raise RecipeError(refusal.what, "method", refusal.fix)
        self.cfg, self.losses, self.plugin = cfg, Losses(loss, plugin.absolute), plugin
        self.net = make_net("student")
        self.check(cfg, loss, self.net.classes)
        self.extras = plugin.extras(self.net)
        self.build(make_net)

    @classmethod
    def calls(cls, cfg: Any) -> frozenset[str]:
        """The hooks its step calls under these settings: `honours`, less those that some settings leave out."""
        return cls.honours

    @classmethod
    def behaviour_of(cls, cfg: Any) -> int:
        """`behaviour` under these settings: 1 where a later version computes the same as the first."""
        return cls.behaviour

    @classmethod
    def check(cls, cfg: Any, loss: LossConfig, classes: int | None) -> None:
        """Refuse losses or numbers of classes (None: not yet known) the method cannot use.

        Called when a recipe is read and again when the method is built.

        Raises:
            RecipeError: where = the setting concerned ("loss.pseudo").
        """

    @classmethod
    def check_batches(cls, cfg: Any, labeled: int, unlabeled: int) -> None:
        """Refuse batches (images of all processes) the method cannot use. Called when a recipe is read.

        Raises:
            RecipeError: where = the setting concerned ("schedule").
        """

    @classmethod
    def smallest_pass(cls, cfg: Any, labeled: int, unlabeled: int, views: int | None) -> int:
        """Images of its smallest pass in train mode; `views`: mixed ones of a plug-in, None: as many as its own."""
        return labeled + unlabeled

    @classmethod
    def check_views(cls, cfg: Any, views: ViewsConfig) -> None:
        """Refuse settings that have no effect with these views. Called when a recipe is read.

        Raises:
            RecipeError: where = the setting concerned ("method.paste_scale").
        """

    def build(self, make_net: MakeNet) -> None:
        """Make what the method has besides the student (a teacher, a second network)."""

    @property
    def needs(self) -> Needs:
        """What the step reads."""
        raise NotImplementedError

    def attach(self, plan: Plan) -> None:
        """Set up state kept per image. Called once, before training and resuming, with the images the run reads."""

    def wants(self, batch: Batch, t: Progress) -> Sequence[str]:
        """Ids of the unlabelled images to load as `batch.partner` of this step, one for each place of this process.

        Only for `Needs.partner` "asked": the method chooses partners from what it has learned so far.
        """
        return ()

    def step(self, batch: Batch, t: Progress) -> Step:
        """Loss and terms of one batch, top to bottom as the paper states it."""
        raise NotImplementedError

    def forward(self, batch: Batch, t: Progress) -> Step:
        """`step`, under DDP."""
        return self.step(batch, t)

    def after_step(self, t: Progress) -> None:
        """After the optimiser's update (a teacher's moving average)."""

    @property
    def labeller(self) -> SegNet:
        """The network that labels the unlabelled images: the student itself, or its teacher."""
        return self.net

    def end_epoch(self, is_best: bool, t: Progress) -> None:
        """After each epoch, its score known, before anything is saved. t: of the epoch's last step."""
        if "end_epoch" in self.honours:
            self.plugin.end_epoch(self.labeller, is_best, t)

    def predict(self, x: Tensor) -> Tensor:
        """B C H W logits of the network the paper scores; eval mode is the caller's."""
        return self.net(x).logits

    def fit(self, loop: Loop) -> None:
        """The whole training; methods with stages override it."""
        loop.train()

    def students(self) -> Sequence[SegNet]:
        """Networks the optimiser trains."""
        return [self.net]

    def parameter_groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """(encoder, everything else trained), for the two learning rates; plug-in modules go with the second."""
        encoder = [p for net in self.students() for p in net.backbone_parameters()]
        head = [p for net in self.students() for p in net.head_parameters()]
        return encoder, [*head, *self.extras.parameters()]

    def _teach_views(
        self, mixed: Sequence[MixedView], outs: Sequence[Out], teach: Callable[[Tensor], Out], t: Progress
    ) -> tuple[list[Tensor], list[StudentView]]:
        """The pseudo-label loss of each strong view under the plug-in's weights, and the views "s1", "s2", ..."""
        pairs = list(zip(mixed, outs, strict=True))
        terms = [self.losses.pseudo(out.logits, m.pseudo, self.plugin.weigh(m, teach, t)) for m, out in pairs]
        return terms, [StudentView(f"s{k}", m.images, out, m.pseudo, m.weak) for k, (m, out) in enumerate(pairs, 1)]

    def _finish(
        self, scale: LossScale, printed: Callable[[float], Tensor], extra: Mapping[str, Tensor], **terms: Tensor
    ) -> Step:
        """The step: the method's loss at the plug-in's scale plus the plug-in's own terms `extra`; all terms detached.

        Args:
            printed: the loss as the paper prints it, given a factor on its unlabelled terms; 0 leaves them out.
        """
        loss = printed(scale.unlabeled)
        if scale.host != 1.0:  # the identity plug-in changes no bit
            loss = loss * scale.host
        for term in extra.values():
            loss = loss + term
        return Step(loss, {name: value.detach() for name, value in {**terms, **extra}.items()})


def streams(batch: Batch) -> tuple[Labeled, Unlabeled, Unlabeled]:
    """The three parts of a batch whose method pastes from a partner.

    Raises:
        ValueError: the batch has no unlabelled images or no partner, whatever `needs` asked for.
    """
    if batch.unlabeled is None or batch.partner is None:
        raise ValueError("this method reads unlabelled images and a partner for each")
    return batch.labeled, batch.unlabeled, batch.partner


def frozen_copy(net: SegNet) -> SegNet:
    """A copy of `net` as a teacher: same values, no gradients."""
    return copy.deepcopy(net).requires_grad_(False)


@torch.no_grad()
def labels_of(net: SegNet, x: Tensor, valid: Tensor, threshold: float, train_mode: bool) -> Pseudo:
    """Pseudo-labels of `net` on images x (B 3 H W), in eval or train mode (batch statistics), mode restored after."""
    mode = net.training
    net.train(train_mode)
    out = net(x)
    net.train(mode)
    return Pseudo.of(out.logits, valid, threshold, out.feats, x)


def parts(out: Out, sizes: Sequence[int]) -> list[Out]:
    """A network's output cut along the batch into consecutive parts of `sizes` images."""

    def rows(where: slice) -> Out:
        return Out(
            out.logits[where],
            None if out.perturbed is None else out.perturbed[where],
            {name: feat[where] for name, feat in out.feats.items()},
            None if out.aux is None else out.aux[where],
            None if out.rep is None else out.rep[where],
        )

    ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
    return [rows(slice(end - size, end)) for end, size in zip(ends, sizes, strict=True)]


def mean(terms: Sequence[Tensor]) -> Tensor:
    """Mean of scalars, one or more."""
    return sum(terms[1:], terms[0]) / len(terms)


def quality(target: Pseudo, truth: Tensor | None = None) -> dict[str, Tensor]:
    """Quality of pseudo-labels, as shares to record; no loss uses it.

    Args:
        truth: the hidden labels, B H W, 255 = unknown; by default what `target` carries as "truth".

    Returns:
        kept: share of valid pixels that are kept. Of the valid pixels whose label is known, `known` is the share kept,
        `right` the share kept and right: the recall; precision is right / known.
    """
    counted = target.keep & target.valid
    shares = {"kept": _share(counted, target.valid)}
    truth = target.carry.get("truth") if truth is None else truth
    if truth is None:
        return shares
    labelled = target.valid & (truth != 255)
    known = counted & labelled
    return {**shares, "known": _share(known, labelled), "right": _share(known & (target.label == truth), labelled)}


def _share(chosen: Tensor, of: Tensor) -> Tensor:
    """Pixels of `chosen` per pixel of `of`, both bool, over all processes."""
    return mean_of(chosen.sum().to(torch.float32), of.sum())


def frozen_forward(net: SegNet) -> FrozenForward:
    """An eval-mode, gradient-free forward of `net`."""
    return FrozenForward(net)
