"""A queue handed to Slurm: submit the jobs it does not have yet, and wait for the outcomes of all."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ssbench.errors import (
    DataError,
    HardwareError,
    Interrupted,
    RecipeError,
    RunsFailed,
    SsbenchError,
    Stopped,
    UsageError,
)
from ssbench.jobs import slurm
from ssbench.jobs.job import Job, Outcome, Places
from ssbench.jobs.progress import read_progress
from ssbench.jobs.queue_file import QueueEntry, folder_is_free, read_queues, submission_locked, write_slurm_queue
from ssbench.jobs.run import RunSpec
from ssbench.jobs.slurm_job import SlurmTask, read_outcome
from ssbench.jobs.status import StatusView, survey

SOON, SELDOM = 2.0, 30.0
"""Seconds between two questions to Slurm: after a change, and at most. squeue loads a controller that all share."""
ERRORS = {kind.code: kind for kind in (UsageError, RecipeError, DataError, RunsFailed, HardwareError)}


@dataclass(frozen=True)
class Placement:
    """Where a job is: its Slurm job, its index in that, the folder of the Slurm job's logs, its run folder."""

    slurm_job: str
    index: int
    logs: Path
    folder: Path


@dataclass(frozen=True)
class SlurmQueue:
    """A queue as Slurm has it.

    outcomes: of jobs that need no Slurm job, for they are done or wrong. attached: how many jobs Slurm had already.
    """

    jobs: tuple[Job, ...]
    places: Places
    outcomes: Mapping[Job, Outcome]
    placements: Mapping[Job, Placement]
    attached: int

    @property
    def arrays(self) -> list[str]:
        """The numbers for scancel."""
        return sorted({place.slurm_job.partition("_")[0] for place in self.placements.values()}, key=int)


def hand_over(
    jobs: Sequence[Job], places: Places, device: str | None, options: slurm.SlurmOptions, parallel: int | None
) -> SlurmQueue:
    """Submit the jobs that are neither done nor with Slurm already, `parallel` Slurm jobs at a time.

    Raises:
        HardwareError: no submitit, no Slurm, or it does not answer. UsageError: sbatch refuses the options.
        DataError: a queue file is damaged, so that nobody knows what Slurm has.
    """
    slurm.require_slurm()
    there = Places(places.data.resolve(), places.runs.resolve(), places.results.resolve())
    outcomes = {job: outcome for job in jobs if (outcome := _known_outcome(job, there)) is not None}
    entries = {job: job.queue_entry(there) for job in jobs if job not in outcomes}
    with submission_locked(there.runs):
        living = _living_placements(there.runs)
        attached = {job: living[entry["folder"]] for job, entry in entries.items() if entry["folder"] in living}
        fresh = [job for job in entries if job not in attached]
        submitted = _submit(fresh, there, device, options, parallel) if fresh else {}
    return SlurmQueue(tuple(jobs), there, outcomes, {**attached, **submitted}, len(attached))


def _known_outcome(job: Job, places: Places) -> Outcome | None:
    """The outcome of a job that needs no Slurm job."""
    try:
        recipe = job.load_recipe(places)
        record = None if job.quick else RunSpec.of(recipe, job.split, job.seed, places).find_record()
    except SsbenchError as error:
        return Outcome(job, error=error)
    return None if record is None else Outcome(job, record, repeated=True)


def _living_placements(runs: Path) -> dict[str, Placement]:
    """Run folder (below `runs`) -> placement, of jobs that Slurm still has. Files of other Slurm queues are removed."""
    queues = [queue for queue in read_queues(runs) if queue.launcher == "slurm"]
    states = slurm.job_states([cell.job for queue in queues for cell in queue.cells if cell.job])
    placements: dict[str, Placement] = {}
    for queue in queues:
        mine = _placements(queue.cells, Path(queue.folder), runs)
        living = {name: p for name, p in mine.items() if p.slurm_job in states and states[p.slurm_job].is_alive}
        if not living:
            queue.path.unlink(missing_ok=True)
        placements |= living
    return placements


def _placements(entries: Iterable[QueueEntry], logs: Path, runs: Path) -> dict[str, Placement]:
    """Run folder -> placement. A Slurm job does its jobs in the order they have in the queue file."""
    placements: dict[str, Placement] = {}
    seen = Counter[str]()
    for entry in entries:
        if entry.job:
            placements[entry.folder] = Placement(entry.job, seen[entry.job], logs, runs / entry.folder)
            seen[entry.job] += 1
    return placements


def _submit(
    jobs: Sequence[Job], places: Places, device: str | None, options: slurm.SlurmOptions, parallel: int | None
) -> dict[Job, Placement]:
    """Submit the jobs, and write their queue file."""
    logs = places.runs / "slurm" / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    logs.mkdir(parents=True)
    size, now = options.runs_per_job, time.time()
    parts = [tuple(jobs[at : at + size]) for at in range(0, len(jobs), size)]
    slurm_jobs = slurm.submit([SlurmTask(part, places, device, now, logs) for part in parts], options, logs, parallel)
    entries = [
        job.queue_entry(places, slurm_job) for part, slurm_job in zip(parts, slurm_jobs, strict=True) for job in part
    ]
    write_slurm_queue(places.runs, slurm_jobs[0], logs, entries)
    placements = _placements([QueueEntry(**entry) for entry in entries], logs, places.runs)
    return {job: placements[entry["folder"]] for job, entry in zip(jobs, entries, strict=True)}


class SlurmPoll:
    """What Slurm last said of jobs."""

    def __init__(self) -> None:
        self.states: dict[str, slurm.JobState] = {}
        self._ended = Counter[str]()  # questions in a row in which a job was not alive
        self._due, self._pause = 0.0, SOON

    def ask(self, jobs: Collection[str]) -> None:
        """Ask Slurm again if that is due: soon after a change, ever more seldom without one."""
        if time.monotonic() < self._due:
            return
        try:
            states = slurm.job_states(sorted(jobs))
        except HardwareError:  # a controller that restarts; the runs do not need it meanwhile
            self._due = time.monotonic() + SELDOM
            return
        self._pause = SOON if states != self.states else min(1.5 * self._pause, SELDOM)
        self._due, self.states = time.monotonic() + self._pause, states
        for job in jobs:
            self._ended[job] = 0 if job in states and states[job].is_alive else self._ended[job] + 1

    def has_ended(self, job: str) -> bool:
        """Whether a job has ended. Two answers have to agree: its last files may reach this machine late."""
        return self._ended[job] > 1


def wait_for(queue: SlurmQueue, view: StatusView) -> list[Outcome]:
    """The outcomes of the jobs, in order; their status is shown in `view` meanwhile.

    Raises:
        Interrupted: from the keyboard; the Slurm jobs go on.
    """
    outcomes, left, poll = dict(queue.outcomes), dict(queue.placements), SlurmPoll()
    runs = queue.places.runs
    folders = [str(place.folder.relative_to(runs)) for place in queue.placements.values()]
    try:
        while left:
            poll.ask({place.slurm_job for place in left.values()})
            for job, place in list(left.items()):
                if (outcome := _outcome_of(job, place, queue.places, poll)) is not None:
                    del left[job]
                    outcomes[job] = outcome
                    view.print_line(f"[{len(outcomes)}/{len(queue.jobs)}] {outcome}")
            view.show(survey(runs, folders, lambda _: poll.states, view.warn))
            time.sleep(1 if left else 0)
    except KeyboardInterrupt:
        what = f"no longer waiting; {len(left)} of {len(queue.jobs)} runs are still with Slurm"
        where = f"Slurm jobs {', '.join(dict.fromkeys(place.slurm_job for place in left.values()))}"
        cancel = f"scancel {' '.join(queue.arrays)}"
        fix = f"the same command waits on, ssbench status shows them, {cancel} ends them"
        raise Interrupted(what, where, fix) from None
    with suppress(HardwareError, DataError), submission_locked(runs):
        _living_placements(runs)  # removes the files of queues that have ended
    return [outcomes[job] for job in queue.jobs]


def _outcome_of(job: Job, place: Placement, places: Places, poll: SlurmPoll) -> Outcome | None:
    """How a job ended, None as long as nobody knows."""
    damage = None
    try:
        reported = read_outcome(place.logs, place.slurm_job, place.index)
    except DataError as error:
        reported, damage = None, error
    if reported is not None and reported.state == "failed":
        kind = ERRORS.get(reported.code, SsbenchError)
        return Outcome(job, error=kind(reported.what, reported.where, reported.fix))
    if reported is None and damage is None and not poll.has_ended(place.slurm_job):
        return None
    record = RunSpec.of(job.load_recipe(places), job.split, job.seed, places).find_record()
    if record is not None:
        return Outcome(job, record, repeated=reported is not None and reported.state in ("was done", "elsewhere"))
    if reported is not None and reported.state == "elsewhere" and not folder_is_free(place.folder):
        return None
    return Outcome(job, error=damage or _silent_end(place, poll.states.get(place.slurm_job)))


def _silent_end(place: Placement, state: slurm.JobState | None) -> SsbenchError:
    """The error of a Slurm job that wrote no outcome: it was stopped and can be resumed, or something is wrong."""
    progress, log = read_progress(place.folder), place.logs / f"{place.slurm_job}_0_log.err"
    what = f"Slurm job {place.slurm_job} ended: {state or 'Slurm has forgotten how'}"
    if progress.job == place.slurm_job and progress.state == "failed":
        return RunsFailed(progress.why or "", str(log), "mend that and run it again")
    if progress.state == "stopped" or (state is not None and state.word in slurm.RESUMABLE):
        return Stopped(what, str(log), "run the same command again")
    return SsbenchError(what, str(log), "see the log; the same command tries again")
