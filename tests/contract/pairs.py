"""Every method, and every pair of a method with a plug-in whose hooks it calls; found, not listed.

A new file in methods/ or plugins/ is covered as it stands: the settings are its Config's defaults.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CLASSES, SIDE, Maps, batch_for, build, plugin, prepared, progress, train
from torch import Tensor

from ssbench import find
from ssbench.data.batch import Batch
from ssbench.errors import RecipeError
from ssbench.methods.base import Method, Step
from ssbench.nets.segnet import Out
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import Mixed, Pace, Plugin, Seen

METHODS = find.names("method")
PLUGINS = find.names("plugin")
HONOURS = {name: find.load("method", name).honours for name in METHODS}
PAIRS = [(m, p) for m in METHODS for p in PLUGINS if find.load("plugin", p).needs <= HONOURS[m]]
ZEROS = [(m, p) for m, p in PAIRS if find.load("plugin", p).zero]
LATE = 25
"""A step of the third epoch of ten steps: past every method's warm-up of an epoch or two."""


SMALL = 41
"""Side of the images where many steps are made."""


def pair(
    method: str, name: str, folder: Path, seed: int = 0, side: int = SIDE, **settings: Any
) -> tuple[Method, tuple[Maps, ...]]:
    """A method with a prepared plug-in, and the maps that plug-in wants loaded. Skips what the method refuses."""
    chosen = plugin(name, **settings)
    run = prepared(folder, side)
    chosen.prepare(run)
    return made(method, chosen, seed), tuple(run.maps)


def made(method: str, chosen: Plugin | None = None, seed: int = 0) -> Method:
    """A method by name with its default settings. Skips where those refuse the plug-in."""
    try:
        return build(method, chosen, seed=seed)
    except RecipeError as error:
        if not error.fix:
            raise
        pytest.skip(f"refused, as it should be: {error.what}")


def one_step(method: Method, step: int = LATE, maps: tuple[Maps, ...] = ()) -> Step:
    torch.manual_seed(step)
    t = progress(step)
    return method(batch_for(method, t, seed=step, maps=maps), t)


def several(method: Method, steps: int, start: int = 0, maps: tuple[Maps, ...] = ()) -> list[dict[str, float]]:
    """Steps of epochs of two, so that warm-ups end on the way; the images are small."""
    return train(method, steps, start, steps_per_epoch=2, maps=maps, side=SMALL)


class Watch(Plugin):
    """Changes nothing and notes which hooks were called."""

    def __init__(self) -> None:
        super().__init__(Plugin.Config(), CLASSES)
        self.called: list[str] = []

    def pace(self, t: Progress) -> Pace:
        self.called.append("pace")
        return super().pace(t)

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        self.called.append("refine")
        assert not pseudo.soft.requires_grad
        return super().refine(pseudo, t)

    def weigh(self, mixed: Mixed, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        self.called.append("weigh")
        assert mixed.images.shape == mixed.weak.shape
        assert mixed.pseudo.label.shape == mixed.images[:, 0].shape
        return super().weigh(mixed, teach, t)

    def loss(self, seen: Seen, t: Progress) -> dict[str, Tensor]:
        self.called.append("loss")
        assert all(view.out.logits.requires_grad for view in seen.views)
        assert seen.labeled.logits.requires_grad
        return super().loss(seen, t)


class WatchMix(Watch):
    """The same for `mix`, which some settings refuse."""

    def mix(self, host: Callable[[], Sequence[Mixed]], batch: Batch, weak: Pseudo, t: Progress) -> Sequence[Mixed]:
        self.called.append("mix")
        return super().mix(host, batch, weak, t)


class Constant(Plugin):
    """Weighs all pixels alike: a weighted mean is the mean."""

    def weigh(self, mixed: Mixed, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        return 3 * mixed.pseudo.conf.new_ones(mixed.pseudo.conf.shape)


class Slow(Plugin):
    """Halves the host's loss and adds 2."""

    def pace(self, t: Progress) -> Pace:
        return Pace(0.5)

    def loss(self, seen: Seen, t: Progress) -> dict[str, Tensor]:
        return {"two": seen.labeled.logits.sum() * 0 + 2}


class Labelled(Plugin):
    """Turns the unlabelled terms off, as a warm-up does."""

    def pace(self, t: Progress) -> Pace:
        return Pace(unlabeled=False)


def identity(cls: type[Plugin]) -> Plugin:
    return cls(cls.Config(), CLASSES)
