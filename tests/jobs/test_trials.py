"""`run --sweep`, `--limit` and `--hours`: what they run, what they leave behind, what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import Ran

from ssbench.errors import HardwareError, UsageError
from ssbench.jobs.budget import within_hours
from ssbench.jobs.job import Job, Places
from ssbench.jobs.sweep import combinations

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
