"""What the commands report: one JSON object with documented keys, and text for people."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ran import Ran

Ssbench = Callable[..., Ran]


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
        r"^  method.threshold +0.95 +recipes/hosts/unimatch_acdc.yaml:\d+ +release configs/acdc.yaml", out, re.M
    )
    assert re.search(r"^  optim.lr +0.01 +recipes/hosts/unimatch_acdc.yaml:\d+ +release configs/acdc.yaml", out, re.M)
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
