"""How long the tables take over 10,000 stored results: `python tests/bench/bench_table.py`.

The records are of the size real ones have (21 classes, 80 epochs of history) and are made in a temporary folder. The
printed seconds are the best of three, in one process that has already imported everything.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from ssbench.results import store as stores
from ssbench.results.store import ResultStore
from ssbench.tables.cell import cells_of
from ssbench.tables.fill import fill
from ssbench.tables.render import render
from ssbench.tables.spec import PaperTable

TABLE = "mpmc/table1"
RUNS = 10_000


def record(recipe: str, split: str, seed: int) -> dict[str, Any]:
    """One result as a VOC run leaves it, about 25 kB."""
    score = 70 + seed % 7
    confusion = [[seed + i * j for i in range(21)] for j in range(21)]
    terms = ("loss", "sup", "s1", "s2", "fp", "kept")
    return {
        "schema": 1, "key": f"{seed:016x}", "recipe": recipe, "paper": "mpmc", "method": "unimatch", "plugin": None,
        "split": split, "split_sha256": "0" * 64, "custom_split": False, "seed": seed, "division": "closed",
        "quick": False, "status": "done", "metric": "miou",
        "resolved": {"optim": {"lr": 0.001, "head": 10}, "views": {str(i): i for i in range(60)}},
        "scores": {w: {"epoch": 79, "select": score, "report": score} for w in ("best", "last")},
        "per_class": {"best": [50.0] * 21, "last": [50.0] * 21}, "classes": [f"class{i}" for i in range(21)],
        "confusion": {"best": confusion, "last": confusion},
        "history": [{"epoch": e, "select": score, **dict.fromkeys(terms, e / 7)} for e in range(80)],
    }  # fmt: skip


def best_of(times: int, work: Callable[[], object]) -> float:
    """Shortest wall time of `work` in seconds."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken)


def main() -> None:
    """Make the records, then time reading all, and filling and printing one table."""
    with tempfile.TemporaryDirectory() as folder:
        store = ResultStore(Path(folder))
        places = sorted({(c.stored, c.split) for c in cells_of(PaperTable.read(TABLE)) if c.stored and c.split})
        for i in range(RUNS):
            recipe, split = places[i % len(places)]
            path = store.folder(str(recipe), str(split)) / f"seed{i // len(places)}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(stores._text(stores._in_file_order(record(str(recipe), str(split), i // len(places)))))
        size = sum(f.stat().st_size for f in Path(folder).rglob("*.json")) / RUNS / 1024
        print(f"{RUNS} records of {size:.0f} KiB on {len(places)} cells of {TABLE}, {os.cpu_count()} cores")
        print(f"read all records        {best_of(3, lambda: list(store.records())):.2f} s")
        print(
            f"read, fill and print    {best_of(3, lambda: render(fill(PaperTable.read(TABLE), store), 'rich')):.2f} s"
        )


if __name__ == "__main__":
    main()
