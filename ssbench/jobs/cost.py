"""What a run costs: hours from the speed of stored runs like it, else from its arithmetic; bytes of its checkpoints.

A run costs images / (images/s) of stored runs of the same method, plug-ins, network and crop, and the share of scoring
they had. Where there are none:

    hours = (training + scoring FLOPs) / rate / 3600        rate: reached by other methods with this network and crop,
                                                            where these were run; else peak x utilisation
    training FLOPs = steps x sum over passes of images x forward FLOPs x (3 if gradients come back, else 1)

A pass is one image through one network. Which passes a step makes (student, teacher, strong views, perturbed decoder)
is counted in a small step of the method itself (`engine.passes`); forward FLOPs are those of the recipe's network at
its crop; the backward pass takes twice the forward one. Losses, modules of a plug-in and what a plug-in prepares before
training are not in it.

Seven released logs of UniMatch and AugSeg, whose GPUs are not named, show 4 to 26 TFLOPS a GPU by this count; the
defaults (19.5 x 0.5, an A100 without its tensor cores) lie between. Small networks wait for the device's start-up of
each operation, which is not counted: what they take is more.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssbench.results.store import Record, ResultStore

TFLOPS = 19.5  # A100 data sheet, fp32
UTILISATION = 0.5  # ours
BACKWARD = 2  # times the forward pass
NEWEST = 3
"""So many of the last records of a recipe on a split tell its speed."""

Kind = tuple[str, ...]
"""What decides the speed of a run: method, plug-ins, network, crop."""
NET = slice(2, None)
"""The network and crop of a `Kind`."""


@dataclass(frozen=True)
class Work:
    """What a run computes and keeps.

    steps: optimiser steps of all its trainings. images: of all steps, as stored throughput counts them. train_flops,
    score_flops: of all steps; of all scores and of what is computed between trainings. checkpoint_bytes: the files
    that stay in its folder. note: what is not in it, for people.
    """

    steps: int
    images: int
    train_flops: float
    score_flops: float
    checkpoint_bytes: int
    note: str = ""


@dataclass(frozen=True)
class Speed:
    """Stored throughput on one machine. scoring: seconds of scoring per second of training."""

    hardware: str
    gpu: bool
    images_per_s: float
    scoring: float
    records: int


@dataclass(frozen=True)
class Cost:
    """Hours on one device, None where nothing is known, and what they rest on, for people."""

    hours: float | None
    basis: str
    gpu: bool = True
    measured: bool = False


@dataclass(frozen=True)
class Device:
    """A device for which nothing is stored: its peak in TFLOPS, and the share of it a run is taken to reach."""

    tflops: float = TFLOPS
    utilisation: float = UTILISATION

    def hours(self, work: Work) -> float:
        """Hours of the run's arithmetic."""
        return (work.train_flops + work.score_flops) / (self.tflops * 1e12 * self.utilisation) / 3600

    def __str__(self) -> str:
        return f"{self.tflops:g} TFLOPS x {self.utilisation:g}"


@dataclass(frozen=True)
class Rate:
    """FLOPs a second that stored runs of some network at some crop reached on one machine, by this module's count."""

    hardware: str
    gpu: bool
    flops_per_s: float

    def hours(self, work: Work) -> float:
        """Hours of the run's arithmetic."""
        return (work.train_flops + work.score_flops) / self.flops_per_s / 3600


def cost(
    work: Work | str, kind: Kind, speeds: Mapping[Kind, Speed], rates: Mapping[Kind, Rate], device: Device
) -> Cost:
    """What a run costs by the best that is known of it; `work` as a text says why nothing is."""
    if isinstance(work, str):
        return Cost(None, f"unknown: {work}")
    if speed := speeds.get(kind):
        hours = work.images / speed.images_per_s * (1 + speed.scoring) / 3600
        return Cost(hours, f"measured on {speed.hardware}", speed.gpu, measured=True)
    note = f", {work.note}" if work.note else ""
    if rate := rates.get(kind[NET]):
        return Cost(rate.hours(work), f"FLOPs at the rate of other methods on {rate.hardware}{note}", rate.gpu)
    return Cost(device.hours(work), f"FLOPs at {device}{note}")


def rates_of(works: Mapping[Kind, Work], speeds: Mapping[Kind, Speed]) -> dict[Kind, Rate]:
    """(network, crop) -> the median rate of the methods that have a stored speed with it; a GPU before a CPU."""
    found: dict[Kind, list[Rate]] = {}
    for kind, speed in speeds.items():
        if work := works.get(kind):
            rate = work.train_flops / work.images * speed.images_per_s
            found.setdefault(kind[NET], []).append(Rate(speed.hardware, speed.gpu, rate))
    return {net: _middle(some) for net, some in found.items()}


def _middle(some: Sequence[Rate]) -> Rate:
    best = [rate for rate in some if rate.gpu] or list(some)
    return sorted(best, key=lambda rate: rate.flops_per_s)[len(best) // 2]


def kind_of(resolved: Mapping[str, Any]) -> Kind:
    """What decides the speed of a resolved recipe; the weights a network starts from do not."""
    net = {name: value for name, value in resolved["net"].items() if name != "weights"}
    plugins = [p["name"] for p in resolved["plugin"]]
    crop = resolved["views"]["crop"]
    return (resolved["method"]["name"], "+".join(plugins), json.dumps(net, sort_keys=True), str(crop))


def speeds(store: ResultStore, kinds: Iterable[Kind], hardware: str | None = None) -> dict[Kind, Speed]:
    """The stored speed of each kind of run, on one machine each: a GPU before a CPU, then the one last used.

    Args:
        hardware: only machines whose name, as records have it, contains this text.
    """
    wanted = set(kinds)
    some = {kind[:2] for kind in wanted}
    found: dict[Kind, dict[str, list[tuple[Record, dict[str, Any]]]]] = {}
    for record in _newest(r for r in store.records() if (r.method, r.plugin or "") in some):
        full = record.full()
        name, kind = _machine(full), _kind_if_any(full)
        if kind in wanted and full.get("throughput") and (hardware or "").lower() in name.lower():
            found.setdefault(kind, {}).setdefault(name, []).append((record, full))
    return {kind: _speed(by_machine) for kind, by_machine in found.items()}


def _newest(records: Iterable[Record]) -> list[Record]:
    """The last finished records of each recipe on each split; quick runs say nothing."""
    by_place: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.status == "done" and not record.quick:
            by_place.setdefault((record.recipe, record.split), []).append(record)
    return [r for some in by_place.values() for r in sorted(some, key=lambda r: r.finished)[-NEWEST:]]


def _speed(by_machine: Mapping[str, list[tuple[Record, dict[str, Any]]]]) -> Speed:
    def rank(name: str) -> tuple[bool, str]:
        return _gpu(by_machine[name][0][1]), max(record.finished for record, _ in by_machine[name])

    name = max(by_machine, key=rank)
    fulls = [full for _, full in by_machine[name]]
    rate = statistics.median(full["throughput"]["images_per_s"] for full in fulls)
    return Speed(name, _gpu(fulls[0]), rate, statistics.median(map(_scoring, fulls)), len(fulls))


def _scoring(full: Mapping[str, Any]) -> float:
    timings = full.get("timings") or {}
    return timings["score_s"] / timings["train_s"] if timings.get("train_s") else 0.0


def _machine(full: Mapping[str, Any]) -> str:
    return str((full.get("hardware") or {}).get("name", ""))


def _gpu(full: Mapping[str, Any]) -> bool:
    return (full.get("hardware") or {}).get("device") == "cuda"


def _kind_if_any(full: Mapping[str, Any]) -> Kind | None:
    """None for a record of another shape than runs write today."""
    try:
        return kind_of(full["resolved"])
    except (KeyError, TypeError):
        return None
