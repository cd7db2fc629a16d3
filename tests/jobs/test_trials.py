"""`run --sweep`, `--limit` and `--hours`: what they run, what they leave behind, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import ROOT, Ran

from ssbench.errors import HardwareError, UsageError
from ssbench.jobs.budget import planned_hours, within_hours
from ssbench.jobs.job import Job, Places
from ssbench.jobs.sweep import combinations
from ssbench.jobs.workload import count_trainings
from ssbench.recipe.recipe import load
from ssbench.train.build import method_of

Ssbench = Callable[..., Ran]
SMALL = ("--set", "net.weights=random", "--device", "cpu")


def test_a_sweep_is_the_product_of_its_lists() -> None:
    assert combinations([]) == [()]
    assert combinations(["a.b=1,2", "c=x"]) == [("a.b=1", "c=x"), ("a.b=2", "c=x")]
    assert combinations(["views.scale=[0.5,1],[1,2]"]) == [("views.scale=[0.5,1]",), ("views.scale=[1,2]",)]
    assert combinations(['title="a,b",c']) == [('title="a,b"',), ("title=c",)]
    assert combinations(["a=1,1,2"]) == [("a=1",), ("a=2",)]


@pytest.mark.parametrize("texts", [["tau"], ["=1,2"], ["a="], ["a=1,,2"], ["a=1", "a=2"], ["a=" + "1," * 5 + "x"] * 2])
def test_a_sweep_of_another_form_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError):
        combinations(texts)


def test_a_sweep_of_too_many_runs_is_refused() -> None:
    hundred = ",".join(map(str, range(100)))
    with pytest.raises(UsageError, match="more than 1000"):
        combinations([f"a={hundred}", f"b={hundred}"])


def test_a_sweep_runs_and_prints_a_table(ssbench: Ssbench, toy: Path) -> None:
    sweep = ("--sweep", "method.threshold=0.5,0.9", "--sweep", "optim.lr=0.01")
    ran = ssbench("run", "fixmatch_toy", "--quick", *sweep, *SMALL, "--data-root", toy)
    assert ran.code == 0, ran.err
    lines = [line.split("\t") for line in ran.out.splitlines()]
    assert lines[0] == ["recipe", "method.threshold", "optim.lr", "split", "seeds", "best", "sd", "last", "state"]
    assert [line[:5] for line in lines[1:]] == [
        ["fixmatch_toy", "0.5", "0.01", "toy/ours/1_8", "0"],
        ["fixmatch_toy", "0.9", "0.01", "toy/ours/1_8", "0"],
    ]
    assert [line[-1] for line in lines[1:]] == ["done", "done"]


def test_a_limited_run_trains_the_real_recipe_and_stores_nothing(ssbench: Ssbench, toy: Path, tmp_path: Path) -> None:
    words = ("run", "fixmatch_toy", "--split", "toy/ours/1_16", "--limit", "2", *SMALL, "--data-root", toy)
    ran = ssbench(*words, "--json")
    assert ran.code == 0, ran.err
    (tried,) = json.loads(ran.out)["tried"]
    assert (tried["steps"], tried["total"], tried["split"]) == (2, 600, "toy/ours/1_16")
    assert {"loss", "sup", "s"} <= set(tried["terms"])
    assert 0 <= tried["score"] <= 100
    assert tried["hours"] > 0
    assert list((tmp_path / "runs").iterdir()) == []
    assert not (tmp_path / "results").exists()
    assert "nothing is stored" in ssbench(*words).out


def test_a_limit_goes_with_no_budget_and_no_quick_run(ssbench: Ssbench) -> None:
    assert ssbench("run", "fixmatch_toy", "--quick", "--limit", "3").code == 2
    assert ssbench("run", "fixmatch_toy", "--hours", "1", "--limit", "3", "--split", "toy/ours/1_8").code == 2


def jobs(*methods: str) -> list[Job]:
    return [Job(f"toy/none_{method}", "toy/ours/1_16", seed) for method in methods for seed in (0, 1)]


def test_a_budget_lengthens_all_runs_by_one_factor_and_is_kept(toy: Path, tmp_path: Path) -> None:
    """Two seeds of 1 and 2 hours are 6 hours; 3 are half of that: 300 of 600 steps, scored every 2 epochs, not 4."""
    places = Places(toy, tmp_path / "runs", tmp_path / "results")
    hours = {"toy/none_fixmatch": 1.0, "toy/none_unimatch": 2.0}
    asked: list[str] = []

    def hours_of(job: Job) -> tuple[float, int]:
        asked.append(job.recipe)
        return hours[job.recipe], 600

    queue = jobs("fixmatch", "unimatch")
    fitted = within_hours(queue, 3.0, places, hours_of)
    assert {job.overrides for job in fitted} == {("schedule.steps=300", "eval.every=2")}
    assert asked == ["toy/none_fixmatch", "toy/none_unimatch"], "each recipe is timed once"
    hours["toy/none_fixmatch"] = 9.0
    assert within_hours(queue, 3.0, places, hours_of) == fitted, "the same command means the same runs"
    assert len(asked) == 2


def test_a_budget_that_allows_hardly_a_step_is_refused(toy: Path, tmp_path: Path) -> None:
    places = Places(toy, tmp_path / "runs", tmp_path / "results")
    with pytest.raises(HardwareError, match="would have 6 steps"):
        within_hours(jobs("fixmatch"), 0.02, places, lambda _: (1.0, 600))


def test_a_budget_takes_the_plan_s_figures_where_runs_of_this_machine_are_stored(toy: Path, tmp_path: Path) -> None:
    """Hours as `ssbench plan --hardware` has them; methods that train more than once are timed."""
    places = Places(toy, tmp_path / "runs", ROOT / "results")
    record = json.loads((ROOT / "results/toy/none_fixmatch/toy-ours-1_16/seed0.json").read_text())
    machine, job = record["hardware"]["name"], Job("toy/none_fixmatch", "toy/ours/1_16", 0)
    planned = planned_hours(job, places, machine)
    assert planned is not None
    hours, steps = planned
    assert steps == 600
    train, score = record["timings"]["train_s"], record["timings"]["score_s"]
    assert 0.3 < hours * 3600 / (train + score) < 3  # the median of three seeds on one machine
    assert planned_hours(job, places, "a machine nobody has") is None
    assert planned_hours(Job("toy/none_stpp", "toy/ours/1_16", 0), places, machine) is None


def test_the_hours_of_a_method_that_trains_three_times_are_those_of_all_trainings(toy: Path) -> None:
    recipe = load("toy/none_stpp", ["method.variant=st++"], data_root=toy)
    method = method_of(recipe, 6, 3, 0)
    trainings, scored = count_trainings(recipe, method, 20, 300)
    assert len(trainings) == 3
    once, scored_once = count_trainings(
        load("toy/none_fixmatch"), method_of(load("toy/none_fixmatch"), 6, 3, 0), 20, 300
    )
    assert len(once) == 1
    assert scored > scored_once > 0
