from __future__ import annotations

from pathlib import Path

import pytest

from ssbench.errors import RecipeError
from ssbench.recipe.marks import Mark, Marked, parse, read

TEXT = """\
# a heading
net: {name: unet, rates: [6, 12, 18]}  # release config
views:
  crop: 321  # Sec. 4.1 # and the appendix
  note: 'a # inside'  # ours: quoted
  plain: one
  other: a#b
optim:
  lr: 1e-3
  decay: 1.0e-4   # theirs
plugins:
  - s4mc  # first
  - {name: wpl, k: 5}  # second
"""


def test_every_value_has_its_line_and_its_comment() -> None:
    found = parse(TEXT, "r.yaml")
    assert found.at(("views", "crop")) == Mark("r.yaml", 4, "Sec. 4.1 # and the appendix")
    assert found.at(("views", "note")) == Mark("r.yaml", 5, "ours: quoted")
    assert found.at(("views", "plain")) == Mark("r.yaml", 6, "")
    assert found.at(("views", "other")) == Mark("r.yaml", 7, "")
    assert found.at(("plugins", 0)) == Mark("r.yaml", 12, "first")
    assert found.at(("plugins", 1, "k")).comment == "second"
    for keys in (("net",), ("net", "name"), ("net", "rates"), ("net", "rates", 1)):
        assert found.at(keys) == Mark("r.yaml", 2, "release config")
    assert found.at(("views",)).comment == ""


def test_data_are_plain_and_numbers_are_numbers() -> None:
    data = parse(TEXT, "r.yaml").data
    assert data["optim"] == {"lr": 0.001, "decay": 0.0001}
    assert data["views"]["note"] == "a # inside"
    assert data["plugins"] == ["s4mc", {"name": "wpl", "k": 5}]


@pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("-2E+3", -2e3), ("1e5", 1e5), ("e5", "e5"), ("1e", "1e")])
def test_exponents_need_no_dot(text: str, value: object) -> None:
    assert parse(f"a: {text}", "x").data == {"a": value}


def test_a_mark_that_is_missing_is_the_one_around_it() -> None:
    found = parse(TEXT, "r.yaml")
    assert str(found.at(("views", "crops", 3))) == "r.yaml:3"
    assert str(found.at(("nowhere",))) == "r.yaml:2"
    assert str(found.at(("optim",))) == "r.yaml:8"
    assert Marked({}).at(("a",)) == Mark("", 0)
    assert str(Mark("--set a=1", 0)) == "--set a=1"


def test_block_scalars_do_not_take_the_comment_of_the_next_line() -> None:
    found = parse("a: |\n  text\n  more\nb: 1  # of b\nc: >-\n  x\n", "r.yaml")
    assert (found.at(("a",)).comment, found.at(("b",)).comment, found.at(("c",)).comment) == ("", "of b", "")
    assert found.data == {"a": "text\nmore\n", "b": 1, "c": "x"}


def test_comments_behind_wide_characters_are_found() -> None:
    assert parse("title: 'mIoU ± σ, Größe'  # ä source", "r").at(("title",)).comment == "ä source"


def test_an_alias_is_read_in_both_places() -> None:
    found = parse("a: &x {k: 1}\nb: *x\n", "r.yaml")
    assert found.data == {"a": {"k": 1}, "b": {"k": 1}}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    assert parse(text, "x").data in ({}, None)


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "'c' stands twice"),
        ("a: {b: 1, b: 2}\n", 1, "'b' stands twice"),
        ("a: 1\na: 1\n", 2, "'a' stands twice"),
        ("a:\n\tb: 1\n", 2, "not YAML"),
        ("a: [1, 2\nb: 3\n", 2, "not YAML"),
        ("a: 1\n b: 2\n", 2, "not YAML"),
        ("a: b: c\n", 1, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "not YAML"),
        ("a: !!python/name:os.system x\n", 1, "not plain data"),
        ("a: !mine 3\n", 1, "not plain data"),
        ("a: 2020-99-99\n", 1, "not plain data"),
        ("? [a, b]\n: 1\n", 1, "no plain word"),
        ("null: 1\n", 1, "no plain word"),
        ("a: 1\nb: &x [*x]\n", 2, "contains itself"),
        ("a: *nothing\n", 1, "not YAML"),
        ("x: &x {a: 1}\nb:\n  <<: *x\n", 3, "not plain data"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(text: str, line: int, part: str) -> None:
    with pytest.raises(RecipeError, match=part) as error:
        parse(text, "r.yaml")
    assert error.value.where == f"r.yaml:{line}"
    assert error.value.fix


def test_tabs_are_called_tabs() -> None:
    with pytest.raises(RecipeError) as error:
        parse("a:\n\tb: 1\n", "r.yaml")
    assert "tabs" in error.value.fix


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="No such file"):
        read(tmp_path / "no.yaml")
    with pytest.raises(RecipeError, match="Is a directory"):
        read(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(RecipeError, match="no UTF-8 text"):
        read(tmp_path / "latin.yaml", "shown.yaml")
