"""YAML that is damaged, hostile or absurd is refused in words, quickly, before anything is built from it."""

from __future__ import annotations

import random
import time
from contextlib import suppress

import pytest

from ssbench.errors import RecipeError
from ssbench.recipe.marks import Marked, parse
from ssbench.recipe.overrides import override

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (BOMB, "more than 50,000 values"),
        ("[" * 100_000, "(nested deeper|maximum nesting)"),
        ("{a: " * 5_000 + "1" + "}" * 5_000, "(nested deeper|maximum nesting)"),
        ("- " * 5_000 + "1", "(nested deeper|maximum nesting)"),
        ("\n".join(" " * i + "a:" for i in range(400)), "(nested deeper|maximum nesting)"),
        ("]" * 500 + "[" * 500, "not YAML"),
        ("a: " + "9" * 9_000, "a number of 9000 digits"),
        ("a: .nan", "no finite number"),
        ("a: -.inf", "no finite number"),
        ("a: 1e999", "no finite number"),
        ("a: !!bool maybe", "not plain data"),
        ("a: !!python/object:os.system x", "not plain data"),
        ("a: !!timestamp 2020-99-99", "not plain data"),
        ("a: !!timestamp x", "not plain data"),
        ("a: !!int ''", "not plain data"),
        ("a: !!float x", "not plain data"),
        ("a: *nowhere", "not YAML"),
        ("a: \x07", "not YAML"),
        ("? [1, 2]\n: 3", "no plain word"),
        ("%YAML 9.9\n---\na: 1", "not YAML"),
        ("a: 1\n---\nb: 2", "not YAML"),
        ("\ta: 1", "not YAML"),
        ("a: 'x", "not YAML"),
    ],
)
def test_it_is_refused_in_words(text: str, match: str) -> None:
    started = time.process_time()
    with pytest.raises(RecipeError, match=match) as error:
        parse(text, "r.yaml")
    assert error.value.where.startswith("r.yaml")
    assert error.value.fix
    assert time.process_time() - started < 5


def test_an_alias_is_read_where_it_is_used() -> None:
    marked = parse("a: &x {b: 1}  # first\nc: *x  # second\n", "r.yaml")
    assert marked.data == {"a": {"b": 1}, "c": {"b": 1}}
    assert marked.at(("c",)).line


@pytest.mark.parametrize(
    "text",
    ["a.b=" + "9" * 9_000, "a.b=.nan", "a.b=[" + "1, " * 9_000, "a.b=[[[", "a.b=*x", "=1", "a..b=1", "a", "a.b={" * 50],
)
def test_an_override_is_refused_in_words(text: str) -> None:
    with pytest.raises(RecipeError) as error:
        override(Marked({"a": {"b": 1}}, {}), text)
    assert len(error.value.what) < 600
    assert error.value.fix


def test_random_damage_ends_in_an_error_or_in_plain_data() -> None:
    """Bytes cut, doubled and replaced at random places of a real recipe: never another exception."""
    draw = random.Random(0)  # noqa: S311  not for secrets
    text = "net: {name: unet, rates: [6, 12]}  # a\nviews:\n  crop: &c 321  # b\n  base: *c\nplugin:\n  - s4mc\n"
    for _ in range(400):
        damaged = list(text)
        for _ in range(draw.randint(1, 6)):
            at = draw.randrange(len(damaged))
            damaged[at : at + draw.randint(0, 4)] = draw.choice(
                ["", "[", "{", "*", "&x", "\t", ": ", "!!x", "\x00", "\u2028"]
            )
        with suppress(RecipeError):
            parse("".join(damaged), "r.yaml")
