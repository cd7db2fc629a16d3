"""Results to compare with: a folder of records, one record, or a file of many that `ssbench gate --save` wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ssbench.errors import DataError
from ssbench.files import write_text
from ssbench.results.store import ResultStore

Place = tuple[str, str]
"""(stored name, split) of a cell."""
NUMBERS = ("scores", "per_class", "confusion", "volumes")
"""What of a record is compared bit for bit."""


@dataclass(frozen=True)
class Entry:
    """What a gate reads of one run.

    score: of the best epoch, percent, None where the run failed. settings: fingerprint of the resolved recipe. machine:
    kind of hardware, with the threads of a CPU; packages: their versions; numbers: digest of all that was scored.
    """

    recipe: str
    split: str
    seed: int
    method: str
    metric: str
    status: str
    reason: str
    score: float | None
    settings: str
    device: str
    machine: str
    packages: str
    numbers: str
    images_per_s: float | None

    @property
    def place(self) -> Place:
        """Its cell."""
        return self.recipe, self.split


def entries(source: Path, places: Collection[Place] | None = None) -> list[Entry]:
    """The runs in `source`, of these cells only (default: all), as their recipes stand: one for each seed.

    DataError when the file or folder is not there, or is neither.
    """
    if source.is_dir():
        store = ResultStore(source)
        records = store.records() if places is None else (r for place in sorted(places) for r in store.runs(*place))
        return [_entry(record.full()) for record in records if record.main]
    if not source.is_file():
        raise DataError("no results to compare with", str(source), "give a results folder, or a file of gate --save")
    found = _of_file(source)
    return found if places is None else [entry for entry in found if entry.place in places]


def save(found: Iterable[Entry], path: Path) -> None:
    """Write entries to one file, one a line, for `entries`."""
    lines = ",\n".join("  " + json.dumps(asdict(entry), ensure_ascii=False) for entry in found)
    write_text(path, f'{{\n "gate_baseline": 1,\n "entries": [\n{lines}\n ]\n}}\n')


def _of_file(path: Path) -> list[Entry]:
    fix = "ssbench gate --save FILE writes such a file from a results folder"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        if "entries" not in said:
            return [_entry(said)]
        names = {field.name for field in fields(Entry)}
        return [Entry(**{name: one[name] for name in names}) for one in said["entries"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"neither a record nor a file of records: {type(error).__name__} {error}"
        raise DataError(what, str(path), fix) from None


def _entry(full: Mapping[str, Any]) -> Entry:
    hardware, scores = full.get("hardware") or {}, full.get("scores") or {}
    device = str(hardware.get("device", ""))
    threads = f", threads: {hardware.get('threads')}" if device == "cpu" else ""
    return Entry(
        recipe=full["recipe"],
        split=full["split"],
        seed=int(full["seed"]),
        method=full["method"],
        metric=full["metric"],
        status=full["status"],
        reason=str(full.get("reason") or ""),
        score=(scores.get("best") or {}).get("report"),
        settings=full.get("settings") or "",
        device=device,
        machine=f"{hardware.get('name', 'unknown')}{threads}",
        packages=_digest(full.get("packages")),
        numbers=_digest([full.get(name) for name in NUMBERS]),
        images_per_s=(full.get("throughput") or {}).get("images_per_s"),
    )


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
