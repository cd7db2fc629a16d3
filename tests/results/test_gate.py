"""The gate's rule: worked examples, verdicts, throughput. How often it is wrong: test_gate_rates."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ssbench.results.baseline import BaselineRun
from ssbench.results.gate import ScoreGate, compare_scores, compare_speeds
from ssbench.results.statistics import SeedNoise, SeedScatter, fitted_noise


def entry(recipe: str, seed: int, score: float | None, split: str = "toy/ours/1_16", **fields: Any) -> BaselineRun:
    facts: dict[str, Any] = {
        **{"method": recipe.partition("_")[0], "metric": "miou", "status": "failed" if score is None else "done"},
        **{"reason": "the loss is not finite" if score is None else "", "settings": "s", "device": "cpu"},
        **{
            "machine": "EPYC, threads: 1",
            "packages": "p",
            "numbers": f"{recipe} {split} {score}",
            "images_per_s": 40.0,
        },
    }
    return BaselineRun(recipe=recipe, split=split, seed=seed, score=score, **{**facts, **fields})


def entries(told: dict[str, list[float]], **fields: Any) -> list[BaselineRun]:
    return [
        entry(recipe, seed, score, **fields) for recipe, scores in told.items() for seed, score in enumerate(scores)
    ]


def verdicts(gate: ScoreGate) -> dict[str, str]:
    return {cell.recipe: cell.verdict for cell in gate.cells}


def test_one_cell_with_one_seed_each() -> None:
    """Assumed s0 = 1 with 4 degrees of freedom: sqrt(2) t(0.95, 4) = 1.414 x 2.132 = 3.015; found at 80 %: + 1.331."""
    gate = compare_scores(entries({"a": [70.0]}), entries({"a": [67.0]}), spread=1.0)
    test = gate.cells[0].test
    assert test is not None
    assert (test.level, test.name, test.cells, test.drop) == ("cell", "a toy/ours/1_16", 1, 3.0)
    assert (test.tolerance, test.detectable) == (pytest.approx(3.0149, abs=1e-3), pytest.approx(4.3455, abs=1e-3))
    assert verdicts(gate) == {"a": "within"}
    assert gate.groups == ()
    assert gate.failures == []
    assert compare_scores(entries({"a": [70.0]}), entries({"a": [66.98]}), spread=1.0).failures == [
        "a toy/ours/1_16 (worse)"
    ]
    assert verdicts(compare_scores(entries({"a": [70.0]}), entries({"a": [73.02]}), spread=1.0)) == {"a": "better"}
    assert verdicts(compare_scores(entries({"a": [70.0]}), entries({"a": [69.6]}), spread=0.1)) == {"a": "worse"}


def test_with_one_seed_on_each_side_there_is_no_tolerance() -> None:
    """Nobody knows how far seeds lie apart. A stored cell of two seeds, or two new seeds, tell it."""
    gate = compare_scores(entries({"a": [70.0], "b": [70.0]}), entries({"a": [30.0], "b": [70.1]}))
    assert verdicts(gate) == {"a": "no tolerance", "b": "no tolerance"}
    assert (gate.groups, gate.failures) == ((), [])
    assert gate.cells[0].note == (
        "other numbers on the same kind of machine with the same packages; drop +40.00; "
        "no cell of the dataset has two seeds: no tolerance can be had (--spread states one)"
    )
    known = compare_scores(entries({"a": [70.0], "b": [70.0, 71.0]}), entries({"a": [30.0]}))
    assert verdicts(known) == {"a": "worse", "b": "missing"}


def test_a_stored_failure_is_never_identical_to_a_new_one() -> None:
    both = compare_scores([entry("a", 0, None)], [entry("a", 0, None)])
    assert [(c.verdict, c.note) for c in both.cells] == [
        ("failed", "seed 0: the loss is not finite; it failed before, too")
    ]
    assert both.failures == ["a toy/ours/1_16 (failed)"]
    mended = compare_scores([entry("a", 0, None)], [entry("a", 0, 70.0)])
    assert [(c.verdict, c.note) for c in mended.cells] == [("within", "the stored run failed")]
    assert mended.failures == []


def test_more_cells_make_each_harder_to_fail() -> None:
    """Two cells of two methods: two levels (cells, dataset), so each cell is tested at 0.05 / 2 / 2."""
    gate = compare_scores(entries({"a": [70.0], "b": [70.0]}), entries({"a": [69.0], "b": [70.0]}), spread=1.0)
    assert gate.cells[0].test is not None
    assert gate.cells[0].test.tolerance == pytest.approx(math.sqrt(2) * stats.t.ppf(1 - 0.0125, 4))
    assert [(t.level, t.name, t.cells, t.drop) for t in gate.groups] == [("dataset", "toy (miou)", 2, 0.5)]


def test_a_mean_of_cells_by_hand() -> None:
    """Both v = 2 with k = 4: weights 1/2, variance 2 x 1/4 x 2 x 4/2 = 2, squares' sum 2 x 1 x 2/0.5 = 8: df 1."""
    gate = compare_scores(entries({"a": [70.0], "b": [70.0]}), entries({"a": [69.0], "b": [70.0]}), spread=1.0)
    assert gate.groups[0].tolerance == pytest.approx(math.sqrt(2) * stats.t.ppf(1 - 0.025, 1))


def test_methods_are_tested_where_they_are_some_of_the_cells() -> None:
    told = {"a_1": [70.0], "a_2": [71.0], "b_1": [72.0], "c_1": [70.0]}
    gate = compare_scores(entries(told), entries(told), spread=1.0)
    assert [(t.level, t.name) for t in gate.groups] == [("method", "a on toy (miou)"), ("dataset", "toy (miou)")]
    pair = entries({"a_1": [70.0], "a_2": [71.0]})
    only = compare_scores(pair, pair, spread=1.0)
    assert [t.level for t in only.groups] == ["dataset"]


def test_datasets_and_metrics_have_their_own_spread() -> None:
    stored = entries({"a": [70.0, 72.0, 74.0, 76.0, 78.0]}) + entries({"b": [80.0]}, split="acdc/x/1", metric="dice")
    gate = compare_scores(stored, stored)
    assert gate.spreads["toy", "miou"] == SeedNoise(math.sqrt(10), 4, 1)  # pooled: 40 / 4
    assert gate.spreads["acdc", "dice"] == SeedNoise(1.0, 4, 0)


def test_a_cell_s_variance_lies_between_its_own_and_its_neighbours() -> None:
    """(4 x 2^2 + 1) / (4 + 2) = 17 / 6."""
    assert SeedNoise(2.0, 4, 5).variance(SeedScatter.of([70.0, 70.5, 71.2])) == (pytest.approx((16 + 0.7266667) / 6), 6)
    assert SeedNoise(2.0, 4, 5).variance(SeedScatter.of([70.0])) == (4.0, 4)
    assert SeedScatter.of([1.0, 2.0, 3.0]) == SeedScatter(2.0, 2)


def test_the_fit_finds_how_alike_cells_are() -> None:
    """Variances drawn as s0^2 d0 / chi^2(d0), seeds from them: d0 = 6 and s0 = 1.5 come back from 4000 cells."""
    rng = np.random.default_rng(0)
    true = np.sqrt(1.5**2 * 6 / rng.chisquare(6, 4000))
    found = fitted_noise([SeedScatter.of(list(rng.normal(70, sd, 3))) for sd in true], 1.0)
    assert found.freedom == pytest.approx(6, rel=0.3)
    assert found.sd == pytest.approx(1.5, rel=0.05)
    alike = fitted_noise([SeedScatter.of(list(rng.normal(70, 0.5, 3))) for _ in range(4000)], 1.0)
    assert alike.freedom > 20
    assert alike.sd == pytest.approx(0.5, rel=0.05)


def test_equal_numbers_are_identical_wherever_they_come_from() -> None:
    stored = entries({"a": [70.0, 71.0]})
    assert verdicts(compare_scores(stored, stored[:1])) == {"a": "identical"}
    assert verdicts(compare_scores(stored, [entry("a", 0, 70.0, machine="other")])) == {"a": "identical"}
    assert verdicts(compare_scores(stored, [stored[0], entry("a", 2, 70.5)])) == {"a": "within"}


def test_other_numbers_on_the_same_machine_are_told_and_fail_when_asked() -> None:
    stored, near = entries({"a": [70.0]}), [entry("a", 0, 69.9)]
    told = "other numbers on the same kind of machine with the same packages"
    assert [(c.verdict, c.note) for c in compare_scores(stored, near, spread=1.0).cells] == [("within", told)]
    assert compare_scores(stored, near, exact=True).failures == ["a toy/ours/1_16 (changed)"]
    for elsewhere in ({"machine": "other"}, {"packages": "other"}, {"device": "cuda"}):
        assert not compare_scores(stored, [entry("a", 0, 69.9, **elsewhere)], exact=True).failures
    edited = compare_scores(stored, [entry("a", 0, 69.9, settings="t")], exact=True, spread=1.0)
    assert [(c.verdict, c.note) for c in edited.cells] == [("within", "the recipe has changed since")]


def test_what_is_missing_or_failed_fails() -> None:
    stored = entries({"a": [70.0, 71.0], "b": [70.0, 71.0], "c": [70.0], "d": [70.0]})
    new = [entry("a", 0, 70.0), entry("a", 1, 71.0), entry("b", 0, 70.0), entry("c", 0, None)]
    gate = compare_scores(stored, new)
    assert verdicts(gate) == {"a": "identical", "b": "missing", "c": "failed", "d": "missing"}
    notes = {cell.recipe: cell.note for cell in gate.cells}
    assert notes["b"] == "no new result of seed 1"
    assert notes["c"] == "seed 0: the loss is not finite"
    assert len(gate.failures) == 3
    assert verdicts(compare_scores(stored[:2], [entry("a", 0, 70.0)])) == {
        "a": "identical"
    }  # nobody has seed 1: not asked for


def test_seeds_under_two_settings_tell_nothing_of_the_spread() -> None:
    mixed = [entry("a", seed, 60.0 + 5 * seed, settings=str(seed)) for seed in range(6)]
    assert compare_scores(mixed, mixed).spreads["toy", "miou"] == SeedNoise(1.0, 4, 0)


def test_json_of_a_gate() -> None:
    said = compare_scores(
        entries({"a": [70.0], "b": [70.0]}), entries({"a": [50.0], "b": [50.0]}), spread=1.0
    ).as_json()
    assert set(said) == {"gate", "passed", "alpha", "spreads", "cells", "groups", "not_stored"}
    assert said["passed"] is False
    assert said["cells"][0]["drop"] == 20.0
    assert [group["worse"] for group in said["groups"]] == [True]


def test_throughput_is_compared_on_the_same_machine_alone() -> None:
    stored = [
        entry("a", 0, 70.0, images_per_s=50.0), entry("a", 1, 70.0, images_per_s=40.0),
        entry("a", 2, 70.0, images_per_s=60.0), entry("a", 0, 70.0, images_per_s=900.0, machine="H200"),
        entry("b", 0, 70.0, images_per_s=10.0, split="toy/ours/1_4"), entry("c", 0, 70.0),
        entry("b", 0, 70.0, images_per_s=1.0, machine="H200"), entry("d", 0, 70.0, machine="H200"),
    ]  # fmt: skip
    new = [
        entry("a", 0, 70.0, images_per_s=37.0),
        entry("b", 0, 70.0, images_per_s=8.0),
        entry("d", 0, 70.0, images_per_s=1.0),
    ]
    pace = compare_speeds(stored, new, slower=0.25)
    told = {(c.recipe, c.split): (c.verdict, c.stored, c.records) for c in pace.cells}
    assert told["a", "toy/ours/1_16"] == ("slower", 50.0, 3)  # 37 < 37.5
    assert told["b", "toy/ours/1_16"] == ("within", 10.0, 1)  # of another split
    assert told["b", "toy/ours/1_4"] == ("missing", None, 0)
    assert told["c", "toy/ours/1_16"] == ("missing", None, 0)
    assert told["d", "toy/ours/1_16"] == ("no record for this machine", None, 0)
    assert pace.failures == ["a toy/ours/1_16 (slower)", "b toy/ours/1_4 (missing)", "c toy/ours/1_16 (missing)"]
    assert compare_speeds(stored, new, slower=0.5).cells[0].verdict == "within"
    assert compare_speeds(stored, [entry("a", 0, 70.0, images_per_s=67.0)]).cells[0].verdict == "faster"
    assert pace.as_json()["cells"][0]["ratio"] == pytest.approx(0.74)
