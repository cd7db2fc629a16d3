from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from page_made import A, B, Make, epochs, runs_of
from ran import ROOT

from ssbench.page import curves
from ssbench.page.charts import BarChart, Dots, LineChart
from ssbench.page.drawing import draw
from ssbench.page.runs import Comparison, Experiment, StoredRun
from ssbench.results.store import ResultStore
from ssbench.tables.claims import Claim
from ssbench.tables.fill import fill
from ssbench.tables.spec import PaperTable

Write = Callable[..., Path]
Stored = Callable[..., StoredRun]


@pytest.fixture
def run(store: ResultStore, record: Make) -> Callable[..., StoredRun]:
    """A run stored and read again, as a report reads it."""

    def stored(recipe: str = "p/base", split: str = A, **fields: Any) -> StoredRun:
        path = store.add(record(recipe, split, **fields))
        found = next(r for r in store.runs(recipe, split) if r.path == path)
        return StoredRun(found, found.full())

    return stored


def experiment(label: str, recipe: str, split: str, runs: tuple[StoredRun, ...]) -> Experiment:
    return Experiment(label, split, recipe, split, runs)


def group(*members: Experiment, claims: tuple[Claim, ...] = (), reference: Experiment | None = None) -> Comparison:
    return Comparison(f"{members[0].label}, {members[0].column}", members, claims, reference)


def log(*curve: tuple[int, float]) -> Claim:
    return Claim("unimatch", None, A, None, None, "miou", Decimal("1"), "log", "somewhere", "", curve)


def test_stages_follow_one_another(run: Stored) -> None:
    history = [
        {"epoch": 0, "stage": "one", "terms": {"loss": 3.0}},
        {"epoch": 1, "stage": "one", "terms": {"loss": 2.0}, "select": 50.0},
        {"epoch": 0, "stage": "two", "terms": {"loss": 1.5}},
        {"epoch": 0, "terms": {"loss": 1.0}, "select": 60.0},
    ]
    assert curves.history(run(history=history)) == {
        1: {"loss": 3.0}, 2: {"loss": 2.0, "select": 50.0}, 3: {"loss": 1.5}, 4: {"loss": 1.0, "select": 60.0}
    }  # fmt: skip


@pytest.mark.parametrize(
    ("terms", "expected"),
    [
        ({"kept": 0.5, "known": 0.4, "right": 0.3}, {"kept": 50.0, "recall": 30.0, "precision": 75.0}),
        ({"kept": 0.5}, {"kept": 50.0}),
        ({"kept": 0.0, "known": 0.0, "right": 0.0}, {"kept": 0.0, "recall": 0.0}),
        ({"loss": 1.0}, {}),
    ],
)
def test_precision_is_the_right_share_of_the_kept(terms: dict[str, float], expected: dict[str, float]) -> None:
    assert curves.quality(terms) == pytest.approx(expected)


def test_a_line_is_the_mean_of_its_seeds_and_the_area_their_range(run: Stored) -> None:
    runs = tuple(run(seed=seed, history=epochs(best)) for seed, best in enumerate((70.0, 72.0, 77.0)))
    chart = curves.score_chart(group(experiment("base", "p/base", A, runs)))
    assert chart is not None
    (series,) = chart.series
    assert series.points == tuple((e + 1, 73.0 - 2 * (5 - e)) for e in range(6))
    assert series.band[-1] == (6.0, 70.0, 77.0)
    assert "73.00 at 6" in chart.described()
    heads, rows = chart.table()
    assert (heads, rows[-1], len(rows)) == (["epoch", "base"], ["6", "73.00"], 6)


def test_seeds_of_other_lengths_are_averaged_where_they_are(run: Stored) -> None:
    short = run(seed=1, history=epochs(80.0)[:2])
    chart = curves.score_chart(group(experiment("base", "p/base", A, (run(history=epochs(70.0)), short))))
    assert chart is not None
    assert [y for _, y in chart.series[0].points] == [65.0, 67.0, 64.0, 66.0, 68.0, 70.0]


def test_released_logs_are_a_band_only_where_their_course_is_known(run: Stored) -> None:
    whole = log(*((e, 60.0 + e) for e in range(0, 9, 2))), log(*((e, 70.0 - e) for e in range(0, 5)))
    sparse = log((0, 50.0), (70, 77.0), (79, 76.0))
    chart = curves.score_chart(group(experiment("b", "p/base", A, (run(),)), claims=(*whole, sparse)))
    assert chart is not None
    (band,) = chart.bands
    assert band.points[:3] == ((1.0, 60.0, 70.0), (2.0, 61.0, 69.0), (3.0, 62.0, 68.0))
    assert band.points[-1] == (9.0, 68.0, 68.0)
    assert band.label == "2 released logs"
    assert chart.dots == (Dots("1 released log, known epochs", ((1.0, 50.0), (71.0, 77.0), (80.0, 76.0))),)


def test_a_supervised_run_is_drawn_as_a_level(run: Stored) -> None:
    below = experiment("Supervised", "p/sup", A, (run("p/sup", method="supervised", best=61.0),))
    chart = curves.score_chart(group(experiment("base", "p/base", A, (run(),)), reference=below))
    assert chart is not None
    assert [(level.label, level.value) for level in chart.levels] == [("Supervised (best epoch)", 61.0)]


def test_one_chart_a_loss_term_and_quality_apart(run: Stored) -> None:
    found = group(experiment("base", "p/base", A, (run(history=epochs(70.0)),)))
    assert [chart.y for chart in curves.loss_charts(found)] == ["loss", "sup"]
    assert [chart.y.removesuffix(", %") for chart in curves.quality_charts(found)] == [
        "kept share",
        "precision",
        "recall",
    ]
    assert curves.unmeasured(found) == ""
    old = group(experiment("base", "p/base", B, (run(split=B, history=epochs(70.0, quality=False)),)))
    assert [chart.y.removesuffix(", %") for chart in curves.quality_charts(old)] == ["kept share"]
    assert curves.unmeasured(old) == "precision and recall"
    none = group(experiment("base", "p/none", A, (run("p/none"),)))
    assert (curves.quality_charts(none), curves.unmeasured(none)) == ([], "everything")


def test_scores_by_class_leave_out_what_is_nowhere_and_the_background_of_dice(run: Stored) -> None:
    chart = curves.class_chart(group(experiment("base", "p/base", A, (run(),))))
    assert chart is not None
    assert dict(zip(chart.rows, chart.series[0].values, strict=True)) == {"background": 90.0, "car": 50.0}
    dice = run("p/dice", metric="dice", classes=["background", "LV", "RV"], per_class={"best": [80.0, 90.0]})
    chart = curves.class_chart(group(experiment("dice", "p/dice", A, (dice,))))
    assert chart is not None
    assert (chart.rows, chart.x) == (("LV", "RV"), "Dice, %")


def test_of_many_classes_those_that_changed_most_are_drawn(run: Stored) -> None:
    names = [f"c{i}" for i in range(80)]
    base = run(classes=names, per_class={"best": [20.0] * 80})
    moved = [20.0 + (i if i % 5 == 0 else 0) for i in range(80)]
    plug = run("p/plug", plugin="x", classes=names, per_class={"best": moved})
    chart = curves.class_chart(
        group(experiment("base", "p/base", A, (base,)), experiment("plug", "p/plug", A, (plug,)))
    )
    assert chart is not None
    assert [chart.rows[i] for i in chart.shown] == [f"c{i}" for i in range(5, 80, 5)]
    assert len(chart.table()[1]) == 80


def test_gains_are_a_tables_own_and_stand_beside_the_printed_ones(
    store: ResultStore, record: Make, table_file: Write
) -> None:
    for seed, best in ((0, 70.0), (1, 71.0)):
        store.add(record("toypaper/base", A, seed, best))
    for seed, best in ((1, 73.0), (2, 90.0)):
        store.add(record("toypaper/plug", A, seed, best, plugin="x"))
    filled = fill(PaperTable.read(str(table_file())), store)
    chart = curves.table_gains(filled)
    assert isinstance(chart, BarChart)
    assert chart.rows == ("UniMatch + X, 1/16 (1 seed)",)
    assert [(s.label, s.values) for s in chart.series] == [("printed", (pytest.approx(1.2),)), ("measured", (2.0,))]
    groups = runs_of(store, [filled]).comparisons
    assert curves.other_gains(groups, [filled]) is None
    others = curves.other_gains(groups, [])
    assert others is not None
    assert (others.rows, others.series[0].values) == (("UniMatch + X, 1/16, Classic (1 seed)",), (2.0,))


def test_all_gains_are_drawn_in_the_tables_order() -> None:
    store = ResultStore(ROOT / "results")
    chart = curves.table_gains(fill(PaperTable.read("toy/table2"), store))
    assert chart is not None
    assert len(chart.rows) > 12
    assert not chart.shown
    assert [row.partition(" (")[0] for row in chart.rows[:3]] == [
        "CutMix-Seg + S4MC", "FixMatch + S4MC", "UniMatch + S4MC"
    ]  # fmt: skip


def test_nothing_to_draw_is_no_chart(run: Stored) -> None:
    bare = group(experiment("b", "p/base", A, (run(history=[], per_class=None, classes=[]),)))
    assert curves.score_chart(bare) is None
    assert curves.class_chart(bare) is None
    assert curves.loss_charts(bare) == []
    assert curves.other_gains([bare], []) is None


def test_a_chart_of_one_point_can_be_drawn(run: Stored) -> None:
    chart = curves.score_chart(group(experiment("b", "p/base", A, (run(history=epochs(70.0)[-1:]),))))
    assert isinstance(chart, LineChart)
    drawing = draw(chart)
    assert drawing.png.startswith(b"\x89PNG")
    assert drawing == draw(chart)
    assert f'aria-label="b, {A}. b: 70.00 at 6."' in drawing.inline(chart)


def test_names_are_drawn_as_they_are(run: Stored) -> None:
    label = "a $x_1$ & <b> 0.123456 #0072b2"
    chart = curves.score_chart(group(experiment(label, "p/base", A, (run(history=epochs(70.0)),))))
    assert chart is not None
    inline = draw(chart).inline(chart)
    assert inline.count("a $x_1$ &amp; &lt;b&gt; 0.123456 #0072b2") == 4  # title, key, and twice in the words
    assert "var(--s0)" in inline
    assert "#0072b2;" not in inline


def test_a_run_that_left_the_band_of_its_logs_is_named(run: Stored) -> None:
    resolved = {"method": {"name": "unimatch"}, "plugin": [], "net": {"encoder": "resnet50"}, "views": {"crop": 321}}
    runs = tuple(run(seed=seed, history=epochs(best), resolved=resolved) for seed, best in enumerate((50.0, 70.0)))
    logs = tuple(
        Claim("unimatch", None, A, "resnet50", 321, "miou", Decimal("70"), "log", f"log {n}", "",
              tuple((e, 60.0 + 2 * e) for e in range(6)), 6)
        for n in range(3)
    )  # fmt: skip
    base = experiment("UniMatch", "p/base", A, runs)
    (text,) = curves.outside_bands(group(base, claims=logs))
    assert text.startswith("seed 0, epoch 1: 40.0, band 55.8 to 64.2 of 3 released logs")
    assert curves.outside_bands(group(base)) == []
