"""The contract of a plug-in as checks: each returns what is wrong with a pair in words, or "".

They test what `ssbench.plugins.base` promises a host, and the suite's rules: nothing draws from a shared stream, a run
that was interrupted continues as if it had not been, strength zero changes nothing. A method alone can be checked too.
"""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from ssbench.certify.pair import ObservedStep, Pair, host_run
from ssbench.find import own_name
from ssbench.plugins.base import Plugin
from ssbench.plugins.promises import tensors
from ssbench.train.checkpoint import to_bytes

BEFORE, AFTER, ZERO_STEPS = 3, 3, 10
"""Steps of a run before it is saved and after, and of a run at strength zero."""


@dataclass(frozen=True)
class PairRun:
    """A run of a pair: the terms of its first steps, its state after them as a checkpoint has it, later terms."""

    pair: Pair
    terms: list[dict[str, float]]
    saved: bytes
    rest: list[dict[str, float]]


def run_pair(pair: Pair, stream_seed: int = 0, after: int = AFTER) -> PairRun:
    """A run of a few steps. `stream_seed` sets Python's and numpy's own streams, which must not matter."""
    random.seed(stream_seed)
    np.random.seed(stream_seed)  # noqa: NPY002  the very one that must not matter
    started = pair.start()
    terms = started.train(BEFORE)
    return PairRun(pair, terms, to_bytes(started.method.state_dict()), started.train(after, BEFORE))


def step(observed: ObservedStep) -> str:
    """One step: a finite loss and terms, networks left in train mode. `plugins.promises` looks at what hooks return."""
    loss, terms = observed.step.loss, observed.step.terms
    for name, value in {"the loss": loss, **terms}.items():
        if value.shape != ():
            return f"{name} is no scalar but of shape {tuple(value.shape)}"
        if not torch.isfinite(value):
            return f"{name} is {value.item()}"
    if with_graph := [name for name, value in terms.items() if value.requires_grad]:
        return f"the recorded term {with_graph[0]} holds on to its graph"
    if not all(net.training for net in observed.method.students()):
        return "a network is left in eval mode"
    return ""


def effect(run: PairRun) -> str:
    """At its own settings the plug-in changes something: else the other checks saw little of it."""
    alone = host_run(run.pair, ZERO_STEPS).terms
    if any(ours["loss"] != theirs["loss"] for ours, theirs in zip(run.terms, alone, strict=False)):
        return ""
    for ours, theirs in zip((*run.terms, *run.rest), alone, strict=False):  # a term may be too small to change a sum
        if any(value for name, value in ours.items() if name not in theirs):
            return ""
    return f"nothing changed in {BEFORE + AFTER} steps: name settings at which it acts on small noise in `quick`"


def gradients(observed: ObservedStep) -> str:
    """A finite gradient in each tensor that is trained, and each of them in the optimiser, once."""
    trained, count = _trained(observed)
    if len(trained) < count:
        return "a tensor is handed to the optimiser twice"
    for name, p in observed.method.named_parameters():
        if p.requires_grad and id(p) not in trained:
            return f"{name} wants a gradient but no optimiser has it: hand its module on in `extras`, or freeze it"
        if p.requires_grad and p.grad is None:
            return f"no gradient reaches {name}"
        if p.grad is not None and not torch.isfinite(p.grad).all():
            return f"the gradient of {name} is not finite"
    return ""


def teacher(observed: ObservedStep) -> str:
    """No gradient on the teacher's side: in frozen networks, in pseudo-labels, in their weights."""
    trained, _ = _trained(observed)
    for name, p in observed.method.named_parameters():
        if id(p) not in trained and p.grad is not None:
            return f"a gradient reaches {name}, which is not trained"
    for hook, answer in observed.answers:
        for path, tensor in tensors(answer) if hook in ("refine", "mix", "weigh") else ():
            if tensor.requires_grad:
                return f"`{hook}` returns a tensor{path and f' ({path})'} with a gradient: use torch.no_grad"
    return ""


def _trained(observed: ObservedStep) -> tuple[set[int], int]:
    """Identities of the tensors that the optimiser trains, and how many it was handed."""
    encoder, rest = observed.method.parameter_groups()
    return {id(p) for p in (*encoder, *rest)}, len(encoder) + len(rest)


def waits(observed: ObservedStep) -> str:
    """Nothing in a step waits for the device."""
    return f"waits for the device: {observed.waits[0]}" if observed.waits else ""


def draws(observed: ObservedStep) -> str:
    """Nothing draws from the global stream, which would shift what others draw."""
    return f"draws without a generator: {observed.draws[0]}; use t.generator('...')" if observed.draws else ""


def repeats(run: PairRun) -> str:
    """Another run of the seed ends in the same bytes, wherever Python's and numpy's own streams stand."""
    again = run_pair(replace(run.pair, folder=run.pair.folder / "again"), stream_seed=1, after=0)
    difference = _difference(run.terms, again.terms)
    if difference or again.saved == run.saved:
        return difference
    first, second = _state(run.saved), _state(again.saved)
    changed = [name for name in first if to_bytes(first[name]) != to_bytes(second.get(name))]
    return f"{changed[0]} is not the same after two runs of one seed"


def loads(run: PairRun) -> str:
    """Its state goes through a checkpoint of tensors and plain data alone."""
    try:
        _state(run.saved)
    except Exception as error:  # the unpickler raises anything
        return f"its state holds more than tensors and plain data: {str(error).partition(chr(10))[0][:160]}"
    return ""


def resumes(run: PairRun) -> str:
    """Saved and loaded into another start, the next losses are those of the run that went on."""
    other = run.pair.start(seed=1)
    other.method.load_state_dict(_state(run.saved), strict=True)
    difference = _difference(run.rest, other.train(AFTER, BEFORE), BEFORE)
    return difference and f"resumed, {difference}: keep state in buffers or modules"


def zero(pair: Pair, steps: int = ZERO_STEPS) -> str:
    """At strength zero, losses and weights of ten steps are those of the method alone, bit for bit."""
    started, alone = pair.at_zero().start(), host_run(pair, steps)
    for at, (ours, theirs) in enumerate(zip(started.train(steps), alone.terms, strict=True)):
        if ours["loss"] != theirs["loss"]:
            return f"at zero the loss of step {at} is {ours['loss']!r}, the method's alone {theirs['loss']!r}"
    state = started.host_state()
    changed = [name for name, value in alone.state.items() if not torch.equal(value, state[name])]
    return f"at zero {changed[0]} differs from the method's alone" if changed else ""


def settings(cls: type[Plugin], name: str) -> str:
    """Settings are strict: unknown ones refused, all with defaults, frozen, the same after a trip through JSON."""
    try:
        word, cfg = own_name(cls), cls.Config()
    except ValidationError as error:
        return f"setting {error.errors()[0]['loc'][0]} has no default"
    if not name.endswith(".py") and word != name:
        return f"it is found as '{name}' and calls itself '{word}'"
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


def _state(saved: bytes) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(io.BytesIO(saved), weights_only=True)
    return state


def _difference(first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]], start: int = 0) -> str:
    """The first term that is not the same in two runs, or not finite; "" for none."""
    for at, (ours, theirs) in enumerate(zip(first, second, strict=True), start):
        for name in sorted({*ours, *theirs}):
            if ours.get(name) != theirs.get(name):
                return f"{name} of step {at} is {ours.get(name)!r} in one run, {theirs.get(name)!r} in the other"
            if not math.isfinite(ours[name]):
                return f"{name} of step {at} is {ours[name]}"
    return ""
