"""A plug-in that breaks a promise fails the check of that promise, and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import broken
import pytest
from pydantic import BaseModel

from ssbench.certify import CHECKS, checks
from ssbench.certify.pair import Pair
from ssbench.certify.trial import contract
from ssbench.plugins.base import Plugin, PluginConfig


def failures(cls: type[Plugin], folder: Path, host: str = "fixmatch") -> dict[str, str]:
    found = contract(Pair.of(host, [cls], folder))
    assert tuple(found) == CHECKS
    return {name: c.why for name, c in found.items() if c.state == "failed"}


@pytest.mark.parametrize("host", ["fixmatch", "u2pl"])
def test_a_sound_one_passes(host: str, tmp_path: Path) -> None:
    assert failures(broken.Sound, tmp_path, host) == {}


@pytest.mark.parametrize(
    ("cls", "check", "said"),
    [
        (broken.TeachesItself, "teacher", "`weigh` returns a tensor with a gradient"),
        (broken.LabelsWithGradient, "teacher", "`refine` returns a tensor (.carry['own']) with a gradient"),
        (broken.Forgetful, "resume", "resumed, loss of step 3"),
        (broken.DrawsFromTorch, "determinism", "draws without a generator: rand_like at tests/support/broken.py:"),
        (broken.DrawsFromNumpy, "step", "`weigh`: draws from the global stream of numpy or random"),
        (broken.DrawsFromPython, "step", "`weigh`: draws from the global stream of numpy or random"),
        (broken.NotZeroAtZero, "zero", "at zero the loss of step 0"),
        (broken.StirsWeightsAtZero, "zero", "at zero"),
        (broken.Waits, "waits", "item at tests/support/broken.py:"),
        (broken.Stray, "gradients", "plugin.parts.0.factor wants a gradient but no optimiser has it"),
        (broken.Unused, "gradients", "no gradient reaches extras.0_more"),
        (broken.Infinite, "step", "plugin term 'own' is "),
        (broken.Negative, "step", "`weigh`: returns a weight of -"),
        (broken.SoftKeep, "step", "`refine`: returns as keep a tensor of int32"),
        (broken.Raises, "step", "KeyError: 'layer9' at "),
        (broken.Pickles, "safe load", "its state holds more than tensors and plain data"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_one_fails_where_it_is_broken(cls: type[Plugin], check: str, said: str, tmp_path: Path) -> None:
    found = failures(cls, tmp_path)
    assert set(found) == set(check.split(", "))
    assert said in found[check.split(", ")[0]]


def test_a_module_trained_twice_is_seen(tmp_path: Path) -> None:
    assert failures(broken.Twice, tmp_path)["gradients"] == "a tensor is handed to the optimiser twice"


def test_a_mix_of_nothing_is_seen_before_a_step_is_made_of_it(tmp_path: Path) -> None:
    assert "step" in failures(broken.NoViews, tmp_path)


def test_a_plug_in_that_does_nothing_is_told_so(tmp_path: Path) -> None:
    found = contract(Pair.of("fixmatch", [Plugin], tmp_path))
    assert found["effect"].state == "not seen"
    assert "`quick`" in found["effect"].why
    assert contract(Pair.of("fixmatch", [broken.Sound], tmp_path))["effect"].state == "passed"


def test_no_zero_is_no_failure_and_no_pass(tmp_path: Path) -> None:
    cls = type("Silent", (broken.Sound,), {"zero": {}})
    assert contract(Pair.of("fixmatch", [cls], tmp_path))["zero"].state == "not declared"


class Loose(Plugin):
    class Config(BaseModel):
        """Takes anything."""

        name: str = "loose"


class Thawed(Plugin):
    class Config(PluginConfig, frozen=False):
        name: str = "thawed"


class Open(Plugin):
    class Config(PluginConfig):
        name: str = "open"
        tau: float


class Changing(Plugin):
    class Config(PluginConfig):
        name: str = "changing"
        scale: Any = complex(1, 2)


class Fine(Plugin):
    zero: ClassVar = {}

    class Config(PluginConfig):
        name: str = "fine"
        steps: tuple[int, ...] = (1, 2)


@pytest.mark.parametrize(
    ("cls", "name", "said"),
    [
        (Loose, "loose", "unknown settings are taken without a word"),
        (Thawed, "thawed", "settings can change under a run"),
        (Open, "open", "setting tau has no default"),
        (Fine, "other", "found as 'other' and calls itself 'fine'"),
    ],
)
def test_settings_must_be_strict(cls: type[Plugin], name: str, said: str) -> None:
    assert said in checks.settings(cls, name)


def test_strict_settings_pass_whatever_the_files_name() -> None:
    assert checks.settings(Fine, "fine") == checks.settings(Fine, "here/mine.py") == ""
