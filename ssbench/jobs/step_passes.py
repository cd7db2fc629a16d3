"""Which passes through networks a step makes: counted in one small step of the method, not typed in.

So the count also holds for methods of other people, and for every setting. The method is built as its recipe says but
with timm's smallest encoder, and makes one step on noise with everything it asks for. Every call of a network is noted
with its images, whether gradients come back through it, and whether the decoder also reads perturbed maps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import gcd
from typing import Any

import torch
from PIL import Image

from ssbench.data.noise import batch_for
from ssbench.data.plan import Needs, Plan
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.ops.progress import Progress
from ssbench.plugins.promises import PluginFault, missing_map
from ssbench.recipe.quick import CROP, small_settings
from ssbench.recipe.recipe import Recipe
from ssbench.train.build import method_of

FEW = 4
"""A batch is shrunk to so many images where both kinds allow it; passes grow with the batch."""
MAPS = 16
"""More maps than this no plug-in prepares."""

Passes = dict[tuple[bool, bool], float]
"""Images through a network, by (gradients come back, the decoder also reads perturbed maps)."""


@dataclass(frozen=True)
class StepCount:
    """What a step does: what it reads, its passes at the recipe's batch, and the passes of one scored image.

    nets: networks held, of which the optimiser trains `students`. note: what could not be counted, for people.
    """

    needs: Needs
    step: Passes
    score: Passes
    nets: int
    students: int
    note: str = ""


def small_net(recipe: Recipe) -> Any:
    """The recipe's network settings with the smallest sizes there are."""
    return recipe.net.model_copy(update=small_settings(recipe.classes[1]))


def small_method(recipe: Recipe, classes: int, channels: int) -> Method:
    """The recipe's method with its plug-in, around the smallest networks there are."""
    return method_of(replace(recipe, net=small_net(recipe)), classes, channels, 0)


def count_step(recipe: Recipe, classes: int, channels: int) -> StepCount:
    """Passes of one step. Whatever a step on noise raises passes on."""
    method, batch = (
        small_method(recipe, classes, channels),
        (recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch),
    )
    common = gcd(*batch)
    times = common // FEW if common % FEW == 0 else 1
    labeled, unlabeled = batch[0] // times, batch[1] // times
    ids = stand_ins(labeled, max(unlabeled, 1) * 2)
    method.train().attach(Plan(*ids, method.needs, labeled, max(unlabeled, method.needs.pick)))
    passes = _step_passes(method, labeled, unlabeled, channels, ())
    method.eval()
    with torch.no_grad(), counting(method) as score:
        method.predict(torch.zeros(1, channels, CROP, CROP))
    nets = sum(isinstance(module, SegNet) for module in method.modules())
    step = {way: images * times for way, images in passes.items()}
    return StepCount(method.needs, step, score, nets, len(method.students()))


def stand_ins(labeled: int, unlabeled: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids for so many images: what a run costs depends on their number."""
    return tuple(f"l{k:06}" for k in range(labeled)), tuple(f"u{k:06}" for k in range(unlabeled))


def _step_passes(method: Method, labeled: int, unlabeled: int, channels: int, maps: tuple[str, ...]) -> Passes:
    """Passes of a step on noise. A map that it misses, which its plug-in would have prepared, is added, empty."""
    t = Progress(25, 40, 10, 0, torch.device("cpu"))  # past every warm-up of an epoch or two
    empty = {name: Image.new("L", (CROP, CROP)) for name in maps}
    sizes = {"images": labeled, "unlabeled": unlabeled // method.needs.pick, "classes": method.net.classes}
    batch = batch_for(method, t, maps=(lambda id: empty,), channels=channels, side=CROP, **sizes)
    try:
        with torch.random.fork_rng(devices=[]), counting(method) as passes:
            torch.manual_seed(0)
            method.step(batch, t)
    except (KeyError, PluginFault) as error:
        name = missing_map(error)
        if name is None or name in maps or len(maps) == MAPS:
            raise
        return _step_passes(method, labeled, unlabeled, channels, (*maps, name))
    return passes


@contextmanager
def counting(method: Method) -> Iterator[Passes]:
    """Note every call of the method's networks meanwhile; an image of `CROP` pixels a side counts as one."""
    passes: Passes = defaultdict(float)

    def note(net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, drop = args[0], args[1] if len(args) > 1 else kwargs.get("drop")
        trained = torch.is_grad_enabled() and any(p.requires_grad for p in net.parameters())
        passes[trained, drop is not None] += x.shape[0] * x.shape[-2] * x.shape[-1] / CROP**2

    hooks = [m.register_forward_pre_hook(note, with_kwargs=True) for m in method.modules() if isinstance(m, SegNet)]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
