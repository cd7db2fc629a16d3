"""What `ssbench certify` asks, asked of every method alone and of every pair it can be asked of."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import CLASSES, build
from pairs import METHODS, PAIRS, Watch

from ssbench import find
from ssbench.certify import CHECKS, checks
from ssbench.certify.pair import Pair, PluginSetup
from ssbench.certify.trial import Check, contract
from ssbench.plugins.base import Plugin, Stack


def wrong(checks: dict[str, Check]) -> dict[str, tuple[str, str]]:
    """What did not pass, but for what cannot be asked."""
    assert tuple(checks) == CHECKS
    return {name: (c.state, c.why) for name, c in checks.items() if c.state not in ("passed", "not asked")}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_alone(method: str, tmp_path: Path) -> None:
    checks = contract(Pair.of(method, [], tmp_path))
    assert wrong(checks) == {}
    assert checks["zero"].state == "not asked"
    assert (checks["waits"].state == "not asked") == bool(find.load("method", method).synchronises)


@pytest.mark.parametrize(("method", "plugin"), PAIRS)
def test_a_pair(method: str, plugin: str, tmp_path: Path) -> None:
    checks = contract(Pair.of(method, [find.load("plugin", plugin)], tmp_path))
    assert wrong(checks) == {}
    assert checks["zero"].state == "passed"  # so every plug-in says at which settings it is none


@pytest.mark.parametrize("method", METHODS)
def test_predicts_scores_of_every_class_at_the_size_of_the_image(method: str) -> None:
    with torch.no_grad():
        assert build(method).eval().predict(torch.randn(1, 3, 65, 97)).shape == (1, CLASSES, 65, 97)


class Nothing(Stack):
    """A stack of a plug-in that does nothing."""

    def __init__(self, cfg: Plugin.Config, classes: int) -> None:
        super().__init__([Plugin(cfg, classes)])


@pytest.mark.parametrize("cls", [Watch, Nothing])
@pytest.mark.parametrize("method", METHODS)
def test_hooks_that_pass_everything_on_are_no_plug_in(method: str, cls: type[Plugin], tmp_path: Path) -> None:
    assert checks.zero(Pair(method, (PluginSetup(cls, {}),), tmp_path), steps=4) == ""
