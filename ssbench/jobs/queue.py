"""Jobs on this machine, each done once: one after another in this process, or side by side in worker processes.

A job that another process works on is set aside, and is done here too once that process has ended.
Small nets leave cores idle: two runs with one thread each are faster than one run with two. With GPUs each worker sees
one of them alone.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

import torch

from ssbench.console import Bars, say
from ssbench.errors import SsbenchError, Stopped
from ssbench.jobs.job import Job, Outcome, Places
from ssbench.jobs.queue_file import POLL_LOCKS, Backlog, folder_is_free, write_queue_file
from ssbench.jobs.run import run_job
from ssbench.train.distributed import Team, is_first_process, join
from ssbench.train.stopping import STOP_SIGNALS

Outcomes = dict[Job, Outcome]


def default_workers(device: str | None) -> int:
    """Runs at a time without `--jobs`: one a GPU. One on a CPU, on a named GPU, and where torchrun shares the GPUs."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return max(torch.cuda.device_count(), 1) if alone and device in (None, "cuda") else 1


def work(
    jobs: Sequence[Job], places: Places, device: str | None, workers: int = 1, since: float | None = None,
    wait: bool = True,
) -> list[Outcome]:  # fmt: skip
    """Do the jobs in order, `workers` at a time. A failed run does not stop the others.

    Args:
        since: when the queue began (seconds since 1970), if not now; see `run.run`.
        wait: for jobs that other processes work on; else they come back `busy`. Workers always wait.
    Raises:
        Stopped: a signal came (exit code 75); every run in progress has saved.
    """
    began = time.time() if since is None else since
    with _backlog(jobs, places) as backlog:
        if workers > 1 and len(jobs) > 1:
            outcomes = _Workers(backlog, len(jobs), places, device, workers, began).work()
        else:
            outcomes = _one_by_one(backlog, len(jobs), places, join(device), began, wait)
    return [outcomes[job] for job in jobs]


@contextmanager
def _backlog(jobs: Sequence[Job], places: Places) -> Iterator[Backlog]:
    """The backlog, with a queue file where there are several jobs. A job whose recipe is wrong fails at its turn."""
    if len(jobs) == 1 or not is_first_process():
        yield Backlog(jobs)
        return
    entries = {}
    for job in jobs:
        with suppress(SsbenchError):
            entries[job] = job.queue_entry(places)
    with write_queue_file(places.runs) as write:
        yield Backlog(jobs, lambda left: write([entries[job] for job in left if job in entries]))


def _one_by_one(backlog: Backlog, total: int, places: Places, team: Team, since: float, wait: bool) -> Outcomes:
    """All jobs in this process, or in the processes of its team."""
    tell, outcomes = say if team.leads else _silent, Outcomes()
    with Bars(show=team.leads, write_line=tell) as bars:
        while backlog:
            job = backlog.next(lambda folder: team.any(team.leads and folder_is_free(folder)))
            if job is None:
                time.sleep(POLL_LOCKS)
                continue
            if total > 1:
                tell(f"[{len(outcomes) + 1}/{total}] {job}")
            outcome = run_job(job, places, team, bars, since)
            if outcome.busy is None or not wait:
                outcomes[job] = outcome
            elif backlog.set_aside(job, outcome.busy):
                tell(f"{outcome}; going on when it has ended (Ctrl-C stops waiting)")
    return outcomes


def _silent(_: str) -> None:
    """Where the lines of all processes but the first go."""


def visible_gpus(device: str | None) -> tuple[str, ...]:
    """GPUs for workers to share, as CUDA_VISIBLE_DEVICES names them; none on a CPU, and where one GPU is named."""
    count = torch.cuda.device_count() if device in (None, "cuda") else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(name.strip() for name in visible.split(",") if name.strip())[:count] or tuple(map(str, range(count)))


@dataclass
class _Worker:
    """A process that does one job after another. seat: its number, which decides its GPU. job: the one in hand."""

    process: BaseProcess
    pipe: Connection[Any, Any]
    seat: int
    job: Job | None = None


@dataclass
class _Workers:
    """Worker processes and the jobs they share.

    A worker that dies takes its run down as failed and no other, and another takes its place. A request to stop reaches
    every worker, which saves and says so.
    """

    backlog: Backlog
    total: int
    places: Places
    device: str | None
    count: int
    since: float
    outcomes: Outcomes = field(default_factory=dict)
    workers: list[_Worker] = field(default_factory=list)
    is_stopping: bool = False

    def work(self) -> Outcomes:
        """Do all jobs. Stopped if a signal came."""
        self.gpus = visible_gpus(self.device)
        self.workers = [self._start(seat) for seat in range(min(self.count, self.total))]
        old = {number: signal.signal(number, self._stop) for number in STOP_SIGNALS}
        try:
            self._hand_out()
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
            for worker in self.workers:
                worker.pipe.close()
                worker.process.join()
        if self.is_stopping:
            what = f"stopped with {len(self.outcomes)} of {self.total} runs done"
            raise Stopped(what, str(self.places.runs), "run the same command again")
        return self.outcomes

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.is_stopping = True
        for worker in self.workers:
            worker.process.terminate()

    def _hand_out(self) -> None:
        """Hand out jobs and take in outcomes, until nothing is left or a stop was asked for."""
        idle, busy = list(self.workers), dict[Any, _Worker]()
        while busy or (self.backlog and not self.is_stopping):
            while idle and not self.is_stopping and (job := self.backlog.next()) is not None:
                worker = idle.pop()
                if not worker.process.is_alive():
                    worker = self._start(worker.seat)
                    self.workers.append(worker)
                worker.job = job
                worker.pipe.send(job)
                busy[worker.pipe] = worker
            if not busy:
                time.sleep(POLL_LOCKS)
            for pipe in wait(list(busy), timeout=POLL_LOCKS):
                message = _receive(busy[pipe])
                if isinstance(message, str):
                    say(message)
                else:
                    idle.append(busy.pop(pipe))
                    self._take_in(message)

    def _take_in(self, outcome: Outcome) -> None:
        """Keep an outcome. A job held elsewhere returns to the backlog; one that was stopped has no outcome yet."""
        if outcome.busy is not None:
            if self.backlog.set_aside(outcome.job, outcome.busy):
                say(f"{outcome}; going on when it has ended")
        elif not isinstance(outcome.error, Stopped):
            self.outcomes[outcome.job] = outcome
            say(f"[{len(self.outcomes)}/{self.total}] {outcome}")

    def _start(self, seat: int) -> _Worker:
        """A new process. It is spawned, not forked: CUDA and the threads of torch do not survive a fork."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        gpu = self.gpus[seat % len(self.gpus)] if self.gpus else None
        threads = max(1, (multiprocessing.cpu_count() or 1) // self.count)
        arguments = (theirs, self.places, self.device, gpu, threads, self.since)
        process = context.Process(target=_serve, args=arguments, daemon=False)
        process.start()
        theirs.close()
        return _Worker(process, ours, seat)


def _receive(worker: _Worker) -> Outcome | str:
    """An outcome or a line for the person. The outcome of a worker that died is its job, failed."""
    try:
        message: Outcome | str = worker.pipe.recv()
    except EOFError:
        assert worker.job is not None  # noqa: S101  a worker without a job is not waited for
        worker.process.join()
        what = f"its worker process ended with code {worker.process.exitcode}"
        return Outcome(worker.job, error=SsbenchError(what, str(worker.job), "run it again"))
    return message


def _serve(
    pipe: Connection[Any, Any], places: Places, device: str | None, gpu: str | None, threads: int, since: float
) -> None:
    """What a worker process does: jobs in, lines and outcomes out."""
    if gpu is not None:  # CUDA reads it when it is first used, which is below
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    for number in (signal.SIGINT, signal.SIGUSR2):  # the first process receives them and sends SIGTERM
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    team = join(device)
    with Bars(show=False, write_line=pipe.send) as bars:
        while True:
            try:
                job: Job = pipe.recv()
            except EOFError:
                return
            try:
                outcome = run_job(job, places, team, bars, since)
            except Stopped as stopped:
                outcome = Outcome(job, error=stopped)
            pipe.send(outcome)
