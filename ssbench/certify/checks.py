"""The contract of a plug-in as checks: each says in words what is wrong with a pair, or "".

They hold a plug-in to what its base class promises a host, and to the rules of fidelity: nothing is drawn out of turn,
a run that was cut off goes on as if it had not been, strength zero changes nothing. A method alone can be checked too.
"""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from torch import Tensor

from ssbench.certify.pair import Look, Pair, alone, tensors
from ssbench.find import own_name
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin
from ssbench.train.checkpoint import to_bytes

BEFORE, AFTER, ZERO_STEPS = 3, 3, 10
"""Steps of a run before it is saved and after, and of a run at strength zero."""


@dataclass(frozen=True)
class Run:
    """A pair's run: terms of its first steps, its state after them as a checkpoint has it, terms of the rest."""

    pair: Pair
    terms: list[dict[str, float]]
    saved: bytes
    rest: list[dict[str, float]]


def run(pair: Pair, streams: int = 0, after: int = AFTER) -> Run:
    """A run of a few steps; `streams` is where Python's and numpy's own streams stand, which must not matter."""
    random.seed(streams)
    np.random.seed(streams)  # noqa: NPY002  the very one that must not matter
    begun = pair.begun()
    return Run(pair, begun.train(BEFORE), to_bytes(begun.method.state_dict()), begun.train(after, BEFORE))


def step(seen: Look) -> str:
    """One step: a finite loss and terms, answers of the promised form, networks left in train mode."""
    loss, terms = seen.step.loss, seen.step.terms
    for name, value in {"the loss": loss, **terms}.items():
        if value.shape != ():
            return f"{name} is no scalar but of shape {tuple(value.shape)}"
        if not torch.isfinite(value):
            return f"{name} is {value.item()}"
    if kept := [name for name, value in terms.items() if value.requires_grad]:
        return f"the recorded term {kept[0]} holds on to its graph"
    if not all(net.training for net in seen.method.students()):
        return "a network is left in eval mode"
    return next(filter(None, (_form(hook, answer) for hook, answer in seen.answers)), "")


def effect(ran: Run) -> str:
    """At its own settings the plug-in changes something: else the other checks saw little of it."""
    plain = alone(ran.pair, ZERO_STEPS).terms
    if any(here["loss"] != there["loss"] for here, there in zip(ran.terms, plain, strict=False)):
        return ""
    for here, there in zip((*ran.terms, *ran.rest), plain, strict=False):  # a term may be too small to be seen in a sum
        if any(value for name, value in here.items() if name not in there):
            return ""
    return f"nothing changed in {BEFORE + AFTER} steps: name settings at which it acts on small noise in `quick`"


def gradients(seen: Look) -> str:
    """A finite gradient in each tensor that is trained, and each of them in the optimiser, once."""
    encoder, rest = seen.method.parameter_groups()
    trained = {id(p) for p in (*encoder, *rest)}
    if len(trained) < len(encoder) + len(rest):
        return "a tensor is handed to the optimiser twice"
    for name, p in seen.method.named_parameters():
        if p.requires_grad and id(p) not in trained:
            return f"{name} wants a gradient but no optimiser has it: hand its module on in `extras`, or freeze it"
        if p.requires_grad and p.grad is None:
            return f"no gradient reaches {name}"
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return f"the gradient of {name} is not finite"
    return ""


def teacher(seen: Look) -> str:
    """No gradient on the teacher's side: in frozen networks, in pseudo-labels, in their weights."""
    encoder, rest = seen.method.parameter_groups()
    trained = {id(p) for p in (*encoder, *rest)}
    for name, p in seen.method.named_parameters():
        if id(p) not in trained and p.grad is not None:
            return f"a gradient reaches {name}, which is not trained"
    for hook, answer in seen.answers:
        for path, tensor in tensors(answer) if hook in ("refine", "mix", "weigh") else ():
            if tensor.requires_grad:
                return f"`{hook}` returns a tensor{path and f' ({path})'} with a gradient: use torch.no_grad"
    return ""


def waits(seen: Look) -> str:
    """Nothing in a step waits for the device."""
    return f"waits for the device: {seen.waits[0]}" if seen.waits else ""


def draws(seen: Look) -> str:
    """Nothing draws from the global stream, which would shift what others draw."""
    return f"draws without a generator: {seen.draws[0]}; use t.generator('...')" if seen.draws else ""


def repeats(ran: Run) -> str:
    """Another run of the seed ends in the same bytes, wherever Python's and numpy's own streams stand."""
    again = run(replace(ran.pair, folder=ran.pair.folder / "again"), streams=1, after=0)
    if again.saved == ran.saved:
        return _differ(ran.terms, again.terms)
    one, two = _loaded(ran.saved), _loaded(again.saved)
    changed = [name for name in one if to_bytes(one[name]) != to_bytes(two.get(name))]
    return _differ(ran.terms, again.terms) or f"{changed[0]} is not the same after two runs of one seed"


def loads(ran: Run) -> str:
    """State goes through a checkpoint of tensors and plain data alone."""
    try:
        _loaded(ran.saved)
    except Exception as error:  # whatever the unpickler meets
        return f"its state holds more than tensors and plain data: {str(error).partition(chr(10))[0][:160]}"
    return ""


def resumes(ran: Run) -> str:
    """Saved and loaded into another start, the next losses are those of the run that went on."""
    other = ran.pair.begun(seed=1)
    other.method.load_state_dict(_loaded(ran.saved), strict=True)
    wrong = _differ(ran.rest, other.train(AFTER, BEFORE), BEFORE)
    return wrong and f"resumed, {wrong}: keep state in buffers or modules"


def zero(pair: Pair, steps: int = ZERO_STEPS) -> str:
    """At strength zero, losses and weights of ten steps are those of the method alone, bit for bit."""
    begun, plain = pair.at_zero().begun(), alone(pair, steps)
    for at, (here, there) in enumerate(zip(begun.train(steps), plain.terms, strict=True)):
        if here["loss"] != there["loss"]:
            return f"at zero the loss of step {at} is {here['loss']!r}, the method's alone {there['loss']!r}"
    found = begun.host_state()
    changed = [name for name, value in plain.state.items() if not torch.equal(value, found[name])]
    return f"at zero {changed[0]} differs from the method's alone" if changed else ""


def settings(cls: type[Plugin], name: str) -> str:
    """Settings are strict: unknown ones refused, all with defaults, frozen, the same after a trip through JSON."""
    try:
        cfg = cls.Config()
    except ValidationError as error:
        return f"setting {error.errors()[0]['loc'][0]} has no default"
    if not name.endswith(".py") and own_name(cls) != name:
        return f"it is found as '{name}' and calls itself '{own_name(cls)}'"
    try:
        cls.Config(**{"no such setting": 1})
    except ValidationError:
        pass
    else:
        return "unknown settings are taken without a word: derive Config from PluginConfig"
    if not cls.Config.model_config.get("frozen"):
        return "settings can change under a run: keep Config frozen"
    again = cls.Config.model_validate(json.loads(json.dumps(cfg.model_dump(mode="json"))))
    return "" if again == cfg else "settings are not the same after a trip through a record"


def _loaded(saved: bytes) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(io.BytesIO(saved), weights_only=True)
    return found


def _differ(here: Sequence[Mapping[str, float]], there: Sequence[Mapping[str, float]], start: int = 0) -> str:
    """The first term of two runs that is not the same."""
    for at, (one, two) in enumerate(zip(here, there, strict=True), start):
        for name in sorted({*one, *two}):
            if not (same := one.get(name) == two.get(name)):
                return f"{name} of step {at} is {one.get(name)!r} in one run, {two.get(name)!r} in the other"
            if same and not math.isfinite(one[name]):
                return f"{name} of step {at} is {one[name]}"
    return ""


def _form(hook: str, answer: Any) -> str:
    """What is wrong with what a hook returned."""
    return FORMS[hook](answer)


def _pace(answer: Any) -> str:
    return "" if isinstance(answer, LossScale) else f"`scale` returns {type(answer).__name__}, no LossScale"


def _refine(answer: Any) -> str:
    if not isinstance(answer, Pseudo):
        return f"`refine` returns {type(answer).__name__}, no Pseudo"
    return _pseudo("refine", answer)


def _mix(answer: Sequence[Any]) -> str:
    if not answer or not all(isinstance(one, MixedView) for one in answer):
        return "`mix` returns no list of MixedView"
    for one in answer:
        if one.images.shape != one.weak.shape or one.images[:, 0].shape != one.pseudo.label.shape:
            return f"`mix` returns images of {tuple(one.images.shape)}, labels of {tuple(one.pseudo.label.shape)}"
    return next(filter(None, (_pseudo("mix", one.pseudo) for one in answer)), "")


def _pseudo(hook: str, answer: Pseudo) -> str:
    kinds = {"label": torch.int64, "keep": torch.bool, "valid": torch.bool}
    for name in ("label", "conf", "keep", "valid"):
        value: Tensor = getattr(answer, name)
        if value.shape != answer.valid.shape or value.dtype != kinds.get(name, value.dtype):
            return f"`{hook}` returns a {name} of {value.dtype} and shape {tuple(value.shape)}"
    return ""


def _weigh(answer: Any) -> str:
    if answer is None:
        return ""
    if not isinstance(answer, Tensor) or answer.ndim != 3:
        return "`weigh` returns no B H W weights"
    if not torch.isfinite(answer).all() or (answer < 0).any():
        return "`weigh` returns a weight that is negative or not finite"
    return ""


def _loss(answer: Any) -> str:
    if not isinstance(answer, dict) or not all(isinstance(v, Tensor) and v.shape == () for v in answer.values()):
        return "`loss` returns no dict of scalars"
    return ""


FORMS: Mapping[str, Callable[[Any], str]] = {
    "scale": _pace, "refine": _refine, "mix": _mix, "weigh": _weigh, "loss": _loss,
}  # fmt: skip
