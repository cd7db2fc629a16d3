"""Convergence bands on made curves: which logs make one, where it lies, when a run has left it."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ran import Ran
from released_logs import unimatch_v2

from ssbench.recipe.recipe import load
from ssbench.tables.band import ALONE, EARLY, FAR, WIDTH, ConvergenceBand, find_band
from ssbench.tables.claims import Claim, all_claims, shipped_claims
from ssbench.tables.verdict import SPREADS

RECIPE = "unimatch_v2/unimatch_v2_voc_dinov2s_518"
SPLIT = "voc/classic/1_8"
S = SPREADS["miou"]


def band(*curves: dict[int, float], epochs: int = 60) -> ConvergenceBand:
    return ConvergenceBand(tuple(tuple(sorted(c.items())) for c in curves), epochs, "miou")


def test_the_band_is_the_range_of_the_logs_widened_by_seed_noise() -> None:
    """At half of the run and later by three standard deviations, at the first epoch by 3.9 times as much."""
    three = band(*(dict.fromkeys(range(60), score) for score in (60.0, 62.0, 65.0)))
    for epoch, factor in ((0, EARLY), (15, (EARLY + 1) / 2), (30, 1.0), (59, 1.0)):
        here = three.at(epoch)
        assert here is not None
        assert (here.low, here.high, here.logs) == (
            pytest.approx(60 - WIDTH * S * factor), pytest.approx(65 + WIDTH * S * factor), 3,
        )  # fmt: skip


def test_epochs_between_known_ones() -> None:
    """Close ones lie on a line; far apart a log may stand anywhere between the line and its best score."""
    close, far = band({40: 60.0, 44: 64.0}, {40: 60.0, 44: 64.0}), band({30: 60.0, 50: 70.0}, {30: 60.0, 50: 70.0})
    here, there = close.at(41), far.at(40)
    assert here is not None
    assert there is not None
    assert (here.low + here.high) / 2 == pytest.approx(61.0)
    assert (there.low, there.high) == (pytest.approx(65 - WIDTH * S), pytest.approx(70 + WIDTH * S))
    assert close.at(39) is None
    assert close.at(45) is None


def test_one_log_alone_gives_a_wider_band_and_says_so() -> None:
    alone = band(dict.fromkeys(range(60), 60.0))
    here = alone.at(40)
    assert here is not None
    assert (here.low, here.logs) == (pytest.approx(60 - ALONE * WIDTH * S), 1)
    outside = alone.exit_of({40: 20.0})
    assert str(outside) == "epoch 41: 20.0, band 57.8 to 62.2 of 1 released log, so twice as wide: " + (
        "check weights and batch size"
    )


def test_a_run_that_leaves_is_named_as_the_log_says_it() -> None:
    logs = band(*(dict.fromkeys(range(20), score) for score in (61.3, 64.0, 65.8)), epochs=20)
    scores = dict.fromkeys(range(10), 63.0) | {10: 50.5, 11: 48.1}
    assert str(logs.exit_of(scores)) == (
        "epoch 12: 48.1, band 60.2 to 66.9 of 3 released logs: check weights and batch size"
    )


@pytest.mark.parametrize(
    ("scores", "is_outside"),
    [
        ({30: 60.0, 31: 60.0}, False),
        ({30: 60.0, 31: 55.0}, False),  # one dip
        ({30: 55.0, 31: 60.0}, False),  # it is back
        ({30: 55.0, 31: 54.0}, True),  # two in a row
        ({30: 66.0, 31: 55.0}, False),  # on two sides
        ({30: 66.0, 31: 67.0}, True),
        ({31: 60 - WIDTH * S - FAR - 0.1}, True),  # far away at once
        ({31: 60 - WIDTH * S - FAR + 0.1}, False),
        ({}, False),
    ],
)
def test_single_dips_are_no_exit(scores: dict[int, float], is_outside: bool) -> None:
    logs = band(*(dict.fromkeys(range(60), 60.0) for _ in range(3)))
    assert (logs.exit_of(scores) is not None) is is_outside


def test_above_the_band_something_else_is_to_be_checked() -> None:
    outside = band(*(dict.fromkeys(range(60), 60.0) for _ in range(3))).exit_of({30: 80.0})
    assert str(outside).endswith("check the split, and on which images it is scored")


def test_the_first_exit_of_a_finished_run() -> None:
    logs = band(*(dict.fromkeys(range(60), 60.0) for _ in range(3)))
    outside = logs.first_exit({e: 60.0 - (e >= 40) * 5 for e in range(60)})
    assert outside is not None
    assert outside.epoch == 41
    assert logs.first_exit(dict.fromkeys(range(60), 60.0)) is None


@given(
    curves=st.lists(st.dictionaries(st.integers(0, 19), st.floats(0, 100), min_size=1), min_size=1, max_size=4),
    epoch=st.integers(0, 19),
)
def test_the_logs_themselves_are_inside(curves: list[dict[int, float]], epoch: int) -> None:
    logs = band(*curves, epochs=20)
    here = logs.at(epoch)
    known = [curve[epoch] for curve in curves if epoch in curve]
    assert here is not None or not known
    assert all(here is not None and here.low <= score <= here.high for score in known)
    assert all(logs.first_exit(curve) is None for curve in curves)


def test_released_repeats_stay_in_the_band_of_the_others() -> None:
    """UniMatch's 24 repeated logs, each against the band of the other two of its split: none leaves it."""
    repeats: dict[tuple[object, ...], list[Claim]] = {}
    for claim in shipped_claims():
        if claim.kind == "log" and claim.curve and "-run" in claim.source:
            repeats.setdefault((claim.backbone, claim.crop, claim.split), []).append(claim)
    assert sum(len(group) for group in repeats.values()) == 24
    for group in repeats.values():
        for claim in group:
            others = tuple(other.curve for other in group if other is not claim and other.curve)
            assert ConvergenceBand(others, 80, "miou").first_exit(dict(claim.curve or ())) is None


def claim(**changes: Any) -> Claim:
    fields: dict[str, Any] = {
        **{"method": "unimatch_v2", "plugin": None, "split": SPLIT, "backbone": "vit_small_patch14_dinov2"},
        **{"crop": 518, "metric": "miou", "value": Decimal("85.0"), "kind": "log", "source": "made"},
        **{"curve": ((0, 60.0), (59, 85.0)), "epochs": 60},
    }
    return Claim(**fields | changes)


@pytest.mark.parametrize(
    ("changes", "counts"),
    [
        ({}, True),
        ({"crop": None}, True),
        ({"epochs": None}, True),  # 0 to 59 are sixty
        ({"epochs": 80}, False),
        ({"epochs": None, "curve": ((0, 60.0), (79, 85.0))}, False),
        ({"crop": 321}, False),
        ({"backbone": "vit_base_patch14_dinov2"}, False),
        ({"backbone": "vit_small_patch14_dinov2 (frozen)"}, False),
        ({"method": "fixmatch"}, False),
        ({"plugin": "s4mc"}, False),
        ({"split": "voc/classic/1_4"}, False),
        ({"kind": "checkpoint"}, False),
        ({"curve": None}, False),
        ({"departs": "conf_thresh 0.9 (released 0.95)"}, False),
    ],
)
def test_which_logs_are_of_a_run(changes: dict[str, Any], counts: bool) -> None:
    made = find_band([claim(**changes)], load(RECIPE).resolved(), SPLIT, 60, "miou")
    assert (made is not None) is counts


def test_a_kept_encoder_and_a_plugin_are_other_runs() -> None:
    frozen = load(f"{RECIPE}_frozen").resolved()
    assert find_band([claim()], frozen, SPLIT, 60, "miou") is None
    assert find_band([claim(backbone="vit_small_patch14_dinov2 (frozen)")], frozen, SPLIT, 60, "miou") is not None
    deep = load("unimatch/unimatch_voc_r101").resolved()  # resnet101s in our words, resnet101 in the papers'
    logs = find_band(shipped_claims(), deep, "voc/classic/1_16", 80, "miou")
    assert logs is not None
    assert len(logs.curves) >= 3


def test_a_record_without_sections_has_no_band() -> None:
    assert find_band([claim()], {"plugin": "x", "net": 3}, SPLIT, 60, "miou") is None


def test_imported_logs_make_a_band(ssbench: Callable[..., Ran], tmp_path: Path) -> None:
    """Three logs of UniMatch V2 by `ssbench import`, then the band of their recipe."""
    for number, low in enumerate((60.0, 62.0, 65.0)):
        scores = {e: ("1.00", f"{low + e / 10:.2f}") for e in range(60)}
        path = tmp_path / f"seed{number}.log"
        path.write_text(unimatch_v2(scores, part="183"))
        assert ssbench("import", path, "--results", tmp_path / "results").code == 0
    imported = all_claims(tmp_path / "results")[len(shipped_claims()) :]
    made = find_band(imported, load(RECIPE).resolved(), SPLIT, 60, "miou")
    assert made is not None
    here = made.at(40)
    assert here is not None
    assert (here.logs, here.low, here.high) == (3, pytest.approx(64 - WIDTH * S), pytest.approx(69 + WIDTH * S))
