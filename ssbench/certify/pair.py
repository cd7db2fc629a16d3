"""A method with plug-ins, small, to be begun as often as a check wants; and what one step of it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ssbench import find
from ssbench.certify.small import build, prepared, progress, train
from ssbench.certify.watch import drawing, watched
from ssbench.data.batch import Batch
from ssbench.data.noise import CLASSES, SIDE, Maps, batch_for
from ssbench.methods.base import Method, Step
from ssbench.methods.hosting import fit
from ssbench.nets.segnet import Out
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin, Stack, StepOutputs

Answer = TypeVar("Answer")
SMALL = 41
"""Side of the images where many steps are made."""
LATE = 25
"""A step of the third epoch of ten steps: past every warm-up of an epoch or two."""


SURE = 0.3
"""Threshold of methods that have one: about what an untrained net reaches, so that selection takes part."""


@dataclass(frozen=True)
class Guest:
    """A plug-in's class and the settings it is tried with."""

    cls: type[Plugin]
    settings: Mapping[str, Any]

    def made(self) -> Plugin:
        """A new one, always from the same random start."""
        torch.manual_seed(0)
        return self.cls(self.cls.Config(**self.settings), CLASSES)


@dataclass
class Begun:
    """A method at its start, in train mode, and the maps its plug-ins want loaded."""

    method: Method
    maps: tuple[Maps, ...]

    def train(self, steps: int, start: int = 0) -> list[dict[str, float]]:
        """The terms of some steps, of epochs of two, so that warm-ups end on the way."""
        return train(self.method, steps, start, steps_per_epoch=2, maps=self.maps, side=SMALL)

    def host_state(self) -> dict[str, Tensor]:
        """The method's own tensors, its plug-ins' left out."""
        state = self.method.state_dict()
        return {k: v for k, v in state.items() if not k.startswith(("plugin.", "extras.")) and isinstance(v, Tensor)}


@dataclass(frozen=True)
class Pair:
    """A method by name with plug-ins; without any, the method alone.

    settings: the method's, where its defaults would not do. folder: where plug-ins keep what they prepare.
    """

    host: str
    guests: tuple[Guest, ...]
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, host: str, plugins: Sequence[type[Plugin]], folder: Path) -> Pair:
        """With the settings under which they fit, the plug-ins' quick ones, and a threshold that some pixels pass."""
        method = find.load("method", host)
        found = [fit(method, plugin) for plugin in plugins]
        guests = tuple(Guest(p, {**p.quick, **f.plugin}) for p, f in zip(plugins, found, strict=True))
        sure = {"threshold": SURE} if "threshold" in method.Config.model_fields else {}
        return cls(host, guests, folder, {**sure, **{name: value for f in found for name, value in f.method.items()}})

    def at_zero(self) -> Pair:
        """The same with plug-ins of strength zero."""
        return replace(self, guests=tuple(replace(g, settings={**g.settings, **g.cls.zero}) for g in self.guests))

    def without(self) -> Pair:
        """The method alone, under the same settings."""
        return replace(self, guests=())

    def begun(
        self, seed: int = 0, side: int = SMALL, joined: Callable[[list[Plugin]], Plugin | None] | None = None
    ) -> Begun:
        """A new start; `seed` decides the networks. joined: makes one plug-in of several (as a recipe's list does).

        Raises:
            RecipeError: the method's constructor refuses the plug-ins.
        """
        made, run = [guest.made() for guest in self.guests], prepared(self.folder / f"{side} pixels", side)
        for plugin in made:
            run.folder.mkdir(parents=True, exist_ok=True)
            plugin.prepare(run)
        return Begun(build(self.host, (joined or _one)(made), seed=seed, **self.settings), tuple(run.maps))


def _one(made: list[Plugin]) -> Plugin | None:
    return Stack(made) if len(made) > 1 else next(iter(made), None)


@dataclass(frozen=True)
class Alone:
    """A run of a method without plug-ins: the terms of every step, the weights after the last."""

    terms: list[dict[str, float]]
    state: Mapping[str, Tensor]


def alone(pair: Pair, steps: int) -> Alone:
    """The run of the pair's method alone; made once for each method, setting and number of steps."""
    return _alone(pair.host, tuple(sorted(pair.settings.items())), steps)


@cache
def _alone(host: str, settings: tuple[tuple[str, Any], ...], steps: int) -> Alone:
    begun = Pair(host, (), Path(), dict(settings)).begun()
    return Alone(begun.train(steps), begun.host_state())


class Probe(Stack):
    """The plug-ins of a pair; what they answered is kept, to be looked at when the step is over."""

    def __init__(self, parts: Sequence[Plugin]) -> None:
        super().__init__(parts)
        self.answers: list[tuple[str, Any]] = []

    def scale(self, t: Progress) -> LossScale:
        """Noted."""
        return self._noted("scale", super().scale(t))

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Noted."""
        return self._noted("refine", super().refine(pseudo, t))

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        """Noted."""
        return self._noted("mix", list(super().mix(host, batch, weak, t)))

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """Noted."""
        return self._noted("weigh", super().weigh(mixed, teach, t))

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """Noted."""
        return self._noted("loss", super().loss(seen, t))

    def _noted(self, hook: str, answer: Answer) -> Answer:
        self.answers.append((hook, answer))
        return answer


@dataclass(frozen=True)
class Look:
    """One step of a pair, gradients and all: what came of it, what waited for the device, what drew out of turn."""

    method: Method
    step: Step
    answers: Sequence[tuple[str, Any]]
    waits: Sequence[str]
    draws: Sequence[str]


def look(pair: Pair, step: int = LATE) -> Look:
    """A step past the warm-ups on images of 65 x 65 pixels."""
    begun, t = pair.begun(side=SIDE, joined=Probe), progress(step)
    method, batch = begun.method, batch_for(begun.method, t, seed=step, maps=begun.maps)
    torch.manual_seed(step)
    with watched() as waits, drawing() as draws:
        made = method(batch, t)
        made.loss.backward()
    assert isinstance(method.plugin, Probe)  # noqa: S101  it was made so above
    return Look(method, made, method.plugin.answers, waits, draws)


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested data, with where it stands (".carry['x']")."""
    if isinstance(value, Tensor):
        yield path, value
    elif is_dataclass(value):
        for one in fields(value):
            yield from tensors(getattr(value, one.name), f"{path}.{one.name}")
    elif isinstance(value, Mapping):
        for name, below in value.items():
            yield from tensors(below, f"{path}[{name!r}]")
    elif isinstance(value, list | tuple):
        for at, below in enumerate(value):
            yield from tensors(below, f"{path}[{at}]")
