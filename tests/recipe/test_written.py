"""A composed recipe written out, and a run repeated from its record: both give the run key of the original."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import ROOT, Ran

from ssbench.errors import DataError, RecipeError
from ssbench.recipe.compose import host_names, recipe_names
from ssbench.recipe.identity import read_recorded_run
from ssbench.recipe.recipe import load
from ssbench.recipe.stored import differences
from ssbench.recipe.written import recipe_text

RECORD = ROOT / "results/toy/s4mc_fixmatch/toy-ours-1_16/seed0.json"


@pytest.mark.parametrize("name", [*recipe_names()[::7], *host_names()[::5], "unimatch_voc+mpmc", "toy/none_cps+upc"])
def test_a_written_recipe_is_the_same_recipe(name: str, tmp_path: Path) -> None:
    recipe, path = load(name), tmp_path / "mine.yaml"
    path.write_text(recipe_text(recipe))
    again = load(str(path))
    assert again.key("x", 0) == recipe.key("x", 0)
    assert (again.title, again.paper, again.departures) == (recipe.title, recipe.paper, recipe.departures)


def test_check_writes_one_commented_file_and_never_over_another(ssbench: Callable[..., Ran], tmp_path: Path) -> None:
    ran = ssbench("check", "unimatch_voc", "--plugin", "mpmc", "--set", "optim.lr=0.002", "--write", "mine.yaml")
    assert ran.code == 0, ran.err
    text = Path("mine.yaml").read_text()
    assert "  lr: 0.002  # --set optim.lr=0.002" in text
    assert "  threshold: 0.95  # release configs/pascal.yaml conf_thresh" in text
    assert ssbench("check", "mine.yaml").code == 0
    again = ssbench("check", "unimatch_voc", "--write", "mine.yaml")
    assert again.code == 2
    assert "is there already" in again.err
    assert Path("mine.yaml").read_text() == text
    assert ssbench("check", "unimatch_voc", "fixmatch_toy", "--write", "b.yaml").code == 2
    assert ssbench("check", "unimatch_voc", "--write", "b.txt").code == 2


def test_every_stored_record_gives_its_own_key_again() -> None:
    records = sorted((ROOT / "results").glob("toy/*/*/seed0.json"))
    assert records
    for path in records:
        stored = read_recorded_run(path)
        assert not stored.differs, path
        assert stored.recipe.key(stored.split_sha256, stored.seed) == stored.key


def test_a_run_is_repeated_from_its_record_alone(ssbench: Callable[..., Ran], toy_data: Path, tmp_path: Path) -> None:
    """A stored run is done where its record is; elsewhere it is trained again, under the same name, split and seed."""
    ran = ssbench("run", "--from", RECORD, "--results", ROOT / "results", "--data-root", toy_data, "--runs", "runs")
    assert ran.code == 0, ran.err
    assert "was done" in ran.out + ran.err
    small = json.loads(RECORD.read_text())
    small["resolved"]["schedule"] |= {"epochs": 1}
    small["resolved"]["data"] |= {"few": 4}
    small["resolved"]["eval"] |= {"few": 2}
    small["departures"] = ["set schedule.epochs=1"]
    Path("seed0.json").write_text(json.dumps(small))
    ran = ssbench("run", "--from", "seed0.json", "--results", "new", "--data-root", toy_data, "--runs", "runs")
    assert ran.code == 0, ran.err
    assert "another key" in ran.err
    (path,) = Path("new/toy").glob("s4mc_fixmatch+*/toy-ours-1_16/seed0*.json")
    fresh = json.loads(path.read_text())
    assert fresh["resolved"] == small["resolved"]
    assert fresh["departures"] == small["departures"]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda r: r["resolved"]["method"].update(treshold=1), RecipeError, "no field 'treshold'"),
        (lambda r: r.update(seed="0"), DataError, "field 'seed'"),
        (lambda r: r.update(quick=True), DataError, "quick run"),
        (lambda r: r.pop("resolved"), DataError, "field 'resolved'"),
    ],
)
def test_a_damaged_record_is_named(change: Callable[[dict], None], error: type, match: str, tmp_path: Path) -> None:
    record = json.loads(RECORD.read_text())
    change(record)
    path = tmp_path / "seed0.json"
    path.write_text(json.dumps(record))
    with pytest.raises(error, match=match) as caught:
        read_recorded_run(path)
    assert str(path) in caught.value.where


def test_from_names_the_whole_run(ssbench: Callable[..., Ran]) -> None:
    assert ssbench("run", "toy/none_cps", "--from", RECORD).code == 2
    assert ssbench("run", "--from", RECORD, "--seed", "3").code == 2
    assert ssbench("run", "--from", "gone.json").code == 4


def test_differences_name_each_value() -> None:
    before = {"optim": {"lr": 0.1, "head": 1}, "plugin": [{"k": 5}], "views": {"scale": [0.5, 2]}}
    now = {"optim": {"lr": 0.2, "head": 1, "lag": 1}, "plugin": [{"k": 3}], "views": {"scale": [0.5, 1]}}
    assert list(differences(before, now)) == [
        "optim.lr: 0.1, now 0.2", "optim.lag: None, now 1", "plugin.0.k: 5, now 3", "views.scale.1: 2, now 1",
    ]  # fmt: skip
