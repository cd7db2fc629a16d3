from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssbench.errors import UsageError
from ssbench.report.cells import Filled
from ssbench.report.store import ResultStore
from ssbench.report.table import PaperTable, table_names

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
A, B = "voc/classic/1_16", "voc/classic/1_8"


@pytest.fixture
def filled(table_file: Write, store: ResultStore, record: Make) -> Filled:
    for seed, best in enumerate((69.9, 70.1, 70.3)):
        store.add(record("toypaper/base", A, seed, best))
        store.add(record("toypaper/plug", A, seed, best + 1))
    store.add(record("toypaper/plug", B, 0, status="failed", reason="loss is not finite", scores={}))
    return PaperTable.read(str(table_file())).fill(store)


RICH = """\
toypaper/table1: a small table (mIoU, %)
printed | measured mean ± sd (seeds), measured - printed; Δ: gains, computed here, paired by seed

                                            Classic                    Blender
                                               1/16              1/8      1/16   state
────────────────────────────────────────────────────────────────────────────────────────────────────────────────
R50
UniMatch [CVPR'23]   70.0 | 70.10 ± 0.20 (3), +0.10            71.50         -   1 measured, 1 not yet
UniMatch + X n)      71.2 | 71.10 ± 0.20 (3), -0.10   72.00 | failed      73.1   1 failed, 1 measured, 1 not yet
  Δ over UniMatch           +1.2 | +1.00 ± 0.00 (3)            +0.50

quoted
Other                                          60.0             61.0         -   quoted

n) a note
failed: UniMatch + X, Classic 1/8: seed 0: loss is not finite
"""


def test_the_layout_of_the_paper(filled: Filled) -> None:
    assert filled.render("rich") == RICH


def test_a_narrow_terminal_folds_cells(filled: Filled) -> None:
    text = filled.render("rich", width=70)
    assert max(map(len, text.splitlines())) <= 70


def test_markdown(filled: Filled) -> None:
    text = filled.render("md")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "|  | Classic 1/16 | Classic 1/8 | Blender 1/16 | state |"
    assert rows[3] == r"| UniMatch [CVPR'23] | 70.0 \| 70.10 ± 0.20 (3), +0.10 | 71.50 | - | 1 measured, 1 not yet |"
    assert all(line.replace(r"\|", "").count("|") == 6 for line in rows)


def test_csv(filled: Filled) -> None:
    rows = list(csv.DictReader(io.StringIO(filled.render("csv"))))
    assert [r["row"] for r in rows] == ["UniMatch", "UniMatch + X", "Other"]
    assert {k: rows[0][f"a {k}"] for k in ("printed", "measured", "sd", "n", "state")} == {
        "printed": "70.0", "measured": "70.1000", "sd": "0.2000", "n": "3", "state": "measured"}  # fmt: skip
    assert rows[2]["c state"] == ""


def test_long(filled: Filled) -> None:
    rows = filled.long()
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
    filled = PaperTable.read(str(path)).fill(store)
    text = filled.render("rich")
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
    assert [c.row for c in filled.wanted()] == ["base", "plug", "plug", "plug"]


def test_the_same_store_gives_the_same_bytes(store: ResultStore, record: Make) -> None:
    for seed in (2, 0, 1):
        store.add(record("unimatch/unimatch_voc_r101", A, seed, 75.0 + seed / 7))
    once, again = (
        [PaperTable.read(n).fill(store).render(how) for n in table_names() for how in ("rich", "md", "csv")]  # type: ignore[arg-type]
        for _ in range(2)
    )
    assert once == again
    assert all(text.endswith("\n") and not text.endswith("\n\n") for text in once)
    assert not any(line != line.rstrip() for text in once[::3] for line in text.splitlines())


def test_an_unknown_format_is_refused(filled: Filled) -> None:
    with pytest.raises(UsageError, match="no table format 'pdf'"):
        filled.render("pdf")  # type: ignore[arg-type]
