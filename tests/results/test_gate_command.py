"""`ssbench gate` on the project's own stored toy results: exit codes, JUnit XML, JSON, files to compare with."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from ran import ROOT, Ran

from ssbench.results.store import ResultStore

Ssbench = Callable[..., Ran]
Change = Callable[[dict[str, Any]], None]
STORED = ROOT / "results"


@pytest.fixture(scope="module")
def toy() -> list[dict[str, Any]]:
    return [r.full() for r in ResultStore(STORED).records() if r.recipe.startswith("toy/") and r.main]


def store(records: list[dict[str, Any]], root: Path, change: Change = lambda record: None) -> Path:
    for record in records:
        copy = json.loads(json.dumps(record))
        change(copy)
        folder = root / record["recipe"] / record["split"].replace("/", "-")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"seed{record['seed']}.json").write_text(json.dumps(copy))
    return root


def worse(points: float) -> Change:
    def change(record: dict[str, Any]) -> None:
        for which in ("best", "last"):
            record["scores"][which]["report"] -= points

    return change


def suite(path: Path) -> ElementTree.Element:
    """The one test suite of a JUnit file; its counts must be those of its cases."""
    root = ElementTree.fromstring(path.read_bytes())  # noqa: S314  our own file
    assert (root.tag, [child.tag for child in root]) == ("testsuites", ["testsuite"])
    cases = list(root[0])
    for block in (root, root[0]):
        assert int(block.get("tests", "")) == len(cases)
        assert int(block.get("failures", "")) == sum(case.find("failure") is not None for case in cases)
        assert int(block.get("skipped", "")) == sum(case.find("skipped") is not None for case in cases)
    assert all(case.tag == "testcase" and case.get("classname") and case.get("name") for case in cases)
    assert len({(case.get("classname"), case.get("name")) for case in cases}) == len(cases)
    return root[0]


def test_the_same_results_pass(ssbench: Ssbench, toy: list[dict[str, Any]], tmp_path: Path) -> None:
    new = store(toy, tmp_path / "new")
    ran = ssbench("gate", "toy/table1", "--against", STORED, "--results", new, "--junit", "j.xml", "--json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert said["passed"]
    assert len(said["cells"]) == 14
    assert {cell["verdict"] for cell in said["cells"]} == {"identical"}
    block = suite(tmp_path / "j.xml")
    assert block.get("name") == "toy/table1 scores"
    assert len(block) == 14 + len(said["groups"])
    assert block.find("testcase[@classname='toy/none_fixmatch'][@name='toy/ours/1_16']/system-out") is not None


def test_a_planted_drop_of_a_point_and_a_half_fails(
    ssbench: Ssbench, toy: list[dict[str, Any]], tmp_path: Path
) -> None:
    store(toy, tmp_path / "new", worse(1.5))
    ran = ssbench("gate", "--against", store(toy, tmp_path / "old"), "--results", "new", "--junit", "j.xml")
    assert ran.code == 5
    assert "dataset toy (miou) (worse)" in ran.err
    failed = [case for case in suite(tmp_path / "j.xml") if case.find("failure") is not None]
    assert [(case.get("classname"), case.get("name")) for case in failed] == [("mean.dataset", "toy (miou)")]
    message = failed[0][0].get("message") or ""
    assert message.startswith(f"mean of {len({(r['recipe'], r['split']) for r in toy})} cells: drop +1.50, tolerance ")


def test_other_seeds_pass(ssbench: Ssbench, toy: list[dict[str, Any]], tmp_path: Path) -> None:
    rng = np.random.default_rng(1)

    def drawn(record: dict[str, Any]) -> None:
        worse(float(rng.normal(0, 2)))(record)

    store(toy, tmp_path / "new", drawn)
    ran = ssbench("gate", "--against", store(toy, tmp_path / "old"), "--results", "new")
    assert ran.code == 0, ran.err
    assert "other numbers on the same kind of machine" in ran.out
    exact = ssbench("gate", "--against", "old", "--results", "new", "--exact")
    assert exact.code == 5


def test_missing_and_failed_runs_fail_and_their_reasons_are_valid_xml(
    ssbench: Ssbench, toy: list[dict[str, Any]], tmp_path: Path
) -> None:
    def broken(record: dict[str, Any]) -> None:
        if record["recipe"] == "toy/none_cps":
            record |= {"status": "failed", "reason": "bad \x1b[31m <bytes> & \x00", "scores": None}

    kept = [record for record in toy if record["recipe"] != "toy/none_fixmatch"]
    new, old = store(kept, tmp_path / "new", broken), store(toy, tmp_path / "old")
    ran = ssbench("gate", "toy/none_cps", "toy/none_fixmatch", "--against", old, "--results", new, "--junit", "j.xml")
    assert ran.code == 5
    kinds = {case.get("classname"): case.find("failure") for case in suite(tmp_path / "j.xml")}
    assert {name: found.get("type") for name, found in kinds.items() if found is not None} == {
        "toy/none_cps": "failed",
        "toy/none_fixmatch": "missing",
    }
    assert "<bytes> &" in (kinds["toy/none_cps"].get("message") or "")
    nothing = ssbench("gate", "toy/none_cps", "--against", old, "--results", "nowhere")
    assert nothing.code == 5
    assert "missing" in nothing.out


def test_a_file_of_many_results_and_a_file_of_one(ssbench: Ssbench, toy: list[dict[str, Any]], tmp_path: Path) -> None:
    old, new = store(toy, tmp_path / "old"), store(toy, tmp_path / "new")
    assert ssbench("gate", "--results", old, "--save", "stored.json").code == 0
    by_file, by_folder = (
        json.loads(ssbench("gate", "toy/table1", "--against", source, "--results", new, "--json").out)
        for source in ("stored.json", old)
    )
    assert by_file["cells"] == by_folder["cells"]
    one = next(old.glob("toy/none_fixmatch/*/seed0.json"))
    alone = ssbench("gate", "--against", one, "--results", old, "--json")
    assert [cell["verdict"] for cell in json.loads(alone.out)["cells"]] == ["within"]  # more seeds than stored
    (tmp_path / "stored.json").write_text('{"entries": [{}]}')
    assert ssbench("gate", "--against", "stored.json").code == 4
    (tmp_path / "stored.json").write_text("[1")
    assert ssbench("gate", "--against", "stored.json").code == 4


def test_throughput_by_machine(ssbench: Ssbench, toy: list[dict[str, Any]], tmp_path: Path) -> None:
    def slow(record: dict[str, Any]) -> None:
        record["throughput"]["images_per_s"] *= 0.01

    def elsewhere(record: dict[str, Any]) -> None:
        record["hardware"]["name"] = "another"

    some = [record for record in toy if record["recipe"] == "toy/none_fixmatch"]
    old, new = store(some, tmp_path / "old"), store(some, tmp_path / "new", slow)
    words = ("gate", "--throughput", "--against", old, "--junit", "j.xml")
    assert ssbench(*words, "--results", store(some, tmp_path / "same")).code == 0
    ran = ssbench(*words, "--results", new)
    assert ran.code == 5
    failures = [case.find("failure") for case in suite(tmp_path / "j.xml")]
    assert all("slower than x 0.75" in (found.get("message") or "") for found in failures if found is not None)
    assert None not in failures
    assert ssbench(*words, "--results", store(some, tmp_path / "other", elsewhere)).code == 0
    said = [case.find("skipped") for case in suite(tmp_path / "j.xml")]
    assert [found.get("message") for found in said if found is not None] == ["no record for this machine"] * len(said)
    told = json.loads(ssbench("gate", "--throughput", "--against", old, "--results", "other", "--json").out)
    assert told["gate"] == "throughput"
    assert {cell["machine"] for cell in told["cells"]} == {"another, threads: 1"}


def test_what_cannot_be_compared(ssbench: Ssbench, toy: list[dict[str, Any]], tmp_path: Path) -> None:
    assert ssbench("gate").code == 2
    assert ssbench("gate", "--against", "nowhere").code == 4
    old = store(toy, tmp_path / "old")
    itself = ssbench("gate", "--against", old, "--results", "old")
    assert (itself.code, "compared with itself" in itself.err) == (2, True)
    assert ssbench("gate", "mpmc/table3", "--against", old).code == 4
    assert ssbench("gate", "mpmc/table99", "--against", old).code == 3
    assert ssbench("gate", "toy/table1", "--split", "voc/classic/1_16", "--against", old).code == 4
    some = [record for record in toy if (record["recipe"], record["seed"]) == ("toy/none_fixmatch", 0)]
    ran = ssbench("gate", "toy/table1", "--against", store(some, tmp_path / "few"), "--results", old, "--json")
    assert ran.code == 0, ran.err
    assert len(json.loads(ran.out)["not_stored"]) == 12
