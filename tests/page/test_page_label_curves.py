"""Score against the number of labels, and the best score against how often a run is scored."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page_made import A, B, Make, runs_of

from ssbench.page.drawing import draw
from ssbench.page.label_curves import label_curves, labelled_count
from ssbench.page.scorings import best_by_interval, last_tenth, scoring_chart
from ssbench.results.store import ResultStore
from ssbench.tables.cell import Filled
from ssbench.tables.fill import fill
from ssbench.tables.spec import PaperTable

COUNTS = {A: 92, B: 183}


@pytest.fixture
def filled(store: ResultStore, record: Make, table_file: Callable[..., Path]) -> Filled:
    for seed, score in enumerate((60.0, 64.0)):
        store.add(record("toypaper/base", A, seed, score))
    store.add(record("toypaper/base", B, 0, 70.0))
    store.add(record("toypaper/plug", A, 0, 66.0, plugin="x"))
    return fill(PaperTable.read(str(table_file())), store)


def test_a_line_is_the_mean_of_the_seeds_over_the_number_of_labels(filled: Filled) -> None:
    (chart,) = label_curves(filled, COUNTS.get)
    (line,) = chart.series  # the plug-in has a score at one number of labels only: no line
    assert line.points == ((92, 62.0), (183, 70.0))
    assert line.band == ((92, 60.0, 64.0),)
    assert [x for x, _ in chart.ticks] == [92, 183]
    assert draw(chart).svg.startswith(b"<?xml")


def test_columns_whose_labels_are_not_known_make_no_chart(filled: Filled) -> None:
    assert not list(label_curves(filled, lambda split: None))


def test_the_number_of_labels_is_the_manifests_or_the_lists(tmp_path: Path) -> None:
    assert labelled_count("voc/classic/1_16", tmp_path) == 92
    assert labelled_count("voc/classic/nothing", tmp_path) is None


def test_fewer_scorings_have_a_lower_best() -> None:
    scores = [(epoch, score) for epoch, score in zip(range(5, 45, 5), (10, 50, 20, 40, 60, 30, 45, 44), strict=True)]
    # every 5th epoch; every 10th counted back from epoch 40: 10, 20, 30, 40; every 20th: two are left, too few
    assert best_by_interval(scores) == {5: 60, 10: 50}
    assert last_tenth(scores) == 44
    assert last_tenth([(epoch, float(epoch)) for epoch in range(20)]) == 18.5


def test_runs_that_are_scored_often_have_a_chart_of_it(
    store: ResultStore, record: Make, table_file: Callable[..., Path]
) -> None:
    def history(shift: float) -> list[dict[str, Any]]:
        return [{"epoch": e, "terms": {"loss": 1.0}, "select": 50 + shift + 10 * math.sin(e)} for e in range(16)]

    for seed in (0, 1):
        store.add(record("toypaper/base", A, seed, 60.0 + seed, history=history(seed)))
    filled = fill(PaperTable.read(str(table_file())), store)
    (chart,) = filter(None, map(scoring_chart, runs_of(store, [filled]).comparisons))
    (line,) = chart.series
    best = [50.5 + 10 * max(math.sin(e) for e in range(16) if (15 - e) % interval == 0) for interval in (1, 2, 4)]
    assert [x for x, _ in line.points] == [1, 2, 4]
    assert [y for _, y in line.points] == pytest.approx(best)
    assert [high - low for _, low, high in line.band] == pytest.approx([1, 1, 1])
    assert [level.value for level in chart.levels] == pytest.approx(
        [50.5 + 10 * math.sin(15), 50.5 + 5 * (math.sin(14) + math.sin(15))]
    )


def test_a_baseline_that_was_never_scored_has_no_levels(
    store: ResultStore, record: Make, table_file: Callable[..., Path]
) -> None:
    store.add(record("toypaper/base", A, 0, 60.0, history=[{"epoch": e, "terms": {"loss": 1.0}} for e in range(16)]))
    scored = [{"epoch": e, "terms": {"loss": 1.0}, "select": 50.0 + e} for e in range(16)]
    store.add(record("toypaper/plug", A, 0, 65.0, plugin="x", history=scored))
    filled = fill(PaperTable.read(str(table_file())), store)
    (chart,) = filter(None, map(scoring_chart, runs_of(store, [filled]).comparisons))
    assert len(chart.series) == 1
    assert not chart.levels
    assert draw(chart).svg.startswith(b"<?xml")


def test_runs_that_are_scored_seldom_have_none(store: ResultStore, record: Make, filled: Filled) -> None:
    assert not any(map(scoring_chart, runs_of(store, [filled]).comparisons))
