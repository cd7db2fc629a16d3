"""The command line: exit codes, errors in three parts, JSON, and what must not be there (torch, colour, questions)."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ran import Ran

from ssbench import __version__, cli

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("prepare", "import", "list", "check", "run", "eval", "table", "demo", "doctor", "splits", "data")
Ssbench = Callable[..., Ran]

SMALL = """\
# A small run of the whole path.
data: {dataset: toy, workers: 0, few: 8}
views: {weak: unimatch, strong: unimatch, box: unimatch, crop: 48}  # ours
net: {name: deeplabv3plus, encoder: test_resnet, weights: random, wide: 32}  # ours
method: {name: fixmatch}  # ours
plugin: {name: s4mc}  # ours
optim: {lr: 0.01}  # ours
schedule: {epochs: 2, labeled_batch: 4, unlabeled_batch: 4}  # ours
eval: {few: 6, report: test}  # ours
"""


def process(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`ssbench` in a process of its own, with nobody to answer a question."""
    return subprocess.run(
        [sys.executable, "-m", "ssbench", *words], cwd=cwd, env=_env(environment), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def _env(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **more}


# --- help, completion, catalogue: no torch ---

IMPORTED = """
import atexit, os, sys
heavy = ("torch", "torchvision", "timm", "pandas", "matplotlib", "scipy")
atexit.register(lambda: (sys.stdout.flush(), os._exit(100 if any(m in sys.modules for m in heavy) else 0)))
sys.argv = ["ssbench", *sys.argv[1:]]
from ssbench.cli import main
main()
"""


@pytest.mark.parametrize(
    "words",
    [["--help"], ["-h"], ["--version"], *([c, "--help"] for c in COMMANDS), ["splits", "show", "-h"], ["list"],
     *(["list", what] for what in ("datasets", "splits", "methods", "plugins", "recipes", "tables", "runs")),
     ["table", "s4mc/table1"], ["table", "mpmc/table2", "--json"]],
    ids=" ".join,
)  # fmt: skip
def test_what_is_looked_at_often_imports_no_torch(words: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED, *words], cwd=tmp_path, env=_env({}), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    assert done.stdout or words == ["list", "runs"]


def test_completion_completes_and_imports_no_torch(tmp_path: Path) -> None:
    asked = {"_SSBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "ssbench spl", "COMP_CWORD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED], cwd=tmp_path, env=_env(asked), capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.split()) == (0, ["splits"]), done.stderr


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
    (["bogus"], 2, ["no such command 'bogus'", "known: check"]),
    (["tabel", "s4mc/table1"], 2, ["no such command 'tabel'", "table"]),
    (["run"], 2, ["missing argument"]),
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
    (["run", "toy/unimatch", "--split", "toy/ours/1_16"], 3, ["no recipe 'toy/unimatch'", "'toy/none_unimatch'"]),
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
    (["eval", "x.pt", "--recipe", "toy/none_unimatch"], 4, ["toy is not prepared"]),
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


def test_a_fault_in_a_plug_in_fails_the_run_with_its_traceback(
    ssbench: Ssbench, tmp_path: Path, toy_data: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from ssbench.plugins.base import Plugin, PluginConfig\n\n\nclass Mine(Plugin):\n"
        "    class Config(PluginConfig):\n        name: str = 'mine'\n\n"
        "    def loss(self, seen, t):\n        return {'x': seen.nothing}\n"
    )
    (tmp_path / "mine.yaml").write_text(SMALL.replace("{name: s4mc}", "{name: mine.py}"))
    ran = ssbench("run", "mine.yaml", "--quick", "--data-root", toy_data)
    assert ran.code == 6
    assert 'mine.py", line 9' in ran.err
    assert "AttributeError" in ran.err


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


def test_some_runs_that_fail_are_code_6_and_the_others_are_done(
    ssbench: Ssbench, tmp_path: Path, toy_data: Path
) -> None:
    (tmp_path / "good.yaml").write_text(
        SMALL.replace("fixmatch", "supervised").replace("plugin: {name: s4mc}  # ours\n", "")
    )
    (tmp_path / "wild.yaml").write_text(SMALL.replace("lr: 0.01", "lr: 1.0e+30"))
    ran = ssbench("run", "wild.yaml", "good.yaml", "--quick", "--data-root", toy_data, "--json")
    assert ran.code == 6
    assert [run["state"] for run in json.loads(ran.out)["runs"]] == ["failed", "done"]
    assert "error: 1 of 2 runs failed" in ran.err
    assert ssbench("run", "wild.yaml", "--quick", "--data-root", toy_data).code == 6


# --- the whole path, once ---


@pytest.fixture(scope="module")
def finished(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.yaml and what `ssbench run` made of it: runs/ and results/."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SMALL)
    done = process("run", "small.yaml", "--split", "toy/ours/1_16", "--data-root", str(toy_data), cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("done small.yaml toy/ours/1_16 seed 0: miou best ")
    assert "\x1b" not in done.stdout + done.stderr
    return folder


@pytest.fixture
def there(finished: Path, tmp_path: Path) -> Path:
    """A copy of `finished` in the folder the command starts in."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    return tmp_path


CHECKPOINT = "runs/custom/small/toy-ours-1_16/seed0/best.pt"


def test_what_is_done_is_not_done_again(ssbench: Ssbench, there: Path, toy_data: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in there.rglob("*") if p.is_file()}
    ran = ssbench("run", "small.yaml", "--split", "toy/ours/1_16", "--data-root", toy_data)
    assert ran.out.startswith("was done small.yaml toy/ours/1_16 seed 0")
    assert {p: p.stat().st_mtime_ns for p in there.rglob("*") if p.is_file()} == before


def test_a_run_is_listed_and_fills_the_cell_of_a_table(ssbench: Ssbench, there: Path) -> None:
    rows = json.loads(ssbench("list", "runs", "--json").out)["runs"]
    assert [(r["recipe"], r["split"], r["seed"], r["status"]) for r in rows] == [
        ("custom/small", "toy/ours/1_16", 0, "done")
    ]
    assert {"recipe", "split", "seed", "status", "metric", "best", "last", "finished"} == set(rows[0])
    (there / "table1.yaml").write_text(
        "title: t\nmetric: miou\ncolumns: [{id: a, label: A, split: toy/ours/1_16}]\n"
        "rows: [{id: r, label: R, recipe: small.yaml, printed: '50.0'}]\n"
    )
    cell = json.loads(ssbench("table", "table1.yaml", "--json").out)["cells"][0]
    assert (cell["state"], cell["n"], cell["printed"]) == ("measured", 1, 50.0)
    assert cell["measured"] == pytest.approx(rows[0]["best"], abs=1e-4)
    assert cell["difference"] == pytest.approx(cell["measured"] - 50, abs=1e-4)
    text = ssbench("table", "table1.yaml").out
    assert f"{cell['measured']:.2f} (1), {cell['difference']:+.2f}" in text
    long = list(csv.DictReader(io.StringIO(ssbench("table", "table1.yaml", "--long").out)))
    assert long[0]["state"] == "measured"
    assert float(long[0]["measured"]) == pytest.approx(cell["measured"])


def test_a_run_at_work_shows_as_running(ssbench: Ssbench, there: Path) -> None:
    import fcntl

    (there / "table1.yaml").write_text(
        "title: t\nmetric: miou\ncolumns: [{id: a, label: A, split: toy/ours/1_8}]\n"
        "rows: [{id: r, label: R, recipe: small.yaml, printed: '50.0'}]\n"
    )
    folder = there / "runs" / "custom" / "small" / "toy-ours-1_8" / "seed3"
    folder.mkdir(parents=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "50.0 | running" in ssbench("table", "table1.yaml").out
    assert "running" not in ssbench("table", "table1.yaml").out


def test_a_checkpoint_scores_what_the_run_reported(ssbench: Ssbench, there: Path, toy_data: Path) -> None:
    record = json.loads((there / "results/custom/small/toy-ours-1_16/seed0.json").read_text())
    ran = ssbench(
        "eval", CHECKPOINT, "--recipe", "small.yaml", "--split", "toy/ours/1_16", "--data-root", toy_data, "--json"
    )
    found = json.loads(ran.out)
    score = {"metric", "value", "classes", "per_class", "confusion", "volumes"}
    assert set(found) == {"checkpoint", "recipe", "split", "protocol", "subset"} | score
    assert found["value"] == record["scores"]["best"]["report"]
    assert found["confusion"] == record["confusion"]["best"]
    assert (found["subset"], found["split"], found["metric"]) == ("test", "toy/ours/1_16", "miou")
    plain = ssbench("eval", CHECKPOINT, "--recipe", "small.yaml", "--on", "val", "--data-root", toy_data)
    assert re.match(r"miou \d+\.\d\d on val \(whole\)\n  background ", plain.out)


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        (["--protocol", "whol"], 2, ["no protocol 'whol'; did you mean 'whole'"]),
        (["--on", "tset"], 2, ["no subset 'tset'; did you mean 'test'"]),
        (["--split", "toy/ours/1_17"], 2, ["no split 'toy/ours/1_17'"]),
        (["--protocol", "acdc/test"], 3, ["does not fit toy"]),
        (["--recipe", "smal.yaml"], 3, ["no recipe file 'smal.yaml'"]),
    ],
)
def test_eval_refuses_what_cannot_be(
    ssbench: Ssbench, there: Path, toy_data: Path, words: list[str], code: int, parts: list[str]
) -> None:
    recipe = [] if "--recipe" in words else ["--recipe", "small.yaml"]
    ran = ssbench("eval", CHECKPOINT, *recipe, *words, "--data-root", toy_data)
    assert ran.code == code, ran.err
    assert all(part in ran.err for part in parts)
    assert re.search(r"where: \S.*\n  fix:   \S", ran.err)


def test_broken_checkpoints_are_code_4_and_named(ssbench: Ssbench, there: Path, toy_data: Path) -> None:
    whole = (there / CHECKPOINT).read_bytes()
    (there / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (there / "empty.pt").write_bytes(b"")
    (there / "text.pt").write_text("no weights")
    torch.save({"model": {"head.weight": torch.zeros(3)}}, there / "strange.pth")
    torch.save([1, 2], there / "list.pt")
    for name in ("cut.pt", "empty.pt", "text.pt", "strange.pth", "list.pt", "absent.pt"):
        ran = ssbench("eval", name, "--recipe", "small.yaml", "--data-root", toy_data)
        assert ran.code == 4, (name, ran.err)
        assert name in ran.err
        assert "Traceback" not in ran.err
    other = ssbench("eval", CHECKPOINT, "--recipe", "toy/none_supervised", "--set", "x=1", "--data-root", toy_data)
    assert other.code == 2
    other = ssbench("eval", CHECKPOINT, "--recipe", "unimatch/unimatch_voc_r50", "--data-root", toy_data)
    assert other.code == 4


def test_a_checkpoint_of_another_recipe_is_refused(ssbench: Ssbench, there: Path, toy_data: Path) -> None:
    (there / "wider.yaml").write_text(SMALL.replace("wide: 32", "wide: 48"))
    ran = ssbench("eval", CHECKPOINT, "--recipe", "wider.yaml", "--data-root", toy_data)
    assert ran.code == 4
    assert "the checkpoint is of another recipe" in ran.err


def test_a_quick_run_is_done_anew_and_leaves_no_record(ssbench: Ssbench, there: Path, toy_data: Path) -> None:
    for _ in range(2):
        ran = ssbench("run", "small.yaml", "--quick", "--data-root", toy_data)
        assert ran.code == 0, ran.err
        assert ran.out.startswith("small.yaml toy/ours/1_8 seed 0 runs (a quick run")
        assert "epoch 2/2" in ran.err
    assert len(json.loads(ssbench("list", "runs", "--json").out)["runs"]) == 1


def test_an_open_run_says_so(ssbench: Ssbench, there: Path, toy_data: Path) -> None:
    words = ["--split", "toy/ours/1_32", "--division", "open", "--set", "schedule.epochs=1", "--data-root", toy_data]
    assert ssbench("run", "small.yaml", *words).code == 0
    record = next((there / "results").glob("custom/small+*/toy-ours-1_32/*.json"))
    said = json.loads(record.read_text())
    assert (said["division"], said["departures"]) == ("open", ["set schedule.epochs=1"])


# --- JSON ---


def _object(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert isinstance(found, dict)
    return found


def test_json_of_prepare(ssbench: Ssbench, toy_data: Path) -> None:
    found = _object(ssbench("prepare", "toy", "--data-root", toy_data, "--json"))
    assert {"name", "state", "counts", "files", "bytes", "seconds", "ledger", "lists", "settings"} <= set(
        found["prepared"][0]
    )
    assert found["prepared"][0]["counts"] == {"train": 320, "val": 80, "test": 80}
    assert _object(ssbench("prepare", "toy", "--check", "--data-root", toy_data, "--json")) == {"problems": {"toy": []}}


def test_problems_are_named_and_are_json_too(ssbench: Ssbench, tmp_path: Path, toy_data: Path) -> None:
    shutil.copytree(toy_data / "toy", tmp_path / "data" / "toy")
    (tmp_path / "data" / "toy" / "val.txt").unlink()
    ran = ssbench("prepare", "toy", "--check", "--json")
    assert (ran.code, json.loads(ran.out)["problems"]["toy"][0]["path"]) == (4, "val.txt")
    assert "missing: val.txt" in ssbench("prepare", "toy", "--check").out


@pytest.mark.parametrize(
    ("what", "keys"),
    [
        ("datasets", {"dataset", "state", "about"}),
        (
            "splits",
            {"name", "dataset", "family", "part", "labeled", "unlabeled", "repository", "commit", "note", "here"},
        ),
        ("methods", {"method", "about"}),
        ("plugins", {"plugin", "about"}),
        ("recipes", {"recipe", "dataset", "method", "plugin", "title"}),
        ("tables", {"table"}),
    ],
)
def test_json_of_list(ssbench: Ssbench, what: str, keys: set[str]) -> None:
    found = _object(ssbench("list", what, "--json"))
    assert list(found) == [what]
    assert all(set(row) == keys for row in found[what])
    lines = ssbench("list", what).out.splitlines()
    assert set(lines[0].split("\t")) == keys
    assert len(lines) == 1 + len(found[what])
    counts = {row["kind"]: row["count"] for row in _object(ssbench("list", "--json"))["catalogue"]}
    assert counts[what] == len(found[what])


def test_no_runs_is_an_empty_list(ssbench: Ssbench) -> None:
    assert _object(ssbench("list", "runs", "--json")) == {"runs": []}
    assert ssbench("list", "runs") == Ran(0, "", "no runs yet\n")


def test_json_of_check(ssbench: Ssbench) -> None:
    found = _object(ssbench("check", "toy/s4mc_unimatch", "acdc/unimatch_unet", "--json"))
    assert found["errors"] == []
    first = found["recipes"][0]
    assert set(first) == {"recipe", "title", "paper", "division", "expect", "resolved", "sources"}
    assert set(first["resolved"]) == {"data", "views", "net", "method", "plugin", "loss", "optim", "schedule", "eval"}
    assert {"name", "value", "source", "at"} == set(first["sources"][0])
    assert {s["name"] for s in first["sources"]} >= {"optim.lr", "plugin.alpha0", "views.crop", "net.encoder"}


def test_check_prints_each_constant_with_its_source(ssbench: Ssbench) -> None:
    out = ssbench("check", "acdc/unimatch_unet").out
    assert re.search(
        r"^  method.threshold +0.95 +recipes/acdc/unimatch_unet.yaml:\d+ +release configs/acdc.yaml", out, re.M
    )
    assert re.search(r"^  optim.lr +0.01 +recipes/base/unimatch_acdc.yaml:\d+ +release configs/acdc.yaml", out, re.M)
    assert "  printed: 89.9 on acdc/ssl4mis/7" in out
    shown = ssbench("check", "--all")
    assert shown.code == 0
    assert all(line.startswith("ok ") for line in shown.out.splitlines())


def test_json_of_splits_and_data(ssbench: Ssbench, tmp_path: Path, toy_data: Path) -> None:
    root = tmp_path / "data"
    shutil.copytree(toy_data / "toy", root / "toy")
    page = _object(ssbench("splits", "show", "toy/ours/1_16", "--json"))
    assert {"name", "dataset", "custom", "sha256", "labeled", "unlabeled", "origin", "classes", "leaks"} <= set(page)
    assert page["classes"]["ignore"]["images"] > 0
    found = _object(ssbench("splits", "diff", "toy/ours/1_16", "toy/ours/1_8", "--json"))
    assert (found["labeled"]["a"], found["labeled"]["common"], len(found["labeled"]["only_b"])) == (20, 20, 20)
    made = _object(ssbench("splits", "make", "toy/custom/mine", "--fraction", "1/20", "--seed", "3", "--json"))
    assert (made["split"], made["seed"], made["labeled"]["count"]) == ("toy/custom/mine", 3, 16)
    assert _object(ssbench("splits", "show", "toy/custom/mine", "--json"))["custom"] is True
    elsewhere = _object(ssbench("splits", "make", "toy", "--count", "5", "--out", tmp_path / "here", "--json"))
    assert ssbench("splits", "show", elsewhere["split"]).code == 0
    assert ssbench("splits", "make", "toy/custom/mine", "--count", "5").code == 2
    sheet = _object(
        ssbench("data", "show", "toy/custom/mine", "--recipe", "toy/none_unimatch", "--index", "4", "--json")
    )
    assert (tmp_path / sheet["picture"]).read_bytes().startswith(b"\x89PNG")
    assert len(sheet["ids"]) == 1
    assert ssbench("data", "show", "toy/custom/mine", "--index", "999").code == 2
    assert ssbench("data", "show", "toy/custom/mine", "--recipe", "acdc/unimatch_unet").code == 2


def test_splits_are_readable_for_people(ssbench: Ssbench, toy_data: Path) -> None:
    shown = ssbench("splits", "show", "toy/ours/1_16", "--data-root", toy_data).out
    assert "  labeled    20 ids" in shown
    assert re.search(r"^  background +\d+\.\d\d% +\d+$", shown, re.M)
    assert "{" not in shown
    assert "20 and 40 ids, 20 in common" in ssbench("splits", "diff", "toy/ours/1_16", "toy/ours/1_8").out


def test_json_of_table_and_the_other_formats(ssbench: Ssbench) -> None:
    found = _object(ssbench("table", "s4mc/table1", "--json"))
    assert {"table", "title", "paper", "cells"} == set(found)
    keys = {"paper", "table", "group", "row", "column", "split", "recipe", "metric", "printed", "measured", "sd", "n",
            "difference", "state"}  # fmt: skip
    assert all(keys <= set(cell) for cell in found["cells"])
    cell = next(c for c in found["cells"] if c["row"] == "S4MC + FixMatch" and c["split"] == "voc/classic/1_16")
    assert (cell["printed"], cell["state"]) == (74.32, "not run")
    assert "| S4MC + FixMatch | 74.32 |" in ssbench("table", "s4mc/table1", "--format", "md").out
    rows = list(csv.reader(io.StringIO(ssbench("table", "s4mc/table1", "--long").out)))
    contract = "paper table group row column split recipe metric printed measured sd n difference state"
    assert rows[0][:14] == contract.split()
    assert len(rows) == 1 + len(found["cells"])
    assert (
        len({len(row) for row in csv.reader(io.StringIO(ssbench("table", "s4mc/table1", "--format", "csv").out))}) == 1
    )


def test_json_of_doctor(ssbench: Ssbench, toy_data: Path) -> None:
    checks = {c["what"]: c for c in _object(ssbench("doctor", "--data-root", toy_data, "--json"))["checks"]}
    assert {"python", "torch", "gpu", "toy", "voc", "disk data"} <= set(checks)
    assert all(set(c) == {"what", "state", "found", "mend"} for c in checks.values())
    assert checks["toy"]["state"] == "ok"
    assert checks["voc"]["mend"] == f"ssbench prepare voc --data-root {toy_data}"
    assert "ssbench prepare voc" in ssbench("doctor").out


# --- terminals, pipes, signals ---


def _at_a_terminal(words: Sequence[str], cwd: Path) -> str:
    """What a person sees: stdout and stderr on a pseudo-terminal of 80 columns."""
    ours, theirs = pty.openpty()
    env = {**_env({}), "COLUMNS": "80", "TERM": "xterm-256color"}
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


def test_a_terminal_gets_drawn_tables_and_wide_ones_are_not_cut(tmp_path: Path) -> None:
    assert "┃" in _at_a_terminal(["list", "datasets"], tmp_path)
    seen = re.sub(r"\x1b\[[0-9;]*m", "", _at_a_terminal(["table", "s4mc/table1"], tmp_path))
    piped = process("table", "s4mc/table1", cwd=tmp_path).stdout
    assert [line.rstrip() for line in seen.splitlines()] == piped.splitlines()


def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "ssbench", "list", "splits"],
        cwd=tmp_path,
        env=_env({}),
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
        [sys.executable, "-m", "ssbench", "prepare", "toy", "--workers", "1"], cwd=tmp_path, env=_env({}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    images = tmp_path / "data" / ".toy.partial" / "images"
    until = time.monotonic() + 60
    while not (images.is_dir() and any(images.iterdir())) and time.monotonic() < until:
        time.sleep(0.01)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out, err) == (130, "", "error: interrupted\n")
    done = process("prepare", "toy", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_nothing_asks_a_question(tmp_path: Path) -> None:
    """Manual data print the steps and end: they do not wait for an answer."""
    done = process("prepare", "cityscapes", cwd=tmp_path)
    assert done.returncode == 4
    assert "cityscapes" in done.stderr.lower()


def test_the_environment_names_the_roots(
    ssbench: Ssbench, monkeypatch: pytest.MonkeyPatch, toy_data: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("SSBENCH_DATA", str(toy_data))
    assert (
        "prepared"
        in {r["dataset"]: r["state"] for r in _object(ssbench("list", "datasets", "--json"))["datasets"]}["toy"]
    )
    monkeypatch.setenv("SSBENCH_DATA", str(tmp_path / "else"))
    states = {r["dataset"]: r["state"] for r in _object(ssbench("list", "datasets", "--json"))["datasets"]}
    assert set(states.values()) == {"not prepared"}


def test_tests_do_not_see_a_persons_environment() -> None:
    assert not [name for name in os.environ if name.startswith("SSBENCH_")]


def test_main_is_what_python_m_runs() -> None:
    import ssbench.__main__

    assert ssbench.__main__.main is cli.main
