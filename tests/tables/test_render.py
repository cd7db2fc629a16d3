from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssbench.errors import UsageError
from ssbench.results.store import ResultStore
from ssbench.tables.cell import Filled
from ssbench.tables.claims import shipped_claims
from ssbench.tables.fill import fill
from ssbench.tables.render import CSV_FIELDS, Format, long_rows, render
from ssbench.tables.spec import PaperTable, table_names

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
A, B = "voc/classic/1_16", "voc/classic/1_8"
HOW: tuple[Format, ...] = ("rich", "md", "csv", "latex", "html")


RICH = """\
toypaper/table1: a small table (mIoU, %)
printed | measured mean ± sd (seeds), measured - printed; Δ: gains, paired by seed, ± standard error

                                              Classic                    Blender
                                                 1/16              1/8      1/16   state
──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
R50
UniMatch [CVPR'23]   70.0 | 70.10 ± 0.20 (3), +0.10 ✓            71.50         -   1 reproduced, 1 not yet
UniMatch + X n)      71.2 | 71.10 ± 0.20 (3), -0.10 ≈   72.00 | failed      73.1   1 within noise, 1 failed, 1 not yet
  Δ over UniMatch             +1.2 | +1.00 ± 0.00 (3)            +0.50

quoted
Other                                            60.0             61.0         -   quoted

n) a note
against the printed numbers, 95 % by the spread between seeds: ✓ 1 reproduced, ≈ 1 within noise
levels: 2 three seeds or more, 2 claimed by a log (UniMatch: Classic 1/8, Blender), 4 quoted
failed: UniMatch + X, Classic 1/8: seed 0: loss is not finite
"""


def test_the_layout_of_the_paper(filled: Filled) -> None:
    assert render(filled, "rich") == RICH


def test_a_narrow_terminal_folds_cells(filled: Filled) -> None:
    text = render(filled, "rich", width=70)
    assert max(map(len, text.splitlines())) <= 70


def test_markdown(filled: Filled) -> None:
    text = render(filled, "md")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "|  | Classic 1/16 | Classic 1/8 | Blender 1/16 | state |"
    assert (
        rows[3] == r"| UniMatch [CVPR'23] | 70.0 \| 70.10 ± 0.20 (3), +0.10 ✓ | 71.50 | - | 1 reproduced, 1 not yet |"
    )
    assert all(line.replace(r"\|", "").count("|") == 6 for line in rows)


def test_csv(filled: Filled) -> None:
    rows = list(csv.DictReader(io.StringIO(render(filled, "csv"))))
    assert [r["row"] for r in rows] == ["UniMatch", "UniMatch + X", "Other"]
    assert {k: rows[0][f"a {k}"] for k in CSV_FIELDS} == {"printed": "70.0", "measured": "70.1000", "sd": "0.2000",
            "n": "3", "state": "measured", "verdict": "reproduced",
            "level": "three seeds or more"}  # fmt: skip
    assert rows[2]["c state"] == ""


def test_long(filled: Filled) -> None:
    rows = long_rows(filled)
    assert len(rows) == 8
    assert json.loads(json.dumps(rows)) == rows
    first = rows[0]
    assert list(first)[:14] == ["paper", "table", "group", "row", "column", "split", "recipe", "metric", "printed",
                                "measured", "sd", "n", "difference", "state"]  # fmt: skip
    assert (first["printed"], first["measured"], first["difference"], first["last_epoch"]) == (70.0, 70.1, 0.1, 69.6)
    assert first["seeds"] == [0, 1, 2]


def test_a_table_without_paper_says_what_is_not_run(table_file: Write, store: ResultStore, record: Make) -> None:
    path = table_file(
        ("paper: toypaper\n", ""), ("printed: 70.0 71.50 -", "printed: [null, null, null]"),
        (", printed: 71.2 72.00 73.1", ""), ("role: Q, over: Classic, printed: 60.0 61.0", "over: Classic"),
        ("recipe: toypaper/plug", "recipe: plug.yaml"), recipes=("plug",),
    )  # fmt: skip
    store.add(record("toypaper/base", A, 0, 70.0))
    filled = fill(PaperTable.read(str(path)), store)
    text = render(filled, "rich")
    assert "measured mean ± sd (seeds); Δ" in text
    line = next(row for row in text.splitlines() if row.startswith("UniMatch [CVPR'23]"))
    assert line.split("  ", 1)[1].split() == [
        "70.00",
        "(1)",
        "not",
        "yet",
        "not",
        "yet",
        "1",
        "measured,",
        "2",
        "not",
        "yet",
    ]
    assert next(row for row in text.splitlines() if row.startswith("UniMatch + X")).count("not run") == 4
    assert [c.row for c in filled.runnable()] == ["base", "plug", "plug", "plug"]


def test_the_same_store_gives_the_same_bytes(store: ResultStore, record: Make) -> None:
    for seed in (2, 0, 1):
        store.add(record("unimatch/unimatch_voc_r101", A, seed, 75.0 + seed / 7))
    once, again = (
        [render(fill(PaperTable.read(n), store), how) for n in table_names() for how in HOW] for _ in range(2)
    )
    assert once == again
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in once)
    assert not any(line != line.rstrip() for text in once[:: len(HOW)] for line in text.splitlines())


def test_an_unknown_format_is_refused(filled: Filled) -> None:
    with pytest.raises(UsageError, match="no table format 'pdf'"):
        render(filled, "pdf")  # type: ignore[arg-type]


def test_a_row_says_by_how_much_it_misses(table_file: Write, store: ResultStore, record: Make) -> None:
    for split, best in ((A, 66.0), (B, 65.0)):
        store.add(record("toypaper/base", split, 0, best))
    store.add(record("toypaper/plug", A, 0, 75.0))
    rows = render(fill(PaperTable.read(str(table_file())), store), "rich").splitlines()
    assert next(r for r in rows if r.startswith("UniMatch [")).endswith("  short by up to 6.50")
    assert next(r for r in rows if r.startswith("UniMatch + X")).endswith("1 better by 3.80, 2 not yet")


def test_claims_stand_below_their_row(store: ResultStore) -> None:
    filled = fill(PaperTable.read("mpmc/table1"), store)
    lines = render(filled, "md", claims=shipped_claims()).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| UniMatch [CVPR'23] | 75.2"))
    assert lines[at + 1].startswith("|   readme | 75.2 | 77.2 | 78.8 | 79.9 | 81.2 |  |")
    assert lines[at + 2].startswith("|   log | 75.46, 74.78, 74.74 | ")
    assert lines[at + 2].endswith("| 80.94 | 81.92 | 80.43 |  |")
    sources = next(line for line in lines if line.startswith("log: "))
    assert "LiheYoung/UniMatch 0324f3d, training logs, Pascal-VOC-2012/U2PL-Split-Size513/ResNet-101" in sources
    assert not any("readme" in line for line in render(filled, "md").splitlines())


def test_columns_are_named_where_a_row_has_two_kinds_of_numbers_without_a_run(store: ResultStore) -> None:
    text = render(fill(PaperTable.read("upc/table4"), store), "md")
    row = "| UPC a) b) d) | 76.96 | 81.43 | 82.41 | SupOnly quoted, 2 not run |"
    assert row in text
