"""Which plug-ins a method can host. The only place that decides it.

Used when a recipe is read, when a method is built, by `ssbench list plugins --matrix`, `ssbench certify` and the
contract tests. A pair fits when the method calls every hook the plug-in uses, under the settings both have.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError

from ssbench.errors import RecipeError

RESNET = (
    "--set net.encoder=resnet50 --set net.weights=imagenet --set views.normalise=imagenet "
    "(without a download: --set net.weights=random)"
)
ONE = "remembers one student's features"
EXCLUSIVE = frozenset({"mix"})
"""Hooks that two stacked plug-ins cannot both use: each would decide alone what the student sees."""


@dataclass(frozen=True)
class Part:
    """A plug-in to be hosted: its name, class and settings."""

    name: str
    cls: type[Any]
    cfg: Any


@dataclass(frozen=True)
class Refusal:
    """Why a method cannot host some plug-ins: what is wrong, what to do, and which of them it is about."""

    what: str
    fix: str
    which: int = 0


@dataclass(frozen=True)
class Fit:
    """A method and a plug-in, all settings open. reason: why they never fit, "" where they do.

    method, plugin: settings they fit under, where the defaults would not do. never: choices of the method, written
    `name: value`, under which they do not.
    """

    reason: str = ""
    method: Mapping[str, Any] = field(default_factory=dict)
    plugin: Mapping[str, Any] = field(default_factory=dict)
    never: tuple[str, ...] = ()


def hooks_used(plugin: Any, cfg: Any) -> frozenset[str]:
    """What `plugin.uses(cfg)` returns. RecipeError where a user's class returns anything but a set of names."""
    hooks = plugin.uses(cfg)
    if not isinstance(hooks, Set) or not all(isinstance(hook, str) for hook in hooks):
        what = f"uses of {plugin.__name__} returns {hooks!r}, which is no set of hooks"
        place = str(getattr(sys.modules.get(plugin.__module__), "__file__", plugin.__module__))
        raise RecipeError(what[:300], place, 'return frozenset({"weigh"}), say')
    return frozenset(hooks)


def refused(host: str, method: type[Any], cfg: Any, parts: Sequence[Part]) -> Refusal | None:
    """The first reason why `method` (called `host`, with settings `cfg`) cannot have these plug-ins; None: it can."""
    for which, part in enumerate(parts):
        uses, absolute = hooks_used(part.cls, part.cfg), part.cls.is_absolute(part.cfg)
        refusal = unhosted(host, method, cfg, part.name, part.cls, uses, absolute)
        if refusal := refusal or _missing(host, method, cfg, part):
            return replace(refusal, which=which)
    return next(_collisions(parts), None)


def unhosted(
    host: str, method: type[Any], cfg: Any, name: str, plugin: Any, needs: frozenset[str], absolute: bool
) -> Refusal | None:
    """Why a method cannot be built with one plug-in (class or instance) that uses the hooks `needs`; None: it can.

    Hooks that the method never calls are allowed here, unlike in `refused`: a plug-in that only observes may define
    every hook.
    """
    if plugin.one_student and method.two_students:
        return Refusal(f"{name} {ONE}, {host} trains two", "choose a host of one student")
    if absolute and method.one_mean:
        what = f"{name} wants its weights left out of the divisor, which {host} shares between labels and pseudo-labels"
        return Refusal(what, "choose another host")
    for hook in sorted(needs & (method.honours - method.calls(cfg))):
        off, on = _switch(method, cfg, hook)
        return Refusal(f"{name} needs {hook}, which {host} does not call with {off}", f"set method.{on}")
    return None


def net_refused(host: str, method: type[Any], name: str, net: type[Any]) -> Refusal | None:
    """Why `method` (called `host`) cannot train the network `name`: one of the two goes with another only."""
    if method.network not in ("", name):
        what = f"{host} trains the network '{method.network}' alone, not '{name}'"
        return Refusal(what, f"net: {{name: {method.network}}}")
    if net.own_method not in ("", host):
        return Refusal(f"{name} is trained by {net.own_method}, not by {host}", f"method: {{name: {net.own_method}}}")
    return None


def tap_refused(cfg: Any, net: type[Any], parts: Sequence[Part]) -> Refusal | None:
    """Why a network (its settings, its class) has not the feature map that a plug-in reads; None: it has them all."""
    for which, part in enumerate(parts):
        if part.cls.local_stage and net.not_local:
            what = f"{part.name} judges the patches behind a local stage, which {cfg.name} does not have"
            return Refusal(f"{what}: {net.not_local}", "net: {name: deeplabv3plus}, or another plug-in", which)
        if part.cls.local_stage and (why := net.encoder_not_local(cfg)):
            return Refusal(f"{part.name} judges the patches behind a local stage: {why}", RESNET, which)
    return None


def fit(method: type[Any], plugin: type[Any]) -> Fit:
    """Whether a method and a plug-in fit, and the single change of settings that makes them fit if they do not."""
    if plugin.one_student and method.two_students:
        return Fit(reason=f"the plug-in {ONE}, the method trains two")
    cfg, own = method.Config(), plugin.Config()
    missing = hooks_used(plugin, own) - method.calls(cfg)
    of_method = next(_fitting(cfg, lambda c: not hooks_used(plugin, own) - method.calls(c)), {})
    of_plugin = next(_fitting(own, lambda c: not hooks_used(plugin, c) - method.calls(cfg)), {})
    never = tuple(
        yaml(name, value)
        for name, value in choices(method.Config, with_defaults=True)
        if plugin.needs & (method.honours - method.calls(cfg.model_copy(update={name: value})))
    )
    if not missing:
        return Fit(never=never)
    if of_method:
        return Fit(method=of_method, never=never)
    if of_plugin:
        return Fit(plugin=of_plugin, never=never)
    why = dict.fromkeys(method.without[hook] for hook in sorted(missing) if hook in method.without)
    return Fit(reason="; ".join(why) or f"its step does not call {', '.join(sorted(missing))}")


def choices(config: Any, with_defaults: bool = False) -> Iterator[tuple[str, Any]]:
    """(field, value) of a settings class: each value of each field that has a fixed set, but for the name.

    Values that mean nothing unless another field is changed too are left out: the class refuses them alone.
    """
    for name, info in config.model_fields.items():
        choice = info.annotation
        kinds = get_args(choice) if get_origin(choice) in (Union, UnionType) else [choice]
        values = [v for kind in kinds if get_origin(kind) is Literal for v in get_args(kind)]
        values += [True, False] if choice is bool else []
        for value in values:
            if name != "name" and (with_defaults or value != info.default) and is_allowed(config, {name: value}):
                yield name, value


def is_allowed(config: Any, settings: Mapping[str, Any]) -> bool:
    """Whether a settings class takes these values, all others at their defaults."""
    try:
        config.model_validate(settings)
    except ValidationError as error:
        return all(e["type"] == "missing" for e in error.errors())
    return True


def yaml(name: str, value: object) -> str:
    """`name: value` as it stands in a recipe."""
    return f"{name}: {value if isinstance(value, str) else json.dumps(value)}"


def _fitting(cfg: Any, fits: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    """Single changes of some settings under which `fits(settings)` holds."""
    for name, value in choices(type(cfg), with_defaults=True):
        if fits(cfg.model_copy(update={name: value})):
            yield {name: value}


def _switch(method: type[Any], cfg: Any, hook: str) -> tuple[str, str]:
    """The setting that keeps a method from calling `hook`, and what to set it to."""
    for name, value in choices(type(cfg), with_defaults=True):
        if hook in method.calls(cfg.model_copy(update={name: value})):
            return yaml(name, getattr(cfg, name)), yaml(name, value)
    return "these settings", "other settings"


def _missing(host: str, method: type[Any], cfg: Any, part: Part) -> Refusal | None:
    """A refusal if the method never calls some of the hooks."""
    offers = method.calls(cfg)
    if not (missing := hooks_used(part.cls, part.cfg) - offers):
        return None
    what = f"{part.name} needs {', '.join(sorted(missing))}, which {host} does not offer"
    if reasons := list(dict.fromkeys(method.without[hook] for hook in sorted(missing) if hook in method.without)):
        what += f": {'; '.join(reasons)}"
    for change in _fitting(part.cfg, lambda c: not hooks_used(part.cls, c) - offers):
        return Refusal(what, "set " + ", ".join(f"plugin.{yaml(name, value)}" for name, value in change.items()))
    return Refusal(what, f"another host or plug-in; {host} offers {', '.join(sorted(offers))}")


def _collisions(parts: Sequence[Part]) -> Iterator[Refusal]:
    """Stacked plug-ins that want the same exclusive hook, or are the same."""
    first: dict[str, str] = {}
    for which, part in enumerate(parts):
        if part.cls in (other.cls for other in parts[:which]):
            yield Refusal(f"{part.name} is stacked on itself", "remove one of them", which)
        for hook in sorted(hooks_used(part.cls, part.cfg) & EXCLUSIVE):
            if hook in first:
                yield Refusal(f"{first[hook]} and {part.name} both use {hook}", "remove one of them", which)
            first[hook] = part.name
