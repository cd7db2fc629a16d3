"""Result records: one JSON file a run under `results/<recipe>/<split>/`, added but never lost.

Which file a record takes:

* `seed<k>.json` is the run as its recipe stands: no quick version, closed division, the split's published list;
* `seed<k>.<first 8 of the run key>.json` is every other run, and a record that another one has displaced.

Runs with `--set` are other recipes here: their name ends in `+` and a hash of the overrides.

Of two records for the same file, `done` beats `failed`, a later failure replaces an earlier one, and the first `done`
record of a run key stands: doing a run again until its number pleases changes nothing. A `done` run with another key
(the recipe was edited in between) takes `seed<k>.json` and moves the former one to its keyed name.

Top-level fields stand one a line, the ones a table needs first, so ten thousand records are read in well under a
second without parsing histories and confusion matrices (DESIGN section 9).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssbench.errors import DataError, UsageError
from ssbench.files import write_bytes

if TYPE_CHECKING:
    import pandas as pd

LIGHT = (
    "schema",
    "key",
    "recipe",
    "paper",
    "method",
    "plugin",
    "split",
    "split_sha256",
    "custom_split",
    "seed",
    "division",
    "quick",
    "status",
    "reason",
    "finished",
    "settings",
    "metric",
    "scores",
    "protocol",
)
_NAME = re.compile(r"seed\d+(\.[0-9A-Za-z]+)?\.json")
_HEAVY = b'\n "resolved":'  # the first field a table does not need


@dataclass(frozen=True, slots=True)
class Record:
    """What a table needs of one run; `full()` reads the rest.

    best, last: reported score in percent of the best-on-val and of the last epoch; None where the run failed.
    settings: fingerprint of the resolved recipe; finished: ISO time, or "". protocol: whole, sliding, ..., or "".
    """

    path: Path
    key: str
    recipe: str
    split: str
    seed: int
    method: str
    plugin: str | None
    status: str
    reason: str
    division: str
    quick: bool
    custom_split: bool
    settings: str
    finished: str
    metric: str
    best: float | None
    best_epoch: int | None
    last: float | None
    last_epoch: int | None
    protocol: str

    @property
    def main(self) -> bool:
        """Whether it has the plain name `seed<k>.json`."""
        return self.path.name.count(".") == 1

    def full(self) -> dict[str, Any]:
        """Every field of the file, as in DESIGN section 9. DataError when it is not valid JSON any more."""
        return _parse(self.path, self.path.read_bytes())


class ResultStore:
    """The records under one folder (default of the command line: `results/`)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def folder(self, recipe: str, split: str) -> Path:
        """Where runs of a recipe on a split are kept. UsageError for a name that would leave the store."""
        parts = recipe.split("/")
        if not recipe or any(p in ("", ".", "..") or "\\" in p for p in parts) or not re.fullmatch(r"[\w./+-]+", split):
            raise UsageError(f"no result can be stored under recipe '{recipe}', split '{split}'", str(self.root))
        return self.root.joinpath(*parts, split.replace("/", "-"))

    def add(self, record: Mapping[str, Any]) -> Path:
        """Store a record by the rules above; the path of the record that stands for this run afterwards.

        DataError when a field that the tables need is missing.
        """
        new = _completed(record)
        fresh = _light(Path("the new record"), new)
        folder = self.folder(fresh.recipe, fresh.split)
        keyed = folder / f"seed{fresh.seed}.{fresh.key[:8]}.json"
        main = folder / f"seed{fresh.seed}.json"
        if not _as_published(fresh) or (keyed.is_file() and _read(keyed).status == "done"):
            return _settle(keyed, fresh, new)
        return _claim(main, keyed, fresh, new)

    def runs(self, recipe: str, split: str) -> list[Record]:
        """The records of one recipe on one split, by seed; empty when there are none."""
        found = [r for r in _folder(self.folder(recipe, split)) if r.split == split]
        return sorted(found, key=lambda r: (r.seed, r.path.name))

    def records(self) -> Iterator[Record]:
        """Every record, in the order of their paths. DataError names the first file that is broken."""
        for folder, below, _ in os.walk(self.root):
            below.sort()
            yield from _folder(Path(folder))

    def find(self, recipe: str = "*", split: str = "*") -> pd.DataFrame:
        """One row a run whose recipe and split match the shell patterns, ordered by recipe, split and seed."""
        import pandas as pd

        names = list(Record.__dataclass_fields__)
        rows = [
            [getattr(r, n) for n in names]
            for r in self.records()
            if fnmatchcase(r.recipe, recipe) and fnmatchcase(r.split, split)
        ]
        frame = pd.DataFrame(rows, columns=names)
        return frame.sort_values(["recipe", "split", "seed", "path"], ignore_index=True)


def settings_digest(resolved: object) -> str:
    """12 hex digits that are equal where two resolved recipes are."""
    text = json.dumps(_finite(resolved), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _as_published(r: Record) -> bool:
    return not (r.quick or r.custom_split) and r.division == "closed"


def _claim(main: Path, keyed: Path, fresh: Record, new: dict[str, Any]) -> Path:
    """`fresh` under the plain name, unless a better record of another key holds it."""
    try:
        holder = _read(main) if main.is_file() else None
    except DataError:
        return _settle(keyed, fresh, new)  # a broken file is somebody's evidence: left alone
    if holder is None or holder.key == fresh.key:
        return _settle(main, fresh, new)
    if holder.status == "done":
        if fresh.status != "done":
            return _settle(keyed, fresh, new)
        write_bytes(main.with_name(f"seed{holder.seed}.{holder.key[:8]}.json"), main.read_bytes())
    write_bytes(main, _text(new))
    return main


def _settle(path: Path, fresh: Record, new: dict[str, Any]) -> Path:
    """Write to `path` unless a done record already stands there."""
    if path.is_file() and _read(path).status == "done":
        return path
    write_bytes(path, _text(new))
    return path


def _completed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields in file order, with the fingerprint of the settings; a number that is not finite becomes null."""
    whole: dict[str, Any] = {"reason": None, **record}
    whole["settings"] = settings_digest(whole.get("resolved"))
    whole.setdefault("resolved", {})
    light = [name for name in LIGHT if name in whole]
    return {name: _finite(whole[name]) for name in [*light, "resolved", *(n for n in whole if n not in LIGHT)]}


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _text(record: Mapping[str, Any]) -> bytes:
    lines = (f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False, allow_nan=False)}" for k, v in record.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _folder(folder: Path) -> Iterator[Record]:
    if folder.is_dir():
        yield from (
            _read(path) for path in sorted(folder.iterdir(), key=lambda p: p.name) if _NAME.fullmatch(path.name)
        )


def _read(path: Path) -> Record:
    data = path.read_bytes()
    cut = data.find(_HEAVY)
    if cut > 0 and data.endswith(b"\n}\n") and b'\n "scores":' in data[:cut]:
        return _light(path, _parse(path, data[: cut - 1] + b"}"))
    return _light(path, _parse(path, data))  # not written by `add`, or cut off


def _parse(path: Path, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as e:
        raise DataError(f"not a result record: {e}", str(path), f"mv {path} {path}.broken, then run it again") from None
    if not isinstance(value, dict):
        raise DataError("not a result record: no object", str(path), f"mv {path} {path}.broken, then run it again")
    return value


def _light(path: Path, d: Mapping[str, Any]) -> Record:
    try:
        scores = d.get("scores") or {}
        best, last = scores.get("best") or {}, scores.get("last") or {}
        plugin = d.get("plugin")
        return Record(
            path=path,
            key=d["key"],
            recipe=d["recipe"],
            split=d["split"],
            seed=int(d["seed"]),
            method=d["method"],
            plugin="+".join(plugin) if isinstance(plugin, list) else plugin,
            status=d["status"],
            reason=str(d.get("reason") or ""),
            division=d["division"],
            quick=d["quick"],
            custom_split=d["custom_split"],
            settings=d.get("settings") or "",
            finished=d.get("finished") or "",
            metric=d["metric"],
            best=best.get("report"),
            best_epoch=best.get("epoch"),
            last=last.get("report"),
            last_epoch=last.get("epoch"),
            protocol=str((d.get("protocol") or {}).get("protocol") or ""),
        )
    except (KeyError, AttributeError, TypeError, ValueError) as e:
        raise DataError(f"not a result record: {type(e).__name__} {e}", str(path), "see DESIGN section 9") from None
