"""Bad inputs by the command line: each ends in one error with its exit code, and none in a traceback."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import ROOT, Ran, process

Ssbench = Callable[..., Ran]

PLUGIN = '''"""Mine."""
from typing import Literal

from ssbench.plugins.base import Plugin, PluginConfig


class Mine(Plugin):
    class Config(PluginConfig):
        name: Literal["mine"] = "mine"
'''
BROKEN = {
    "syntax.py": (b"def f(:\n", "invalid syntax"),
    "latin.py": ('"""Größe"""\n'.encode("latin-1"), "utf-8"),
    "declared.py": ('# -*- coding: latin-1 -*-\n"""Größe"""\n'.encode("latin-1"), "Größe"),
    "nul.py": (b"x = 1\x00\n", "null bytes"),
    "deep.py": (b"x = " + b"(" * 5000 + b")" * 5000, "cannot be read"),
    "empty.py": (b"", ""),
}
FAILING = {
    "exits.py": "import sys\nsys.exit(0)\n" + PLUGIN,
    "exits_unsaid.py": PLUGIN + "raise SystemExit\n",
    "raises.py": PLUGIN + "1 / 0\n",
    "syntax.py": "def f(:\n",
    "recursive.py": PLUGIN + "def f(): return f()\nf()\n",
    "two.py": PLUGIN + "class Other(Mine): pass\n",
    "bare.py": PLUGIN.replace("class Config(PluginConfig):", "class Config:").replace(': Literal["mine"]', ""),
}


def one_error(ran: Ran, code: int, *texts: str) -> None:
    """One error in three parts with this exit code and nothing on stdout."""
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert "Traceback" not in ran.err
    assert len(re.findall("^error: ", ran.err, re.MULTILINE)) == 1, ran.err
    assert re.search(r"^  where: \S.*\n  fix:   \S", ran.err, re.MULTILINE), ran.err
    for text in texts:
        assert text in ran.err


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_does_not_hide_the_other_plugins(ssbench: Ssbench, tmp_path: Path, name: str) -> None:
    data, text = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    ran = ssbench("list", "plugins", "--with", name, "--json")
    assert (ran.code, ran.err) == (0, "")
    plugins = json.loads(ran.out)["plugins"]
    assert plugins[-1]["plugin"] == name
    assert text in plugins[-1]["about"]
    assert {"mpmc", "s4mc"} <= {row["plugin"] for row in plugins}


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("command", ["check", "run"])
def test_a_plugin_that_cannot_be_imported_is_an_error_of_the_recipe(
    ssbench: Ssbench, tmp_path: Path, name: str, command: str
) -> None:
    (tmp_path / name).write_text(FAILING[name])
    split = ["--split", "toy/ours/1_16"] if command == "run" else []
    one_error(ssbench(command, "toy/none_fixmatch", "--plugin", name, *split), 3, name)


TAU = 'name: Literal["mine"] = "mine"\n'
WRONG = {
    "raises_in_check": (
        "    @classmethod\n    def check(cls, cfg, classes):\n        raise KeyError('x')\n",
        "KeyError: 'x'",
    ),
    "raises_in_config": ("        def model_post_init(self, context): 1 / 0\n", "ZeroDivisionError"),
    "uses_is_no_set": ("    @classmethod\n    def uses(cls, cfg):\n        return ['weigh', 3]\n", "no set of hooks"),
    "version_is_no_number": ("    behaviour = 'x'\n", "behaviour version 'x'"),
    "object_as_default": ("        tau: object = object()\n", "no recipe can hold"),
    "default_too_large": ("        tau: float = 10**400\n", "no recipe can hold"),
}


@pytest.mark.parametrize("name", WRONG)
def test_faults_of_a_plugin_outside_its_hooks_are_its_own(ssbench: Ssbench, tmp_path: Path, name: str) -> None:
    """Not a fault of ssbench: the error names the plug-in, with the line where there is one."""
    body, text = WRONG[name]
    (tmp_path / "mine.py").write_text(PLUGIN + body)
    ran = ssbench("plan", "toy/none_fixmatch", "--split", "toy/ours/1_16", "--plugin", "mine.py")
    one_error(ran, 3, text, "mine")
    if name.startswith("raises"):
        assert f"mine.py:{len((PLUGIN + body).splitlines())}" in ran.err


def test_settings_that_are_no_model_are_refused_by_the_matrix(ssbench: Ssbench, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN[: PLUGIN.index("    class Config")] + "    Config = 3\n")
    one_error(ssbench("list", "plugins", "--matrix", "--with", "mine.py"), 3, "mine.py")


@pytest.mark.parametrize("raised", ["GeneratorExit", "BaseException('x')"])
def test_a_plugin_may_raise_anything_at_its_import(ssbench: Ssbench, tmp_path: Path, raised: str) -> None:
    (tmp_path / "mine.py").write_text(f"{PLUGIN}raise {raised}\n")
    one_error(ssbench("check", "toy/none_fixmatch", "--plugin", "mine.py"), 3, "cannot be imported", "mine.py:10")


@pytest.mark.parametrize(
    "data", [b"\xef\xbb\xbf" + PLUGIN.encode(), b"# -*- coding: latin-1 -*-\n# \xe4\n" + PLUGIN.encode()]
)
def test_a_plugin_may_begin_with_a_mark_or_name_its_encoding(ssbench: Ssbench, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "mine.py").write_bytes(data.replace(TAU.encode(), TAU.encode() + b"        tau: int = 3  # ours\n"))
    ran = ssbench("check", "toy/none_fixmatch", "--plugin", "mine.py")
    assert ran.code == 0, ran.err
    assert "mine.py:" in ran.out


def test_what_a_terminal_would_obey_is_escaped(ssbench: Ssbench, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.replace("Mine.", "\\x1b[2JMine.", 1))
    listed = ssbench("list", "plugins", "--with", "mine.py")
    assert (listed.code, "\x1b" in listed.out, "\\x1b[2JMine." in listed.out) == (0, False, True)
    (tmp_path / "t.yaml").write_text('"\\e[2J\\u202e": 1\n')
    refused = ssbench("table", "t.yaml")
    one_error(refused, 3, "\\x1b[2J\\u202e")
    assert "\x1b" not in refused.err


@pytest.mark.parametrize("command", ["check", "plan", "run", "status", "table"])
@pytest.mark.parametrize("name", ["a\0b.yaml", "loop.yaml"])
def test_a_path_that_no_file_has(ssbench: Ssbench, tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    ran = ssbench(command, name)
    one_error(ran, ran.code)
    assert ran.code in (2, 3)


def test_sys_exit_later_in_a_plugin_is_no_success(tmp_path: Path) -> None:
    body = "\n    @classmethod\n    def uses(cls, cfg):\n        raise SystemExit(0)\n"
    (tmp_path / "mine.py").write_text(PLUGIN + body)
    one_error(process("check", "toy/none_fixmatch", "--plugin", "mine.py", cwd=tmp_path), 3, "sys.exit(0)")


def test_recursion_is_an_error_of_the_input(tmp_path: Path) -> None:
    body = "\n    @classmethod\n    def uses(cls, cfg):\n        return cls.uses(cfg)\n"
    (tmp_path / "mine.py").write_text(PLUGIN + body)
    one_error(process("check", "toy/none_fixmatch", "--plugin", "mine.py", cwd=tmp_path), 4, "nested too deeply")


def test_names_that_are_no_text_are_printed_escaped(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/mine\xff"))
    folder.mkdir(parents=True)
    (folder / "dataset.yaml").write_text("")
    listed = process("list", "datasets", cwd=tmp_path)
    assert listed.code in (0, 4), listed.err
    assert "Traceback" not in listed.err
    out = os.fsdecode(os.fsencode(tmp_path) + b"/out\xff")
    ran = process("report", "toy/table1", "--pictures", "0", "-o", out, cwd=tmp_path)
    assert (ran.code, ran.out) == (0, f"{tmp_path}/out\\udcff/report.html\n"), ran.err


def test_a_terminal_without_the_letters_gets_them_escaped(tmp_path: Path) -> None:
    ran = process("splits", "show", "toy/ours/1_16", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert ran.code == 0, ran.err
    assert process("table", "s4mc/table1", cwd=tmp_path, PYTHONIOENCODING="ascii").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["gate", "--against", "x", "--alpha", "nan"],
        ["gate", "--against", "x", "--spread", "inf"],
        ["gate", "--against", "x", "--slower", "nan"],
        ["import", "x", "--val", "nan"],
        ["plan", "toy/table1", "--gpu-hours", "nan"],
        ["plan", "toy/table1", "--tflops", "inf"],
        ["splits", "make", "toy/custom/x", "--fraction", "1e-99999999999"],
        ["splits", "make", "toy/custom/x", "--fraction", "\u00b2"],
        ["table", "t" * 5000],
        ["report", "toy/table1", "--pictures", "0", "-o", "o" * 300],
    ],
    ids=lambda words: " ".join(words)[:50],
)
def test_numbers_and_names_out_of_all_bounds(ssbench: Ssbench, words: list[str]) -> None:
    ran = ssbench(*words)
    one_error(ran, 3 if words[0] == "table" else 2)


@pytest.mark.parametrize("size", ["0x5", "\u00b2x3", "5", "99999999x1", "x"])
def test_a_size_is_height_and_width(ssbench: Ssbench, tmp_path: Path, size: str) -> None:
    (tmp_path / "x.pt").write_bytes(b"")
    words = ("export", "x.pt", "--recipe", "toy/none_fixmatch", "-o", "x.onnx", "--size", size)
    one_error(ssbench(*words), 2, "is not HEIGHTxWIDTH")


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """The shipped toy results, with one record cut off in its head, one in its body, and a claim of another shape."""
    root = tmp_path / "results"
    shutil.copytree(ROOT / "results" / "toy", root / "toy")
    head, body = sorted((root / "toy" / "none_fixmatch").rglob("seed*.json"))[:2]
    head.write_bytes(head.read_bytes()[:200])
    body.write_text(re.sub(r'"history": \[', '"history": [7, ', body.read_text()))
    (root / "claims").mkdir()
    (root / "claims" / "x.json").write_text('{"value": [1]}')
    return root


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (["table", "toy/table1", "--claims"], 2),
        (["list", "runs"], 1),
        (["report", "toy/table1", "--pictures", "0", "-o", "out"], 3),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else None,
)
def test_damaged_records_are_named_and_hide_nothing(
    ssbench: Ssbench, damaged: Path, words: list[str], ignored: int
) -> None:
    ran = ssbench(*words, "--results", damaged)
    assert ran.code == 0, ran.err
    assert len(re.findall("^ignored: ", ran.err, re.MULTILINE)) == ignored, ran.err
    assert ran.out


def test_a_report_for_machines_lists_the_damaged_files(ssbench: Ssbench, damaged: Path) -> None:
    """Two records and a claim, each with its file, what is wrong and what to do; none where all is sound."""
    words = ("report", "toy/table1", "--pictures", "0", "-o", "out", "--json", "--results")
    ran = ssbench(*words, damaged)
    assert ran.code == 0, ran.err
    rows = json.loads(ran.out)["damaged"]
    torn = sorted((damaged / "toy" / "none_fixmatch").rglob("seed*.json"))[:2]
    assert {row["file"] for row in rows} == {str(path) for path in (*torn, damaged / "claims" / "x.json")}
    assert all(row["what"] and row["fix"] and row.keys() == {"file", "what", "fix"} for row in rows)
    assert "damaged" not in json.loads(ssbench(*words, ROOT / "results").out)


def test_a_report_reads_no_record_it_does_not_show(ssbench: Ssbench, tmp_path: Path) -> None:
    """Records of other recipes are not even opened: here they could not be."""
    root = tmp_path / "results"
    shutil.copytree(ROOT / "results" / "toy" / "none_supervised", root / "toy" / "none_supervised")
    other = root / "other" / "recipe" / "toy-ours-1_16"
    other.mkdir(parents=True)
    (other / "seed0.json").mkdir()
    words = ("report", "toy/table1", "--pictures", "0", "-o", "out", "--results", root)
    ran = ssbench(*words, "--json")
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["runs"]["done"] == 4


def test_a_report_without_checkpoints_imports_no_torch(tmp_path: Path) -> None:
    """Memory and time of a report are those of its records and charts."""
    code = (
        "import atexit, os, sys\n"
        "real = lambda: getattr(sys.modules.get('torch'), '__file__', None)  # a stand-in has no file\n"
        "atexit.register(lambda: os._exit(100 if real() else 0))\n"
        f"sys.argv = ['ssbench', 'report', 'camvid/table1', '--results', {str(ROOT / 'results')!r}]\n"
        "from ssbench.cli import main\n"
        "main()\n"
    )
    ran = process(code, cwd=tmp_path, module=False)
    assert (ran.code, ran.err) == (0, "")
    assert "camvid is not prepared" in (tmp_path / "report" / "report.html").read_text()
