"""One run from names to a stored record: recipe x split x seed."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssbench.data.dataset import Dataset
from ssbench.data.partition import Partition
from ssbench.engine import machine
from ssbench.engine.build import dataset_of
from ssbench.engine.console import Bars
from ssbench.engine.distributed import Team
from ssbench.engine.evaluate import overall
from ssbench.engine.trainer import Diverged, State, Trainer
from ssbench.errors import UsageError
from ssbench.io import write_json
from ssbench.recipe import Recipe
from ssbench.report.store import ResultStore


@dataclass(frozen=True)
class Places:
    """Roots: prepared data, run folders, result records."""

    data: Path
    runs: Path
    results: Path


def run_folder(recipe: Recipe, split: str, seed: int, places: Places) -> Path:
    """runs/<recipe>/<split with dashes>/seed<k>; quick runs apart from real ones."""
    root = places.runs / "quick" if recipe.quick else places.runs
    return root / recipe.stored_name / split.replace("/", "-") / f"seed{seed}"


def run(recipe: Recipe, split: str, seed: int, places: Places, team: Team, bars: Bars) -> tuple[dict[str, Any], bool]:
    """Train and score one run, or return its record if it is done. Returns (record, whether it was done before).

    Raises:
        UsageError: another process works in the run's folder. DataError: data or split missing or changed.
        Stopped: a signal came, everything is saved. Diverged: recorded as a failed run, then raised.
    """
    dataset = dataset_of(recipe.data.dataset, places.data)
    partition = Partition.read(split, places.data)
    if partition.dataset != recipe.data.dataset:
        what = f"recipe '{recipe.name}' is for {recipe.data.dataset}, split '{split}' for {partition.dataset}"
        raise UsageError(what, "--split", f"ssbench list splits shows those of {recipe.data.dataset}")
    folder = run_folder(recipe, split, seed, places)
    store = ResultStore(folder / "result" if recipe.quick else places.results)
    if done := _done(store, recipe, partition, seed):
        return done, True
    with _locked(folder, team):
        trainer = Trainer(recipe, partition, dataset, seed, folder, team, bars)
        try:
            state = trainer.run()
        except Diverged as error:
            if team.leads:
                store.add({**_head(trainer), "status": "failed", "reason": error.what, "batch_ids": list(error.ids)})
            raise
        record = _record(trainer, state)
        if team.leads:
            write_json(folder / "record.json", record)
            store.add(record)
    return record, False


def _done(store: ResultStore, recipe: Recipe, partition: Partition, seed: int) -> dict[str, Any] | None:
    key = recipe.key(partition.sha256, seed)
    for record in store.runs(recipe.stored_name, partition.name):
        if record.key == key and record.status == "done":
            return record.full()
    return None


def _record(trainer: Trainer, state: State) -> dict[str, Any]:
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
        **_head(trainer),
        "status": "done",
        "scores": scores,
        "per_class": {"best": best.per_class, "last": last.per_class},
        "confusion": None if volumetric else {"best": best.matrix, "last": last.matrix},
        "volumes": {"best": best.volumes, "last": last.volumes} if volumetric else None,
        "protocols": _other_protocols(trainer.dataset, state.history) if volumetric else {},
        "history": [{k: v for k, v in entry.items() if k != "volumes"} for entry in state.history],
        **_costs(trainer),
    }


def _other_protocols(dataset: Dataset, history: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores of "acdc/test" (select on val, report test), read off per-volume scores of every epoch where both exist."""
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


def _head(trainer: Trainer) -> dict[str, Any]:
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
    """Speed of the last session; images are those whose step they belong to, labelled and unlabelled."""
    timing, schedule = trainer.timing, trainer.recipe.schedule
    images = timing.steps * (schedule.labeled_batch + schedule.unlabeled_batch * trainer.plan.needs.unlabeled)
    seconds = timing.seconds or float("nan")
    measured = timing.steps > 0
    return {
        "timings": {"steps": timing.steps, "train_s": round(timing.seconds, 2), "score_s": round(timing.scoring, 2)},
        "throughput": {"images_per_s": round(images / seconds, 3), "waiting_share": round(timing.waiting / seconds, 4)}
        if measured
        else None,
        "memory": {"peak_bytes": machine.peak_memory(trainer.team.device)},
    }


@contextmanager
def _locked(folder: Path, team: Team) -> Iterator[None]:
    """The run's folder, held by this process (the first of its team) until it ends, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    if not team.leads:
        yield
        return
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UsageError(f"process {holder} works on this run", str(folder), "wait for it, or stop it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


