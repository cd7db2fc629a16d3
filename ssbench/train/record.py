"""What a run tells of itself: the record of a finished or failed one (DESIGN section 9), and how far it is."""

from __future__ import annotations

import time
from typing import Any

from ssbench.data.dataset import Dataset
from ssbench.errors import SsbenchError
from ssbench.train import machine
from ssbench.train.evaluate import overall
from ssbench.train.state import State
from ssbench.train.trainer import Diverged, Trainer


def record_of(trainer: Trainer, state: State) -> dict[str, Any]:
    """The finished run's record: best and last epoch on the reported subset (DESIGN section 9)."""
    cfg = trainer.recipe.eval
    assert state.best is not None  # noqa: S101  the last epoch is always scored
    last = trainer.score(cfg.report)
    trainer.load_best()
    best = trainer.score(cfg.report)
    scores = {
        "best": {"epoch": state.best["epoch"], "select": state.best["select"], "report": best.value},
        "last": {"epoch": state.history[-1]["epoch"], "select": state.history[-1]["select"], "report": last.value},
    }
    volumetric = cfg.protocol == "volume"
    return {
        **head(trainer),
        "status": "done",
        "scores": scores,
        "per_class": {"best": best.per_class, "last": last.per_class},
        "confusion": None if volumetric else {"best": best.matrix, "last": last.matrix},
        "volumes": {"best": best.volumes, "last": last.volumes} if volumetric else None,
        "protocols": _other_protocols(trainer.dataset, state.history) if volumetric else {},
        "history": [{k: v for k, v in entry.items() if k != "volumes"} for entry in _history(trainer, state)],
        **_stages(trainer),
        **_costs(trainer),
    }


def _history(trainer: Trainer, state: State) -> list[dict[str, Any]]:
    """Every epoch of the run, those of earlier stages first."""
    return [*(entry for stage in trainer.earlier for entry in stage.get("history", [])), *state.history]


def _stages(trainer: Trainer) -> dict[str, Any]:
    """What came before the last training, where there was more than one; nothing for other runs."""
    told = [{k: v for k, v in stage.items() if k != "history"} for stage in trainer.earlier]
    return {"stages": told} if told else {}


def _other_protocols(dataset: Dataset, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of "acdc/test" (select on val, report test), read off the volumes of all epochs that scored both."""
    names = {subset: dataset.volumes(subset) or {} for subset in ("val", "test")}
    rows = [
        {"epoch": e["epoch"], "val": overall(e["volumes"], names["val"]), "test": overall(e["volumes"], names["test"])}
        for e in history
        if "volumes" in e and all(v in e["volumes"] for part in names.values() for v in part)
    ]
    if not rows:
        return {}
    best = max(rows, key=lambda row: row["val"])
    return {"acdc/test": {"best": best, "last": rows[-1]}}


def head(trainer: Trainer) -> dict[str, Any]:
    """What is known of a run before it ends."""
    recipe, partition, cfg = trainer.recipe, trainer.partition, trainer.recipe.eval
    plugins = [p.name for p in recipe.plugins]
    departures = [*recipe.departures, *(f"set {text}" for text in recipe.overrides)]
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
        "protocol": cfg.model_dump(mode="json"),
        "metric": "dice" if cfg.protocol == "volume" else "miou",
        "classes": list(trainer.dataset.classes),
        "departures": departures,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "hardware": machine.hardware(trainer.team.device),
        "packages": machine.packages(),
        "git": machine.code(),
    }


def _costs(trainer: Trainer) -> dict[str, Any]:
    """What the last session took."""
    timing, speed = trainer.timing, speed_of(trainer)
    return {
        "timings": {"steps": timing.steps, "train_s": round(timing.seconds, 2), "score_s": round(timing.scoring, 2)},
        "throughput": {"images_per_s": speed, "waiting_share": round(timing.waiting / timing.seconds, 4)}
        if speed is not None
        else None,
        "memory": {"peak_bytes": machine.peak_memory(trainer.team.device)},
    }


def speed_of(trainer: Trainer) -> float | None:
    """Images a second of this session's steps, labelled and unlabelled; None before the first."""
    timing, schedule = trainer.timing, trainer.recipe.schedule
    images = timing.steps * (schedule.labeled_batch + schedule.unlabeled_batch * trainer.plan.needs.unlabeled)
    return round(images / timing.seconds, 3) if timing.steps and timing.seconds else None


def reason(error: Exception) -> dict[str, Any]:
    """Why a run failed, for its record; the ids of the batch where it is known which it was."""
    if isinstance(error, Diverged):
        return {"reason": error.what, "batch_ids": list(error.ids)}
    said = error.what if isinstance(error, SsbenchError) else f"{type(error).__name__}: {str(error)[:500]}"
    return {"reason": said, "batch_ids": []}


def progress_of(trainer: Trainer) -> dict[str, Any]:
    """How far a run is: numbers the host has anyway. score, best: of the select subset, percent."""
    state, recipe = trainer.state, trainer.recipe
    scored = [entry["select"] for entry in state.history if "select" in entry]
    return {
        "stage": trainer.stage,
        "step": state.step,
        "steps": trainer.steps,
        "epoch": len(state.history),
        "epochs": trainer.epochs,
        "metric": "dice" if recipe.eval.protocol == "volume" else "miou",
        "score": scored[-1] if scored else None,
        "best": state.best["select"] if state.best else None,
        "images_per_s": speed_of(trainer),
    }
