"""Runs of a method alone, remembered, to hold others against bit for bit."""

from __future__ import annotations

from functools import cache

import torch
from builders import Maps
from pairs import made, several
from torch import Tensor

from ssbench.methods.base import Method


@cache
def alone(method: str, steps: int) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of every step, and the weights after the last."""
    return ended(made(method), steps)


def ended(method: Method, steps: int, maps: tuple[Maps, ...] = ()) -> tuple[list[float], dict[str, Tensor]]:
    losses = [terms["loss"] for terms in several(method, steps, maps=maps)]
    state = method.state_dict()
    host = {k: v for k, v in state.items() if not k.startswith(("plugin.", "extras.")) and isinstance(v, Tensor)}
    return losses, host


def same_run(name: str, method: Method, steps: int, maps: tuple[Maps, ...] = ()) -> None:
    """Whether `method` (the one called `name`, with a plug-in) ends where the method alone does, bit for bit."""
    (losses, weights), (found, others) = alone(name, steps), ended(method, steps, maps)
    assert found == losses
    for key, value in weights.items():
        assert torch.equal(value, others[key]), key
