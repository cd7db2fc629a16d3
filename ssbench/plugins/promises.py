"""Holds each hook of a plug-in to what `plugins.base` promises its host, in a run as in `ssbench certify`.

A plug-in's hooks are called through the wrappers of `build_plugin`. Every call checks what costs nothing: types and
shapes of the answer, dtypes, devices, and the version counters of the tensors handed in. Values are looked at in the
first call of each hook (in certify in every one), because reading a value waits for the device.
"""

from __future__ import annotations

import math
import random
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ssbench.errors import RunsFailed, SsbenchError
from ssbench.ops.draws import drawing
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import HOOKS, LossScale, MixedView, Plugin

PROMISES = {
    "prepare": "return nothing",
    "extras": "return an nn.ModuleDict of the modules to train",
    "scale": "return a LossScale of two finite numbers >= 0",
    "refine": "return a Pseudo: label B H W int64 in 0..C-1 or 255, conf B H W float, keep and valid B H W bool",
    "mix": "return a list of MixedView: images and weak B 3 H W, pseudo B H W as `refine` has it",
    "weigh": "return None, or B H W float weights that are finite and >= 0",
    "loss": "return a dict of names and finite scalar tensors, {} for no term",
    "end_epoch": "return nothing",
}
IN_PLACE = "work on a copy: x = x.clone(), or torch.where, or dataclasses.replace(pseudo, keep=...)"
GENERATOR = "draw with t.generator('...'), which depends on seed and step alone"
DEVICE = "make tensors on the device of those that the hook gets (device=x.device), without .cuda()"


class PluginFault(RunsFailed):
    """A plug-in that failed, or broke a promise. hook: in which of its hooks."""

    def __init__(self, name: str, hook: str, what: str, where: str, fix: str = "") -> None:
        fix = fix or f"`{hook}` must {PROMISES.get(hook, 'build the plug-in')}"
        super().__init__(f"plug-in '{name}', `{hook}`: {what}", where, fix)
        self.hook = hook


def missing_map(error: BaseException) -> str | None:
    """The name of the map that a step looked up in vain, where that is why it failed."""
    cause = error.__cause__ if isinstance(error, PluginFault) else error
    name = cause.args[0] if isinstance(cause, KeyError) and cause.args else None
    return name if isinstance(name, str) else None


def build_plugin(cls: type[Plugin], cfg: Any, classes: int, every_value: bool = False) -> Plugin:
    """A plug-in whose hooks are held to their promises.

    Args:
        every_value: look at values in every call, not in the first alone.
    Raises:
        PluginFault: its constructor fails. RecipeError: it refuses its settings or the number of classes.
    """
    name = str(getattr(cfg, "name", cls.__name__))
    try:
        plugin = cls(cfg, classes)
    except SsbenchError:
        raise
    except Exception as error:  # a user's code, which may raise anything
        raise _failure(cls, name, "__init__", error) from error
    for hook in sorted(HOOKS & cls.needs):
        setattr(plugin, hook, _Held(plugin, name, hook, every_value))
    return plugin


def term_names(plugin: Plugin) -> frozenset[str]:
    """Names of the loss terms that a plug-in, or the parts of a stack, have returned so far."""
    held = [getattr(part, "loss", None) for part in (plugin, *getattr(plugin, "parts", ()))]
    return frozenset().union(*(call.terms for call in held if isinstance(call, _Held)))


@dataclass
class _Held:
    """A hook of a plug-in, called through. terms: names of loss terms so far."""

    plugin: Plugin
    name: str
    hook: str
    every_value: bool
    is_first: bool = True
    terms: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.call: Callable[..., Any] = getattr(self.plugin, self.hook)

    def __call__(self, *arguments: Any) -> Any:
        looks, self.is_first = self.is_first or self.every_value, False
        before = [(path, tensor, _version(tensor)) for path, tensor in tensors(arguments)]
        with ExitStack() as stack:
            is_step = self.hook not in ("prepare", "extras")
            draws = stack.enter_context(drawing()) if looks and is_step and not self.every_value else []
            streams = _streams() if looks and is_step else None
            try:
                answer = self.call(*arguments)
            except (SsbenchError, torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as error:  # a user's code, which may raise anything
                raise _failure(type(self.plugin), self.name, self.hook, error) from error
        for path, tensor, version in before:
            if _version(tensor) != version:
                raise self._fault(f"changes a tensor it was given, in place ({_named(path)})", IN_PLACE)
        if draws:
            raise self._fault(f"draws from torch's global stream: {draws[0]}", GENERATOR)
        if streams is not None and _streams() != streams:
            raise self._fault("draws from the global stream of numpy or random", GENERATOR)
        self._check(arguments, answer, looks)
        return answer

    def _check(self, arguments: tuple[Any, ...], answer: Any, looks: bool) -> None:
        if wrong := FORMS[self.hook](answer, arguments):
            raise self._fault(wrong)
        given = next((tensor.device for _, tensor in tensors(arguments)), None)
        for path, tensor in tensors(answer) if given is not None else ():
            if tensor.device != given:
                raise self._fault(f"returns a tensor ({_named(path)}) on {tensor.device}, not on {given}", DEVICE)
        if self.hook == "loss":
            self.terms.update(answer)
        if looks and (wrong := _wrong_values(self.hook, answer, arguments, self.plugin.classes)):
            raise self._fault(wrong)

    def _fault(self, what: str, fix: str = "") -> PluginFault:
        return PluginFault(self.name, self.hook, what, _defined_at(type(self.plugin), self.hook), fix)


def tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """(where it stands (".carry['x']"), tensor) of every tensor in nested data; modules are not looked into."""
    if isinstance(value, Tensor):
        yield path, value
    elif is_dataclass(value):
        for part in fields(value):
            yield from tensors(getattr(value, part.name), f"{path}.{part.name}")
    elif isinstance(value, Mapping):
        for name, below in value.items():
            yield from tensors(below, f"{path}[{name!r}]")
    elif isinstance(value, list | tuple):
        for at, below in enumerate(value):
            yield from tensors(below, f"{path}[{at}]")


def _named(path: str) -> str:
    """ "[0].label" of the arguments as a person calls it: "label"."""
    return path.rpartition("]")[2].lstrip(".") or path or "the answer"


def _version(tensor: Tensor) -> int:
    """How often it was written to; tensors of torch's inference mode do not count that."""
    return 0 if tensor.is_inference() else tensor._version


def _streams() -> tuple[Any, ...]:
    numpy = np.random.get_state()  # noqa: NPY002  the very one that must not move
    return random.getstate(), bytes(numpy[1]), numpy[2]  # type: ignore[index]


def _failure(cls: type[Any], name: str, hook: str, error: Exception) -> PluginFault:
    """An exception in a plug-in, at the innermost line of its own file."""
    source = getattr(sys.modules.get(cls.__module__), "__file__", "") or ""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == source] or frames
    text = (str(error).strip().splitlines() or [""])[0][:300]
    fix = (
        DEVICE
        if re.search("cuda|nvidia", text, re.IGNORECASE)
        else f"mend that line; `{hook}` must {PROMISES.get(hook, 'not fail')}"
    )
    return PluginFault(name, hook, f"{type(error).__name__}: {text}", f"{own[-1].filename}:{own[-1].lineno}", fix)


def _defined_at(cls: type[Any], hook: str) -> str:
    code = getattr(getattr(cls, hook), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else cls.__module__


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} and shape {tuple(value.shape)}"
    return "None" if value is None else f"a {type(value).__name__}"


def _nothing(answer: Any, arguments: tuple[Any, ...]) -> str:
    return "" if answer is None else f"returns {_kind(answer)}"


def _extras(answer: Any, arguments: tuple[Any, ...]) -> str:
    return "" if isinstance(answer, nn.ModuleDict) else f"returns {_kind(answer)}, no nn.ModuleDict"


def _scale(answer: Any, arguments: tuple[Any, ...]) -> str:
    if not isinstance(answer, LossScale):
        return f"returns {_kind(answer)}, no LossScale"
    for name in ("host", "unlabeled"):
        value = getattr(answer, name)
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            return f"returns a LossScale whose {name} is {value if isinstance(value, int | float) else _kind(value)}"
    return ""


def _refine(answer: Any, arguments: tuple[Any, ...]) -> str:
    if not isinstance(answer, Pseudo):
        return f"returns {_kind(answer)}, no Pseudo"
    return _pseudo(answer, tuple(arguments[0].label.shape))


def _pseudo(answer: Pseudo, shape: tuple[int, ...]) -> str:
    kinds = {"label": torch.int64, "keep": torch.bool, "valid": torch.bool}
    for name in ("label", "conf", "keep", "valid"):
        value = getattr(answer, name)
        if not isinstance(value, Tensor):
            return f"returns {_kind(value)} as {name}"
        is_kind = value.dtype == kinds[name] if name in kinds else value.is_floating_point()
        if tuple(value.shape) != shape or not is_kind:
            return f"returns as {name} {_kind(value)}, where the images are {shape}"
    return ""


def _mix(answer: Any, arguments: tuple[Any, ...]) -> str:
    if not isinstance(answer, Sequence) or not answer or not all(isinstance(view, MixedView) for view in answer):
        return f"returns {_kind(answer)}, no list of MixedView"
    for view in answer:
        for name in ("images", "weak"):
            value = getattr(view, name)
            if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
                return f"returns as {name} {_kind(value)}"
        if view.images.shape != view.weak.shape:
            return f"returns images of {tuple(view.images.shape)} and weak ones of {tuple(view.weak.shape)}"
        shape = tuple(view.images[:, 0].shape)
        wrong = _pseudo(view.pseudo, shape) if isinstance(view.pseudo, Pseudo) else f"returns {_kind(view.pseudo)}"
        if wrong:
            return wrong
    return ""


def _weigh(answer: Any, arguments: tuple[Any, ...]) -> str:
    shape = tuple(arguments[0].pseudo.label.shape)
    if answer is None or (isinstance(answer, Tensor) and tuple(answer.shape) == shape and answer.is_floating_point()):
        return ""
    return f"returns {_kind(answer)}, where the labels are {shape}"


def _loss(answer: Any, arguments: tuple[Any, ...]) -> str:
    if not isinstance(answer, dict):
        return f"returns {_kind(answer)}, no dict of terms"
    for name, value in answer.items():
        if not isinstance(name, str):
            return f"names a term {name!r}"
        if not isinstance(value, Tensor) or value.shape != () or not value.is_floating_point():
            return f"returns as term '{name}' {_kind(value)}"
    return ""


FORMS: Mapping[str, Callable[[Any, tuple[Any, ...]], str]] = {
    "prepare": _nothing, "extras": _extras, "scale": _scale, "refine": _refine, "mix": _mix, "weigh": _weigh,
    "loss": _loss, "end_epoch": _nothing,
}  # fmt: skip
"""By hook, what is wrong with the form of its answer to these arguments; "" for nothing."""


def _wrong_values(hook: str, answer: Any, arguments: tuple[Any, ...], classes: int) -> str:
    """What is wrong with the values of an answer of the right form. Waits for the device."""
    if hook == "loss":
        step = arguments[-1].step
        bad = {name: value.item() for name, value in answer.items() if not torch.isfinite(value)}
        return "".join(f"plugin term '{name}' is {value} at step {step}" for name, value in list(bad.items())[:1])
    if hook == "weigh" and answer is not None:
        if not torch.isfinite(answer).all():
            return "returns a weight that is not finite"
        return f"returns a weight of {answer.min().item()}" if (answer < 0).any() else ""
    pseudos = [answer] if hook == "refine" else [view.pseudo for view in answer] if hook == "mix" else []
    for pseudo in pseudos:
        outside = (pseudo.label < 0) | ((pseudo.label >= classes) & (pseudo.label != 255))
        if outside.any():
            return f"returns label {pseudo.label[outside][0].item()}, where the classes are 0..{classes - 1}, and 255"
        if not torch.isfinite(pseudo.conf).all():
            return "returns a conf that is not finite"
    return ""
