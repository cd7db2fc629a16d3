from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ran import Ran

from ssbench.results.store import ResultStore
from ssbench.tables.spec import table_names

Make = Callable[..., dict[str, Any]]
Run = Callable[..., Ran]


def test_all_tables_into_a_folder(ssbench: Run, tmp_path: Path) -> None:
    done = ssbench("table", "--all", "--format", "md", "-o", "out")
    assert (done.code, done.out) == (0, "")
    assert len(list((tmp_path / "out").iterdir())) == len(table_names())
    assert done.err.splitlines()[-1].startswith(f"{len(table_names())} of {len(table_names())} tables written to out")
    assert ssbench("table", "--all", "--format", "md", "-o", "out").err.startswith("0 of ")


def test_one_table_into_a_folder(ssbench: Run, tmp_path: Path) -> None:
    assert ssbench("table", "mpmc/table3", "--format", "latex", "-o", "out").code == 0
    assert (tmp_path / "out" / "mpmc-table3.tex").read_text().startswith("% mpmc/table3; needs")


@pytest.mark.parametrize("how", ["md", "latex", "html", "csv"])
def test_formats_on_stdout(ssbench: Run, how: str) -> None:
    done = ssbench("table", "mpmc/table3", "--format", how)
    assert (done.code, done.err) == (0, "")
    assert "91.8" in done.out


def test_claims_in_every_form(ssbench: Run) -> None:
    assert "  readme " in ssbench("table", "mpmc/table3", "--claims").out
    plain, told = (json.loads(ssbench("table", "mpmc/table3", "--json", *w).out) for w in ((), ("--claims",)))
    assert "claims" not in plain
    assert plain["cells"] == told["cells"]
    assert {c["kind"] for c in told["claims"]} == {"paper", "readme", "log"}
    rows = list(csv.DictReader(io.StringIO(ssbench("table", "mpmc/table3", "--claims", "--long").out)))
    assert [r["value"] for r in rows] == [c["value"] for c in told["claims"]]
    assert next(r for r in rows if r["kind"] == "log")["source"].endswith("medical: 3cases.log")


def test_a_damaged_claim_is_named_and_passed_over(ssbench: Run, tmp_path: Path) -> None:
    (tmp_path / "results" / "claims").mkdir(parents=True)
    (tmp_path / "results" / "claims" / "x.json").write_text("{}")
    assert "ignored: this claim is damaged" in ssbench("table", "mpmc/table3").err  # levels are read from claims
    done = ssbench("table", "mpmc/table3", "--claims")
    assert (done.code, done.out.count("readme")) == (0, 3)
    assert "ignored: this claim is damaged, field 'method'" in done.err
    assert "results/claims/x.json" in done.err


def test_a_torn_record_blocks_no_table(ssbench: Run, tmp_path: Path, record: Make) -> None:
    store = ResultStore(tmp_path / "results")
    protocol = {"protocol": "volume"}
    for seed in (0, 1):
        path = store.add(record("acdc/unimatch_unet", "acdc/ssl4mis/3", seed, 80.0, metric="dice", protocol=protocol))
    path.write_bytes(path.read_bytes()[:-30])
    for words in (("mpmc/table3",), ("mpmc/table3", "-o", "out"), ("mpmc/table3", "--long")):
        done = ssbench("table", *words)
        assert done.code == 0
        assert "ignored: this record is damaged" in done.err
        assert str(path.relative_to(tmp_path)) in done.err
    told = json.loads(ssbench("table", "mpmc/table3", "--json").out)
    assert [(c["measured"], c["n"]) for c in told["cells"] if c["n"]] == [(80.0, 1)]
    assert [row["file"] for row in told["damaged"]] == [str(path.relative_to(tmp_path))]
    assert "damaged" not in json.loads(ssbench("table", "mpmc/table1", "--json").out)  # reads only its own records


def test_verdicts_for_machines(ssbench: Run, tmp_path: Path, record: Make) -> None:
    store = ResultStore(tmp_path / "results")
    store.add(record("acdc/unimatch_unet", "acdc/ssl4mis/3", 0, 80.0, metric="dice", protocol={"protocol": "volume"}))
    rows = list(csv.DictReader(io.StringIO(ssbench("table", "mpmc/table3", "--long").out)))
    told = [(r["row"], r["verdict"]) for r in rows if r["verdict"]]
    assert told == [("UniMatch", "short by 8.90")]


@pytest.mark.parametrize(
    "words",
    [("table",), ("table", "mpmc/table3", "--all"), ("table", "--all", "-o", "x", "--json"),
     ("table", "--all", "-o", "x", "--claims"), ("table", "mpmc/table3", "--format", "pdf"),
     ("table", "mpmc/table3", "--format", "latex", "--claims")],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(ssbench: Run, words: tuple[str, ...]) -> None:
    done = ssbench(*words)
    assert done.code == 2
    assert "fix:" in done.err


def test_help_points_at_the_rule(ssbench: Run) -> None:
    assert "pydoc ssbench.tables.verdict" in " ".join(ssbench("table", "--help").out.split())
