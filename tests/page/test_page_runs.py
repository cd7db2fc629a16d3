from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from page_made import A, B, Make, runs_of

from ssbench.page.runs import Comparison
from ssbench.results.store import ResultStore
from ssbench.tables.fill import fill
from ssbench.tables.spec import PaperTable

Write = Callable[..., Path]


def shape(groups: tuple[Comparison, ...]) -> list[list[str]]:
    return [[e.label for e in group.experiments] for group in groups]


def test_a_table_says_what_is_compared(store: ResultStore, record: Make, table_file: Write) -> None:
    for recipe, plugin in (("toypaper/plug", "x"), ("toypaper/base", None)):
        for split in (A, B):
            settings = {"optim": {"lr": 0.1 if plugin else 0.2}, "plugin": plugin}
            store.add(record(recipe, split, plugin=plugin, resolved=settings))
    filled = fill(PaperTable.read(str(table_file())), store)
    found = runs_of(store, [filled])
    assert shape(found.comparisons) == [["UniMatch", "UniMatch + X"]] * 2
    assert [(a.recipe, b.recipe) for g in found.comparisons for a, b in g.pairs()] == [
        ("toypaper/base", "toypaper/plug")
    ] * 2
    assert len(found.experiments) == 4


def test_without_a_table_equal_settings_say_it(store: ResultStore, record: Make) -> None:
    lr = {"optim": {"lr": 0.1}}
    store.add(record("mine/a", A, resolved={**lr, "plugin": []}))
    store.add(record("mine/b", A, plugin="x", resolved={**lr, "plugin": [{"name": "x"}]}))
    store.add(record("mine/c", A, plugin="x", resolved={"optim": {"lr": 0.2}, "plugin": [{"name": "x"}]}))
    store.add(record("mine/d", B, plugin="x", resolved={**lr, "plugin": [{"name": "x"}]}))
    store.add(record("mine/e", A, plugin="x", metric="dice", resolved={**lr, "plugin": [{"name": "x"}]}))
    assert shape(runs_of(store, []).comparisons) == [["mine/a", "mine/b"], ["mine/c"], ["mine/d"], ["mine/e"]]


def test_only_the_runs_behind_the_tables_unless_everything_is_asked_for(
    store: ResultStore, record: Make, table_file: Write
) -> None:
    store.add(record("toypaper/base", A))
    store.add(record("mine/a", A, resolved={"optim": {"lr": 0.3}}))
    filled = fill(PaperTable.read(str(table_file())), store)
    assert [line.recipe for line in runs_of(store, [filled], everything=False).experiments] == ["toypaper/base"]
    assert [line.recipe for line in runs_of(store, [filled]).experiments] == ["toypaper/base", "mine/a"]


def test_runs_with_settings_of_their_own_are_named_by_them(store: ResultStore, record: Make, table_file: Write) -> None:
    store.add(record("toypaper/base", A))
    changed = {"departures": ["crop of 97", "set optim.lr=0.1", "set schedule.epochs=4"], "resolved": {"optim": 1}}
    store.add(record("toypaper/base+abc123", A, **changed))
    filled = fill(PaperTable.read(str(table_file())), store)
    labels = [line.label for line in runs_of(store, [filled]).experiments]
    assert labels == ["UniMatch", "UniMatch with optim.lr=0.1, schedule.epochs=4"]


def test_which_record_of_a_seed_counts_and_what_is_left_out(store: ResultStore, record: Make) -> None:
    store.add(record("mine/a", A, 0, 60.0, key="1" * 16, finished="2026-01-01T00:00:00Z"))
    store.add(record("mine/a", A, 0, 61.0, key="2" * 16, finished="2026-01-02T00:00:00Z"))
    store.add(record("mine/a", A, 0, 99.0, key="3" * 16, custom_split=True, finished="2026-01-03T00:00:00Z"))
    store.add(record("mine/a", A, 1, 1.0, key="4" * 16, quick=True))
    store.add(record("mine/a", A, 0, key="5" * 16, status="failed", reason="power", scores={}))
    store.add(record("mine/a", A, 2, key="6" * 16, status="failed", reason="memory", scores={}))
    found = runs_of(store, [])
    assert [(run.record.seed, run.record.best) for line in found.experiments for run in line.runs] == [(0, 61.0)]
    assert [f.record.reason for f in found.failed] == ["memory"]
    assert found.left_out == {
        "another run of the same recipe, split and seed": 2, "quick run": 1, "failed, and done since": 1
    }  # fmt: skip


def test_the_supervised_run_beside_it_gives_the_scale(store: ResultStore, record: Make) -> None:
    store.add(record("mine/sup", A, method="supervised", resolved={"a": 1}))
    store.add(record("mine/semi", A, resolved={"a": 2}))
    store.add(record("mine/semi+abc123", A, resolved={"a": 3}))
    store.add(record("other/semi", A, resolved={"a": 4}))
    references = {g.base.recipe: g.reference and g.reference.recipe for g in runs_of(store, []).comparisons}
    assert references == {"mine/sup": None, "mine/semi": "mine/sup", "mine/semi+abc123": None, "other/semi": None}
