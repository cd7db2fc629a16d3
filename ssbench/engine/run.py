"""One run from names to a stored record: recipe x split x seed."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from ssbench.data.dataset import Dataset
from ssbench.data.partition import Partition
from ssbench.engine import machine
from ssbench.engine.build import dataset_of
from ssbench.engine.console import Bars
from ssbench.engine.distributed import Parted, Team
from ssbench.engine.evaluate import overall
from ssbench.engine.state import State
from ssbench.engine.trainer import Diverged, Trainer
from ssbench.errors import SsbenchError, Stopped, UsageError
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
        Stopped: a signal came, everything is saved. Diverged, and whatever else ends a run: recorded as a failed run,
        then raised; with several processes as Parted, if it came to this one alone.
    """
    partition = _partition(recipe, split, places)
    dataset = dataset_of(recipe.data.dataset, places.data, recipe.data.form)
    folder = run_folder(recipe, split, seed, places)
    store = ResultStore(folder / "result" if recipe.quick else places.results)
    done = _done(store, recipe, partition, seed)
    if team.most(int(team.leads and done is not None)):
        if not recipe.quick:
            return done or _done(store, recipe, partition, seed) or {}, True
        _forget(folder, team)
    with _locked(folder, team):
        trainer = Trainer(recipe, partition, dataset, seed, folder, team, bars)
        try:
            with trainer.stop:
                record = _record(trainer, trainer.run())
        except Stopped:
            raise
        except Exception as error:
            if team.leads:
                store.add({**_head(trainer), "status": "failed", **_reason(error)})
            if team.world > 1 and not isinstance(error, Diverged):
                raise Parted(f"process {team.rank}: {error}", str(folder), "mend that and run again") from error
            raise
        if team.leads:
            write_json(folder / "record.json", record)
            store.add(record)
    return record, False


def _reason(error: Exception) -> dict[str, Any]:
    """Why a run failed, for its record; the ids of the batch where it is known which it was."""
    if isinstance(error, Diverged):
        return {"reason": error.what, "batch_ids": list(error.ids)}
    said = error.what if isinstance(error, SsbenchError) else f"{type(error).__name__}: {str(error)[:500]}"
    return {"reason": said, "batch_ids": []}


def _partition(recipe: Recipe, split: str, places: Places) -> Partition:
    """The split, its lists cut to the first `data.few` where a recipe says so."""
    whole, few = Partition.read(split, places.data), recipe.data.few
    if whole.dataset != recipe.data.dataset:
        what = f"recipe '{recipe.name}' is for {recipe.data.dataset}, split '{split}' for {whole.dataset}"
        raise UsageError(what, "--split", f"ssbench list splits shows those of {recipe.data.dataset}")
    return replace(whole, labeled=whole.labeled[:few], unlabeled=whole.unlabeled[:few])


def _forget(folder: Path, team: Team) -> None:
    """A finished quick run asks whether the code of today runs: it is done anew."""
    if team.leads:
        shutil.rmtree(folder, ignore_errors=True)
    team.wait()


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
    with _lock_file(folder) if team.leads else nullcontext() as lock:
        holder = _take(lock) if lock else None
        if team.any(holder is not None):
            what = f"process {holder or 'of somebody else'} works on this run"
            raise UsageError(what, str(folder), "wait for it, or stop it")
        yield


def _lock_file(folder: Path) -> IO[str]:
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "lock").open("a+")


def _take(lock: IO[str]) -> str | None:
    """None, and the file is this process's until closed; or the number of the process whose it is."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        return lock.read().strip() or "unknown"
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return None
