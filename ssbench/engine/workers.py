"""Runs side by side: a few worker processes, each doing one run after another.

Small nets leave cores idle: two runs with one thread each are faster than one run with two. A worker that dies takes
its run down as failed and no other, and another takes its place; a request to stop reaches every worker, which saves
and says so.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from ssbench.engine.console import Bars, say
from ssbench.engine.queue import Cell, Done, do_one
from ssbench.engine.run import Places
from ssbench.errors import SsbenchError, Stopped


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection[Any, Any]
    cell: Cell | None = None


def side_by_side(wanted: Sequence[Cell], places: Places, device: str | None, jobs: int) -> list[Done]:
    """Do the cells in `jobs` processes; results in the order of `wanted`.

    Raises:
        Stopped: SIGINT or SIGTERM came; every run in progress has saved.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, (multiprocessing.cpu_count() or 1) // jobs)
    hire = partial(_start, context, places, device, threads)
    workers = [hire() for _ in range(min(jobs, len(wanted)))]
    found: dict[Cell, Done] = {}
    waiting, stopping = list(wanted), [False]

    def stop(number: int, frame: FrameType | None) -> None:
        stopping[0] = True
        for worker in workers:
            worker.process.terminate()

    old = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _drive(workers, hire, waiting, found, stopping)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        for worker in workers:
            worker.pipe.close()
            worker.process.join()
    if stopping[0]:
        raise Stopped(
            f"stopped with {len(found)} of {len(wanted)} runs done", str(places.runs), "run the same command again"
        )
    return [found[cell] for cell in wanted]


def _drive(
    workers: list[_Worker],
    hire: Callable[[], _Worker],
    waiting: list[Cell],
    found: dict[Cell, Done],
    stopping: list[bool],
) -> None:
    """Hand out cells and take in results until nothing is left or a stop was asked for."""
    idle, busy, total = list(workers), {}, len(waiting)
    while True:
        while waiting and idle and not stopping[0]:
            worker = idle.pop()
            worker.cell = waiting.pop(0)
            worker.pipe.send(worker.cell)
            busy[worker.pipe] = worker
        if not busy:
            return
        for pipe in wait(list(busy), timeout=0.5):
            worker = busy[pipe]  # type: ignore[index]
            done = _received(worker)
            if isinstance(done, str):
                say(done)
                continue
            del busy[worker.pipe]
            if not isinstance(done.error, Stopped):
                found[done.cell] = done
                say(f"[{len(found)}/{total}] {done}")
            if worker.process.is_alive():
                idle.append(worker)
            elif waiting and not stopping[0]:
                workers.append(hire())
                idle.append(workers[-1])


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


def _start(context: Any, places: Places, device: str | None, threads: int) -> _Worker:
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, places, device, threads), daemon=False)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(pipe: Connection[Any, Any], places: Places, device: str | None, threads: int) -> None:
    """A worker's life: cells in, notes and results out."""
    import torch

    from ssbench.engine.distributed import join

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    team = join(device)
    with Bars(show=False, tell=pipe.send) as bars:
        while True:
            try:
                cell: Cell = pipe.recv()
            except EOFError:
                return
            try:
                done = do_one(cell, places, team, bars)
            except Stopped as stopped:
                done = Done(cell, error=stopped)
            pipe.send(done)
