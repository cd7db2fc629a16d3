"""The runs behind tables, against counts by hand; keys without data; states; the plan's file as a queue."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ran import ROOT, SMALL, Ran

from ssbench.errors import DataError, RecipeError, UsageError
from ssbench.jobs.job import Places
from ssbench.jobs.plan import make_plan
from ssbench.jobs.plan_file import jobs_of
from ssbench.jobs.planned import PlanRequest
from ssbench.jobs.targets import target_runs
from ssbench.recipe.recipe import load
from ssbench.results.store import ResultStore
from ssbench.splits.manifest import Partition, manifest, published_digest
from ssbench.tables.printed import printed_scores

Ssbench = Callable[..., Ran]
TOY = f"""
base: {ROOT / "recipes/tasks/toy.yaml"}
method: {{name: supervised, epoch_of: unlabeled}}  # ours
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "data", tmp_path / "runs", tmp_path / "results")


def count_runs(places: Places, *targets: str) -> tuple[int, int]:
    """(runs, cells without a recipe) behind tables."""
    runs = target_runs(targets, (), places)
    return len(runs.cells), runs.not_yet.total()


@pytest.mark.parametrize(
    ("table", "count"),
    [
        ("mpmc/table3", 9 * 2),  # supervised, four hosts, four hosts + mpmc; at 3 and 7 cases
        ("ipixmatch/table1", 3 * 2),  # UniMatch*, L_KL, L_CR; #P1 and #P2
        ("s4mc/table1", 5 * 5),  # supervised, two hosts, both + s4mc; five splits
        ("toy/table1", 7 * 2),
    ],
)
def test_runs_behind_a_table_by_hand(places: Places, table: str, count: int) -> None:
    assert sum(count_runs(places, table)) == count


def test_baselines_of_two_papers_are_one_run(places: Places) -> None:
    """MPMC and WPL, Table 1: baselines R50 5 + 4 x 8 and R101 8 + 4 x 8, shared; 2 x 4 x 8 with each plug-in."""
    baselines, with_plugin = 37 + 40, 64
    assert sum(count_runs(places, "mpmc/table1")) == sum(count_runs(places, "wpl/table1")) == baselines + with_plugin
    runs, not_yet = count_runs(places, "mpmc/table1", "wpl/table1")
    assert not_yet == 0
    assert runs == baselines + 2 * with_plugin
    shared = target_runs(["mpmc/table1", "wpl/table1"], (), places).cells[
        "augseg/augseg_voc_r101", (), "voc/classic/1_16"
    ]
    assert [cell.split()[0] for cell in shared] == ["mpmc/table1", "wpl/table1"]


def test_two_names_of_one_run_are_one_run(places: Places, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(TOY)
    names = [str(tmp_path / f"{name}.yaml") for name in ("one", "two")]
    result = make_plan(PlanRequest(names, ["toy/ours/1_16"], seeds=2), places)
    assert [(run.recipe, run.seed, run.also) for run in result.runs] == [(names[0], k, [names[1]]) for k in (0, 1)]
    key = load(names[0]).key(Partition.read("toy/ours/1_16", places.data).sha256, 0)
    assert result.runs[0].key == key


def test_a_run_that_two_names_ask_for_goes_on_where_it_stands(places: Places, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(TOY)
    folder = places.runs / "custom/two/toy-ours-1_16/seed0"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").touch()
    result = make_plan(PlanRequest([str(tmp_path / f"{n}.yaml") for n in ("one", "two")], ["toy/ours/1_16"]), places)
    assert [(run.recipe, run.state) for run in result.runs] == [(str(tmp_path / "two.yaml"), "partial")]


def test_digests_of_splits_without_their_lists(tmp_path: Path) -> None:
    known = {name: published_digest(entry) for name, entry in manifest().splits.items()}
    here = [name for name in known if name.split("/")[0] in ("toy", "camvid")]
    assert len(here) == 10
    assert all(known[name] == Partition.read(name, tmp_path).sha256 for name in here)
    assert [name for name, digest in known.items() if digest is None] == [
        *(f"coco/pseudoseg/1_{n}" for n in (512, 256, 128, 64, 32)),
        "voc/all/coco",
    ]


def test_digests_of_published_splits_against_their_lists(shared: Path, tmp_path: Path) -> None:
    from ssbench.prepare.split_lists import fetch_lists

    fetch_lists("voc", tmp_path, shared / "splits")
    for name, entry in manifest().splits.items():
        if name.startswith("voc/") and name != "voc/all/coco":  # which needs COCO's list, too
            assert published_digest(entry) == Partition.read(name, tmp_path).sha256, name


def test_what_is_stored_is_known_by_its_key(places: Places) -> None:
    """The records that come with the project, looked up without any data."""
    stored = replace(places, results=ROOT / "results")
    result = make_plan(PlanRequest(["toy/table1"]), stored)
    assert {run.state for run in result.runs} == {"done"}
    assert {run.key for run in result.runs} <= {record.key for record in ResultStore(stored.results).records()}
    assert result.todo == []


def test_states_of_runs(places: Places, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TOY)
    name, split = str(tmp_path / "mine.yaml"), "toy/ours/1_16"
    keys = [run.key for run in make_plan(PlanRequest([name], [split], seeds=5), places).runs]
    folders = [places.runs / "custom/mine/toy-ours-1_16" / f"seed{k}" for k in range(5)]
    for folder in folders[1:3]:
        folder.mkdir(parents=True)
        (folder / "checkpoint.pt").touch()
    output = {"key": keys[1], "step": 450, "steps": 600, "state": "stopped"}
    (folders[1] / "progress.json").write_text(json.dumps(output))
    folders[3].mkdir()
    ResultStore(places.results).add(failed("custom/mine", split, str(keys[4])))
    with (folders[3] / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = make_plan(PlanRequest([name], [split], seeds=5), places)
    by_seed = {run.seed: run for run in result.runs}
    states = {0: "missing", 1: "partial", 2: "partial", 3: "running", 4: "failed"}
    assert {seed: run.state for seed, run in by_seed.items()} == states
    whole = by_seed[0].hours
    assert whole
    assert [by_seed[k].hours for k in (1, 2, 4)] == [pytest.approx(0.25 * whole), whole, whole]
    assert by_seed[4].note == "the loss is not finite"
    assert {run.seed for run in result.todo} == {0, 1, 2, 4}


def failed(recipe: str, split: str, key: str) -> dict[str, Any]:
    return {
        **{
            "schema": 1,
            "key": key,
            "recipe": recipe,
            "method": "supervised",
            "plugin": None,
            "split": split,
            "seed": 4,
        },
        **{"division": "closed", "quick": False, "custom_split": False, "metric": "miou", "status": "failed"},
        "reason": "the loss is not finite",
    }


def test_a_recipe_of_no_table_needs_a_split_or_a_printed_score(places: Places) -> None:
    with pytest.raises(UsageError, match="needs a split"):
        make_plan(PlanRequest(["toy/none_unimatch"]), places)
    splits = {split for *_, split in target_runs(["acdc/unimatch_unet"], (), places).cells}
    assert splits == set(printed_scores("acdc/unimatch_unet"))
    with pytest.raises(UsageError, match="no cell"):
        make_plan(PlanRequest(["toy/table1"], ["voc/classic/1_16"]), places)


def test_plan_command(ssbench: Ssbench, tmp_path: Path) -> None:
    for path in (ROOT / "results/toy").rglob("seed0.json"):
        ResultStore(tmp_path / "stored").add(json.loads(path.read_text()))
    hardware = ("--hardware", "EPYC")  # where the stored runs ran, whatever this machine is
    ran = ssbench("plan", "toy/table1", "--seeds", "2", "--gpus", "3", "--results", "stored", "--json", *hardware)
    assert ran.code == 0, ran.err
    document = json.loads(ran.out)
    assert set(document) == {
        *("plan", "targets", "assumed", "budget_hours", "gpus", "totals", "not_yet", "disk", "runs"),
    }
    totals = document["totals"]
    assert (totals["runs"], totals["done"], totals["missing"], totals["chosen"]) == (28, 14, 14, 14)
    assert all(run["basis"].startswith("measured on ") for run in document["runs"])
    assert 0 < totals["wall_hours"] < totals["hours"] < 3 * totals["wall_hours"] + 1e-9
    lines = ssbench("plan", "toy/table1", "--results", "stored").out.splitlines()
    assert lines[0].split("\t")[:4] == ["recipe", "split", "seeds", "state"]
    assert len(lines) == 15
    short = ssbench("plan", "toy/table1", "--gpu-hours", "1e-9", "--json")
    assert short.code == 7
    assert json.loads(short.out)["totals"]["chosen"] == 0
    assert "no run fits 1e-09 hours" in short.err


def test_a_plan_is_an_executable_list(ssbench: Ssbench, toy_data: Path, tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(SMALL)
    roots = ("--data-root", toy_data)
    output = ssbench("plan", "small.yaml", "--split", "toy/ours/1_32", "--json", *roots)
    (tmp_path / "plan.json").write_text(output.out)
    ran = ssbench("run", "--plan", "plan.json", "--device", "cpu", "--json", *roots)
    assert ran.code == 0, ran.err
    assert [(run["recipe"], run["seed"], run["state"]) for run in json.loads(ran.out)["runs"]] == [
        ("small.yaml", 0, "done")
    ]
    again = json.loads(ssbench("plan", "small.yaml", "--split", "toy/ours/1_32", "--json", *roots).out)
    planned, done = json.loads(output.out)["runs"][0], again["runs"][0]
    assert (planned["state"], done["state"], done["hours"]) == ("missing", "done", 0)
    record = json.loads(next(tmp_path.glob("results/custom/small/*/seed0.json")).read_text())
    assert record["key"] == planned["key"]
    assert record["timings"]["steps"] == planned["work"]["steps"]
    kept = sum(file.stat().st_size for file in tmp_path.glob("runs/custom/small/*/seed0/*.pt"))
    planned_bytes = planned["work"]["checkpoint_bytes"]  # for two best epochs; this run may have had one
    assert 5 / 6 < kept / planned_bytes < 1.05
    (tmp_path / "plan.json").write_text(json.dumps(again))
    assert "nothing left to run" in ssbench("run", "--plan", "plan.json").err


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "this plan is not JSON"),
        ("[]", "this plan is damaged"),
        ('{"plan": 2, "runs": []}', "field 'plan': input should be 1"),
        ('{"plan": 1, "runs": [{"recipe": "toy/none_cps", "seed": 0}]}', "field 'runs.0.split': field required"),
    ],
)
def test_what_is_no_plan_is_refused(places: Places, tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(DataError, match=complaint):
        jobs_of(tmp_path / "plan.json", [], [], [], [], False, places)


def test_a_plan_of_other_settings_is_refused(places: Places, tmp_path: Path) -> None:
    run = {"recipe": "toy/none_cps", "split": "toy/ours/1_16", "seed": 0, "key": "0" * 16, "chosen": True}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"plan": 1, "runs": [run]}))
    with pytest.raises(RecipeError, match="is not what was planned"):
        jobs_of(path, [], [], [], [], False, places)
    path.write_text(json.dumps({"plan": 1, "runs": [{**run, "key": None}, {**run, "seed": 1, "chosen": False}]}))
    assert [str(cell) for cell in jobs_of(path, [], [], [], [], False, places)] == ["toy/none_cps toy/ours/1_16 seed 0"]
    for more in ({"targets": ["toy/table1"]}, {"splits": ["toy/ours/1_16"]}, {"seeds": [0]}, {"quick": True}):
        given = {"targets": [], "splits": [], "seeds": [], "overrides": [], "quick": False, **more}
        with pytest.raises(UsageError):
            jobs_of(path, places=places, **given)
    with pytest.raises(UsageError, match="no such plan"):
        jobs_of(tmp_path / "nowhere.json", [], [], [], [], False, places)


def test_a_released_log_tells_the_hours_while_no_run_of_ours_does(toy: Path, tmp_path: Path) -> None:
    """WPL supplement Table 6 at 1/512: 14,757 steps an epoch, 30 epochs, 0.42 s on each of four GPUs."""
    plan = make_plan(PlanRequest(["wpl/supp_table6"], ["coco/pseudoseg/1_512"]), Places(toy, tmp_path, tmp_path))
    assert [run.work.steps for run in plan.runs if run.work] == [442_710, 442_710]
    assert [run.hours for run in plan.runs] == pytest.approx([442_710 * 0.42 * 4 / 3600] * 2)
    assert {run.basis for run in plan.runs} == {"the host's released log: 0.42 s a step on 4 GPUs"}
