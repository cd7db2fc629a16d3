"""Which passes through networks a step makes: counted in one small step of the method, not typed in.

The method is built as its recipe says but with timm's smallest encoder, and makes one step on noise with everything it
asks for. Every call of a network is noted with its images, whether gradients come back through it, and whether the
decoder also reads perturbed maps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from math import gcd
from typing import Any

import torch
from torch import Tensor

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.plan import Needs, Plan
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.ops.progress import Progress
from ssbench.recipe.quick import CROP, SMALL_NET
from ssbench.recipe.recipe import Recipe
from ssbench.train.build import method_of

FEW = 4
"""A batch is shrunk to so many images where both kinds allow it; passes grow with the batch."""

MAPS = 16
"""More maps than this no plug-in prepares."""

Passes = dict[tuple[bool, bool], float]
"""Images through a network, by (gradients come back, the decoder also reads perturbed maps)."""


@dataclass(frozen=True)
class Count:
    """What a step does. needs: what it reads; step: its passes at the recipe's batch; score: those of one scored image;
    nets: networks held, of which the optimiser trains `students`.
    """

    needs: Needs
    step: Passes
    score: Passes
    nets: int
    students: int

    def as_json(self) -> dict[str, Any]:
        """Plain data; `Count.read` takes it back."""
        return {
            "needs": asdict(self.needs),
            "step": [[*way, images] for way, images in self.step.items()],
            "score": [[*way, images] for way, images in self.score.items()],
            "nets": self.nets,
            "students": self.students,
        }

    @classmethod
    def read(cls, said: dict[str, Any]) -> Count:
        """The count that `as_json` wrote."""
        step, score = ({(a, b): images for a, b, images in said[name]} for name in ("step", "score"))
        scale = said["needs"]["donor_scale"]
        needs = Needs(**{**said["needs"], "donor_scale": None if scale is None else tuple(scale)})
        return cls(needs, step, score, said["nets"], said["students"])


def small_method(recipe: Recipe, classes: int, channels: int) -> Method:
    """The recipe's method with its plug-in, around the smallest networks there are."""
    fields = type(recipe.net).model_fields
    small = recipe.net.model_copy(update={k: v for k, v in SMALL_NET.items() if k in fields})
    return method_of(replace(recipe, net=small), classes, channels, 0)


def count(method: Method, recipe: Recipe, channels: int) -> Count:
    """Passes of one step of `small_method`. Whatever a step on noise raises passes: the caller has a remedy."""
    labeled, unlabeled = recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch
    common = gcd(labeled, unlabeled)
    times = common // FEW if common % FEW == 0 else 1
    known, told = labeled // times, unlabeled // times
    ids = tuple(f"l{k}" for k in range(known)), tuple(f"u{k}" for k in range(max(told, 1) * 2))
    method.train().attach(Plan(*ids, method.needs, known, max(told, method.needs.pick)))
    found = _step(method, known, told, channels, ())
    step = {way: images * times for way, images in found.items()}
    nets = sum(isinstance(module, SegNet) for module in method.modules())
    return Count(method.needs, step, _scored(method, channels), nets, len(method.students()))


def _step(method: Method, labeled: int, unlabeled: int, channels: int, maps: tuple[str, ...]) -> Passes:
    """Passes of a step on noise; what maps it misses, which its plug-in would have prepared, are empty ones."""
    t = Progress(25, 40, 10, 0, torch.device("cpu"))  # past every warm-up of an epoch or two
    try:
        with torch.random.fork_rng(devices=[]), counting(method) as found:
            torch.manual_seed(0)
            method.step(_batch(method, labeled, unlabeled, _Noise(channels, method.net.classes, maps), t), t)
    except KeyError as missing:
        name = missing.args[0]
        if not isinstance(name, str) or name in maps or len(maps) == MAPS:
            raise
        return _step(method, labeled, unlabeled, channels, (*maps, name))
    return found


@contextmanager
def counting(method: Method) -> Iterator[Passes]:
    """Notes every call of the method's networks meanwhile, an image of `CROP` pixels a side as one."""
    found: Passes = defaultdict(float)

    def note(net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, drop = args[0], args[1] if len(args) > 1 else kwargs.get("drop")
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in net.parameters())
        found[trained, drop is not None] += x.shape[0] * x.shape[-2] * x.shape[-1] / CROP**2

    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in method.modules() if isinstance(m, SegNet)]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _scored(method: Method, channels: int) -> Passes:
    method.eval()
    with torch.no_grad(), counting(method) as found:
        method.predict(torch.zeros(1, channels, CROP, CROP))
    return found


def _batch(method: Method, labeled: int, unlabeled: int, make: _Noise, t: Progress) -> Batch:
    """Noise with labels, and everything `method.needs` names."""
    needs = method.needs
    batch = Batch(make.labeled("l", labeled))
    if needs.donor:
        batch = replace(batch, donor=make.labeled("l", unlabeled if needs.mixture else labeled))
    if not needs.unlabeled or not unlabeled:
        return batch
    used = [f"u{k}" for k in range(unlabeled // needs.pick)]
    batch = replace(batch, unlabeled=make.unlabeled(needs, used))
    if needs.partner in ("same", "other"):
        return replace(batch, partner=make.unlabeled(needs, used))
    asked = method.wants(batch, t)
    return replace(batch, partner=make.unlabeled(needs, asked)) if asked else batch


@dataclass(frozen=True)
class _Noise:
    channels: int
    classes: int
    maps: tuple[str, ...]

    def labeled(self, prefix: str, images: int) -> Labeled:
        ids = tuple(f"{prefix}{k}" for k in range(images))
        return Labeled(self._images(images), self._labels(images), ids, self._maps(images))

    def unlabeled(self, needs: Needs, ids: Sequence[str]) -> Unlabeled:
        images, strong = len(ids), 1 if needs.mixture else needs.strong
        everywhere = torch.ones(images, CROP, CROP, dtype=torch.bool)
        label = self._labels(images)
        stored = {"pseudo": label.byte(), "entropy": torch.rand(label.shape)} if needs.mixture else {}
        return Unlabeled(
            weak=self._images(images),
            strong=tuple(self._images(images) for _ in range(strong)),
            valid=everywhere,
            boxes=tuple(everywhere for _ in range(strong)),
            truth=label,
            ids=tuple(ids),
            maps={**self._maps(images), **stored},
            colour=_uncoloured if needs.mixture == "plain" else None,
        )

    def _maps(self, images: int) -> dict[str, Tensor]:
        return {name: torch.zeros(images, CROP, CROP, dtype=torch.uint8) for name in self.maps}

    def _images(self, images: int) -> Tensor:
        return torch.randn(images, self.channels, CROP, CROP)

    def _labels(self, images: int) -> Tensor:
        blocks = torch.randint(self.classes, (images, CROP // 8, CROP // 8))
        return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)


def _uncoloured(images: Tensor, copy: int = 0) -> tuple[Tensor, Tensor]:
    return images, torch.zeros_like(images[:, 0], dtype=torch.bool)
