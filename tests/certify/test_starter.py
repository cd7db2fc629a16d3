"""`new plugin` and `new method`: what they write works as it stands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import Ran

Ssbench = Callable[..., Ran]
ROOT = Path(__file__).resolve().parents[2]


def test_from_an_empty_directory_to_a_certified_plugin_with_a_planned_row(ssbench: Ssbench, tmp_path: Path) -> None:
    """Three commands, none refused."""
    ran = ssbench("new", "plugin", "my_idea")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [
        *("my_idea.py", "my_idea.yaml", "test_my_idea.py"),
        "  next: ssbench certify my_idea.py",
        "  next: ssbench run my_idea.yaml --split toy/ours/1_16",
    ]
    certified = ssbench("certify", "my_idea.py", "--host", "fixmatch")
    assert certified.code == 0, certified.err
    planned = ssbench("plan", "unimatch_voc", "--plugin", "my_idea.py", "--split", "voc/classic/1_16", "--json")
    assert planned.code == 0, planned.err
    (run,) = json.loads(planned.out)["runs"]
    assert (run["recipe"], run["state"], run["hours"] > 0) == ("unimatch_voc+my_idea.py", "missing", True)


def test_the_tests_that_are_written_pass(ssbench: Ssbench, tmp_path: Path) -> None:
    assert ssbench("new", "plugin", "my_idea", "--json").code == 0
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_idea.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_new_method_hosts_a_plugin_and_its_recipe_is_read_from_any_folder(
    ssbench: Ssbench, tmp_path: Path, toy: Path
) -> None:
    ran = ssbench("new", "method", "my_method", "-o", "methods", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["next"][0] == "ssbench run methods/my_method.yaml --quick"
    assert ssbench("certify", "s4mc", "--host", "methods/my_method.py").code == 0
    quick = ssbench("run", "methods/my_method.yaml", "--quick", "--device", "cpu", "--data-root", toy)
    assert quick.code == 0, quick.err


@pytest.mark.parametrize("name", ["My", "1st", "s4mc", "class", "a-b", "none", "../x"])
def test_a_name_that_cannot_be_is_refused(ssbench: Ssbench, tmp_path: Path, name: str) -> None:
    assert ssbench("new", "plugin", name).code == 2
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(ssbench: Ssbench, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("mine")
    ran = ssbench("new", "plugin", "mine")
    assert (ran.code, "mine.yaml' is there already" in ran.err) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
