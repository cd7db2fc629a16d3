"""Runs through the command line: done once, listed, shown in a table, scored again; and those that fail."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ran import SMALL, Ran, process

Ssbench = Callable[..., Ran]


@pytest.fixture(scope="module")
def finished(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small.yaml and what `ssbench run` made of it: runs/ and results/."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "small.yaml").write_text(SMALL)
    done = process("run", "small.yaml", "--split", "toy/ours/1_16", "--data-root", str(toy_data), cwd=folder)
    assert done.code == 0, done.err
    assert done.out.startswith("done small.yaml toy/ours/1_16 seed 0: miou best ")
    assert "\x1b" not in done.out + done.err
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
    part = ("--set", "eval.protocol=center", "--set", "eval.crop=16", "--json")
    central = json.loads(ssbench("eval", CHECKPOINT, "--recipe", "small.yaml", *part, "--data-root", toy_data).out)
    assert sum(map(sum, central["confusion"])) <= 6 * 16 * 16 < sum(map(sum, found["confusion"]))
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
        (["--set", "eval.corp=48"], 3, ["no field 'corp'; did you mean 'crop'"]),
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


def test_a_fault_in_a_plug_in_fails_the_run_and_names_its_line(
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
    assert "mine.py:9" in ran.err
    assert "AttributeError" in ran.err


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
