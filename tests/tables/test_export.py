from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ssbench.results.store import ResultStore
from ssbench.tables.fill import fill
from ssbench.tables.render import ENDINGS, Format, render, write_tables
from ssbench.tables.spec import table_names

Make = Callable[..., dict[str, Any]]
ROOT = Path(__file__).resolve().parents[2]
COMMAND = "ssbench table --all --format md -o results/tables"


def test_the_committed_tables_are_those_of_the_committed_results(tmp_path: Path) -> None:
    folder = ROOT / "results" / "tables"
    if not (ROOT / "results").is_dir():
        pytest.skip("an installed package has no results")
    for path, _ in write_tables(table_names(), ResultStore(ROOT / "results"), tmp_path):
        committed = folder / path.name
        assert committed.is_file(), f"{committed} is missing: {COMMAND}"
        assert committed.read_bytes() == path.read_bytes(), f"{committed} is out of date: {COMMAND}"
    assert {p.name for p in folder.iterdir()} == {f"{name.replace('/', '-')}.md" for name in table_names()}, COMMAND


def test_only_what_has_changed_is_written(tmp_path: Path, store: ResultStore, record: Make) -> None:
    out, names = tmp_path / "out", ["mpmc/table1", "mpmc/table3"]
    first = dict(write_tables(names, store, out))
    assert {p.name: fresh for p, fresh in first.items()} == {"mpmc-table1.md": True, "mpmc-table3.md": True}
    before = {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in first}
    assert not any(fresh for _, fresh in write_tables(names, store, out))
    assert {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in first} == before
    store.add(record("acdc/unimatch_unet", "acdc/ssl4mis/3", metric="dice", protocol={"protocol": "volume"}))
    changed = [p.name for p, fresh in write_tables(names, store, out) if fresh]
    assert changed == ["mpmc-table3.md"]
    assert sorted(p.name for p in out.iterdir()) == ["mpmc-table1.md", "mpmc-table3.md"]  # and no temporary file


@pytest.mark.parametrize("how", list(ENDINGS))
def test_every_format_is_what_render_gives(tmp_path: Path, store: ResultStore, how: Format) -> None:
    from ssbench.tables.spec import PaperTable

    ((path, _),) = write_tables(["wpl/supp_table1"], store, tmp_path, how)
    assert path.name == f"wpl-supp_table1.{ENDINGS[how]}"
    assert path.read_text() == render(fill(PaperTable.read("wpl/supp_table1"), store), how)
