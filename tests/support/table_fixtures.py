"""Made result records and small tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from ssbench.results.store import ResultStore
from ssbench.tables.cell import Filled
from ssbench.tables.fill import fill
from ssbench.tables.spec import PaperTable

Record = dict[str, Any]


def make(recipe: str, split: str, seed: int = 0, best: float = 70.0, **fields: Any) -> Record:
    """A record as a run writes it (DESIGN section 9), shortened where nothing reads it."""
    record: Record = {
        "schema": 1,
        "key": f"{seed:08x}{crc32(f'{recipe} {split}'.encode()):08x}",
        "recipe": recipe,
        "paper": None,
        "method": "unimatch",
        "plugin": None,
        "split": split,
        "split_sha256": "0" * 64,
        "custom_split": False,
        "seed": seed,
        "division": "closed",
        "quick": False,
        "resolved": {"optim": {"lr": 0.001}},
        "status": "done",
        "protocol": {"protocol": "whole", "select": "val", "report": "val"},
        "metric": "miou",
        "scores": {
            "best": {"epoch": 60, "select": best, "report": best},
            "last": {"epoch": 79, "select": best - 0.5, "report": best - 0.5},
        },
        "per_class": {"best": [90.0, 50.0, None], "last": [89.0, 49.0, None]},
        "classes": ["background", "car", "tv/monitor"],
        "confusion": {"best": [[1, 0], [0, 1]], "last": [[1, 0], [0, 1]]},
        "history": [{"epoch": e, "select": best, "loss": 1.0 / (e + 1)} for e in range(3)],
    }
    return {**record, **fields}


@pytest.fixture
def record() -> Callable[..., Record]:
    return make


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


TABLE = """\
title: a small table
paper: toypaper
metric: miou
defaults: {backbone: resnet50}
columns:
  - {id: a, label: 1/16, group: Classic, split: voc/classic/1_16}
  - {id: b, label: 1/8, group: Classic, split: voc/classic/1_8}
  - {id: c, label: 1/16, group: Blender, split: voc/blender-u2pl/1_16}
rows:
  - {id: base, label: UniMatch, venue: CVPR'23, group: R50, role: B, method: unimatch, recipe: toypaper/base,
     printed: 70.0 71.50 -}
  - {id: plug, label: UniMatch + X, group: R50, role: P, method: unimatch, plugin: x, recipe: toypaper/plug,
     gain_over: base, notes: [n], printed: 71.2 72.00 73.1}
  - {id: other, label: Other, group: quoted, role: Q, over: Classic, printed: 60.0 61.0}
notes:
  n: a note
"""


@pytest.fixture
def table_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes TABLE (with replacements) beside the recipes it names; returns its path."""

    def write(*swaps: tuple[str, str], recipes: tuple[str, ...] = ()) -> Path:
        text = TABLE
        for old, new in swaps:
            assert old in text
            text = text.replace(old, new)
        folder = tmp_path / "toypaper"
        folder.mkdir(exist_ok=True)
        path = folder / "table1.yaml"
        path.write_text(text)
        for name in recipes:
            (folder / f"{name}.yaml").write_text("method: {name: unimatch}\n")
        return path

    return write


@pytest.fixture
def filled(table_file: Callable[..., Path], store: ResultStore) -> Filled:
    """TABLE with three seeds of two of its cells, and a failed run of a third."""
    for seed, best in enumerate((69.9, 70.1, 70.3)):
        store.add(make("toypaper/base", "voc/classic/1_16", seed, best))
        store.add(make("toypaper/plug", "voc/classic/1_16", seed, best + 1))
    store.add(make("toypaper/plug", "voc/classic/1_8", 0, status="failed", reason="loss is not finite", scores={}))
    return fill(PaperTable.read(str(table_file())), store)
