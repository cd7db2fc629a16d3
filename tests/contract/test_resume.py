"""Saved and loaded, every method goes on as if nothing had happened."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from builders import Maps
from pairs import METHODS, PAIRS, SMALL, made, pair, several

from ssbench.methods.base import Method


def check(first: Method, second: Method, maps: tuple[Maps, ...] = ()) -> None:
    """Two more steps of a method, and of another start into which its state was loaded, end in the same losses."""
    several(first, 3, maps=maps)
    second.load_state_dict(copy.deepcopy(first.state_dict()), strict=True)
    assert several(second, 2, start=3, maps=maps) == several(first, 2, start=3, maps=maps)


@pytest.mark.parametrize("method", METHODS)
def test_alone(method: str) -> None:
    check(made(method), made(method, seed=1))


@pytest.mark.parametrize(("method", "plugin"), PAIRS)
def test_with_a_plugin(method: str, plugin: str, tmp_path: Path) -> None:
    first, maps = pair(method, plugin, tmp_path, side=SMALL)
    check(first, pair(method, plugin, tmp_path, seed=1, side=SMALL)[0], maps)
