from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ssbench.errors import DataError, RecipeError
from ssbench.paths import shipped
from ssbench.recipe.recipe import recipe_names
from ssbench.results.store import ResultStore
from ssbench.tables.cell import Cell, cells_of
from ssbench.tables.claims import (
    KINDS,
    Claim,
    all_claims,
    claim_rows,
    claims_for,
    read_claim,
    read_shipped,
    shipped_claims,
    write_claim,
)
from ssbench.tables.fill import fill
from ssbench.tables.render import render
from ssbench.tables.spec import PaperTable, table_names
from ssbench.tables.verdict import SPREADS

Write = Callable[..., Path]
LOG = Claim("unimatch", None, "voc/classic/1_16", "resnet101", 321, "miou", Decimal("75.20"), "log", "mine.log", "",
            ((0, 50.5), (3, 75.2)))  # fmt: skip


def cell(table: str, row: str, column: str) -> Cell:
    return next(c for c in cells_of(PaperTable.read(table)) if (c.row, c.column) == (row, column))


def test_a_claim_is_written_and_read_with_its_digits(tmp_path: Path) -> None:
    path = write_claim(tmp_path, LOG)
    assert path.parent == tmp_path / "claims"
    assert read_claim(path) == LOG
    fields = json.loads(path.read_text())
    assert (fields["value"], fields["curve"]) == ("75.20", [[0, 50.5], [3, 75.2]])
    assert list(fields) == list(Claim.__dataclass_fields__)


def test_the_same_source_replaces_and_another_is_kept(tmp_path: Path) -> None:
    first = write_claim(tmp_path, LOG)
    assert write_claim(tmp_path, replace(LOG, value=Decimal("75.3"), note="read again")) == first
    assert write_claim(tmp_path, replace(LOG, source="other.log")) != first
    imported = all_claims(tmp_path)[len(shipped_claims()) :]
    assert sorted((c.source, str(c.value)) for c in imported) == [("mine.log", "75.3"), ("other.log", "75.20")]


words = st.text(min_size=1, max_size=20)


@given(words, words, st.decimals(0, 100, places=2), st.lists(st.tuples(st.integers(0, 400), st.floats(0, 100))))
def test_anything_a_log_may_hold_comes_back(
    tmp_path_factory: pytest.TempPathFactory, source: str, note: str, value: Decimal, curve: list[tuple[int, float]]
) -> None:
    claim = replace(LOG, source=source, note=note, value=value, curve=tuple(curve))
    assert read_claim(write_claim(tmp_path_factory.getbasetemp(), claim)) == claim


@pytest.mark.parametrize(
    ("text", "what"),
    [("{", "not JSON"), ("[]", "damaged"), ('{"method": "unimatch"}', "field 'plugin'"), (None, "field 'kind'")],
)
def test_a_file_that_is_no_claim_is_named(tmp_path: Path, text: str | None, what: str) -> None:
    path = write_claim(tmp_path, LOG)
    path.write_text(path.read_text().replace('"log"', '"rumour"') if text is None else text)
    with pytest.raises(DataError) as error:
        all_claims(tmp_path)
    assert error.value.where.startswith(str(path))
    assert what in error.value.what


def test_a_cell_has_the_printed_number_first_then_the_others_by_kind(tmp_path: Path) -> None:
    path = write_claim(tmp_path, LOG)
    got = claims_for(cell("mpmc/table1", "r101-unimatch", "c92"), all_claims(tmp_path))
    assert [(c.kind, str(c.value)) for c in got] == [
        ("paper", "75.2"), ("readme", "75.2"), ("log", "75.46"), ("log", "74.78"), ("log", "74.74"), ("log", "75.20")
    ]  # fmt: skip
    assert got[0].source == "this table"
    assert got[2].curve == ((0, 58.74), (27, 75.46), (79, 74.81))
    path.unlink()
    assert claims_for(cell("mpmc/table1", "r101-unimatch", "c92"), all_claims(tmp_path)) == got[:-1]


def test_other_lists_nets_and_plugins_are_other_cells(tmp_path: Path) -> None:
    assert [c.kind for c in claims_for(cell("mpmc/table1", "r101-unimatch-mpmc", "c92"), all_claims(tmp_path))] == [
        "paper"
    ]
    assert [c.kind for c in claims_for(cell("mpmc/table1", "r101-daw", "c92"), all_claims(tmp_path))] == []
    u2pl = claims_for(cell("mpmc/table2", "u2pl", "r101-186"), all_claims(tmp_path))
    assert "own paper" not in {c.kind for c in u2pl}  # those are on U2PL's lists
    assert "own paper" in {c.kind for c in claims_for(cell("s4mc/table3", "u2pl", "c186"), all_claims(tmp_path))}
    per_class = claims_for(cell("wpl/table4", "unimatch", "sheep"), all_claims(tmp_path))
    assert [c.kind for c in per_class] == ["paper"]


def test_a_claim_at_another_crop_counts_and_says_so(tmp_path: Path) -> None:
    read = fill(PaperTable.read("mpmc/table2"), ResultStore(tmp_path))
    line = next(row for row in render(read, "md", claims=shipped_claims()).splitlines() if row.startswith("|   log |"))
    assert "63.34 at 800" in line


def test_shipped_claims_name_what_exists() -> None:
    splits = yaml.safe_load((shipped("splits") / "manifest.yaml").read_text())["splits"]
    files = {p.stem for p in (shipped("recipes") / "claims").glob("*.yaml")}
    assert {c.method for c in shipped_claims()} == files
    for claim in shipped_claims():
        assert claim.split in splits
        assert claim.kind in KINDS
        assert claim.source
        assert claim.curve is None or max(score for _, score in claim.curve) == float(claim.value)
        assert claim.curve is None or [e for e, _ in claim.curve] == sorted({e for e, _ in claim.curve})
    # UniMatch, AugSeg and others; PrevMatch; UniMatch V2
    assert sum(c.kind == "log" for c in shipped_claims()) == 51 + 25 + 30 + 37 + 68
    assert len({(c.method, c.split, c.backbone, c.crop, c.kind, c.source) for c in shipped_claims()}) == len(
        shipped_claims()
    )


def test_claims_are_no_recipes_and_no_tables() -> None:
    assert not [n for n in (*recipe_names(), *table_names()) if n.startswith("claims/")]


def test_the_default_spread_is_that_of_the_released_repeats() -> None:
    """UniMatch's ResNet-101 logs at 321: three repeats each of eight splits."""
    repeats = defaultdict(list)
    for c in shipped_claims():
        if (c.method, c.plugin, c.kind, c.backbone, c.crop) == ("unimatch", None, "log", "resnet101", 321):
            repeats[c.split].append(float(c.value))
    assert sorted(map(len, repeats.values())) == [3] * 8
    pooled = statistics.fmean(statistics.variance(v) for v in repeats.values()) ** 0.5
    assert round(pooled, 2) == SPREADS["miou"]


@pytest.mark.parametrize(
    ("line", "what", "at"),
    [
        ("{kind: log, source: s, family: a/b, parts: '1_8', values: 1.0 2.0}", "2 values for the parts '1_8'", 3),
        ("{kind: rumour, source: s, family: a/b}", "kind: input should be 'paper', 'own paper'", 3),
        ("{kind: log, source: s, family: a}", "pattern", 3),
        ("{kind: log, sorce: s, family: a/b}", "no field 'sorce'; did you mean 'source'", 3),
        ("{kind: log, source: s, family: a/b, runs: {x.log: 1_8 3}}", "epoch:score", 0),
    ],
)
def test_errors_of_a_shipped_file_name_its_line(tmp_path: Path, line: str, what: str, at: int) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(f"method: mine\nclaims:\n  - {line}\n")
    with pytest.raises(RecipeError) as error:
        read_shipped(path)
    assert what.lower() in error.value.what.lower()
    assert error.value.where == f"recipes/claims/mine.yaml:{at}" if at else error.value.where.startswith("recipes/")


def test_rows_for_machines(tmp_path: Path) -> None:
    filled = fill(PaperTable.read("mpmc/table1"), ResultStore(tmp_path))
    rows = claim_rows(filled, shipped_claims())
    assert json.loads(json.dumps(rows)) == rows
    mine = [r for r in rows if (r["row"], r["column"], r["backbone"]) == ("UniMatch", "Classic 1/16", "resnet50")]
    assert [(r["kind"], r["value"], r["crop"]) for r in mine] == [("paper", "71.9", 321), ("log", "71.90", 321)]
