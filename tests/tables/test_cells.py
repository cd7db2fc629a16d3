from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssbench.results.store import ResultStore, settings_digest
from ssbench.tables.cell import CHANGED, CUSTOM, MIXED, OPEN, Cell, Filled, stored_name
from ssbench.tables.fill import fill
from ssbench.tables.render import render
from ssbench.tables.spec import PaperTable, table_names

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
A, B, C = "voc/classic/1_16", "voc/classic/1_8", "voc/blender-u2pl/1_16"


def cell(filled: Filled, row: str = "base", column: str = "a") -> Cell:
    return filled.cells[row, column]


def test_states_of_an_empty_store(table_file: Write, store: ResultStore) -> None:
    path = table_file(("recipe: toypaper/base", "recipe: base.yaml"), recipes=("base",))
    filled = fill(PaperTable.read(str(path)), store)
    assert [c.state for c in filled.cells.values()] == [
        *("not run", "not run", "not printed"), *("not yet",) * 3, *("quoted", "quoted")]  # fmt: skip
    assert [(c.row, c.column) for c in filled.runnable()] == [("base", "a"), ("base", "b")]
    assert filled.runnable("P") == []


def test_seeds_are_averaged_with_the_sample_deviation(table_file: Write, store: ResultStore, record: Make) -> None:
    for seed, best in enumerate((70.0, 71.0, 72.0)):
        store.add(record("toypaper/base", A, seed, best))
    got = cell(fill(PaperTable.read(str(table_file())), store))
    assert (got.state, got.n, got.mean, got.sd, got.difference) == ("measured", 3, 71.0, 1.0, 1.0)
    assert got.scores == ((0, 70.0), (1, 71.0), (2, 72.0))
    assert sum(got.lasts) / 3 == 70.5


def test_one_seed_has_no_deviation(table_file: Write, store: ResultStore, record: Make) -> None:
    store.add(record("toypaper/base", A, 7, 69.5))
    got = cell(fill(PaperTable.read(str(table_file())), store))
    assert (got.n, got.sd, got.difference) == (1, None, -0.5)


def test_failed_and_running(table_file: Write, store: ResultStore, record: Make) -> None:
    table = PaperTable.read(str(table_file()))
    store.add(record("toypaper/base", A, 0, status="failed", reason="out of memory", scores={}))
    got = cell(fill(table, store))
    assert (got.state, got.why) == ("failed", "seed 0: out of memory")
    running = frozenset({("toypaper/base", A), ("toypaper/plug", B)})
    filled = fill(table, store, running=running)
    assert (cell(filled).state, cell(filled, "plug", "b").state) == ("running", "running")
    store.add(record("toypaper/base", A, 1, 70.0))
    got = cell(fill(table, store, running=running))
    assert (got.state, got.n, got.why) == ("measured", 1, "seed 0: out of memory")
    store.add(record("toypaper/base", A, 0, 70.0))
    assert cell(fill(table, store)).why == ""


@pytest.mark.parametrize(
    ("field", "reason"),
    [({"quick": True}, "quick run"), ({"division": "open"}, OPEN), ({"metric": "dice"}, "scored by dice")],
)
def test_what_does_not_count_is_left_out_and_said(
    table_file: Write, store: ResultStore, record: Make, field: dict[str, Any], reason: str
) -> None:
    store.add(record("toypaper/base", A, **field))
    filled = fill(PaperTable.read(str(table_file())), store)
    assert cell(filled).state == "not yet"
    assert cell(filled).left_out == ((reason, 1),)
    assert f"not counted: 1 x {reason}" in render(filled, "md")


def test_other_families_and_other_settings_do_not_count(table_file: Write, store: ResultStore, record: Make) -> None:
    store.add(record("toypaper/plug", "voc/blender-cps/1_16"))
    store.add(record(stored_name("toypaper/plug", ("plugin.k=5",)), C))
    filled = fill(PaperTable.read(str(table_file())), store)
    assert cell(filled, "plug", "c").state == "not yet"


def test_a_cell_with_settings_finds_its_own_runs(table_file: Write, store: ResultStore, record: Make) -> None:
    path = table_file(("gain_over: base, notes: [n]", "set: {plugin.k: 5}"))
    store.add(record("toypaper/plug", A, 0, 60.0))
    store.add(record(stored_name("toypaper/plug", ("plugin.k=5",)), A, 0, 72.0))
    assert cell(fill(PaperTable.read(str(path)), store), "plug").mean == 72.0


def test_own_split_lists_count_marked_and_only_alone(table_file: Write, store: ResultStore, record: Make) -> None:
    table = PaperTable.read(str(table_file()))
    store.add(record("toypaper/base", A, 0, 60.0, custom_split=True, key="f" * 16))
    got = cell(fill(table, store))
    assert (got.state, got.mean, got.marks) == ("measured", 60.0, (CUSTOM,))
    assert f"† {CUSTOM}" in render(fill(table, store), "rich")
    store.add(record("toypaper/base", A, 1, 70.0))
    got = cell(fill(table, store))
    assert (got.scores, got.marks, got.left_out) == (((1, 70.0),), (), ((CUSTOM, 1),))


def test_the_open_division_is_asked_for_and_marked(table_file: Write, store: ResultStore, record: Make) -> None:
    table = PaperTable.read(str(table_file()))
    store.add(record("toypaper/base", A, 0, 60.0, division="open", key="f" * 16))
    assert cell(fill(table, store)).n == 0
    got = cell(fill(table, store, division="open"))
    assert (got.mean, got.marks) == (60.0, (OPEN,))
    store.add(record("toypaper/base", A, 0, 70.0))
    got = cell(fill(table, store, division="open"))
    assert (got.mean, got.marks, got.left_out) == (70.0, (), ((OPEN, 1),))


def test_one_record_a_seed_and_marks_for_changed_settings(table_file: Write, store: ResultStore, record: Make) -> None:
    table = PaperTable.read(str(table_file()))
    store.add(record("toypaper/base", A, 0, 60.0, key="a" * 16, finished="2025-01-01T00:00:00Z"))
    new = {"optim": {"lr": 0.1}}
    store.add(record("toypaper/base", A, 0, 61.0, key="b" * 16, finished="2025-02-01T00:00:00Z", resolved=new))
    got = cell(fill(table, store))
    assert (got.scores, got.marks) == (((0, 61.0),), ())
    assert got.left_out == (("earlier run of the same seed", 1),)
    store.add(record("toypaper/base", A, 1, 62.0))
    assert cell(fill(table, store)).marks == (MIXED,)
    digest = {"toypaper/base": settings_digest(new)}
    assert cell(fill(table, store, settings=digest)).marks == (MIXED, CHANGED)
    old = cell(fill(table, store, settings={"toypaper/base": settings_digest({"optim": {"lr": 0.001}})}))
    assert (old.scores, old.marks) == (((0, 60.0), (1, 62.0)), ())
    assert cell(fill(table, store, settings={"toypaper/base": "x"}), "base", "b").marks == ()


def test_classes_are_read_from_the_record(table_file: Write, store: ResultStore, record: Make) -> None:
    path = table_file(
        ("{id: b, label: 1/8, group: Classic, split: voc/classic/1_8}",
         "{id: b, label: TV, group: Classic, split: voc/classic/1_16, metric: iou, class_name: car}"),
    )  # fmt: skip
    store.add(record("toypaper/base", A, 0, 70.0))
    got = cell(fill(PaperTable.read(str(path)), store), "base", "b")
    assert (got.mean, got.lasts) == (50.0, (49.0,))
    path = table_file(
        ("{id: b, label: 1/8, group: Classic, split: voc/classic/1_8}",
         "{id: b, label: TV, group: Classic, split: voc/classic/1_16, metric: iou, class_name: tvmonitor}"),
    )  # fmt: skip
    assert cell(fill(PaperTable.read(str(path)), store), "base", "b").n == 0  # absent from val: null in the record


def test_gains_are_paired_by_seed(table_file: Write, store: ResultStore, record: Make) -> None:
    for seed, (base, plug) in enumerate([(70.0, 71.0), (71.0, 73.0)]):
        store.add(record("toypaper/base", A, seed, base))
        store.add(record("toypaper/plug", A, seed, plug))
    store.add(record("toypaper/plug", A, 9, 10.0))
    gain = fill(PaperTable.read(str(table_file())), store).gain("plug", "a", "base", "a")
    assert (str(gain.printed), gain.pairs) == ("1.2", (1.0, 2.0))


def test_gains_never_pair_unlike_scores(table_file: Write, store: ResultStore, record: Make) -> None:
    store.add(record("toypaper/base", A, 0, 70.0))
    store.add(record("toypaper/plug", A, 0, 71.0, custom_split=True, key="f" * 16))
    table = PaperTable.read(str(table_file()))
    assert fill(table, store).gain("plug", "a", "base", "a").pairs == ()
    store.add(record("toypaper/plug", A, 0, 72.0))
    assert fill(table, store).gain("plug", "a", "base", "a").pairs == (2.0,)


def test_numbers_on_other_lists_are_marked_and_not_compared(
    table_file: Write, store: ResultStore, record: Make
) -> None:
    path = table_file(("recipe: toypaper/base,", "recipe: toypaper/base, printed_on: voc/blender-cps,"))
    store.add(record("toypaper/base", A, 0, 70.0))
    store.add(record("toypaper/plug", A, 0, 71.0))
    filled = fill(PaperTable.read(str(path)), store)
    got = cell(filled)
    assert (got.state, got.mean, got.difference) == ("measured", 70.0, None)
    assert got.apart == ("the printed number is on the lists voc/blender-cps",)
    assert filled.verdicts["base", "a"].word == "not compared"
    text = render(filled, "md")
    assert r"70.0 \| 70.00 (1)† |" in text
    assert "† the printed number is on the lists voc/blender-cps" in text
    assert filled.gain("plug", "a", "base", "a").pairs == (1.0,)  # both measured on one list
    same = table_file(("recipe: toypaper/base,", "recipe: toypaper/base, printed_on: voc/classic,"))
    assert cell(fill(PaperTable.read(str(same)), store)).difference == 0.0


def test_another_protocol_is_marked_and_not_compared(table_file: Write, store: ResultStore, record: Make) -> None:
    path = table_file(("defaults: {", "defaults: {scored: sliding, "))
    store.add(record("toypaper/base", A, 0, 70.0))
    store.add(record("toypaper/base", B, 0, 70.0, protocol={"protocol": "sliding", "crop": 801}))
    store.add(record("toypaper/plug", B, 0, 71.0))
    filled = fill(PaperTable.read(str(path)), store)
    assert cell(filled).apart == ("scored on whole images, the printed number by sliding windows",)
    assert (cell(filled).difference, cell(filled, "base", "b").difference) == (None, -1.5)
    assert filled.gain("plug", "b", "base", "b").pairs == ()
    assert cell(fill(PaperTable.read(str(table_file())), store)).apart == ()  # nothing known of the printed one


def test_an_own_list_is_not_compared_with_a_published_one(table_file: Write, store: ResultStore, record: Make) -> None:
    store.add(record("toypaper/base", A, 0, 70.0, custom_split=True, key="f" * 16))
    filled = fill(PaperTable.read(str(table_file())), store)
    assert (cell(filled).difference, cell(filled).remarks) == (None, (CUSTOM,))
    assert render(filled, "md").count("†") == 2  # at the number and in the footnote


def test_a_cell_without_a_recipe_says_so(store: ResultStore) -> None:
    """Of all tables one cell: UPC Table 4, Mask2Former with image-level labels of COCO. Its footnote says why."""
    tables = {name: fill(PaperTable.read(name), store) for name in table_names()}
    cells = [(name, cell) for name, filled in tables.items() for cell in filled.cells.values()]
    missing = [(name, c.row, c.column, str(c.printed)) for name, c in cells if c.state == "not yet"]
    assert missing == [("upc/table4", "upc-mask2former", "image", "85.21")]
    table = tables["upc/table4"].table
    (row,) = (row for row in table.rows if row.id == "upc-mask2former")
    assert any("85.21" in table.notes[note] and "no rule" in table.notes[note] for note in row.notes)
