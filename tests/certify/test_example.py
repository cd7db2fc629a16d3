"""The example of a plug-in outside the package: what it computes, found by path, and installed by entry point."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import progress
from ran import Ran

from ssbench import find
from ssbench.ops.pseudo import Pseudo

EXAMPLE = Path(__file__).parents[1] / "example_plugin"
RECIPE = "classwise_fixmatch.yaml"
Ssbench = Callable[..., Ran]


def made(**settings: Any) -> Any:
    cls = find.load("plugin", str(EXAMPLE / "classwise.py"))
    return cls(cls.Config(**settings), 3)


def said(*pixels: tuple[int, float, bool]) -> Pseudo:
    """A row of pixels: label, confidence, valid."""
    label, conf, valid = (torch.tensor([[list(values)]])[0] for values in zip(*pixels, strict=True))
    return Pseudo(label[None], conf[None], torch.zeros_like(valid[None]), valid[None])


def test_thresholds_by_hand() -> None:
    """Means 0.8 and 0.4 with momentum 0.5 from 1, 1, 1: sureness 0.9, 0.7, 1 and thresholds 0.9 x 0.9, 0.7, 1."""
    plugin = made(tau=0.9, momentum=0.5)
    pseudo = said((0, 0.82, True), (0, 0.78, True), (1, 0.5, True), (1, 0.3, True), (1, 1.0, False))
    keep = plugin.refine(pseudo, progress()).keep
    assert plugin.sureness.tolist() == pytest.approx([0.9, 0.7, 1.0])
    assert keep.flatten().tolist() == [True, False, False, False, False]  # 0.82 and 0.78 against 0.81
    later = said((1, 0.64, True), (1, 0.62, True), (2, 0.89, True))
    keep = plugin.refine(later, progress()).keep
    assert plugin.sureness.tolist() == pytest.approx([0.9, 0.665, 0.945])  # 1: (0.7 + 0.63) / 2, 2: (1 + 0.89) / 2
    assert keep.flatten().tolist() == [True, False, False]  # 0.9 x 0.665 / 0.945 = 0.6333; class 2: 0.9


def test_half_the_strength_is_half_the_discount_and_none_is_the_hosts_rule() -> None:
    plugin = made(tau=0.8, strength=0.5, momentum=0.0)
    plugin.refine(said((0, 0.5, True), (1, 1.0, True)), progress())
    keep = plugin.refine(said((0, 0.61, True), (0, 0.39, True), (1, 1.0, True)), progress()).keep
    assert plugin.sureness.tolist() == pytest.approx([0.5, 1.0, 1.0])
    assert keep.flatten().tolist() == [True, False, True]  # 0.8 x (1 - 0.5 x 0.5) = 0.6
    pseudo = said((0, 0.9, True))
    assert made(strength=0.0).refine(pseudo, progress()) is pseudo


def test_by_path_from_anywhere(ssbench: Ssbench, toy_data: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "own")
    checked = ssbench("check", "own/" + RECIPE)
    assert checked.code == 0, checked.err
    assert "own/classwise.py" in checked.out
    places = ("--data-root", toy_data, "--runs", tmp_path / "runs")
    ran = ssbench("run", "own/" + RECIPE, "--quick", *places)
    assert ran.code == 0, ran.err
    (record,) = (tmp_path / "runs").rglob("record.json")
    assert json.loads(record.read_text())["plugin"] == "classwise"


def test_it_is_certified(ssbench: Ssbench) -> None:
    ran = ssbench("certify", EXAMPLE / "classwise.py", "--host", "unimatch", "--host", "cps", "--json")
    assert ran.code == 0, ran.err
    checks = [host["checks"] for host in json.loads(ran.out)["hosts"]]
    assert [{c["state"] for c in one.values()} for one in checks] == [{"passed"}, {"passed"}]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example installed by pip, without a network, into a folder of its own."""
    source, target = tmp_path_factory.mktemp("source") / "example", tmp_path_factory.mktemp("site")
    shutil.copytree(EXAMPLE, source)
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--target", str(target), str(source)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture
def installed(site: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(site))
    find.names.cache_clear()
    yield
    find.names.cache_clear()
    sys.modules.pop("classwise", None)


@pytest.mark.usefixtures("installed")
def test_by_entry_point(ssbench: Ssbench, toy_data: Path, tmp_path: Path) -> None:
    assert "classwise\tfrom the package ssbench-classwise" in ssbench("list", "plugins").out
    matrix = ssbench("list", "plugins", "--matrix").out
    assert "unimatch\tclasswise\tworks\t\tnot in the suite's tests: ssbench certify classwise" in matrix
    checked = ssbench("check", "toy/none_unimatch", "--set", "plugin.name=classwise")
    assert checked.code == 0, checked.err
    assert "plugin.strength" in checked.out
    places = ("--data-root", toy_data, "--runs", tmp_path / "runs")
    ran = ssbench("run", "toy/none_unimatch", "--quick", "--set", "plugin.name=classwise", *places)
    assert ran.code == 0, ran.err
    assert ssbench("certify", "classwise", "--host", "fixmatch").code == 0
    refused = ssbench("check", "toy/none_stpp", "--set", "plugin.name=classwise")
    assert refused.code == 3
    assert "classwise needs refine, which stpp does not offer" in refused.err
