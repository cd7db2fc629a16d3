from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssbench.results.store import ResultStore
from ssbench.tables.fill import fill
from ssbench.tables.layout import Font, emphasis
from ssbench.tables.spec import PaperTable

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
A, B = "voc/classic/1_16", "voc/classic/1_8"
# The table of conftest: group R50: base 70.0 71.50 -, plug 71.2 72.00 73.1; group quoted: other 60.0 61.0.


def marked(table_file: Write, store: ResultStore, rule: str, *swaps: tuple[str, str]) -> dict[str, Font]:
    path = table_file(("metric: miou\n", f"metric: miou\nemphasis: {rule}\n"), *swaps)
    marks = emphasis(fill(PaperTable.read(str(path)), store))
    return {f"{row} {column}": m.printed for (row, column), m in marks.items() if m.printed}


@pytest.mark.parametrize(
    ("rule", "found"),
    [
        ("{within: group}", {"plug a": "bold", "plug b": "bold"}),  # column c holds one number, and so no best
        ("{within: column, underline: second}",
         {"plug a": "bold", "plug b": "bold", "base a": "underline", "base b": "underline"}),
        ("{within: row}", {"base b": "bold", "plug c": "bold", "other b": "bold"}),
        ("{within: block}", {"plug b": "bold", "other b": "bold"}),
        ("{bold: plugin}", {"plug a": "bold", "plug b": "bold", "plug c": "bold"}),
        ("{bold: none}", {}),
    ],
)  # fmt: skip
def test_rules(table_file: Write, store: ResultStore, rule: str, found: dict[str, Font]) -> None:
    assert marked(table_file, store, rule) == found


def test_equal_numbers_rank_equally(table_file: Write, store: ResultStore) -> None:
    same = ("printed: 71.2 72.00 73.1", "printed: 70.00 71.50 73.1")
    found = marked(table_file, store, "{within: column, underline: second}", same)
    assert found == {**dict.fromkeys(("base a", "plug a", "base b", "plug b"), "bold"),
                     "other a": "underline", "other b": "underline"}  # fmt: skip


def test_measured_numbers_are_ranked_among_themselves(table_file: Write, store: ResultStore, record: Make) -> None:
    store.add(record("toypaper/base", A, 0, 77.0))
    store.add(record("toypaper/plug", A, 0, 74.0))
    store.add(record("toypaper/base", B, 0, 75.0))
    store.add(record("toypaper/plug", B, 0, 76.0, custom_split=True, key="f" * 16))
    marks = emphasis(fill(PaperTable.read(str(table_file())), store))
    assert (marks["base", "a"].measured, marks["plug", "a"].measured) == ("bold", "")
    assert (marks["base", "a"].printed, marks["plug", "a"].printed) == ("", "bold")
    assert (marks["base", "b"].measured, marks["plug", "b"].measured) == ("", "")  # on different lists


def test_numbers_of_two_metrics_are_not_ranked_together(table_file: Write, store: ResultStore) -> None:
    assert marked(table_file, store, "{within: group}", ("role: P,", "role: P, metric: patch_share,")) == {}


@pytest.mark.parametrize(("best", "bold"), [(75.0, ""), (75.9, ""), (76.2, "bold"), (74.0, "bold")])
def test_a_measured_lead_within_the_spread_of_seeds_is_not_set_apart(
    table_file: Write, store: ResultStore, record: Make, best: float, bold: str
) -> None:
    """One seed each: two numbers must differ by t(4) 0.36 sqrt 2 = 1.41. Equal numbers rank equally."""
    other = 74.0 if best == 74.0 else 74.5
    store.add(record("toypaper/base", A, 0, best))
    store.add(record("toypaper/plug", A, 0, other))
    rule = ("metric: miou\n", "metric: miou\nemphasis: {within: column, underline: second}\n")
    marks = emphasis(fill(PaperTable.read(str(table_file(rule))), store))
    assert marks["base", "a"].measured == bold
    assert marks["plug", "a"].measured == {"bold": "underline", "": ""}[bold] if best > other else "bold"
