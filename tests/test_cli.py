"""The command line: exit codes, errors in three parts, and what must not be there (torch, colour, questions)."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from ran import SMALL, Ran, environment, process

from ssbench import __version__, cli
from ssbench.commands.check import ENCODERS

Ssbench = Callable[..., Ran]
COMMANDS = (
    "prepare", "import", "list", "certify", "plan", "check", "bench", "run", "eval", "status", "predict", "export",
    "table", "report", "gate", "demo", "doctor", "splits", "data", "new",
)  # fmt: skip


# --- help, completion, catalogue: no torch ---

IMPORTED = """
import atexit, os, sys
heavy = ("torch", "torchvision", "timm", "pandas", "matplotlib", "scipy")
real = lambda: [m for m in heavy if getattr(sys.modules.get(m), "__file__", None)]  # a stand-in has no file
atexit.register(lambda: (sys.stdout.flush(), os._exit(100 if real() else 0)))
sys.argv = ["ssbench", *sys.argv[1:]]
from ssbench.cli import main
main()
"""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["--version"], *([c, "--help"] for c in COMMANDS), ["splits", "show", "-h"], ["list"],
     *(["list", what] for what in ("datasets", "splits", "methods", "plugins", "recipes", "tables", "runs")),
     ["table", "s4mc/table1"], ["table", "mpmc/table2", "--json"], ["check", "toy/s4mc_unimatch"],
     ["check", "unimatch_voc", "--plugin", "mpmc", "--set", "optim.lr=0.1", "--json"]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_looked_at_often_imports_no_torch(words: list[str], tmp_path: Path) -> None:
    done = process(IMPORTED, *words, cwd=tmp_path, module=False)
    assert done.code == 0, done.err
    assert "\x1b" not in done.out + done.err
    assert done.out or words == ["list", "runs"]


COMPUTES = """
from typing import Any, Literal

import torch

from ssbench.plugins.base import Plugin, PluginConfig

EIGHT = int(torch.ones(2, 4).sum())


class Mine(Plugin):
    class Config(PluginConfig):
        name: Literal["mine"] = "mine"
        side: int = EIGHT
"""


def test_check_without_torch_says_what_it_says_with_torch(ssbench: Ssbench, tmp_path: Path) -> None:
    """In a process of its own `check` imports stand-ins of torch; here torch is imported."""
    assert torch.__file__
    with_torch = ssbench("check", "--all", "--json")
    without = process("check", "--all", "--json", cwd=tmp_path)
    assert (without.code, without.err) == (with_torch.code, with_torch.err) == (0, "")
    assert json.loads(without.out) == json.loads(with_torch.out)


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--set", "optim.lrr=1"], 3, "no field 'lrr'"),
        (["--set", "method.name=fixmach"], 3, "did you mean 'fixmatch'"),
        (["--set", "net.encoder=resnet19"], 3, "no encoder 'resnet19'; did you mean"),
        (["--plugin", "wpl"], 0, "plugin.name"),
        (["--plugin", "mine.py"], 0, " 8 "),
    ],
)
def test_check_in_a_process_of_its_own(tmp_path: Path, words: list[str], code: int, text: str) -> None:
    (tmp_path / "mine.py").write_text(COMPUTES)
    ran = process("check", "toy/none_fixmatch", *words, cwd=tmp_path)
    assert ran.code == code, ran.err
    assert text in ran.out + ran.err
    assert "Traceback" not in ran.err


def test_encoders_of_shipped_recipes_need_no_torch(tmp_path: Path) -> None:
    from ssbench.recipe.recipe import load, recipe_names

    encoders = {getattr(load(name).net, "encoder", None) for name in recipe_names()} - {None}
    assert encoders <= {*ENCODERS}
    (tmp_path / "mine.yaml").write_text("base: fixmatch_toy\nnet: {encoder: resnet19}\n")
    ran = process("check", "mine.yaml", cwd=tmp_path)
    assert (ran.code, "no encoder 'resnet19'" in ran.err) == (3, True)


def test_completion_completes_and_imports_no_torch(tmp_path: Path) -> None:
    asked = {"_SSBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "ssbench spl", "COMP_CWORD": "1"}
    done = process(IMPORTED, cwd=tmp_path, module=False, **asked)
    assert (done.code, done.out.split()) == (0, ["splits"]), done.err


def test_help_names_every_command(ssbench: Ssbench) -> None:
    ran = ssbench("--help")
    assert ran.code == 0
    assert re.findall(r"^  ([a-z]+)  ", ran.out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("words", [[], ["splits"], ["data"]])
def test_no_command_is_answered_with_the_help_and_code_2(ssbench: Ssbench, words: list[str]) -> None:
    ran = ssbench(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Usage: ssbench")


def test_version(ssbench: Ssbench) -> None:
    assert ssbench("--version") == Ran(0, f"{__version__}\n", "")


# --- errors ---

BAD_RECIPE = SMALL.replace("lr: 0.01", "lr: fast")
CASES: list[tuple[list[str], int, list[str]]] = [
    (["bogus"], 2, ["no such command 'bogus'", "known: bench, certify"]),
    (["tabel", "s4mc/table1"], 2, ["no such command 'tabel'", "table"]),
    (["run"], 2, ["either recipes and tables, or a plan"]),
    (["run", "toy/none_unimatch", "--sed", "1"], 2, ["--sed", "--seed"]),
    (["run", "toy/none_unimatch", "--seed", "one"], 2, ["--seed"]),
    (["run", "toy/none_unimatch", "--seed", "-1"], 2, ["--seed"]),
    (["run", "toy/none_unimatch", "--division", "half"], 2, ["--division", "closed"]),
    (["table", "s4mc/table1", "--format", "pdf"], 2, ["'pdf' is not one of", "rich"]),
    (["list", "recipe"], 2, ["'recipe' is not one of", "recipes"]),
    (["check"], 2, ["no recipe given"]),
    (["run", "toy/none_unimatch"], 2, ["'toy/none_unimatch' needs a split", "--split"]),
    (["run", "toy/none_unimatch", "--split", "toy/ours/1_17"], 2, ["no split 'toy/ours/1_17'", "'toy/ours/1_16'"]),
    (["splits", "show", "voc/clasic/1_16"], 2, ["no split 'voc/clasic/1_16'; did you mean 'voc/classic/1_16'"]),
    (["splits", "diff", "toy/ours/1_16", "camvid/ours/1_16"], 2, ["is a split of toy"]),
    (["splits", "make", "toy/mine", "--count", "3"], 2, ["'toy/mine' is no name", "toy/custom/mine"]),
    (["splits", "make", "toy/custom/x", "--fraction", "much"], 2, ["'much' is no fraction"]),
    (["prepare", "tyo"], 2, ["no dataset 'tyo'", "'toy'"]),
    (["prepare", "toy", "voc", "--source", "."], 2, ["one --source for 2 datasets"]),
    (["run", "toy/unimatch", "--split", "toy/ours/1_16"], 3, ["no recipe 'toy/unimatch'", "_unimatch'"]),
    (["check", "s4mc/none_cutmix"], 3, ["no recipe 's4mc/none_cutmix'", "did you mean"]),
    (["check", "no.yaml"], 3, ["no recipe file 'no.yaml'"]),
    (["check", "bad.yaml"], 3, ["lr = 'fast'", "bad.yaml:7"]),
    (["run", "bad.yaml", "--split", "toy/ours/1_16"], 3, ["lr = 'fast'", "bad.yaml:7"]),
    (["run", "toy/none_unimatch", "--split", "toy/ours/1_16", "--set", "optim.lrr=1"], 3, ["no field 'lrr'", "'lr'"]),
    (
        ["check", "toy/none_unimatch", "--set", "method.name=fixmach"],
        3,
        ["no method 'fixmach'; did you mean 'fixmatch'"],
    ),
    (["table", "s4mc/tabel1"], 3, ["no table 's4mc/tabel1'; did you mean 's4mc/table1'"]),
    (["run", "s4mc/table77"], 3, ["no table 's4mc/table77'"]),
    (["splits", "make", "tyo/custom/x", "--count", "3"], 3, ["no dataset 'tyo'; did you mean 'toy'"]),
    (
        ["run", "toy/none_unimatch", "--split", "toy/ours/1_16"],
        4,
        ["toy is not prepared", "ssbench prepare toy --data-root"],
    ),
    (["run", "unimatch/unimatch_voc_r50", "--split", "voc/classic/1_16"], 4, ["labeled.txt", "ssbench prepare voc"]),
    (["data", "show", "toy/ours/1_16"], 4, ["toy is not prepared", "ssbench prepare toy"]),
    (["splits", "make", "toy/custom/x", "--count", "3"], 4, ["toy is not prepared"]),
    (["prepare", "toy", "--check"], 4, ["toy: not as prepared", "ssbench prepare toy"]),
    (["prepare", "camvid", "--source", "nowhere"], 4, ["no such folder or archive 'nowhere'"]),
    (["eval", "x.pt", "--recipe", "toy/none_unimatch"], 4, ["no checkpoint 'x.pt'"]),
]


@pytest.mark.parametrize(("words", "code", "parts"), CASES, ids=[" ".join(words) for words, _, _ in CASES])
def test_an_error_says_what_where_and_what_to_do(
    ssbench: Ssbench, tmp_path: Path, words: list[str], code: int, parts: list[str]
) -> None:
    (tmp_path / "bad.yaml").write_text(BAD_RECIPE)
    ran = ssbench(*words)
    assert ran.code == code, ran.err
    for part in parts:
        assert part in ran.err
    assert re.search(r"^error: \S.*\n(.*\n)*?  where: \S.*\n  fix:   \S", ran.err, re.MULTILINE), ran.err
    assert "Traceback" not in ran.err
    assert "\x1b" not in ran.err


def test_several_bad_recipes_are_all_said(ssbench: Ssbench, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(BAD_RECIPE)
    ran = ssbench("check", "bad.yaml", "toy/none_unimatch", "toy/nothing")
    assert ran.code == 3
    assert ran.out.startswith("toy/none_unimatch: ")
    assert ran.err.count("error: ") == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_code_7(ssbench: Ssbench, toy_data: Path) -> None:
    ran = ssbench("run", "toy/none_supervised", "--split", "toy/ours/1_16", "--device", "cuda", "--data-root", toy_data)
    assert ran.code == 7
    assert "--device cpu" in ran.err


@pytest.mark.parametrize("device", ["mps", "0", "gpu", "cuda:99", "cuda:x"])
def test_what_is_no_device_is_refused_before_anything_is_read(ssbench: Ssbench, tmp_path: Path, device: str) -> None:
    (tmp_path / "best.pt").write_text("")
    for words in (
        ("run", "toy/none_supervised", "--split", "toy/ours/1_16", "--data-root", "nowhere"),
        ("eval", "best.pt", "--recipe", "toy/none_supervised"),
        ("predict", "best.pt", ".", "--recipe", "toy/none_supervised", "-o", "out"),
    ):
        ran = ssbench(*words, "--device", device)
        assert ran.code == 7, ran.err
        assert f"error: no device '{device}': there are cpu" in ran.err
        assert "  fix:   --device c" in ran.err
    assert not (tmp_path / "out").exists()


def test_an_internal_error_is_code_1_with_its_traceback(ssbench: Ssbench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise LookupError("a fault of ours")

    monkeypatch.setattr(json, "dumps", broken)
    ran = ssbench("list", "tables", "--json")
    assert (ran.code, ran.out) == (1, "")
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-3:] == [
        "LookupError: a fault of ours",
        "error: this is a fault of ssbench, not of your input",
        "  fix:   report it with the lines above",
    ]


def test_places_that_cannot_be_written_are_the_users_to_change(
    ssbench: Ssbench, tmp_path: Path, toy_data: Path
) -> None:
    (tmp_path / "file").write_text("")
    ran = ssbench("data", "show", "toy/ours/1_16", "--data-root", toy_data, "--out", tmp_path / "file" / "x.png")
    assert ran.code == 2
    assert re.search(r"where: \S.*file.*\n  fix:   choose another place", ran.err)


# --- terminals, pipes, signals ---


def _at_a_terminal(words: Sequence[str], cwd: Path) -> str:
    """What a person sees: stdout and stderr on a pseudo-terminal of 80 columns."""
    ours, theirs = pty.openpty()
    env = {**environment(), "COLUMNS": "80", "TERM": "xterm-256color"}
    child = subprocess.Popen(
        [sys.executable, "-m", "ssbench", *words], cwd=cwd, env=env, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert child.wait() == 0
    return seen.decode().replace("\r\n", "\n")


def test_a_terminal_gets_drawn_tables_and_wide_ones_are_folded_not_cut(tmp_path: Path) -> None:
    assert "┃" in _at_a_terminal(["list", "datasets"], tmp_path)
    seen = re.sub(r"\x1b\[[0-9;]*m", "", _at_a_terminal(["table", "s4mc/table1"], tmp_path))
    piped = process("table", "s4mc/table1", cwd=tmp_path).out
    assert max(map(len, seen.splitlines())) <= 80 < max(map(len, piped.splitlines()))
    assert sorted(seen.replace("─", "").split()) == sorted(piped.replace("─", "").split())


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "ssbench", "list", "splits"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stderr is not None
    child.stdout.close()
    assert child.stderr.read() == b""
    assert child.wait() == 0
    child.stderr.close()


def test_ctrl_c_outside_a_run_is_code_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "ssbench", "prepare", "toy", "--workers", "1"], cwd=tmp_path, env=environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    images = tmp_path / "data" / ".toy.partial" / "images"
    until = time.monotonic() + 300
    while not (images.is_dir() and any(images.iterdir())) and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=300)
    assert (child.returncode, out, err) == (130, "", "error: interrupted\n")
    done = process("prepare", "toy", cwd=tmp_path)
    assert done.code == 0, done.err


def test_nothing_asks_a_question(tmp_path: Path) -> None:
    """Manual data print the steps and end: they do not wait for an answer."""
    done = process("prepare", "cityscapes", cwd=tmp_path)
    assert done.code == 4
    assert "cityscapes" in done.err.lower()


def test_the_environment_names_the_roots(
    ssbench: Ssbench, monkeypatch: pytest.MonkeyPatch, toy_data: Path, tmp_path: Path
) -> None:
    for root, state in ((toy_data, "prepared"), (tmp_path / "else", "not prepared")):
        monkeypatch.setenv("SSBENCH_DATA", str(root))
        listed = {
            row["dataset"]: row["state"] for row in json.loads(ssbench("list", "datasets", "--json").out)["datasets"]
        }
        assert (listed["toy"], listed["voc"]) == (state, "not prepared")


def test_tests_do_not_see_a_persons_environment() -> None:
    assert not [name for name in os.environ if name.startswith("SSBENCH_")]


def test_main_is_what_python_m_runs() -> None:
    import ssbench.__main__

    assert ssbench.__main__.main is cli.main
