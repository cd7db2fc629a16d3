"""The shipped tables against the text of the five papers, number by number, each beside its row's name."""

from __future__ import annotations

import re
from collections import Counter
from decimal import Decimal

import pytest
from papers import REGIONS, gain_line, numbers, plain, printed, region, table, tokens

# Rows that are no line of the text, and why; `test_rows_the_text_packs` and its neighbours look at them another way.
APART = {
    ("wpl/table2", "ael"): "lost by the shift of the rows, taken from MPMC Table 2",
    ("upc/table4", "upc"): "its supervised cell is shared with the row above",
    ("s4mc/table1", "fixmatch"): "not printed: added as a baseline",
    ("s4mc/table2", "fixmatch"): "not printed: added as a baseline",
    ("s4mc/table3", "fixmatch"): "not printed: added as a baseline",
    ("ipixmatch/table4", "r50-unimatch"): "the text packs the first column of two rows into one cell",
    ("ipixmatch/table4", "r50-ipixmatch"): "as above",
    ("ipixmatch/table4", "r101-unimatch"): "as above",
    ("ipixmatch/table4", "r101-ipixmatch"): "as above",
}
PACKED = {"ipixmatch/table1", "ipixmatch/table2", "wpl/table3"}  # the text packs a whole column into one cell
PANELS = {"s4mc/table4"}  # two panels side by side in the text
SLIPPED = ("supervised", "cps", "psmt", "pcr", "cfcg", "augseg", "augseg-wpl")  # of WPL Table 2: one line too low
# Rows whose name the text does not have beside their numbers, and why.
NAMELESS = {
    "mpmc/table4": "a lost Greek letter",
    "mpmc/table6": "named by check marks",
    "s4mc/table5": "named by formulas",
    "upc/table3": "the name of the first row is lost",
    "upc/table6": "named by check marks",
    "upc/table8": "named by numbers",
}


@pytest.mark.parametrize("name", sorted(set(REGIONS) - PACKED - PANELS))
def test_rows_are_the_lines_of_the_paper(name: str) -> None:
    """In the paper's order, every number and every dash at its place, and no line left over."""
    apart = {row for (owner, row) in APART if owner == name}
    lines = [plain(t) for line in region(name) if not gain_line(line) and (t := tokens(line))]
    rows = [plain(printed(name, row)) for row in table(name).rows if row.id not in apart]
    kept = [line for line in lines if line in rows]
    assert kept == rows
    left = len(lines) - len(kept)
    assert left == sum((name, row) in APART and "not printed" not in APART[name, row] and "lost" not in APART[name, row]
                       for row in apart)  # fmt: skip


def bare(text: str) -> str:
    """Letters and digits alone; U2PL and PC2Seg have their 2 as an exponent, in as many ways as there are papers."""
    return re.sub(r"<[^>]*>|\\\w+|²|\W|_", "", text).lower().replace("2", "")


@pytest.mark.parametrize("name", sorted(set(REGIONS) - PACKED - PANELS - set(NAMELESS)))
def test_numbers_stand_beside_the_name_of_their_row(name: str) -> None:
    """UPC writes "w/ UPC" below its host."""
    lines = [line for line in region(name) if not gain_line(line) and tokens(line)]
    found = 0
    for row in table(name).rows:
        if (name, row.id) in APART:
            continue
        at = next(i for i, line in enumerate(lines) if plain(tokens(line)) == plain(printed(name, row)))
        host = bare(re.split(r" \+ | w/ |\(", row.label)[0])
        slipped = name == "wpl/table2" and row.id in SLIPPED
        near = "".join(region(name)) if slipped else lines[at - 1] + lines[at] if row.plugin == "upc" else lines[at]
        assert host in bare(near), (row.id, lines[at])
        found += 1
    assert found


@pytest.mark.parametrize("name", sorted(PACKED | {"ipixmatch/table4"}))
def test_rows_the_text_packs(name: str) -> None:
    """The same numbers as in the text, each as often."""
    lines = [line for line in region(name) if not gain_line(line) and "\t" in line]
    text = Counter(w for line in lines for w in tokens(line) if w[0] not in "+-")
    assert text == Counter(w for row in table(name).rows for w in printed(name, row) if w != "-")


def test_packed_columns_are_read_from_top_to_bottom() -> None:
    line = next(line for line in region("wpl/table3") if "63.1" in line)
    columns = [tokens("\t" + cell) for cell in line.split("\t")[2:]]
    assert [list(r) for r in zip(*columns, strict=True)] == [printed("wpl/table3", r) for r in table("wpl/table3").rows]
    for row, numbers_of in (("r50", ("70.1", "70.8")), ("r101", ("73.1", "73.9"))):
        by_id = {r.id: printed("ipixmatch/table4", r)[0] for r in table("ipixmatch/table4").rows}
        assert (by_id[f"{row}-unimatch"], by_id[f"{row}-ipixmatch"]) == numbers_of


def test_both_panels_of_s4mc_table_4() -> None:
    lines = [tokens(line) for line in region("s4mc/table4") if tokens(line)]
    rows = {r.id: numbers(printed("s4mc/table4", r)) for r in table("s4mc/table4").rows}
    assert [numbers(line[:3]) for line in lines] == [rows["random"], rows["max"], rows["min"], rows["two-max"]]
    assert numbers(lines[0][3:] + lines[1][3:]) == rows["alpha0"]
    assert [len(line) for line in lines] == [5, 5, 3, 3]


def test_corrected_cells_have_their_evidence() -> None:
    ael = next(r for r in table("wpl/table2").rows if r.id == "ael")
    assert printed("wpl/table2", ael) == printed(
        "mpmc/table2", next(r for r in table("mpmc/table2").rows if r.id == "ael")
    )
    text = "\n".join(region("wpl/table2"))
    assert not any(tuple(printed("wpl/table2", ael)) == plain(tokens(line)) for line in text.splitlines())
    upc = [printed("upc/table4", r) for r in table("upc/table4").rows]
    assert upc[1][0] == upc[0][0] == "76.96"
    means = {"unimatch": "75.2", "unimatch-wpl": "76.7"}
    for row in table("wpl/table4").rows:
        values = numbers(printed("wpl/table4", row))
        assert str(round(sum(values[1:], Decimal()) / 21, 1)) == means[row.id] == str(values[0])
