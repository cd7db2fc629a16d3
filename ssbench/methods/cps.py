"""CPS: two networks of one architecture and two random heads teach each other with their hard labels.

Paper: Chen et al., "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision", CVPR 2021.
Checked against: charlesCXK/TorchSemiSeg 5e0c29c `exp.{voc,city}/*.CPS`, `*.CPS+CutMix` (card: cps). What the release
does without the paper saying so is an option with the release's value as default: `partner: same` (two samplers of one
seed, so an image is mixed with itself, augmented afresh; card: cps 7) and `padding: counted`. Labels come from batch
statistics, and with CutMix labelled images have no cross term (the paper's formula has it in both; card: cps 9).
Its losses are divided by the number of GPUs W on top of the usual averaging (card: cps 8): recipes state the equal
lr / W and weight decay x W of one process.
Departures: cross entropies are means over the whole batch and not per GPU; the unlabelled order is shuffled every
epoch; regions are drawn per image, not per loader worker (card: cps 9). The order of the two networks' passes differs
from the release's (whose VOC and Cityscapes scripts differ too), which changes nothing: they share no state.
A plug-in's hooks act in both directions, on each network's own labels; its `extras` and its state are one, made for
the first network and shared by both, and `loss` is called once for each (the second's terms end in "_2").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import model_validator
from torch import Tensor

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.plan import Needs
from ssbench.methods.base import (
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
from ssbench.ops.losses import IGNORE
from ssbench.ops.mixing import paste
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import MixedView, StepOutputs, StudentView, Weight

PEER = (1, 0)
"""Whose labels each of the two networks learns."""


class CPS(Method):
    """L = L_x(1) + L_x(2) + weight * (CE(1, labels of 2) + CE(2, labels of 1))."""

    honours = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss"})
    two_students = True
    without: ClassVar[Mapping[str, str]] = {"end_epoch": "it trains two networks; a copy of which one is not defined"}

    class Config(MethodConfig):
        """Settings of CPS. The comment of a default names its source."""

        name: Literal["cps"] = "cps"
        cutmix: bool = True  # the variant of the quoted rows; false: Sec. 3 of the paper
        weight: Weight = 1.0  # release: VOC 1.5, with CutMix 1; Cityscapes 6, with CutMix 5
        partner: Literal["same", "other"] = "same"  # release (card: cps 7); the paper's CutMix: other
        padding: Literal["counted", "ignored"] = "counted"  # release (card: cps 9): labels on padding count
        unlabeled: Literal["rest", "all"] = "rest"  # few-label VOC: all, with the labelled images (thread #22)

        @model_validator(mode="after")
        def _read(self) -> CPS.Config:
            if not self.cutmix:
                self._refuse_unread("cutmix: false", "partner")
            return self

    @classmethod
    def smallest_pass(cls, cfg: Config, labeled: int, unlabeled: int, views: int | None) -> int:
        """Each stream passes alone."""
        return min(labeled, unlabeled)

    @property
    def needs(self) -> Needs:
        """With CutMix a second draw and a region; the mixed images have the weak views' colours."""
        if not self.cfg.cutmix:
            return Needs(pool=self.cfg.unlabeled)
        return Needs(strong=1, partner=self.cfg.partner, pool=self.cfg.unlabeled)

    @classmethod
    def calls(cls, cfg: Config) -> frozenset[str]:
        """Without CutMix nothing is mixed."""
        return cls.honours if cfg.cutmix else cls.honours - {"mix"}

    def build(self, make_net: MakeNet) -> None:
        """The second network: same encoder file, a head drawn by itself."""
        self.second = make_net("second")

    def students(self) -> Sequence[SegNet]:
        """Both."""
        return [self.net, self.second]

    def step(self, batch: Batch, t: Progress) -> Step:
        """With CutMix card: cps 4, without card: cps 3."""
        return self._cutmix(batch, t) if self.cfg.cutmix else self._plain(batch, t)

    def _plain(self, batch: Batch, t: Progress) -> Step:
        """Cross entropy on labelled and unlabelled images, each network's pass being the other's labels."""
        labeled, here, nets = batch.labeled, batch.unlabeled, self.students()
        assert here is not None  # noqa: S101  `needs` asks for it
        first, second = [net(labeled.x) for net in nets], [net(here.weak) for net in nets]
        raw = [Pseudo.of(out.logits, here.valid, 0.0, out.feats, here.weak) for out in second]
        labels = [self.plugin.refine(pseudo.with_carry(truth=here.truth, **here.maps), t) for pseudo in raw]
        terms, views = [], []
        for k, peer in enumerate(PEER):
            mixed = MixedView(here.weak, labels[peer], here.weak)
            weight = self.plugin.weigh(mixed, frozen_forward(nets[peer]), t)
            target, weight = _joined(labeled, first[peer], labels[peer], weight)
            both = torch.cat([first[k].logits, second[k].logits])
            terms.append(self.losses.pseudo(both, self._counted(target), weight))
            views.append([StudentView("weak", here.weak, second[k], labels[peer], here.weak)])
        return self._total(batch, first, views, terms, t)

    def _cutmix(self, batch: Batch, t: Progress) -> Step:
        """Labels of two unlabelled draws, mixed as the draws are; the cross term on mixed images only."""
        nets = self.students()
        mixed = [self._mixed(net, batch, t) for net in nets]
        terms, views = [], []
        for net, peer in zip(nets, PEER, strict=True):
            of_peer, teach = mixed[peer], frozen_forward(nets[peer])
            outs = parts(net(torch.cat([m.images for m in of_peer])), [len(m.images) for m in of_peer])
            terms.append(mean([self._cross(m, out, teach, t) for m, out in zip(of_peer, outs, strict=True)]))
            pairs = enumerate(zip(of_peer, outs, strict=True), 1)
            views.append([StudentView(f"s{k}", m.images, out, m.pseudo, m.weak) for k, (m, out) in pairs])
        first = [net(batch.labeled.x) for net in nets]
        return self._total(batch, first, views, terms, t)

    def _mixed(self, net: SegNet, batch: Batch, t: Progress) -> Sequence[MixedView]:
        """What `net` teaches its peer: images and its own labels mixed alike. The partner is labelled if need be."""
        _, here, there = streams(batch)
        labels = self._label(net, here, t)

        def cutmix() -> list[MixedView]:
            box = here.boxes[0]
            image = paste(here.weak, there.weak, box)
            return [MixedView(image, labels.pasted(self._label(net, there, t), box), image)]

        return self.plugin.mix(cutmix, batch, labels, t)

    def _label(self, net: SegNet, draw: Unlabeled, t: Progress) -> Pseudo:
        """Hard labels without a threshold, from a pass in the network's own mode, which is training (card: cps 9)."""
        raw = labels_of(net, draw.weak, draw.valid, 0.0, net.training)
        return self.plugin.refine(raw.with_carry(truth=draw.truth, **draw.maps), t)

    def _cross(self, mixed: MixedView, out: Out, teach: Callable[[Tensor], Out], t: Progress) -> Tensor:
        """A student's loss on its peer's labels; `teach` is the peer."""
        return self.losses.pseudo(out.logits, self._counted(mixed.pseudo), self.plugin.weigh(mixed, teach, t))

    def _counted(self, target: Pseudo) -> Pseudo:
        """The target as the loss counts it: with its padding or without (card: cps 9)."""
        return target if self.cfg.padding == "ignored" else replace(target, valid=torch.ones_like(target.valid))

    def _total(
        self,
        batch: Batch,
        first: Sequence[Out],
        views: Sequence[Sequence[StudentView]],
        terms: Sequence[Tensor],
        t: Progress,
    ) -> Step:
        """The printed sum, with the plug-in's terms of both networks."""
        nets = self.students()
        sup = [self.losses.supervised(out.logits, batch.labeled.y) for out in first]
        extra: dict[str, Tensor] = {}
        for k, (net, peer) in enumerate(zip(nets, PEER, strict=True)):
            outputs = StepOutputs(batch, first[k], tuple(views[k]), net, frozen_forward(nets[peer]))
            terms_of_net = self.plugin.loss(outputs, t)
            extra |= {name if k == 0 else f"{name}_2": value for name, value in terms_of_net.items()}
        both, cross = sup[0] + sup[1], terms[0] + terms[1]
        named = {"sup": sup[0], "sup_2": sup[1], "cps": cross, **quality(views[0][0].pseudo)}

        def printed(u: float) -> Tensor:
            return both + self.cfg.weight * u * cross if u else both

        return self._finish(self.plugin.scale(t), printed, extra, **named)


def _joined(labeled: Labeled, first: Out, labels: Pseudo, weight: Tensor | None) -> tuple[Pseudo, Tensor | None]:
    """Labels of the labelled images (unrefined, weight 1) before those of the unlabelled ones."""
    conf, label = first.logits.detach().softmax(1).max(1)
    joined = Pseudo(
        label=torch.cat([label, labels.label]),
        conf=torch.cat([conf, labels.conf]),
        keep=torch.cat([torch.ones_like(label, dtype=torch.bool), labels.keep]),
        valid=torch.cat([labeled.y != IGNORE, labels.valid]),
    )
    return joined, None if weight is None else torch.cat([torch.ones_like(conf), weight])
