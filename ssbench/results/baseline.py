"""Results to compare with: a folder of records, one record, or a file of many that `ssbench gate --save` wrote."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from ssbench.errors import DataError, SsbenchError
from ssbench.files import as_model, read_json, write_text
from ssbench.recipe.identity import version_changes, why_stale
from ssbench.recipe.recipe import load
from ssbench.results.record import Count, Percent, Record, Text, is_main, read_whole
from ssbench.results.store import Place, ResultStore

CUSTOM = "-custom-"  # in the name of the folder of a user's own split
COMPARED = ("scores", "per_class", "confusion", "volumes")
"""What of a record is compared bit for bit."""


class BaselineRun(BaseModel):
    """What a gate reads of one run.

    score: of the best epoch, percent, None where the run failed. settings: fingerprint of the resolved recipe. machine:
    kind of hardware, with the threads of a CPU; packages: their versions; numbers: digest of all that was scored.
    versions: behaviour version of each part, where the record states them. stale: why its data or code are not the
    present ones, "" where they are.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    recipe: Text
    split: Text
    seed: Count
    method: Text
    metric: Text
    status: Text
    reason: Annotated[str, Field(max_length=100_000)]
    score: Percent | None
    settings: Text
    device: Text
    machine: Text
    packages: Text
    numbers: Text
    images_per_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    versions: dict[Text, Count] = {}
    stale: Annotated[str, Field(max_length=100_000)] = Field(default="", exclude=True)

    @property
    def place(self) -> Place:
        """Its cell."""
        return self.recipe, self.split

    @property
    def done_score(self) -> float | None:
        """Its score, None unless it is done."""
        return self.score if self.status == "done" else None


class _BaselineFile(BaseModel):
    entries: list[BaselineRun]


class ScoredRun(NamedTuple):
    """What tells how seeds scatter. score: percent, None where the run failed."""

    place: Place
    metric: str
    settings: str
    seed: int
    score: float | None


def scored(run: BaselineRun | Record) -> ScoredRun:
    """What of a run tells how seeds scatter."""
    if isinstance(run, BaselineRun):
        return ScoredRun(run.place, run.metric, run.settings, run.seed, run.done_score)
    best = run.best if run.status == "done" else None
    return ScoredRun((run.recipe, run.split), run.metric, run.settings, run.seed, best)


def read_runs(
    source: Path,
    places: Collection[Place] | None = None,
    data_root: Path | None = None,
    damaged: dict[Path, DataError] | None = None,
) -> list[BaselineRun]:
    """The runs in `source` as their recipes stand, one for each seed; of these places only, where some are given.

    An empty split stands for every split of the recipe. Of a user's own split, whose records have keyed names, the last
    finished run of each seed counts.

    Args:
        damaged: takes the records that cannot be read; without it they are passed over.
    Raises:
        DataError: `source` is not there, or is neither a folder nor such a file.
    """
    damaged = {} if damaged is None else damaged
    if source.is_dir():
        store = ResultStore(source)
        records = list(store.records() if places is None else store.select(sorted(places)))
        damaged |= {path: error for path, error in store.damaged.items() if is_main(path) or CUSTOM in path.parent.name}
        runs = []
        for record in _standing(records):
            try:
                runs.append(_run_in(record.path, data_root))
            except DataError as error:
                damaged[record.path] = error
        return runs
    if not source.is_file():
        raise DataError("no results to compare with", str(source), "give a results folder, or a file of gate --save")
    runs = _of_file(source, data_root)
    return runs if places is None else [r for r in runs if r.place in places or (r.recipe, "") in places]


def _standing(records: Iterable[Record]) -> list[Record]:
    """The records that stand for their runs: those of a plain name; on a user's own split the last of each seed."""
    kept, own = [], dict[tuple[str, str, int], Record]()
    for record in records:
        if is_main(record.path):
            kept.append(record)
        elif record.custom_split and record.division == "closed" and not record.quick:
            place = (record.recipe, record.split, record.seed)
            newer = place not in own or _rank(record) > _rank(own[place])
            own |= {place: record} if newer else {}
    return [*kept, *own.values()]


def _rank(record: Record) -> tuple[bool, str]:
    return record.status == "done", record.finished


def save(runs: Iterable[BaselineRun], path: Path) -> None:
    """Write runs to one file, one a line, for `read_runs`."""
    fields = (run.model_dump(exclude=None if run.versions else {"versions"}) for run in runs)
    lines = ",\n".join("  " + json.dumps(values, ensure_ascii=False) for values in fields)
    write_text(path, f'{{\n "gate_baseline": 1,\n "entries": [\n{lines}\n ]\n}}\n')


def _of_file(path: Path, data_root: Path | None) -> list[BaselineRun]:
    kind, fix = "file of results", "ssbench gate --save FILE writes such a file from a results folder"
    value = read_json(path, kind, fix)
    if isinstance(value, dict) and "entries" not in value:  # a single record
        return [_run_in(path, data_root)]
    entries = as_model(value, _BaselineFile, str(path), kind, fix).entries
    return [run.model_copy(update={"stale": _why_stale(run, data_root)}) for run in entries]


def _run_in(path: Path, data_root: Path | None) -> BaselineRun:
    """The run of the record in `path`."""
    return _run_of(read_whole(path)).model_copy(update={"stale": "; ".join(why_stale(path, data_root))})


def _why_stale(run: BaselineRun, data_root: Path | None) -> str:
    """Which behaviour versions have been raised since a run of a saved file, by the recipe of its name."""
    try:
        dataset = run.split.partition("/")[0]
        now = load(run.recipe, data_root=data_root, dataset=dataset).versions() if run.versions else {}
    except SsbenchError:  # its recipe is not here, or had settings that the name does not tell
        return ""
    return "; ".join(version_changes(run.versions, now))


def _run_of(record: Mapping[str, Any]) -> BaselineRun:
    hardware, scores = record.get("hardware") or {}, record.get("scores") or {}
    device = str(hardware.get("device", ""))
    return BaselineRun(
        recipe=record["recipe"],
        split=record["split"],
        seed=record["seed"],
        method=record["method"],
        metric=record["metric"],
        status=record["status"],
        reason=record.get("reason") or "",
        score=(scores.get("best") or {}).get("report"),
        settings=record.get("settings") or "",
        device=device,
        machine=machine_of(hardware),
        packages=_digest(record.get("packages")),
        numbers=_digest([record.get(name) for name in COMPARED]),
        images_per_s=(record.get("throughput") or {}).get("images_per_s"),
        versions=(record.get("identity") or {}).get("versions") or {},
    )


def machine_of(hardware: Mapping[str, Any]) -> str:
    """The kind of hardware of a record's `hardware`, of a CPU with its threads: speeds are compared within one."""
    threads = f", threads: {hardware.get('threads')}" if hardware.get("device") == "cpu" else ""
    return f"{hardware.get('name', 'unknown')}{threads}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
