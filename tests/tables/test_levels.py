"""The reproduction level of a cell, in every format."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ssbench.results.store import ResultStore
from ssbench.tables.claims import Claim, ClaimKind, write_claim
from ssbench.tables.fill import fill
from ssbench.tables.render import ENDINGS, Format, long_rows, render
from ssbench.tables.spec import PaperTable

Make = Callable[..., dict[str, Any]]
TABLE = "mpmc/table1"
SPLIT = "voc/classic/1_16"


def claim(kind: ClaimKind, crop: int | None = 321, plugin: str | None = "mpmc", metric: str = "miou") -> Claim:
    return Claim("unimatch", plugin, SPLIT, "resnet101", crop, metric, Decimal("73.1"), kind, f"a {kind}")


def level(store: ResultStore) -> str | None:
    """Of UniMatch + MPMC on ResNet-101, classic 1/16: printed by the paper; no log is shipped."""
    cells = fill(PaperTable.read(TABLE), store).cells.values()
    about = [c for c in cells if (c.method, c.plugin, c.backbone, c.split) == ("unimatch", "mpmc", "resnet101", SPLIT)]
    (of_cell,) = {c.level for c in about}
    return of_cell


@pytest.mark.parametrize(
    ("claims", "seeds", "expected"),
    [
        ((), 0, "quoted"),
        ((claim("readme"), claim("own paper")), 0, "quoted"),
        ((claim("log"),), 0, "claimed by a log"),
        ((claim("log", crop=None),), 0, "claimed by a log"),
        ((claim("log", crop=513),), 0, "quoted"),
        ((claim("log", metric="dice"),), 0, "quoted"),
        ((claim("log", plugin="s4mc"),), 0, "quoted"),
        ((claim("log"), claim("checkpoint")), 0, "checkpoint re-scored"),
        ((claim("checkpoint"),), 1, "one seed"),
        ((), 2, "one seed"),
        ((), 3, "three seeds or more"),
        ((), 4, "three seeds or more"),
    ],
)
def test_level_is_that_of_the_strongest_evidence(
    claims: Sequence[Claim], seeds: int, expected: str, store: ResultStore, record: Make
) -> None:
    for published in claims:
        write_claim(store.root, published)
    (recipe,) = {
        c.stored
        for c in fill(PaperTable.read(TABLE), store).cells.values()
        if (c.method, c.plugin, c.backbone, c.split) == ("unimatch", "mpmc", "resnet101", SPLIT)
    }
    for seed in range(seeds):
        store.add(record(str(recipe), SPLIT, seed, 75.0 + seed / 7))
    assert level(store) == expected


def test_a_failed_run_raises_no_level(store: ResultStore, record: Make) -> None:
    cells = fill(PaperTable.read(TABLE), store).cells.values()
    (recipe,) = {
        c.stored for c in cells if (c.method, c.plugin, c.backbone, c.split) == ("unimatch", "mpmc", "resnet101", SPLIT)
    }
    store.add(record(str(recipe), SPLIT, 0, status="failed", reason="no memory", scores={}))
    assert level(store) == "quoted"


def test_a_cell_that_nobody_printed_or_ran_has_no_level(store: ResultStore) -> None:
    filled = fill(PaperTable.read("toy/table1"), store)
    assert {c.level for c in filled.cells.values()} == {None}
    assert "levels:" not in render(filled, "md")
    assert {row["level"] for row in long_rows(filled)} == {None}


@pytest.mark.parametrize("how", list(ENDINGS))
def test_every_format_shows_levels(how: Format, store: ResultStore) -> None:
    filled = fill(PaperTable.read(TABLE), store)
    counts = {name: [c.level for c in filled.cells.values()].count(name) for name in ("claimed by a log", "quoted")}
    assert counts["claimed by a log"] > 0
    text = render(filled, how)
    if how == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        values = [value for row in rows for name, value in row.items() if name.endswith(" level")]
        assert {name: values.count(name) for name in counts} == counts
        return
    if how == "html":
        assert {name: text.count(f'data-level="{name}"') for name in counts} == counts
    (line,) = (line for line in text.splitlines() if "levels: " in line)
    assert f"levels: {counts['claimed by a log']} claimed by a log (" in line
    assert f", {counts['quoted']} quoted" in line
    assert "UniMatch (ResNet-101): Classic, Blender" in line  # its group is named: two rows share the label


def test_a_damaged_claim_hides_no_table(store: ResultStore, tmp_path: Path) -> None:
    path = store.root / "claims" / "broken.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    assert level(store) == "quoted"
    assert path in store.damaged
