from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssbench.errors import DataError, UsageError
from ssbench.results.store import ResultStore, settings_digest

Make = Callable[..., dict[str, Any]]
SPLIT = "voc/classic/1_16"


def test_a_record_comes_back_whole(store: ResultStore, record: Make) -> None:
    given = record("s4mc/fixmatch", SPLIT, 3, 74.1, plugin=["s4mc", "wpl"])
    path = store.add(given)
    assert path == store.root / "s4mc/fixmatch/voc-classic-1_16/seed3.json"
    whole = json.loads(path.read_text())
    assert {k: whole[k] for k in given} == given
    (light,) = store.runs("s4mc/fixmatch", SPLIT)
    assert (light.seed, light.best, light.best_epoch, light.last, light.plugin) == (3, 74.1, 60, 73.6, "s4mc+wpl")
    assert light.main
    assert light.full() == whole


def test_a_file_is_read_by_its_head_or_whole_with_the_same_result(store: ResultStore, record: Make) -> None:
    path = store.add(record("p/r", SPLIT))
    (short,) = store.runs("p/r", SPLIT)
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))  # foreign order, one line
    (long,) = store.runs("p/r", SPLIT)
    assert short == long
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1) + "\n")
    assert store.runs("p/r", SPLIT) == [short]


def test_not_finite_numbers_become_null(store: ResultStore, record: Make) -> None:
    path = store.add(record("p/r", SPLIT, status="failed", reason="NaN", history=[{"loss": float("nan")}], scores={}))
    assert json.loads(path.read_text())["history"] == [{"loss": None}]
    assert store.runs("p/r", SPLIT)[0].best is None


def test_done_beats_failed_and_is_never_overwritten(store: ResultStore, record: Make) -> None:
    failed = record("p/r", SPLIT, status="failed", reason="out of memory")
    done = record("p/r", SPLIT, best=70.0)
    store.add(failed)
    store.add({**failed, "reason": "out of memory again"})
    assert store.runs("p/r", SPLIT)[0].reason == "out of memory again"
    store.add(done)
    store.add(failed)
    store.add(record("p/r", SPLIT, best=75.0))  # the same run done once more: the first stands
    (only,) = store.runs("p/r", SPLIT)
    assert (only.status, only.best) == ("done", 70.0)


def test_a_run_of_the_edited_recipe_displaces_the_old_one_and_loses_nothing(store: ResultStore, record: Make) -> None:
    old = record("p/r", SPLIT, key="a" * 16, best=70.0)
    new = record("p/r", SPLIT, key="b" * 16, best=71.0, resolved={"optim": {"lr": 0.01}})
    store.add(old)
    main = store.add(new)
    assert main.name == "seed0.json"
    assert {(r.path.name, r.best) for r in store.runs("p/r", SPLIT)} == {
        ("seed0.json", 71.0),
        ("seed0.aaaaaaaa.json", 70.0),
    }
    assert store.add({**old, "status": "failed"}).name == "seed0.aaaaaaaa.json"
    failed = store.add(record("p/r", SPLIT, key="c" * 16, status="failed", reason="x"))
    assert failed.name == "seed0.cccccccc.json"
    assert sorted(r.status for r in store.runs("p/r", SPLIT)) == ["done", "done", "failed"]
    assert store.add(record("p/r", SPLIT, key="c" * 16, best=72.0)) == main
    assert {r.best for r in store.runs("p/r", SPLIT) if r.status == "done"} == {70.0, 71.0, 72.0}


@pytest.mark.parametrize("field", [{"quick": True}, {"division": "open"}, {"custom_split": True}])
def test_other_runs_never_take_the_plain_name(store: ResultStore, record: Make, field: dict[str, Any]) -> None:
    assert store.add(record("p/r", SPLIT, key="d" * 16, **field)).name == "seed0.dddddddd.json"
    assert store.add(record("p/r", SPLIT, key="e" * 16)).name == "seed0.json"
    assert len(store.runs("p/r", SPLIT)) == 2


def test_a_damaged_record_is_named_passed_over_and_left_alone(store: ResultStore, record: Make) -> None:
    path, other = store.add(record("p/r", SPLIT)), store.add(record("p/r", SPLIT, 1))
    torn = path.read_bytes()[:-40]
    for data, what in ((torn, "invalid JSON"), (b"[1]", "object"), (b'{"key": "k"}', "'recipe'"), (b"\xff", "JSON")):
        path.write_bytes(data)
        assert [r.path for r in store.records()] == [other]
        assert what in store.damaged[path].what
        assert store.damaged[path].where == str(path)
        with pytest.raises(DataError, match="this record is damaged"):
            ResultStore(store.root, strict=True).runs("p/r", SPLIT)
    assert store.add(record("p/r", SPLIT)).name != "seed0.json"
    assert path.read_bytes() == b"\xff"


def test_a_damaged_keyed_record_makes_room_and_is_kept(store: ResultStore, record: Make) -> None:
    path = store.add(record("p/r", SPLIT, key="d" * 16, quick=True))
    path.write_text("torn")
    assert store.add(record("p/r", SPLIT, key="d" * 16, quick=True)) == path
    assert path.with_name(f"{path.name}.broken").read_text() == "torn"
    assert [r.quick for r in store.runs("p/r", SPLIT)] == [True]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scores", {"best": {"report": "70"}}),
        ("scores", {"best": {"report": [70.0]}}),
        ("scores", {"last": {"report": 1e300}}),
        ("scores", [70.0]),
        ("seed", "0"),
        ("seed", -1),
        ("seed", 10**400),
        ("quick", 0),
        ("recipe", "x" * 2000),
        ("recipe", None),
        ("plugin", [["s4mc"]]),
        ("settings", {}),
    ],
)
def test_a_field_of_another_kind_is_damage(store: ResultStore, record: Make, field: str, value: object) -> None:
    path = store.add(record("p/r", SPLIT))
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    assert store.runs("p/r", SPLIT) == []
    assert f"field '{field}" in store.damaged[path].what


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_score_that_is_no_number_is_damage(store: ResultStore, record: Make, number: str) -> None:
    path = store.add(record("p/r", SPLIT, best=73.25))
    path.write_text(path.read_text().replace("73.25", number))
    assert store.runs("p/r", SPLIT) == []
    assert path in store.damaged


def test_damage_behind_the_head_is_found_when_the_whole_is_read(store: ResultStore, record: Make) -> None:
    path = store.add(record("p/r", SPLIT))
    path.write_text(path.read_text().replace('"per_class": {"best": [90.0', '"per_class": {"best": ["90"'))
    (light,) = store.runs("p/r", SPLIT)
    assert store.whole(light) is None
    assert "field 'per_class.best.0" in store.damaged[path].what
    assert store.add(record("p/r", SPLIT)) != path  # a run that is done again is not lost


def test_unknown_fields_are_kept(store: ResultStore, record: Make) -> None:
    path = store.add(record("p/r", SPLIT, later={"version": [1, 2]}))
    (light,) = store.runs("p/r", SPLIT)
    assert store.whole(light) == json.loads(path.read_text())
    assert light.full()["later"] == {"version": [1, 2]}


def test_only_what_is_selected_is_read(store: ResultStore, record: Make) -> None:
    for recipe, split in (("p/r", SPLIT), ("p/r", "toy/ours/1_16"), ("p/r+abc", SPLIT), ("q/r", SPLIT)):
        store.add(record(recipe, split))
    torn = store.add(record("q/s", "toy/ours/1_16"))
    torn.write_text("torn")
    places = [("p/r", SPLIT), ("p/r", SPLIT), ("no/such", SPLIT), ("no/such", "")]
    assert [(r.recipe, r.split) for r in store.select(places)] == [("p/r", SPLIT)]
    assert [r.split for r in store.select([("p/r", "")])] == ["toy/ours/1_16", SPLIT]
    assert store.damaged == {}
    assert [r.recipe for r in store.records(["toy"])] == ["p/r"]
    assert list(store.damaged) == [torn]


@pytest.mark.parametrize(("recipe", "split"), [("../x", SPLIT), ("/abs", SPLIT), ("", SPLIT), ("p/r", "a b/../c")])
def test_names_cannot_leave_the_store(store: ResultStore, record: Make, recipe: str, split: str) -> None:
    with pytest.raises(UsageError):
        store.add(record(recipe, split))


def test_splits_that_share_a_folder_name_are_told_apart(store: ResultStore, record: Make) -> None:
    store.add(record("p/r", "voc/blender/u2pl-1_16", 0))
    store.add(record("p/r", "voc/blender-u2pl/1_16", 1))
    assert [r.seed for r in store.runs("p/r", "voc/blender-u2pl/1_16")] == [1]


def test_records_are_in_the_order_of_their_paths(store: ResultStore, record: Make) -> None:
    for seed in (1, 0):
        store.add(record("p/deep/r", SPLIT, seed))
        store.add(record("q/r", "voc/classic/1_8", seed))
    (store.root / "q" / "notes.json").write_text("not a record")
    assert [(r.recipe, r.seed) for r in store.records()] == [("p/deep/r", 0), ("p/deep/r", 1), ("q/r", 0), ("q/r", 1)]


def test_an_absent_store_is_empty(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "nothing")
    assert list(store.records()) == store.runs("p/r", SPLIT) == []
    assert list(store.select([("p/r", SPLIT)])) == []


def test_settings_digest() -> None:
    assert settings_digest({"a": 1, "b": 2}) == settings_digest({"b": 2, "a": 1}) != settings_digest({"a": 1, "b": 3})


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, ssbench.results.store, ssbench.tables.render as r; from ssbench.tables.spec import table_names; "
        "table_names(); print([m for m in ('torch', 'pandas', 'matplotlib', 'torchvision') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
