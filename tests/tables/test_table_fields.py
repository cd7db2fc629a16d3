"""A field that a part of a table's file does not have is named with that part, and with its nearest field."""

from __future__ import annotations

from pathlib import Path

import pytest

from ssbench.errors import RecipeError
from ssbench.tables.spec import PaperTable

TABLE = """title: x
metric: dice
defaults: {role: B}
emphasis: {bold: none}
columns:
  - {id: a, label: A, split: toy/ours/1_16}
rows:
  - id: r
    label: R
    parts: [{over: [a], printed: [null]}]
"""


@pytest.mark.parametrize(
    ("place", "line", "what"),
    [
        ("metric: dice", 2, "no field 'mertic' in the table; did you mean 'metric'"),
        ("role: B", 3, "no field 'rolle' in the defaults; did you mean 'role'"),
        ("bold: none", 4, "no field 'blod' in the emphasis; did you mean 'bold'"),
        ("label: A", 6, "no field 'lable' in a column; did you mean 'label'"),
        ("label: R", 9, "no field 'lable' in a row; did you mean 'label'"),
        ("over: [a]", 10, "no field 'ovre' in a part of a row; did you mean 'over'"),
    ],
)
def test_an_unknown_field_is_named_with_its_part(tmp_path: Path, place: str, line: int, what: str) -> None:
    word = what.split("'")[1]
    path = tmp_path / "t.yaml"
    path.write_text(TABLE.replace(place, f"{word}:{place.partition(':')[2]}"))
    with pytest.raises(RecipeError) as caught:
        PaperTable.read(path)
    assert caught.value.what.startswith(what)
    assert caught.value.where.endswith(f"t.yaml:{line}")


def test_a_field_of_another_part_is_not_suggested_again(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text(TABLE.replace("role: B", "role: B, printed: [null]"))
    with pytest.raises(RecipeError, match="no field 'printed' in the defaults; did you mean 'printed_on'"):
        PaperTable.read(path)
