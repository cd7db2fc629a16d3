"""`certify` and `list plugins --matrix` as a user meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import Ran

from ssbench import find
from ssbench.certify import CHECKS

Ssbench = Callable[..., Ran]
BROKEN = """\
import torch

from ssbench.plugins.base import Plugin, PluginConfig


class Mine(Plugin):
    class Config(PluginConfig):
        name: str = "mine"

    def refine(self, pseudo, t):
        torch.rand(1)
        return pseudo
"""


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(BROKEN)
    return path


def test_a_sound_plug_in(ssbench: Ssbench) -> None:
    ran = ssbench("certify", "s4mc", "--host", "fixmatch", "--host", "stpp", "--json")
    assert ran.code == 2  # asked for by name, stpp cannot host it
    assert "stpp cannot host s4mc: its pseudo-labels are stored before a training" in ran.err
    ran = ssbench("certify", "s4mc", "--host", "fixmatch")
    assert (ran.code, ran.out.splitlines()) == (
        0,
        ["\t".join(["host", *CHECKS, "note"]), "\t".join(["fixmatch", *["passed"] * len(CHECKS), ""])],
    )
    assert "s4mc is certified on 1 of 1 methods asked" in ran.err


def test_a_broken_one_names_the_check_the_host_and_the_line(ssbench: Ssbench, mine: Path) -> None:
    ran = ssbench("certify", mine, "--host", "fixmatch", "--json")
    assert ran.code == 5
    assert "mine.py is not certified: determinism failed on fixmatch" in ran.err
    found = json.loads(ran.out)
    assert (found["certified"], found["zero"], found["hooks"]) == (False, None, ["refine"])
    (host,) = found["hosts"]
    assert (host["host"], host["state"], host["reason"], host["settings"]) == ("fixmatch", "failed", "", [])
    assert tuple(host["checks"]) == CHECKS
    assert host["checks"]["zero"] == {"state": "not declared", "why": ""}
    assert "draws without a generator: rand at " in host["checks"]["determinism"]["why"]
    assert "mine.py:11: torch.rand(1)" in host["checks"]["determinism"]["why"]


def test_settings_that_take_anything(ssbench: Ssbench, mine: Path) -> None:
    mine.write_text(BROKEN.replace('name: str = "mine"', 'name: str = "mine"\n        tau: float'))
    ran = ssbench("certify", mine)
    assert (ran.code, ran.out) == (5, "")
    assert "setting tau has no default" in ran.err


NO_CONFIG = "from ssbench.plugins.base import Plugin\n\n\nclass Mine(Plugin):\n    pass\n"
ODD_CONFIG = NO_CONFIG.replace("pass", "Config = dict")
FILES = {
    "no Config": (NO_CONFIG.encode(), "the settings of Mine have no 'name' with a default"),
    "Config of another kind": (ODD_CONFIG.encode(), "the settings of Mine have no 'name' with a default"),
    "syntax": (b"class Mine(:\n", "SyntaxError"),
    "Latin-1": (('NAME = "Müller"\n' + BROKEN).encode("latin-1"), "SyntaxError"),
    "UTF-16": (BROKEN.encode("utf-16"), "SyntaxError"),
    "a null byte": (b"x = 1\x00\n", "SyntaxError"),
    "exit when imported": (b"import sys\nsys.exit()\n", "SystemExit"),
    "no class": (b"", "defines 0 classes derived from Plugin"),
    "settings that exit": (
        BROKEN.replace('name: str = "mine"', 'name: str = "mine"\n        x: int = exit(0)').encode(),
        "SystemExit",
    ),
}


@pytest.mark.parametrize("fault", FILES)
@pytest.mark.parametrize("command", ["certify", "run", "check"])
def test_a_file_that_is_no_plug_in_is_one_error(ssbench: Ssbench, mine: Path, command: str, fault: str) -> None:
    """Exit code 3 when it is read, with the file and what is wrong; nothing is trained, nothing ends with code 0."""
    content, message = FILES[fault]
    mine.write_bytes(content)
    recipe = ("toy/none_fixmatch", "--set", f"plugin.name={mine}")
    ran = ssbench("certify", mine) if command == "certify" else ssbench(command, *recipe)
    assert ran.code == 3, ran.err
    assert message in ran.err
    assert "mine" in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("place", ["__init__", "refine", "prepare", "extras"])
def test_an_exit_inside_a_hook_is_a_failed_check(ssbench: Ssbench, mine: Path, place: str) -> None:
    arguments = {"__init__": "cfg, classes", "refine": "pseudo, t", "prepare": "run", "extras": "net"}[place]
    mine.write_text(BROKEN[: BROKEN.index("    def refine")] + f"    def {place}(self, {arguments}):\n        exit()\n")
    ran = ssbench("certify", mine, "--host", "fixmatch", "--json")
    assert ran.code == 5, ran.err
    (host,) = json.loads(ran.out)["hosts"]
    assert "SystemExit" in host["checks"]["step"]["why"]
    line = 1 + mine.read_text().splitlines().index("        exit()")
    assert f"mine.py:{line}" in host["checks"]["step"]["why"]


@pytest.mark.parametrize("place", ["__init__", "refine"])
def test_an_exit_inside_a_hook_is_a_failed_run(ssbench: Ssbench, mine: Path, toy_data: Path, place: str) -> None:
    arguments = {"__init__": "cfg, classes", "refine": "pseudo, t"}[place]
    mine.write_text(BROKEN[: BROKEN.index("    def refine")] + f"    def {place}(self, {arguments}):\n        exit()\n")
    recipe = ("toy/none_fixmatch", "--set", f"plugin.name={mine}", "--quick", "--data-root", toy_data)
    ran = ssbench("run", *recipe)
    assert ran.code == 6, ran.err
    assert "sys.exit" in ran.err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("certify", "s4mcc"), 3, "no plugin 's4mcc'; did you mean 's4mc'"),
        (("certify", "s4mc", "--host", "fixmatsch"), 3, "no method 'fixmatsch'; did you mean 'fixmatch'"),
        (("certify", "no/such.py"), 3, "no file 'no/such.py'"),
        (("list", "methods", "--matrix"), 2, "ssbench list plugins --matrix"),
        (("list", "plugins", "--with", "no/such.py"), 3, "no file 'no/such.py'"),
        (("list", "plugins", "--matrix", "--with", "no/such.py"), 3, "no file 'no/such.py'"),
    ],
)
def test_what_cannot_be_asked(ssbench: Ssbench, words: tuple[str, ...], code: int, said: str) -> None:
    ran = ssbench(*words)
    assert ran.code == code
    assert said in ran.err
    assert "fix:" in ran.err


def test_the_matrix_of_everything_and_a_file_of_ones_own(ssbench: Ssbench, mine: Path) -> None:
    found = json.loads(ssbench("list", "plugins", "--matrix", "--with", mine, "--json").out)
    methods, plugins = find.names("method"), [*find.names("plugin"), str(mine)]
    assert [(pair["method"], pair["plugin"]) for pair in found["matrix"]] == [(m, p) for m in methods for p in plugins]
    keys = {"method", "plugin", "state", "reason", "tables", "settings", "not_with", "tested"}
    assert all(set(pair) == keys for pair in found["matrix"])
    assert {pair["state"] for pair in found["matrix"]} == {"published", "works", "impossible"}
    assert {pair["tested"] for pair in found["matrix"] if pair["plugin"] == str(mine)} == {False}
    assert found["elsewhere"] == []  # every host that a paper's table names is here


def test_the_matrix_for_people(ssbench: Ssbench) -> None:
    ran = ssbench("list", "plugins", "--matrix")
    lines = [line.split("\t") for line in ran.out.splitlines()]
    assert lines[0] == ["method", "plugin", "state", "tables", "note"]
    assert ["supervised", "s4mc", "impossible", "", "its step does not call refine"] in lines
    assert ["supervised", "mpmc", "published", "mpmc/table5", "with plugin.unlabelled: false"] in lines
    assert ["semivl", "wpl", "published", "wpl/supp_table5"] in [line[:4] for line in lines]
    assert "not here yet" not in ran.err
    plugins = ssbench("list", "plugins").out
    assert "s4mc\tS4MC: " in plugins


def test_a_package_that_cannot_be_imported_hides_no_other(ssbench: Ssbench, broken_package: None) -> None:
    ran = ssbench("list", "plugins", "--matrix")
    assert ran.code == 0
    broken = [line for line in ran.out.splitlines() if "\tbroken\t" in line]
    assert len(broken) == len(find.names("method"))
    assert all("impossible" in line and "RuntimeError: old torch" in line for line in broken)


@pytest.fixture
def broken_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """An installed package whose plug-in fails when imported."""
    (tmp_path / "their_broken.py").write_text("raise RuntimeError('old torch')\n")
    info = tmp_path / "their-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[ssbench.plugins]\nbroken = their_broken:X\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    find.names.cache_clear()
    yield
    find.names.cache_clear()
