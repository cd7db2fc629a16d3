"""Bold and underline of the shipped tables, worked out by rule, against those the papers' texts keep."""

from __future__ import annotations

import re

import pytest
from papers import REGIONS, empty, gain_line, paper_tables, plain, printed, region, table, tokens
from test_tables_rows import APART, PACKED, PANELS

from ssbench.tables.layout import Font, emphasis

# Numbers that the rule sets in bold or underlines, and the text does not: (table, row, printed) -> the rule's mark.
UNMARKED: dict[tuple[str, str, str], Font] = {
    ("ipixmatch/table3", "s321-ipixmatch", "74.5"): "bold",
    ("ipixmatch/table3", "s513-ipixmatch", "75.7"): "bold",
    ("ipixmatch/table3", "s513-ipixmatch", "77.2"): "bold",
    ("ipixmatch/table3", "s513-psmt", "78.2"): "bold",  # as good as IPixMatch, to the digit
    ("ipixmatch/table4", "r101-psmt", "76.6"): "underline",
    ("s4mc/table1", "cutmixseg-s4mc", "80.58"): "underline",
    ("s4mc/table3", "psmt", "79.09"): "underline",
}
PLAIN = re.compile(r"(<b>|\*\*)?(<u>)?([+-]?\d+\.\d+)")


def in_text(line: str) -> list[tuple[str, Font]]:
    """(number, how the text marks it) of a line, without its gains."""
    line = re.sub(r"/\d+\.\d+|↑ ?\d+\.\d+", "", line.partition("\t")[2] or line)
    return [(number, "bold" if b else "underline" if u else "") for b, u, number in PLAIN.findall(line)]


def by_rule(name: str, row: str) -> list[tuple[str, Font]]:
    marks, cells = emphasis(empty(name)), empty(name).cells
    places = [(row, c.id) for c in table(name).columns]
    return [(str(cells[p].printed), marks[p].printed) for p in places if p in cells and cells[p].printed is not None]


@pytest.mark.parametrize("name", sorted(set(REGIONS) - PACKED - PANELS))
def test_the_rule_marks_what_the_paper_marks(name: str) -> None:
    lines = [line for line in region(name) if not gain_line(line) and tokens(line)]
    if not any(mark for line in lines for _, mark in in_text(line)) and table(name).emphasis.bold != "none":
        assert table(name).emphasis.source != "as its numbers are set"
        return
    wrong = {}
    for row in table(name).rows:
        if (name, row.id) not in APART:
            line = next(line for line in lines if plain(tokens(line)) == plain(printed(name, row)))
            both = zip(in_text(line), by_rule(name, row.id), strict=True)
            wrong |= {(name, row.id, text[0]): rule[1] for text, rule in both if text[1] != rule[1]}
    assert wrong == {place: mark for place, mark in UNMARKED.items() if place[0] == name}


@pytest.mark.parametrize(("name", "more"), [("ipixmatch/table2", ["77.16"]), ("wpl/table3", []), ("s4mc/table4", [])])
def test_the_rule_marks_what_a_packed_text_marks(name: str, more: list[str]) -> None:
    """more: ResNet-101 1/16 of IPixMatch Table II, which is not marked in the text."""
    marks = emphasis(empty(name))
    ours = sorted(str(empty(name).cells[place].printed) for place, m in marks.items() if m.printed == "bold")
    assert ours == sorted([*re.findall(r"<b>([\d.]+)", "\n".join(region(name))), *more])


def test_every_rule_that_is_not_ours_says_where_it_is_seen() -> None:
    sources = {name: table(name).emphasis.source for name in paper_tables()}
    assert {name.partition("/")[0] for name, source in sources.items() if source == "ours"} == {"mpmc", "upc"}
    assert all(source == "ours" or source.startswith(("caption of Table ", "as its ")) for source in sources.values())
