"""A method with plug-ins on small noise: built afresh for every check, trained for some steps, observed in one.

Weights, batches and plug-ins start from the same random numbers each time, so two runs differ by what is tested alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssbench import find
from ssbench.certify.small import build, prepared, progress, train
from ssbench.certify.watch import watched
from ssbench.data.noise import CLASSES, SIDE, Maps, batch_for
from ssbench.methods.base import Method, Step
from ssbench.methods.hosting import fit, is_allowed
from ssbench.ops.draws import drawing
from ssbench.plugins.base import Plugin, Stack
from ssbench.plugins.promises import build_plugin

SMALL = 41
"""Side of the images where many steps are made."""
LATE = 25
"""A step of the third epoch of ten steps: past every warm-up of an epoch or two."""
THRESHOLD = 0.3
"""For methods that have a threshold: about what an untrained net reaches, so that selection takes part."""
ANSWERING = ("scale", "refine", "mix", "weigh", "loss")
"""Hooks that are called in a step, and whose answers a host uses."""


@dataclass(frozen=True)
class PluginSetup:
    """A plug-in's class and the settings it is tried with."""

    cls: type[Plugin]
    settings: Mapping[str, Any]

    def build(self) -> Plugin:
        """A new plug-in, always from the same random start."""
        torch.manual_seed(0)
        return build_plugin(self.cls, self.cls.Config(**self.settings), CLASSES, every_value=True)


@dataclass
class StartedMethod:
    """A method before its first step, in train mode, and the maps its plug-ins want loaded."""

    method: Method
    maps: tuple[Maps, ...]

    def train(self, steps: int, start: int = 0) -> list[dict[str, float]]:
        """The terms of some steps, in epochs of two steps, so that warm-ups end on the way."""
        return train(self.method, steps, start, steps_per_epoch=2, maps=self.maps, side=SMALL)

    def host_state(self) -> dict[str, Tensor]:
        """The method's own tensors, without those of its plug-ins."""
        state = self.method.state_dict()
        return {k: v for k, v in state.items() if not k.startswith(("plugin.", "extras.")) and isinstance(v, Tensor)}


@dataclass(frozen=True)
class Pair:
    """A method by name with plug-ins, or alone.

    settings: the method's, where its defaults would not do. folder: where plug-ins keep what they prepare.
    """

    host: str
    plugins: tuple[PluginSetup, ...]
    folder: Path
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, host: str, plugins: Sequence[type[Plugin]], folder: Path) -> Pair:
        """With settings under which they fit, the plug-ins' quick ones, and a threshold that some pixels pass."""
        method = find.load("method", host)
        fits = [fit(method, plugin) for plugin in plugins]
        setups = tuple(PluginSetup(p, {**p.quick, **f.plugin}) for p, f in zip(plugins, fits, strict=True))
        settings = {name: value for f in fits for name, value in f.method.items()}
        # Beside a plug-in, which may replace the rule, some pixels must fail the host's own.
        passing = {"threshold": THRESHOLD, **({} if plugins else method.trial), **settings}
        return cls(host, setups, folder, passing if is_allowed(method.Config, passing) else settings)

    def at_zero(self) -> Pair:
        """The same with plug-ins of strength zero."""
        return replace(self, plugins=tuple(replace(p, settings={**p.settings, **p.cls.zero}) for p in self.plugins))

    def without(self) -> Pair:
        """The method alone, under the same settings."""
        return replace(self, plugins=())

    def start(self, seed: int = 0, side: int = SMALL, answers: list[tuple[str, Any]] | None = None) -> StartedMethod:
        """The method, built and prepared. `seed` decides its networks.

        Args:
            answers: gets (hook, answer) of every call of a hook in a step.
        Raises:
            RecipeError: the method or a plug-in refuses the settings.
        """
        plugins, run = [setup.build() for setup in self.plugins], prepared(self.folder / f"{side} pixels", side)
        for plugin in plugins:
            run.folder.mkdir(parents=True, exist_ok=True)
            plugin.prepare(run)
        joined = Stack(plugins) if len(plugins) > 1 or answers is not None else next(iter(plugins), None)
        if joined is not None and answers is not None:
            for hook in ANSWERING:
                setattr(joined, hook, _recording(joined, hook, answers))
        return StartedMethod(build(self.host, joined, seed=seed, **self.settings), tuple(run.maps))


def _recording(plugin: Plugin, hook: str, answers: list[tuple[str, Any]]) -> Any:
    """The plug-in's hook, whose answers go into `answers` as well."""
    call = getattr(plugin, hook)

    def recording(*arguments: Any) -> Any:
        answer = call(*arguments)
        answers.append((hook, answer))
        return answer

    return recording


@dataclass(frozen=True)
class HostRun:
    """A run of a method without plug-ins: the terms of every step, the weights after the last."""

    terms: list[dict[str, float]]
    state: Mapping[str, Tensor]


def host_run(pair: Pair, steps: int) -> HostRun:
    """The run of the pair's method alone, computed once for each method, settings and number of steps."""
    return _host_run(pair.host, tuple(sorted(pair.settings.items())), steps)


@cache
def _host_run(host: str, settings: tuple[tuple[str, Any], ...], steps: int) -> HostRun:
    started = Pair(host, (), Path(), dict(settings)).start()
    return HostRun(started.train(steps), started.host_state())


@dataclass(frozen=True)
class ObservedStep:
    """One step of a pair with its gradients.

    answers: (hook, answer) in the order of the calls. waits, draws: the operations that would wait for a GPU, and those
    that drew from the global stream, each with the line that called it.
    """

    method: Method
    step: Step
    answers: Sequence[tuple[str, Any]]
    waits: Sequence[str]
    draws: Sequence[str]


def observe_step(pair: Pair, step: int = LATE) -> ObservedStep:
    """A step past the warm-ups on images of 65 x 65 pixels."""
    answers: list[tuple[str, Any]] = []
    started, t = pair.start(side=SIDE, answers=answers), progress(step)
    method, batch = started.method, batch_for(started.method, t, seed=step, maps=started.maps)
    method.end_epoch(is_best=True, t=progress(t.epoch * t.steps_per_epoch - 1))
    torch.manual_seed(step)
    with watched() as waits, drawing() as draws:
        result = method(batch, t)
        result.loss.backward()
    return ObservedStep(method, result, answers, waits, draws)
