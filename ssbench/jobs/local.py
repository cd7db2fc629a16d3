"""Runs side by side: a few worker processes, each doing one run after another.

Small nets leave cores idle: two runs with one thread each are faster than one run with two. A worker that dies takes
its run down as failed and no other, and another takes its place; a request to stop reaches every worker, which saves
and says so. With GPUs each worker sees one of them alone.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from ssbench.console import Bars, say
from ssbench.errors import SsbenchError, Stopped
from ssbench.jobs.backlog import LOOK_EVERY, Line
from ssbench.jobs.job import Cell, Done, Places
from ssbench.jobs.queue import do_one
from ssbench.train.stopping import STOP_SIGNALS


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection[Any, Any]
    seat: int
    cell: Cell | None = None


@dataclass(frozen=True)
class _Terms:
    """What all workers have in common. gpus: names of the GPUs to sit at, as CUDA_VISIBLE_DEVICES has them."""

    places: Places
    device: str | None
    threads: int
    gpus: tuple[str, ...]
    since: float


def side_by_side(
    line: Line[Cell], total: int, places: Places, device: str | None, jobs: int, since: float = math.inf
) -> dict[Cell, Done]:
    """Do the `total` cells in line in `jobs` processes; `since` as in `run.run`.

    Raises:
        Stopped: a signal that asks to stop came; every run in progress has saved.
    """
    threads = max(1, (multiprocessing.cpu_count() or 1) // jobs)
    hire = partial(_start, _Terms(places, device, threads, gpus(device), since))
    workers = [hire(seat) for seat in range(min(jobs, total))]
    found, stopping = dict[Cell, Done](), [False]

    def stop(number: int, frame: FrameType | None) -> None:
        stopping[0] = True
        for worker in workers:
            worker.process.terminate()

    old = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        _drive(workers, hire, line, found, stopping, total)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        for worker in workers:
            worker.pipe.close()
            worker.process.join()
    if stopping[0]:
        what = f"stopped with {len(found)} of {total} runs done"
        raise Stopped(what, str(places.runs), "run the same command again")
    return found


def gpus(device: str | None) -> tuple[str, ...]:
    """Names of the GPUs that workers are to share out; none where they compute elsewhere, or one is named."""
    import torch

    count = torch.cuda.device_count() if device in (None, "cuda") else 0
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(name.strip() for name in visible.split(",") if name.strip())[:count] or tuple(map(str, range(count)))


def _drive(
    workers: list[_Worker],
    hire: Callable[[int], _Worker],
    line: Line[Cell],
    found: dict[Cell, Done],
    stopping: list[bool],
    total: int,
) -> None:
    """Hand out cells and take in results until nothing is left or a stop was asked for."""
    idle, busy = list(workers), dict[Any, _Worker]()
    while busy or (line and not stopping[0]):
        while idle and not stopping[0] and (cell := line.next()) is not None:
            worker = idle.pop()
            if not worker.process.is_alive():
                worker = hire(worker.seat)
                workers.append(worker)
            worker.cell = cell
            worker.pipe.send(cell)
            busy[worker.pipe] = worker
        if not busy:
            time.sleep(LOOK_EVERY)
        for pipe in wait(list(busy), timeout=LOOK_EVERY):
            worker = busy[pipe]
            done = _received(worker)
            if isinstance(done, str):
                say(done)
                continue
            idle.append(busy.pop(worker.pipe))
            _take_in(done, line, found, total)


def _take_in(done: Done, line: Line[Cell], found: dict[Cell, Done], total: int) -> None:
    """A result; cells that other processes work on go back into the line, stopped ones nowhere."""
    if done.busy is not None:
        if line.later(done.cell, done.busy):
            say(f"{done}; going on when it has ended")
    elif not isinstance(done.error, Stopped):
        found[done.cell] = done
        say(f"[{len(found)}/{total}] {done}")


def _received(worker: _Worker) -> Done | str:
    try:
        got: Done | str = worker.pipe.recv()
    except EOFError:
        assert worker.cell is not None  # noqa: S101  a worker without a cell is not waited for
        worker.process.join()
        code = worker.process.exitcode
        return Done(
            worker.cell,
            error=SsbenchError(f"its worker process ended with code {code}", str(worker.cell), "run it again"),
        )
    return got


def _start(terms: _Terms, seat: int) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, terms, seat), daemon=False)
    process.start()
    theirs.close()
    return _Worker(process, ours, seat)


def _serve(pipe: Connection[Any, Any], terms: _Terms, seat: int) -> None:
    """A worker's life: cells in, notes and results out."""
    if terms.gpus:  # before CUDA is first asked for anything
        os.environ["CUDA_VISIBLE_DEVICES"] = terms.gpus[seat % len(terms.gpus)]
    import torch

    from ssbench.train.distributed import join

    for number in (signal.SIGINT, signal.SIGUSR2):  # the first process hears them and says SIGTERM
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(terms.threads)
    team = join(terms.device)
    with Bars(show=False, write_line=pipe.send) as bars:
        while True:
            try:
                cell: Cell = pipe.recv()
            except EOFError:
                return
            try:
                done = do_one(cell, terms.places, team, bars, terms.since)
            except Stopped as stopped:
                done = Done(cell, error=stopped)
            pipe.send(done)
