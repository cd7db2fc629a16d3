from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ssbench.results.statistics import PRIOR, SeedNoise, student_quantile
from ssbench.results.store import ResultStore
from ssbench.tables.cell import MIXED, Cell
from ssbench.tables.fill import fill
from ssbench.tables.render import long_rows
from ssbench.tables.spec import PaperTable
from ssbench.tables.verdict import SPREADS, judge, verdict

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
DRAWS = 4000


def cell(scores: list[float], printed: str = "70.0", column: str = "a", **fields: Any) -> Cell:
    made: dict[str, Any] = {
        "row": "r", "column": column, "role": "B", "method": "unimatch", "plugin": None, "backbone": "resnet50",
        "crop": 321, "recipe": f"p/{column}", "overrides": (), "split": "voc/classic/1_16", "metric": "miou",
        "class_name": None, "printed": Decimal(printed), "dash": False, "state": "measured",
        "scores": tuple(enumerate(scores)),
    }  # fmt: skip
    return Cell(**{**made, **fields})


def noise(s0: float) -> SeedNoise:
    """A prior spread of a table without other cells."""
    return SeedNoise(s0, PRIOR, 0)


def test_a_case_by_hand() -> None:
    """Seeds 69, 70, 71 and s0 = 0.5: s^2 = (4 x 0.25 + 2) / 6 = 0.5, t(6) = 2.4469, noise = 2.4469 sqrt(0.5 x 4/3)."""
    got = verdict(cell([69.0, 70.0, 71.0], "72.0"), noise(0.5))
    assert got.spread == pytest.approx(math.sqrt(0.5))
    assert got.noise == pytest.approx(2.4469119 * math.sqrt(0.5 * 4 / 3))
    assert (got.word, got.by, got.text) == ("short", -2.0, "short by 2.00")


@pytest.mark.parametrize(
    ("score", "word", "text"),
    [
        (70.0, "reproduced", "reproduced"),
        (69.96, "reproduced", "reproduced"),  # 70.0 to the printed digit
        (69.94, "within noise", "within noise"),
        (70.9, "reproduced", "reproduced"),
        (68.7, "within noise", "within noise"),
        (68.5, "short", "short by 1.50"),
        (71.5, "better", "better by 1.50"),
    ],
)
def test_words_in_their_order(score: float, word: str, text: str) -> None:
    """One seed: noise = 2.776 x 0.36 x sqrt 2 = 1.41."""
    got = verdict(cell([score]), noise(SPREADS["miou"]))
    assert got.noise == pytest.approx(2.7764451 * 0.36 * math.sqrt(2))
    assert (got.word, got.text) == (word, text)


def test_what_must_not_be_compared_is_not() -> None:
    for fields in ({"apart": ("other lists",)}, {"marks": (MIXED,)}):
        got = verdict(cell([60.0], **fields), noise(0.4))
        assert (got.word, got.text) == ("not compared", "not compared")
        assert math.isnan(got.by)
    cells = {("r", "a"): cell([]), ("r", "b"): cell([70.0]), ("r", "c"): replace(cell([70.0]), printed=None)}
    assert set(judge(cells)) == {("r", "b")}


def test_the_prior_is_pooled_over_the_other_cells_of_the_dataset() -> None:
    """Three pairs that differ by 1 (sum of squares 0.5 each) and a triple of sd 1: s0^2 = (1.5 + 2) / 5."""
    cells = {("r", c): cell([70.0, 71.0], column=c) for c in "bcd"}
    cells["r", "e"] = cell([69.0, 70.0, 71.0], column="e")
    cells["r", "a"] = cell([70.0], column="a")
    got = judge(cells)["r", "a"]
    assert got.spread == pytest.approx(math.sqrt(3.5 / 5))
    assert got.source == "4 other cells of the table"
    for kept_out in ({"split": "cityscapes/cps/1_16"}, {"metric": "iou"}, {"marks": (MIXED,)}):
        fewer = cells | {("r", "e"): cell([69.0, 70.0, 71.0], column="e", **kept_out)}
        assert judge(fewer)["r", "a"].source == "default for miou"  # three degrees of freedom are too few
    same = cells | {("r", "e"): cell([69.0, 70.0, 71.0], column="e", recipe="p/a")}
    assert judge(same)["r", "a"].source == "default for miou"  # a run is no evidence for itself


def test_quantiles_are_those_of_student() -> None:
    """The published two-sided 95 % quantiles of 1, 4 and 30 degrees of freedom."""
    assert [round(student_quantile(0.975, k), 3) for k in (1, 4, 30)] == [12.706, 2.776, 2.042]


def draws(n: int, shift: float, sd: Callable[[random.Random], float], seed: int) -> dict[str, float]:
    """Shares of the verdicts over simulated cells; s0 is 0.4, a printed number is one draw, to two digits."""
    rng, found = random.Random(seed), dict.fromkeys(("reproduced", "within noise", "short", "better"), 0)  # noqa: S311
    for _ in range(DRAWS):
        spread = sd(rng)
        seeds = [rng.gauss(70.0 - shift, spread) for _ in range(n)]
        found[verdict(cell(seeds, f"{rng.gauss(70.0, spread):.2f}"), noise(0.4)).word] += 1
    return {word: count / DRAWS for word, count in found.items()}


def scattered(rng: random.Random) -> float:
    """Spreads whose squares scatter around 0.4^2 like an inverse chi-square of PRIOR degrees of freedom."""
    return 0.4 * math.sqrt(PRIOR / sum(rng.gauss(0, 1) ** 2 for _ in range(PRIOR)))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10])
def test_one_true_reproduction_in_twenty_falls_outside(n: int) -> None:
    """Exact in the stated model, whatever the number of seeds; 4 standard errors of 4000 draws are 0.014."""
    share = draws(n, 0.0, scattered, n)
    assert share["short"] + share["better"] == pytest.approx(0.05, abs=0.014)
    assert share["short"] == pytest.approx(share["better"], abs=0.014)


@pytest.mark.parametrize("n", [1, 3, 10])
def test_equal_spreads_are_treated_with_more_care(n: int) -> None:
    share = draws(n, 0.0, lambda rng: 0.4, n)
    assert share["short"] + share["better"] < 0.05
    assert share["reproduced"] == pytest.approx(0.5, abs=0.05)


def test_a_real_shortfall_is_seen_and_the_better_the_more_seeds() -> None:
    """2 points are 5 standard deviations of a run."""
    seen = [draws(n, 2.0, lambda rng: 0.4, n)["short"] for n in (1, 2, 3, 5)]
    assert seen == sorted(seen)
    assert seen[0] > 0.75
    assert seen[2] > 0.95
    assert draws(3, 2.0, lambda rng: 0.4, 9)["reproduced"] == 0


def test_verdicts_of_a_filled_table(table_file: Write, store: ResultStore, record: Make) -> None:
    for seed, best in enumerate((69.9, 70.1, 70.3)):
        store.add(record("toypaper/base", "voc/classic/1_16", seed, best))
    store.add(record("toypaper/plug", "voc/classic/1_8", 0, 68.0))
    filled = fill(PaperTable.read(str(table_file())), store)
    assert {where: v.text for where, v in filled.verdicts.items()} == {
        ("base", "a"): "reproduced", ("plug", "b"): "short by 4.00"}  # fmt: skip
    rows = {(r["row_id"], r["column_id"]): r for r in long_rows(filled)}
    assert rows["plug", "b"]["verdict"] == "short by 4.00"
    assert rows["plug", "b"]["noise"] == pytest.approx(2.7764 * 0.36 * math.sqrt(2), abs=1e-4)
    assert rows["plug", "a"]["verdict"] is None
