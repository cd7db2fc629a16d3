from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from ssbench.errors import RecipeError
from ssbench.tables.cell import cells_of, stored_name, suggest_recipe
from ssbench.tables.spec import PaperTable, table_names

Write = Callable[..., Path]


def test_a_table_is_read_with_its_digits(table_file: Write) -> None:
    table = PaperTable.read(str(table_file()))
    assert table.name == "toypaper/table1"
    printed = {(c.row, c.column): c.printed for c in cells_of(table)}
    assert str(printed["base", "b"]) == "71.50"
    assert printed["base", "c"] is None
    assert ("other", "c") not in printed


@pytest.mark.parametrize(
    ("old", "new", "line", "what"),
    [
        ("gain_over: base,", "gain_ower: base,", 13, "no field 'gain_ower' in a row; did you mean 'gain_over'"),
        ("gain_over: base,", "gain_over: bose,", 13, "gain_over names no other of the rows: 'bose'"),
        ("gain_over: base,", "gain_over: plug,", 13, "gain_over names no other"),
        ("notes: [n],", "notes: [m],", 13, "no note 'm'"),
        ("printed: 60.0 61.0", "printed: 60.0", 14, "in quotes"),
        ("printed: 60.0 61.0", "printed: '60.0'", 14, "1 printed numbers for 2 columns"),
        ("printed: 60.0 61.0", "printed: 60.0 x", 14, "'x' is no number"),
        ("over: Classic", "over: Clasic", 14, "'Clasic' is no column group"),
        ("over: Classic", "over: [a, z]", 14, "no list of column ids"),
        ("role: Q,", "role: Q, method: unimatch,", 14, "quoted only"),
        ("role: Q,", "", 14, "no role"),
        ("role: B,", "role: X,", 10, "'B', 'P', 'A', 'C' or 'Q'"),
        ("{id: b, label: 1/8", "{id: a, label: 1/8", 7, "'a' is used twice"),
        ("split: voc/classic/1_8", "split: voc/1_8", 7, "pattern"),
        ("title: a small table", "titel: a small table", 1, "no field 'titel' in the table; did you mean 'title'"),
        ("  n: a note", "  n: a note\n  n: twice", 17, "stands twice"),
        ("columns:\n", "columns: [\n", 6, ""),
    ],
)
def test_errors_name_file_and_line(table_file: Write, old: str, new: str, line: int, what: str) -> None:
    path = table_file((old, new))
    with pytest.raises(RecipeError) as error:
        PaperTable.read(str(path))
    assert what in str(error.value)
    assert error.value.where == f"{path}:{line}"


def test_parts_must_not_overlap(table_file: Write) -> None:
    path = table_file(("over: Classic, printed: 60.0 61.0", "parts: [{over: Classic}, {over: [a]}]"))
    with pytest.raises(RecipeError, match=r"two parts of row 'other' cover \['a'\]"):
        PaperTable.read(str(path))
    path = table_file(("over: Classic, printed: 60.0 61.0", "parts: [{over: Classic}], over: Blender"))
    with pytest.raises(RecipeError, match="both `parts` and its own"):
        PaperTable.read(str(path))


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'mpmc/table1'"):
        PaperTable.read("mpmc/tabel1")
    with pytest.raises(RecipeError, match="no table"):
        PaperTable.read("unimatch/unimatch_voc_r101")
    with pytest.raises(RecipeError, match="cannot read"):
        PaperTable.read("nowhere/table1.yaml")


def test_an_error_in_a_shipped_table_is_named_as_a_user_would_type_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "table1.yaml").write_text("title: t\nmetric: miou\ncolumns: []\nrows: []\n")
    monkeypatch.setattr("ssbench.tables.spec.shipped", lambda name: tmp_path)
    with pytest.raises(RecipeError) as error:
        PaperTable.read("x/table1")
    assert error.value.where == "recipes/x/table1.yaml:3"


def test_names_are_ordered_as_a_reader_expects() -> None:
    names = [n for n in table_names() if n.startswith("wpl/")]
    assert names == [*(f"wpl/table{n}" for n in range(1, 5)), *(f"wpl/supp_table{n}" for n in range(1, 7))]


def test_narrower_places_win_and_settings_add_up(table_file: Write) -> None:
    path = table_file(
        ("split: voc/classic/1_8}", "split: voc/classic/1_8, crop: 513, set: {plugin.k: 5}}"),
        ("gain_over: base, notes: [n], printed: 71.2 72.00 73.1",
         "set: {plugin.ras: false}, parts: [{over: [a, b], printed: 71.2 72.00}, {over: [c], crop: 321,"
         " family: voc/blender-cps, set: {optim.lr: 0.01}}]"),
    )  # fmt: skip
    cells = {(c.row, c.column): c for c in cells_of(PaperTable.read(str(path)))}
    assert cells["plug", "a"].overrides == ("plugin.ras=false",)
    assert cells["plug", "b"].overrides == ("plugin.k=5", "plugin.ras=false")
    assert (cells["plug", "b"].crop, cells["plug", "c"].crop, cells["plug", "a"].crop) == (513, 321, None)
    assert cells["plug", "c"].split == "voc/blender-cps/1_16"
    assert cells["plug", "c"].overrides == ("optim.lr=0.01", "plugin.ras=false")
    assert not cells["plug", "c"].dash
    assert cells["plug", "b"].printed == Decimal("72.00")
    assert cells["base", "b"].overrides == ("plugin.k=5",)


def test_suggested_recipe_names() -> None:
    split = "voc/classic/1_16"
    assert suggest_recipe("mpmc", "unimatch", "mpmc", "resnet101", 321, split) == "mpmc/mpmc_unimatch_voc_r101_321"
    assert suggest_recipe("wpl", "cps", None, "resnet50", None, "cityscapes/cps/1_8") == "wpl/none_cps_cityscapes_r50"
    assert (
        suggest_recipe("wpl", "semivl", None, "vit_b16", 801, "coco/pseudoseg/1_32")
        == "wpl/none_semivl_coco_vitb16_801"
    )
    assert suggest_recipe(None, "unimatch", None, "resnet50", None, split) is None
    assert suggest_recipe("wpl", "unimatch", None, "resnet50", None, None) is None


def test_stored_names_are_those_of_recipes() -> None:
    """`Recipe.stored_name` decides where a run is kept; a table must look in the same place."""
    from types import SimpleNamespace

    from ssbench.recipe.recipe import Recipe

    for overrides in ((), ("plugin.k=5",), ("optim.lr=0.01", "plugin.ras=false")):
        made = SimpleNamespace(name="upc/x", overrides=overrides)
        assert stored_name("upc/x", overrides) == Recipe.stored_name.fget(made)  # type: ignore[attr-defined]
    assert stored_name("some/where/mine.yaml") == "custom/mine"
