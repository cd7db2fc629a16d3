"""One run from names to a stored record: recipe x split x seed."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ssbench.console import Bars
from ssbench.errors import RunsFailed, Stopped, UsageError
from ssbench.files import LOCK, open_lock, take_lock, write_json
from ssbench.jobs import progress as progress_file
from ssbench.jobs.job import Busy, Places, run_folder
from ssbench.jobs.progress import ProgressFile
from ssbench.recipe.recipe import Recipe
from ssbench.results.store import ResultStore
from ssbench.splits.manifest import Partition
from ssbench.train.build import dataset_of
from ssbench.train.distributed import ProcessFailed, Team
from ssbench.train.record import failed_record, finished_record, progress_facts
from ssbench.train.stages import fit
from ssbench.train.trainer import Diverged, Trainer

__all__ = ["Order", "Places", "run", "run_folder"]


@dataclass(frozen=True)
class Order:
    """A run as asked for: what makes it the run it is, and where it goes."""

    recipe: Recipe
    partition: Partition
    seed: int
    places: Places

    @classmethod
    def of(cls, recipe: Recipe, split: str, seed: int, places: Places) -> Order:
        """From the split's name; its lists are cut to the first `data.few` where a recipe says so.

        Raises:
            UsageError: the split is of other data. DataError: its lists are missing or changed.
        """
        whole, few = Partition.read(split, places.data), recipe.data.few
        if whole.dataset != recipe.data.dataset:
            what = f"recipe '{recipe.name}' is for {recipe.data.dataset}, split '{split}' for {whole.dataset}"
            raise UsageError(what, "--split", f"ssbench list splits shows those of {recipe.data.dataset}")
        cut = replace(whole, labeled=whole.labeled[:few], unlabeled=whole.unlabeled[:few])
        return cls(recipe, cut, seed, places)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return run_folder(self.recipe, self.partition.name, self.seed, self.places)

    @cached_property
    def key(self) -> str:
        """Its run key."""
        return self.recipe.key(self.partition.sha256, self.seed)

    @property
    def store(self) -> ResultStore:
        """Where its record goes; no table shows a quick run's."""
        return ResultStore(self.folder / "result" if self.recipe.quick else self.places.results)

    def recorded(self) -> dict[str, Any] | None:
        """Its record if it is done."""
        for record in self.store.runs(self.recipe.stored_name, self.partition.name):
            if record.key == self.key and record.status == "done":
                return record.full()
        return None

    def named(self) -> dict[str, Any]:
        """What tells it from other runs, as plain data."""
        recipe = self.recipe
        about = {"recipe": recipe.stored_name, "split": self.partition.name, "seed": self.seed, "quick": recipe.quick}
        return {"key": self.key, **about}


def run(
    recipe: Recipe, split: str, seed: int, places: Places, team: Team, bars: Bars, since: float = math.inf
) -> tuple[dict[str, Any], bool]:
    """Train and score one run, or return its record if it is done. Returns (record, whether it was done before).

    since: when the queue began (seconds since 1970); what another process has ended later than that stands for it:
    a failure is not tried again, a quick run not done anew.
    Raises:
        Busy: another process works in the run's folder. DataError: data or split missing or changed.
        Stopped: a signal came, everything is saved. Diverged, and whatever else ends a run: recorded as a failed run,
        then raised; with several processes as ProcessFailed, if it came to this one alone.
    """
    order = Order.of(recipe, split, seed, places)
    dataset = dataset_of(recipe.data.dataset, places.data, recipe.data.form)
    if done := _done(order, team, since):
        return done, True
    with _locked(order.folder, team):
        if done := _done(order, team, since):  # it ended just before the lock was ours
            return done, True
        _failed_since(order, team, since)
        if recipe.quick and _recorded(order, team):
            _forget(order.folder, team)
        with _told(order, team, bars) as file:
            trainer = Trainer(recipe, order.partition, dataset, seed, order.folder, team, bars)
            return _trained(trainer, order.store, file), False


def _trained(trainer: Trainer, store: ResultStore, file: ProgressFile | None) -> dict[str, Any]:
    """The run from wherever its folder stands to its end; the record, stored."""
    team = trainer.team
    if file is not None:
        file.facts = lambda: progress_facts(trainer)
    try:
        with trainer.stop:
            fit(trainer)
            record = finished_record(trainer)
    except Stopped:
        raise
    except Exception as error:
        if team.leads:
            store.add(failed_record(trainer, error))
        if team.world > 1 and not isinstance(error, Diverged):
            what = f"process {team.rank}: {error}"
            raise ProcessFailed(what, str(trainer.folder), "mend that and run again") from error
        raise
    if team.leads:
        write_json(trainer.folder / "record.json", record)
        store.add(record)
    return record


def _recorded(order: Order, team: Team) -> dict[str, Any]:
    """The run's record if the leader finds one, or nothing: all processes must ask, and go the same way."""
    found = order.recorded()
    if not team.any(team.leads and found is not None):
        return {}
    return found or order.recorded() or {"status": "done"}


def _done(order: Order, team: Team, since: float) -> dict[str, Any]:
    """The record that makes the run needless; of a quick one only if it is newer than `since`."""
    found = _recorded(order, team)
    if not order.recipe.quick or not found:
        return found
    return found if _ended(order, team, "done", since) else {}


def _ended(order: Order, team: Team, state: str, since: float) -> bool:
    """Whether the run came to that end after `since`, as the leader reads it."""
    told = progress_file.read(order.folder)
    matches = told.get("state") == state and told.get("key") == order.key
    return team.any(team.leads and matches and told["updated"] > since)


def _failed_since(order: Order, team: Team, since: float) -> None:
    """Raise what made the run fail in another process after `since`."""
    if _ended(order, team, "failed", since):
        told = progress_file.read(order.folder)
        where = f"{order.folder} (process {told.get('pid')} on {told.get('host')})"
        raise RunsFailed(f"failed elsewhere: {told.get('why')}", where, "mend that and run it again")


def _forget(folder: Path, team: Team) -> None:
    """A finished quick run asks whether the code of today runs: it is done anew. The lock stays: it is held."""
    for path in folder.iterdir() if team.leads else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    team.wait()


@contextmanager
def _told(order: Order, team: Team, bars: Bars) -> Iterator[ProgressFile | None]:
    """The run's progress file while it is worked on; the first process writes it."""
    if not team.leads:
        yield None
        return
    file = ProgressFile(order.folder, {**order.named(), "device": str(team.device)})
    bars.on_progress = file.tick
    try:
        yield file
    except BaseException as error:
        file.ended_by(error)
        raise
    else:
        file.end("done")
    finally:
        bars.on_progress = None


@contextmanager
def _locked(folder: Path, team: Team) -> Iterator[None]:
    """The run's folder, held by this process (the first of its team) until it ends, however it ends."""
    with open_lock(folder / LOCK) if team.leads else nullcontext() as file:
        holder = take_lock(file) if file else None
        if team.any(holder is not None):
            raise Busy(holder or "of somebody else", folder)
        yield
