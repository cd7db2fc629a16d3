"""One run from names to a stored record: recipe x split x seed."""

from __future__ import annotations

import math
import shutil
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ssbench.console import Bars, say
from ssbench.data.dataset import Dataset
from ssbench.errors import DataError, RunsFailed, SsbenchError, Stopped, UsageError, refused_by_system
from ssbench.files import LOCK, open_lock, take_lock, write_json
from ssbench.jobs.band_watch import band_watched
from ssbench.jobs.claim import claim_folder
from ssbench.jobs.job import Busy, Job, Outcome, Places, run_folder
from ssbench.jobs.kept import find_record, record_without_data
from ssbench.jobs.preflight import refuse_small_disk, try_places
from ssbench.jobs.progress import ProgressFile, RunProgress, read_progress
from ssbench.recipe.identity import head_of
from ssbench.recipe.recipe import Recipe
from ssbench.recipe.stored import RunHead
from ssbench.results.store import ResultStore
from ssbench.splits.hold import hold
from ssbench.splits.manifest import Partition, split_folder
from ssbench.train.build import dataset_of
from ssbench.train.distributed import ProcessFailed, Team
from ssbench.train.finite import Diverged
from ssbench.train.precision import choose_computation
from ssbench.train.record import UnbuiltRun, failed_record, finished_record, progress_facts
from ssbench.train.stages import fit
from ssbench.train.tracking import tracking
from ssbench.train.trainer import Trainer


@dataclass(frozen=True)
class RunSpec:
    """What makes a run the run it is (recipe, lists, seed), and where its files go."""

    recipe: Recipe
    partition: Partition
    seed: int
    places: Places

    @classmethod
    def of(cls, recipe: Recipe, split: str, seed: int, places: Places) -> RunSpec:
        """From the split's name. Its lists are cut to the first `data.few` images where a recipe sets that.

        Raises:
            UsageError: the split is of other data. DataError: its lists are missing or changed.
        """
        whole, few = Partition.read(split, places.data), recipe.data.few
        if whole.dataset != recipe.data.dataset:
            what = f"recipe '{recipe.name}' is for {recipe.data.dataset}, split '{split}' for {whole.dataset}"
            raise UsageError(what, "--split", f"ssbench list splits shows those of {recipe.data.dataset}")
        if whole.other != (recipe.data.unlabeled or ""):
            theirs, ours = whole.other or whole.dataset, recipe.data.unlabeled or recipe.data.dataset
            what = f"recipe '{recipe.name}' reads unlabelled images of {ours}, split '{split}' has those of {theirs}"
            raise UsageError(what, "--split", f"--set data.unlabeled={whole.other or 'null'}, or another split")
        cut = replace(whole, labeled=whole.labeled[:few], unlabeled=whole.unlabeled[:few])
        return cls(recipe, cut, seed, places)

    def hold_lists(self, split: str, dataset: Dataset) -> tuple[str, ...]:
        """What is to be known of the lists, once they have been held against the data; DataError as `hold` says."""
        allow = self.recipe.data.allow_leak
        return hold(self.partition, dataset, split_folder(split, self.places.data), allow)

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return run_folder(self.recipe, self.partition.name, self.seed, self.places)

    @cached_property
    def key(self) -> str:
        """Its run key."""
        return self.head.key

    @property
    def store(self) -> ResultStore:
        """Where its record goes. A quick run's stays in its folder, so that no table shows it."""
        return ResultStore(self.folder / "result" if self.recipe.quick else self.places.results)

    @cached_property
    def head(self) -> RunHead:
        """Which run it is."""
        return head_of(self.recipe, self.partition.name, self.partition.sha256, self.seed)

    def find_record(self) -> dict[str, Any] | None:
        """The stored record of this run, None where it is not done, or damaged: then the run is done again."""
        partition = self.partition
        return find_record(self.store, self.recipe, partition.name, partition.sha256, self.seed)


def run_job(job: Job, places: Places, team: Team, bars: Bars, since: float = math.inf) -> Outcome:
    """Do one job and catch its error, so that the other jobs of a queue are still done. `since` as in `run`.

    Raises:
        Stopped: a signal came; the whole queue ends. ProcessFailed: one of several processes failed alone; the others
        wait for it in a collective, so the whole team has to end.
    """
    try:
        if record := record_without_data(job, places):
            say(f"{job}: its data are not here; recipe and code are those of its record")
            return Outcome(job, record, repeated=True)
        with _exits_are_failures(job):
            record, repeated = run(job.load_recipe(places), job.split, job.seed, places, team, bars, since, job.track)
    except (Stopped, ProcessFailed):
        raise
    except Busy as busy:
        return Outcome(job, busy=busy.folder, error=busy)
    except SsbenchError as error:
        say(f"error: {error}")
        return Outcome(job, error=error)
    except OSError as error:
        if (refusal := refused_by_system(error)) is None:
            traceback.print_exc()
            refusal = DataError(f"{type(error).__name__}: {error}"[:300], str(job), "see the lines above")
        say(f"error: {refusal}")
        return Outcome(job, error=refusal)
    except Exception as error:  # a fault of ours or of a plug-in, or memory ran out
        traceback.print_exc()
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        return Outcome(job, error=SsbenchError(what, str(job), "see the lines above; if it is a fault, report them"))
    return Outcome(job, record, repeated=repeated)


def run(
    recipe: Recipe, split: str, seed: int, places: Places, team: Team, bars: Bars, since: float = math.inf,
    track: Sequence[str] = (),
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """Train and score one run, or return its record if it is done. Returns (record, whether it was done before).

    Args:
        since: when the queue began, seconds since 1970. An end that another process reached after that counts for this
            queue too: a failure is not tried again, a quick run is not repeated.
        track: names of trackers (`tracking.TRACKERS`) that each epoch is sent to.
    Raises:
        Busy: another process works in the run's folder. DataError: data or split missing or changed.
        Stopped: a signal came, everything is saved. Diverged, and whatever else ends a run: recorded as a failed run,
        then raised; with several processes as ProcessFailed, if it happened in this one alone.
    """
    spec = RunSpec.of(recipe, split, seed, places)
    dataset = dataset_of(recipe, places.data)
    notes = spec.hold_lists(split, dataset)
    if record := _done_record(spec, team, since):
        return record, True
    with _folder_locked(spec.folder, team):
        if record := _done_record(spec, team, since):  # it ended between the look above and the lock
            return record, True
        if progress_then := _ended_as("failed", spec, team, since):
            where = f"{spec.folder} (process {progress_then.pid} on {progress_then.host})"
            raise RunsFailed(f"failed elsewhere: {progress_then.why}", where, "mend that and run it again")
        if recipe.quick and _agreed_record(spec, team):
            _empty_folder(spec.folder, team)
        if team.leads and not recipe.quick:
            claim_folder(spec.folder, spec.head, bars.write_line)
        team.wait()
        with _progress_shown(spec, team, bars) as progress:
            if team.leads:
                try_places(spec.folder, spec.store.root)
            trainer = _built(spec, dataset, team, bars)
            if team.leads:
                refuse_small_disk(trainer)
            trainer.list_notes = notes
            for note in notes if team.leads else ():
                say(f"note: {spec.partition.name}: {note}")
            watched = band_watched(trainer, places.results) if team.leads else nullcontext()
            with watched as watch, tracking(trainer, track if team.leads else (), places.runs):
                if progress is not None:
                    progress.facts = lambda: {**progress_facts(trainer), "band": watch.text if watch else ""}
                return _train(trainer, spec.store), False


def _built(spec: RunSpec, dataset: Dataset, team: Team, bars: Bars) -> Trainer:
    """The run's trainer. Where a plug-in's or a method's constructor fails, a failed record is stored."""
    recipe, seed = spec.recipe, spec.seed
    try:
        with _exits_are_failures(spec.folder):
            return Trainer(recipe, spec.partition, dataset, seed, spec.folder, team, bars)
    except Exception as error:
        # What the user has to mend outside of the run (data, weights, hardware, recipe) is no outcome of it.
        if team.leads and (isinstance(error, RunsFailed) or not isinstance(error, SsbenchError)):
            computation = choose_computation(recipe.schedule, team.device)
            head = head_of(recipe, spec.partition.name, spec.partition.sha256, seed)
            run = UnbuiltRun(recipe, spec.partition, dataset, head, team, computation)
            spec.store.add(failed_record(run, error))
        raise


def _train(trainer: Trainer, store: ResultStore) -> dict[str, Any]:
    """The run from wherever its folder stands to its end. Returns its record, stored."""
    team = trainer.team
    try:
        with trainer.stop, _exits_are_failures(trainer.folder):
            fit(trainer)
            record = finished_record(trainer)
    except Stopped:
        raise
    except Exception as error:
        if team.leads:
            with suppress(OSError):  # a disk that is full or gone must not hide the error itself
                store.add(failed_record(trainer, error))
        if team.world > 1 and not isinstance(error, Diverged):
            what = f"process {team.rank}: {error}"
            raise ProcessFailed(what, str(trainer.folder), "mend that and run again") from error
        raise
    if team.leads:
        write_json(trainer.folder / "record.json", record)
        store.add(record)
    return record


@contextmanager
def _exits_are_failures(where: object) -> Iterator[None]:
    """Turn a `sys.exit` of a method, a plug-in or a library into an error of this run.

    It would end the whole queue, with exit code 0 and no message where that code says `sys.exit()`.
    """
    try:
        yield
    except SystemExit as ended:
        what = f"the method or plug-in called sys.exit({ended.code!r:.80})"
        raise RunsFailed(what, str(where), "raise an exception there instead, and run it again") from ended


def _agreed_record(spec: RunSpec, team: Team) -> dict[str, Any]:
    """The run's record if the leader finds one, else {}.

    The processes of a team must take the same way, or a collective never ends. So the leader's look decides: on a
    network file system another process may see the record a moment later, and then returns a stand-in.
    """
    record = spec.find_record()
    if not team.any(team.leads and record is not None):
        return {}
    return record or spec.find_record() or {"status": "done"}


def _done_record(spec: RunSpec, team: Team, since: float) -> dict[str, Any]:
    """The record that makes the run needless; of a quick run only one that is newer than `since`."""
    record = _agreed_record(spec, team)
    if not spec.recipe.quick or not record:
        return record
    return record if _ended_as("done", spec, team, since) else {}


def _ended_as(state: str, spec: RunSpec, team: Team, since: float) -> RunProgress | None:
    """The run's progress if it ended in `state` after `since`, as the leader reads it."""
    progress = read_progress(spec.folder)
    matches = progress.state == state and progress.key == spec.key and (progress.updated or 0) > since
    return progress if team.any(team.leads and matches) else None


def _empty_folder(folder: Path, team: Team) -> None:
    """A quick run tests today's code, so a finished one is repeated from nothing. The lock stays: it is held."""
    for path in folder.iterdir() if team.leads else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != LOCK:
            path.unlink()
    team.wait()


@contextmanager
def _progress_shown(spec: RunSpec, team: Team, bars: Bars) -> Iterator[ProgressFile | None]:
    """Keep the run's progress file while it is worked on. Only the leader writes it."""
    if not team.leads:
        yield None
        return
    names = {"recipe": spec.recipe.stored_name, "split": spec.partition.name, "seed": spec.seed}
    about = {"key": spec.key, **names, "quick": spec.recipe.quick, "device": str(team.device)}
    file = ProgressFile(spec.folder, about)
    bars.on_progress = file.tick
    try:
        yield file
    except BaseException as error:
        file.end_with(error)
        raise
    else:
        file.end("done")
    finally:
        bars.on_progress = None


@contextmanager
def _folder_locked(folder: Path, team: Team) -> Iterator[None]:
    """Hold the lock of the run's folder: two processes in it would overwrite each other's checkpoints.

    The leader takes it for its team; the system gives it up when that process ends, however it ends.
    """
    with open_lock(folder / LOCK) if team.leads else nullcontext() as file:
        holder = take_lock(file) if file else None
        if team.any(holder is not None):
            raise Busy(holder or "of somebody else", folder)
        yield
