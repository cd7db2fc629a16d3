"""What a run costs: hours from the speed of stored runs like it, else from its arithmetic.

    hours = images / (images/s) x (1 + share of scoring) / 3600        where runs of the same method, plug-ins, network,
                                                                       crop and precision are stored for this plan's
                                                                       recipes, or `plan --measure` timed some steps
    hours = steps x seconds a step x GPUs / 3600                       where the recipe quotes a released log
    hours = (training + scoring FLOPs) / (peak x utilisation) / 3600   elsewhere; `workload` counts the FLOPs

Twelve released logs of UniMatch and AugSeg, whose GPUs are not named, show 3 to 28 TFLOPS a GPU by this count; the
default (19.5 x 0.5, an A100 without its tensor cores) lies between. So an estimate without a stored run may be wrong by
a factor of three either way, and nothing finer than this model would mend that.
"""

from __future__ import annotations

import hashlib
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
from ssbench.files import read_model, write_json
from ssbench.paths import PACKAGE
from ssbench.recipe.recipe import Recipe
from ssbench.recipe.sections import LoggedSpeed
from ssbench.results.record import Record

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
    score_flops: of all steps; of all scores. checkpoint_bytes: the files that stay in its folder. note: what is not in
    it, for people.
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
    """Throughput on one machine. scoring: seconds of scoring per second of training."""

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


def speed_kind(resolved: Mapping[str, Any]) -> SpeedKind:
    """What decides the speed of a resolved recipe; the weights a network starts from do not."""
    net = {name: value for name, value in resolved["net"].items() if name != "weights"}
    plugins = "+".join(plugin["name"] for plugin in resolved["plugin"])
    precision = (resolved.get("schedule") or {}).get("precision", "exact")
    crop = str(resolved["views"]["crop"])
    return (resolved["method"]["name"], plugins, json.dumps(net, sort_keys=True), crop, precision)


def stored_speeds(records: Iterable[Record], hardware: str | None = None) -> dict[SpeedKind, Speed]:
    """The speed of each kind of run among the records: the median of its last runs on one machine.

    That machine is one with a GPU before one without, then the one that ran last. Quick runs do not count.

    Args:
        hardware: only machines whose name, as records have it, contains this text.
    """
    by_place: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in sorted(records, key=lambda record: record.finished):
        if record.status == "done" and not record.quick:
            by_place[record.recipe, record.split].append(record)
    newest = sorted((r for group in by_place.values() for r in group[-NEWEST:]), key=lambda r: r.finished)
    machines: dict[SpeedKind, dict[tuple[bool, str], list[Speed]]] = defaultdict(dict)
    for record in newest:
        with suppress(DataError, KeyError, TypeError):  # a damaged record, or one of an older shape
            whole = record.full()
            kind, (is_gpu, speed) = speed_kind(whole["resolved"]), _speed_of(whole)
            if speed.images_per_s > 0 and (hardware or "").lower() in speed.hardware.lower():
                runs = machines[kind].pop((is_gpu, speed.hardware), [])
                machines[kind][is_gpu, speed.hardware] = [*runs, speed]  # the machine that ran last stands last
    return {kind: _median(by_machine) for kind, by_machine in machines.items()}


def _speed_of(record: Mapping[str, Any]) -> tuple[bool, Speed]:
    """(whether it ran on a GPU, its speed) of a whole record."""
    hardware, timings = record.get("hardware") or {}, record.get("timings") or {}
    train, score = timings.get("train_s") or 0.0, timings.get("score_s") or 0.0
    scoring = score / train if train > 0 else 0.0
    speed = Speed(str(hardware.get("name", "")), record["throughput"]["images_per_s"], scoring)
    return hardware.get("device") == "cuda", speed


def _median(by_machine: dict[tuple[bool, str], list[Speed]]) -> Speed:
    name = max(reversed(by_machine), key=lambda machine: machine[0])  # the first of equals
    rates, scoring = zip(*((run.images_per_s, run.scoring) for run in by_machine[name]), strict=True)
    return Speed(name[1], statistics.median(rates), statistics.median(scoring))


# Speeds that `ssbench plan --measure` timed


class MeasuredSpeed(BaseModel):
    """Images/s of a kind of run over some steps on a machine."""

    machine: Annotated[str, Field(max_length=1000)]
    images_per_s: Annotated[float, Field(gt=0, allow_inf_nan=False)]


class SpeedFile(BaseModel):
    """Measured speeds by machine, then by kind of run (`SpeedKind` joined by "|")."""

    machines: dict[str, dict[str, MeasuredSpeed]]


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssbench"


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
    return {
        tuple(kind.split("|")): Speed(f"{speed.machine}, some steps", speed.images_per_s, 0.0)
        for kind, speed in (fitting[-1] if fitting else {}).items()
    }


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

    def get(self, recipe: Recipe, labeled: int, unlabeled: int, count: Callable[[], Work]) -> Work:
        """The work of a recipe on so many images, by `count` where it is not known yet."""
        name = recipe.key(f"{labeled} + {unlabeled}", 0)  # also of an imported dataset and of files of the user's own
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
