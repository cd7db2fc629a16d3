"""Plans: which runs first, how long they take, what they rest on. Numbers by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssbench.jobs.choose import Option, choose, closed, hours_side_by_side, shortest_unit
from ssbench.jobs.cost import Cost, Device, Speed, SpeedKind, Work, cost, speed_kind, stored_speeds
from ssbench.jobs.plan import decide
from ssbench.jobs.plan_file import rows, summary
from ssbench.jobs.planned import DatasetDisk, PlannedRun, PlanRequest, RunPlan
from ssbench.results.store import ResultStore

WORK = Work(steps=1000, images=16_000, train_flops=3.6e18, score_flops=0.9e18, checkpoint_bytes=2**30)
GAIN = {("plug", "base"): 1}


def options(
    *named: tuple[str, float | None], cells: int = 1, seed: int = 0, there: tuple[str, ...] = ()
) -> list[Option]:
    return [Option(id, seed, hours, cells, id in there) for id, hours in named]


def test_a_pair_comes_before_a_cheaper_run_alone() -> None:
    """Base and plug-in close two cells and a gain in 20 hours (0.15 an hour), the other one cell in 9 (0.11)."""
    some = options(("other", 9.0), ("plug", 10.0), ("base", 10.0))
    assert choose(some, GAIN, None) == ["base", "plug", "other"]
    assert choose(some, GAIN, 20.0) == ["base", "plug"]
    assert closed(["base", "plug"], some, GAIN) == (2, 1)


def test_no_plug_in_is_bought_without_its_baseline() -> None:
    some = options(("plug", 5.0), ("base", 10.0))
    assert choose(some, GAIN, 14.0) == ["base"]
    assert choose(some, GAIN, 9.0) == []
    assert shortest_unit(some, GAIN) == 10.0
    ready = options(("plug", 5.0), ("base", 10.0), there=("base",))
    assert choose(ready, GAIN, 9.0) == ["plug"]
    assert closed(["plug"], ready, GAIN) == (1, 1)
    assert shortest_unit(ready, GAIN) == 5.0


def test_a_chain_of_gains_is_one_unit() -> None:
    """An ablation: both over one over the host. Three cells and two gains in 6 hours, and none without the host."""
    some, gains = options(("both", 2.0), ("one", 2.0), ("host", 2.0)), {("both", "one"): 1, ("one", "host"): 1}
    assert choose(some, gains, None) == ["host", "one", "both"]
    assert choose(some, gains, 5.0) == ["host", "one"]
    assert choose(some, {**gains, ("host", "both"): 1}, None)  # a circle, which no table should have, ends too


def test_a_run_of_two_papers_comes_before_two_runs_of_one() -> None:
    some = [Option("one", 0, 10.0, 1), Option("both", 0, 10.0, 2), Option("two", 0, 10.0, 1)]
    assert choose(some, {}, 25.0) == ["both", "one"]


def test_further_seeds_only_take_what_first_seeds_leave() -> None:
    first, again = options(("a", 6.0), ("b", 4.0)), options(("a1", 1.0), ("b1", 1.0), seed=1)
    assert choose([*again, *first], {}, None) == ["b", "a", "a1", "b1"]
    assert choose([*first, *again], {}, 5.5) == ["b", "a1"]  # a does not fit any more, a second seed does
    assert choose([*first, *again], {}, 9.9) == ["b", "a1", "b1"]


def test_runs_of_unknown_length_fit_no_budget_and_come_last_without_one() -> None:
    some = options(("x", None), ("a", 6.0))
    assert choose(some, {}, 100.0) == ["a"]
    assert choose(some, {}, None) == ["a", "x"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_choice_exceeds_its_budget_or_lacks_a_baseline(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 9))
    some = [
        Option(str(k), data.draw(st.integers(0, 2)), data.draw(st.floats(0.1, 9)), 1, data.draw(st.booleans()))
        for k in range(count)
    ]
    pairs = data.draw(st.sets(st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)), max_size=6))
    gains = {(str(a), str(b)): 1 for a, b in pairs if a > b and some[a].seed == some[b].seed}
    budget = data.draw(st.floats(0.1, 40))
    taken = choose(some, gains, budget)
    hours = {option.id: option.hours or 0 for option in some}
    there = {option.id for option in some if option.is_there}
    assert sum(hours[id] for id in taken) <= budget + 1e-9
    assert len(set(taken)) == len(taken)
    assert not set(taken) & there
    for run, base in gains:
        assert run not in taken or base in there or base in taken[: taken.index(run)]
    assert sorted(choose(some, gains, None)) == sorted(o.id for o in some if not o.is_there)


def test_wall_time_gives_the_longest_first() -> None:
    assert hours_side_by_side([3, 3, 5, 4, 3], 2) == 10  # 5+3, 4+3+3
    assert hours_side_by_side([3, 3, 5, 4, 3], 9) == 5
    assert hours_side_by_side([], 4) == 0


def test_hours_of_the_arithmetic() -> None:
    """4.5e18 FLOPs at 50 TFLOPS: 25 hours."""
    assert cost(WORK, None, Device(100, 0.5)) == Cost(25.0, "FLOPs at 100 TFLOPS x 0.5")
    assert cost("no reason", None, Device()).hours is None


def test_measured_speed_comes_before_assumptions() -> None:
    """16,000 images at 2 a second and a quarter on top for scoring: 10,000 s."""
    measured = cost(WORK, Speed("H200", 2.0, 0.25), Device())
    assert measured == Cost(pytest.approx(10_000 / 3600), "measured on H200", is_measured=True)


def ran(rate: float, hardware: str, **fields: Any) -> dict[str, Any]:
    resolved = {
        "method": {"name": "unimatch"},
        "plugin": [],
        "net": {"name": "n", "weights": "w"},
        "views": {"crop": 9},
    }
    return {
        "resolved": resolved,
        "throughput": {"images_per_s": rate},
        "timings": {"train_s": 100.0, "score_s": 10.0},
        "hardware": {"name": hardware, "device": "cpu" if "EPYC" in hardware else "cuda"},
        **fields,
    }


def test_stored_speeds_are_medians_on_one_machine(store: ResultStore, record: Callable[..., dict[str, Any]]) -> None:
    kind: SpeedKind = ("unimatch", "", '{"name": "n"}', "9", "exact")
    assert speed_kind(ran(0, "")["resolved"]) == kind
    for seed, (rate, hardware) in enumerate(
        [(99.0, "EPYC"), (4.0, "A100"), (6.0, "A100"), (50.0, "A100"), (5.0, "A100")]
    ):
        store.add(record("p/r", "voc/classic/1_16", seed, **ran(rate, hardware, finished=f"2026-01-0{seed + 1}")))
    store.add(record("p/r", "voc/classic/1_8", 0, **ran(1e6, "A100", quick=True)))
    assert stored_speeds(store.records()) == {kind: Speed("A100", 6.0, 0.1)}  # of the last three
    store.add(record("p/s", "voc/classic/1_16", 0, **ran(99.0, "EPYC")))
    assert stored_speeds(store.records(), "epyc") == {kind: Speed("EPYC", 99.0, 0.1)}
    assert stored_speeds(store.records(), "H200") == {}


@pytest.mark.parametrize("broken", [{"throughput": {"images_per_s": "fast"}}, {"throughput": None}, {"resolved": {}}])
def test_a_record_of_another_shape_tells_no_speed(
    store: ResultStore, record: Callable[..., dict[str, Any]], broken: dict[str, Any]
) -> None:
    store.add(record("p/r", "voc/classic/1_16", 0, **{**ran(4.0, "A100"), **broken}))
    assert stored_speeds(store.records()) == {}


def planned(id: str, state: Any = "missing", hours: float | None = 1.0, **fields: Any) -> PlannedRun:
    facts = {
        "recipe": f"p/{id}",
        "split": "voc/classic/1_16",
        "seed": 0,
        "key": id,
        "cells": [f"t {id}/a"],
        "work": WORK,
    }
    left = 0.0 if state == "done" else hours
    return PlannedRun(id=id, state=state, hours=left, basis="measured on A100", **{**facts, **fields})


def plan(*runs: PlannedRun, gpus: int = 1, budget: float | None = None) -> RunPlan:
    request = PlanRequest(("t",), gpus=gpus, budget=budget)
    return decide(RunPlan(request, list(runs), {"t": 2}, [DatasetDisk("voc", False, 2**31)], free=2**34))


def test_a_plan_adds_up() -> None:
    half, unknown = planned("d", "partial", 0.5), planned("e", hours=None)
    result = plan(planned("a"), planned("b", bases=["a"]), planned("c", "done"), half, unknown, gpus=2)
    assert [run.id for run in result.runs] == ["c", "d", "a", "b", "e"]
    document = result.as_json()
    assert document["totals"] == {
        **{"runs": 5, "missing": 3, "done": 1, "partial": 1, "chosen": 4, "hours": 2.5, "hours_unknown": 1},
        **{"hours_by_basis": {"measured on A100": 2.5}, "wall_hours": 1.5, "cells_closed": 4, "gains_closed": 1},
    }
    assert document["disk"]["checkpoints"] == 4 * 2**30
    text = "\n".join(summary(result))
    assert "5 runs: 1 done, 0 running, 1 partial, 0 failed, 3 missing" in text
    assert "2 cells have no recipe yet: t" in text
    assert "4.0 GiB of checkpoints, 16 GiB free\n" in text
    assert "4.0 GiB of checkpoints, 3 GiB free (too little)" in list(
        summary(RunPlan(**{**vars(result), "free": 3 * 2**30}))
    )
    assert "voc: not prepared (2.0 GiB of archives, twice with its files): ssbench prepare voc" in text
    assert rows(result)[1] == ("p/d", "voc/classic/1_16", "0", "1 partial", "0.50", "measured on A100", "1")
    assert rows(result)[-1][3:5] == ("1 missing", "?")


def test_a_budget_says_what_it_closes_and_what_it_lacks() -> None:
    result = plan(planned("a", hours=2.0), planned("b", hours=2.0, bases=["a"]), planned("c", hours=3.0), budget=4.0)
    assert [run.id for run in result.todo] == ["a", "b"]
    assert "2 of them fit 4 hours; they close 2 cells and 1 gains" in list(summary(result))
    assert [run["chosen"] for run in result.as_json()["runs"]] == [True, True, False]
    assert plan(planned("a", hours=2.0), budget=1.0).needed == 2.0
    assert plan(planned("a", "done"), budget=1.0).needed is None


def test_columns_of_one_class_each_are_one_cell() -> None:
    result = plan(planned("a", cells=["t a/classes#car", "t a/classes#tree", "t a/mean"]))
    assert result.closes == (2, 0)
