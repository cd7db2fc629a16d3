"""What a run costs: hours from the speed of stored runs like it, else from its arithmetic.

    hours = images / (images/s) x (1 + share of scoring) / 3600        where runs of the same method, plug-ins, network,
                                                                       crop and precision are stored for this plan's
                                                                       recipes, or `plan --measure` timed some steps
    hours = steps x seconds a step x GPUs / 3600                       where the recipe quotes a released log
    hours = (training + scoring FLOPs) / (peak x utilisation) / 3600   elsewhere; `workload` counts the FLOPs

Seven released logs of UniMatch and AugSeg, whose GPUs are not named, show 4 to 26 TFLOPS a GPU by this count; the
default (19.5 x 0.5, an A100 without its tensor cores) lies between. So an estimate without a stored run may be wrong by
a factor of three either way, and nothing finer than this model would mend that.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from ssbench.errors import DataError
from ssbench.files import read_model, sha256, write_json
from ssbench.paths import PACKAGE
from ssbench.recipe.recipe import Recipe
from ssbench.recipe.sections import LoggedSpeed
from ssbench.results.record import Record
from ssbench.results.store import settings_digest

NEWEST = 3
"""So many of the last records of a recipe on a split tell its speed."""
COUNTED_OF = ("methods", "plugins", "nets", "ops", "data", "train", "jobs", "recipe")
"""Folders of the package whose code decides what `workload` counts."""

SpeedKind = tuple[str, ...]
"""What decides the speed of a run: method, plug-ins, network, crop, precision."""
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Work(BaseModel):
    """What a run computes and keeps.

    steps: optimiser steps of all its trainings. images: of all steps, as stored throughput counts them. train_flops,
    score_flops: of all steps; of all scores and of what is computed between trainings. checkpoint_bytes: the files
    that stay in its folder. note: what is not in it, for people.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    steps: Annotated[int, Field(ge=0)]
    images: Annotated[int, Field(ge=0)]
    train_flops: Amount
    score_flops: Amount
    checkpoint_bytes: Annotated[int, Field(ge=0)]
    note: str = ""


@dataclass(frozen=True)
class Speed:
    """Stored throughput on one machine. scoring: seconds of scoring per second of training."""

    hardware: str
    images_per_s: float
    scoring: float


@dataclass(frozen=True)
class Cost:
    """Hours on one device, None where nothing is known, and what they rest on, for people."""

    hours: float | None
    basis: str
    is_measured: bool = False


@dataclass(frozen=True)
class Device:
    """A device for which nothing is stored: its peak, and the share of the peak that a run reaches."""

    tflops: float = 19.5  # A100 data sheet, fp32
    utilisation: float = 0.5  # ours

    def __str__(self) -> str:
        return f"{self.tflops:g} TFLOPS x {self.utilisation:g}"


def cost(work: Work | str, speed: Speed | None, device: Device, logged: LoggedSpeed | None = None) -> Cost:
    """What a run costs by the best that is known of it; `work` as a text says why nothing is.

    Args:
        logged: the speed of the authors' own log, which counts before arithmetic does. It knows no plug-in.
    """
    if isinstance(work, str):
        return Cost(None, f"unknown: {work}")
    if speed is not None:
        hours = work.images / speed.images_per_s * (1 + speed.scoring) / 3600
        return Cost(hours, f"measured on {speed.hardware}", is_measured=True)
    if logged is not None:
        hours = work.steps * logged.seconds_per_step * logged.devices / 3600
        return Cost(hours, f"the host's released log: {logged.seconds_per_step:g} s a step on {logged.devices} GPUs")
    hours = (work.train_flops + work.score_flops) / (device.tflops * 1e12 * device.utilisation) / 3600
    return Cost(hours, f"FLOPs at {device}" + (f", {work.note}" if work.note else ""))


# Speeds of stored runs


@dataclass(frozen=True)
class _Timed:
    """What one record tells of its run's speed."""

    machine: str
    on_gpu: bool
    finished: str
    images_per_s: float
    scoring: float


def speed_kind(resolved: Mapping[str, Any]) -> SpeedKind:
    """What decides the speed of a resolved recipe; the weights a network starts from do not."""
    net = {name: value for name, value in resolved["net"].items() if name != "weights"}
    plugins = "+".join(plugin["name"] for plugin in resolved["plugin"])
    precision = (resolved.get("schedule") or {}).get("precision", "exact")
    crop = str(resolved["views"]["crop"])
    return (resolved["method"]["name"], plugins, json.dumps(net, sort_keys=True), crop, precision)


def stored_speeds(records: Iterable[Record], hardware: str | None = None) -> dict[SpeedKind, Speed]:
    """The speed of each kind of run among the records, on one machine each: a GPU before a CPU, then the last used.

    Args:
        hardware: only machines whose name, as records have it, contains this text.
    """
    timed: dict[SpeedKind, dict[str, list[_Timed]]] = defaultdict(lambda: defaultdict(list))
    for record in _newest(records):
        with suppress(DataError, KeyError, TypeError):  # a damaged record, or one of an older shape
            whole = record.full()
            run = _timed(record, whole)
            if run.images_per_s > 0 and (hardware or "").lower() in run.machine.lower():
                timed[speed_kind(whole["resolved"])][run.machine].append(run)
    return {kind: _speed(by_machine) for kind, by_machine in timed.items()}


def _timed(record: Record, whole: Mapping[str, Any]) -> _Timed:
    hardware, timings = whole.get("hardware") or {}, whole.get("timings") or {}
    train, score = timings.get("train_s") or 0.0, timings.get("score_s") or 0.0
    scoring = score / train if train > 0 else 0.0
    rate = whole["throughput"]["images_per_s"]
    return _Timed(str(hardware.get("name", "")), hardware.get("device") == "cuda", record.finished, rate, scoring)


def _newest(records: Iterable[Record]) -> list[Record]:
    """The last finished records of each recipe on each split; a quick run's speed means nothing."""
    by_place: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.status == "done" and not record.quick:
            by_place[record.recipe, record.split].append(record)
    return [r for group in by_place.values() for r in sorted(group, key=lambda r: r.finished)[-NEWEST:]]


def _speed(by_machine: Mapping[str, list[_Timed]]) -> Speed:
    runs = max(by_machine.values(), key=lambda runs: (runs[0].on_gpu, max(run.finished for run in runs)))
    rate, scoring = (run.images_per_s for run in runs), (run.scoring for run in runs)
    return Speed(runs[0].machine, statistics.median(rate), statistics.median(scoring))


# Speeds that `ssbench plan --measure` timed


class MeasuredSpeed(BaseModel):
    """Images/s of a kind of run over some steps on a machine."""

    machine: Annotated[str, Field(max_length=1000)]
    images_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SpeedFile(BaseModel):
    """Measured speeds by machine, then by kind of run (`SpeedKind` joined by "|")."""

    machines: dict[str, dict[str, MeasuredSpeed]]


def speed_file() -> Path:
    """Where measured speeds are kept, in the user's cache folder."""
    return _cache_folder() / "speeds.json"


def measured_speeds(hardware: str | None = None) -> dict[SpeedKind, Speed]:
    """The speeds of the machine that measured last, or of the one whose name contains `hardware`; a damaged file has
    none. Scoring is not timed: it counts as nothing.
    """
    machines: dict[str, dict[str, MeasuredSpeed]] = {}
    with suppress(DataError):
        machines = read_model(speed_file(), SpeedFile, "file of measured speeds", f"rm {speed_file()}").machines
    fitting = [speeds for name, speeds in machines.items() if (hardware or "").lower() in name.lower()]
    newest = fitting[-1] if fitting else {}
    return {
        tuple(kind.split("|")): Speed(f"{speed.machine}, some steps", speed.images_per_s, 0.0)
        for kind, speed in newest.items()
    }


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssbench"


# The cache of counted work


class _CacheFile(BaseModel):
    code: str
    values: dict[str, Work]


class WorkCache:
    """Counted work of recipes in the user's cache folder. Counting takes seconds and torch; reading it takes neither.

    It is emptied when the package's source or its libraries change. Errors reading or writing the file are ignored.
    """

    def __init__(self) -> None:
        self.path = _cache_folder() / "workloads.json"
        self._values: dict[str, Work] = {}
        with suppress(DataError):
            file = read_model(self.path, _CacheFile, "cache", f"rm {self.path}")
            self._values = file.values if file.code == _code_digest() else {}

    def get(self, recipe: Recipe, labeled: int, unlabeled: int, ledger: Path, count: Callable[[], Work]) -> Work:
        """The work of a recipe on so many images, by `count` where it is not known yet.

        Args:
            ledger: of the dataset, which tells how many images an imported one has to score.
        """
        files = (inspect.getsourcefile(type(cfg)) for cfg in (recipe.method, *recipe.plugins, recipe.net))
        own = [sha256(Path(file)) for file in files if file and not Path(file).is_relative_to(PACKAGE)]
        changed = ledger.stat().st_mtime_ns if ledger.is_file() else 0
        name = settings_digest([recipe.resolved(), labeled, unlabeled, own, changed])
        if name not in self._values:
            self._values[name] = count()
            with suppress(OSError):
                values = {name: work.model_dump() for name, work in self._values.items()}
                write_json(self.path, {"code": _code_digest(), "values": values})
        return self._values[name]


@cache
def _code_digest() -> str:
    digest = hashlib.sha256("".join(map(version, ("torch", "timm"))).encode())
    for path in sorted(path for folder in COUNTED_OF for path in (PACKAGE / folder).glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
