"""The record of a run, finished or failed, and how far a running one is."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from ssbench.data.dataset import Dataset
from ssbench.errors import RunsFailed, SsbenchError
from ssbench.files import as_model
from ssbench.recipe.resolved import Recipe
from ssbench.recipe.stored import RunHead
from ssbench.splits.manifest import Partition
from ssbench.train import machine
from ssbench.train.checkpoint import Count, History, Percent
from ssbench.train.distributed import Team
from ssbench.train.evaluate import mean_dice
from ssbench.train.finite import Diverged
from ssbench.train.precision import Computation
from ssbench.train.trainer import Trainer


class _Score(BaseModel):
    """Of one epoch: on the subset that selects the best epoch, and on the reported one."""

    epoch: Count
    select: Percent
    report: Percent


class _Measured(BaseModel):
    """The measured part of a finished record: finite numbers of the right type, whatever a method or plug-in did."""

    scores: dict[str, _Score]
    per_class: dict[str, list[Percent | None]]
    confusion: dict[str, list[list[Count]]] | None
    volumes: dict[str, dict[str, list[Percent | None]]] | None
    protocols: dict[str, dict[str, dict[str, Percent]]]
    history: History


def finished_record(trainer: Trainer) -> dict[str, Any]:
    """The record of a trained run, with the best and the last epoch scored on the reported subset.

    Leaves the best epoch's networks in place.

    Raises:
        Stopped: a signal came while an epoch was scored.
        RunsFailed: a score is not a finite number; the record would mislead every table that reads it.
    """
    cfg, state = trainer.recipe.eval, trainer.state
    assert state.best is not None  # noqa: S101  the last epoch is always scored
    last = trainer.score(cfg.report)
    trainer.load_best()
    best = trainer.score(cfg.report)
    is_volumetric = cfg.protocol == "volume"
    earlier = [entry for stage in trainer.earlier_stages for entry in stage.get("history", [])]
    measured = {
        "scores": {
            "best": {"epoch": state.best.epoch, "select": state.best.select, "report": best.value},
            "last": {"epoch": state.history[-1]["epoch"], "select": state.history[-1]["select"], "report": last.value},
        },
        "per_class": {"best": best.per_class, "last": last.per_class},
        "confusion": None if is_volumetric else {"best": best.matrix, "last": last.matrix},
        "volumes": {"best": best.volumes, "last": last.volumes} if is_volumetric else None,
        "protocols": _other_protocols(trainer.dataset, state.history) if is_volumetric else {},
        "history": [{k: v for k, v in entry.items() if k != "volumes"} for entry in [*earlier, *state.history]],
    }
    as_model(measured, _Measured, str(trainer.folder), "record", "report the method or plug-in", RunsFailed)
    stages = [{k: v for k, v in stage.items() if k != "history"} for stage in trainer.earlier_stages]
    several = {"stages": stages} if stages else {}  # a run of one training has no such field
    return {**_facts(trainer), "status": "done", **measured, **several, **_costs(trainer)}


@dataclass(frozen=True)
class UnbuiltRun:
    """A run whose networks or plug-in could not be built: what its record holds all the same."""

    recipe: Recipe
    partition: Partition
    dataset: Dataset
    head: RunHead
    team: Team
    computation: Computation
    list_notes: Sequence[str] = ()
    views_on_device: bool = False

    @property
    def key(self) -> str:
        """Its run key."""
        return self.head.key

    @property
    def seed(self) -> int:
        """Its seed."""
        return self.head.seed


def failed_record(trainer: Trainer | UnbuiltRun, error: Exception) -> dict[str, Any]:
    """The record of a run that an error ended: the reason, and the ids of the batch where it is known which it was."""
    ids = error.ids if isinstance(error, Diverged) else ()
    reason = error.what if isinstance(error, SsbenchError) else f"{type(error).__name__}: {str(error)[:500]}"
    return {**_facts(trainer), "status": "failed", "reason": reason, "batch_ids": list(ids)}


def progress_facts(trainer: Trainer) -> dict[str, Any]:
    """How far a run is, without a question to the device. score, best: on the `select` subset, percent."""
    state, recipe = trainer.state, trainer.recipe
    scores = [entry["select"] for entry in state.history if "select" in entry]
    return {
        "stage": trainer.stage,
        "step": state.step,
        "steps": trainer.steps,
        "epoch": len(state.history),
        "epochs": trainer.epochs,
        "metric": "dice" if recipe.eval.protocol == "volume" else "miou",
        "score": scores[-1] if scores else None,
        "best": state.best.select if state.best else None,
        "images_per_s": _images_per_second(trainer),
    }


def _facts(trainer: Trainer | UnbuiltRun) -> dict[str, Any]:
    """What every record holds, whatever becomes of the run."""
    recipe, partition, cfg = trainer.recipe, trainer.partition, trainer.recipe.eval
    plugins = [p.name for p in recipe.plugins]
    departures = [*recipe.departures, *(f"set {text}" for text in recipe.overrides)]
    if recipe.schedule.precision == "fast" and not any("schedule.precision" in text for text in departures):
        departures.append("schedule.precision: fast")
    return {
        "schema": 1,
        "key": trainer.key,
        "recipe": recipe.stored_name,
        "paper": recipe.paper,
        "method": recipe.method.name,
        "plugin": plugins[0] if len(plugins) == 1 else plugins or None,
        "split": partition.name,
        "split_sha256": partition.sha256,
        "custom_split": partition.custom,
        "seed": trainer.seed,
        "division": recipe.division,
        "quick": recipe.quick,
        "resolved": recipe.resolved(),
        "protocol": cfg.stated(),
        "identity": trainer.head.model_dump(mode="json")["identity"],
        "metric": "dice" if cfg.protocol == "volume" else "miou",
        "classes": list(trainer.dataset.classes),
        "departures": departures,
        **({"list_notes": list(trainer.list_notes)} if trainer.list_notes else {}),
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "computation": {**trainer.computation.facts(), "views": "device" if trainer.views_on_device else "host"},
        "hardware": machine.hardware(trainer.team.device),
        "packages": machine.packages(),
        "git": machine.code(),
    }


def _other_protocols(dataset: Dataset, history: History) -> dict[str, Any]:
    """Scores of "acdc/test": select on val, report test.

    Recipes select and report on val and test together, as UniMatch does. The Dice of every volume is in the history,
    so the clean protocol costs no further evaluation. Epochs that did not score both subsets are left out.
    """
    names = {subset: dataset.volumes(subset) or {} for subset in ("val", "test")}
    rows = []
    for entry in history:
        volumes = entry.get("volumes", {})
        if all(name in volumes for part in names.values() for name in part):
            rows.append({"epoch": entry["epoch"]} | {s: mean_dice(volumes, part) for s, part in names.items()})
    rows = [row for row in rows if all(math.isfinite(value) for value in row.values())]
    if not rows:
        return {}
    best = max(rows, key=lambda row: row["val"])
    return {"acdc/test": {"best": best, "last": rows[-1]}}


def _costs(trainer: Trainer) -> dict[str, Any]:
    """What this process spent. A run that was resumed cost more: what earlier processes spent is not in it."""
    timing, speed = trainer.timing, _images_per_second(trainer)
    throughput = None
    if speed is not None:
        throughput = {
            "images_per_s": speed,
            "seconds_per_step": round(timing.seconds / timing.steps, 4),
            "waiting_share": round(timing.waiting / timing.seconds, 4),
        }
    return {
        "timings": {"steps": timing.steps, "train_s": round(timing.seconds, 2), "score_s": round(timing.scoring, 2)},
        "throughput": throughput,
        "memory": {"peak_bytes": machine.peak_memory(trainer.team.device)},
    }


def _images_per_second(trainer: Trainer) -> float | None:
    """Labelled and unlabelled images a second of this process's steps; None before the first step."""
    timing, schedule = trainer.timing, trainer.recipe.schedule
    images = timing.steps * (schedule.labeled_batch + schedule.unlabeled_batch * trainer.plan.needs.unlabeled)
    return round(images / timing.seconds, 3) if timing.steps and timing.seconds else None
