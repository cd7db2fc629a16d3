"""Items loaded ahead by worker processes; errors in a worker end as errors here, and no worker outlives its user."""

from __future__ import annotations

import dataclasses
import os
import signal
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssbench.errors import DataError, SsbenchError

T = TypeVar("T")


def stream(items: TorchDataset[T], order: Sequence[int], workers: int, pin: bool = False) -> Generator[T]:
    """`items[i]` for each i of `order`, loaded ahead by worker processes. Close it, and they have ended.

    Raises:
        DataError: an item cannot be loaded, here or in a worker; or a worker died.
    """
    loaded: DataLoader[T] = DataLoader(
        _Caught(items),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
        worker_init_fn=quiet_worker,
    )
    with dead_workers_named():
        iterator = iter(loaded)
        try:
            for item in iterator:
                if isinstance(item, _LoadFailure):
                    raise item.error
                yield item
        finally:
            _end_workers(iterator)


@contextmanager
def dead_workers_named() -> Iterator[None]:
    """Turn torch's notice of a dead worker, which it raises wherever this process stands, into a DataError."""
    try:
        yield
    except RuntimeError as error:
        reason = (str(error).splitlines() or [""])[0]
        if not reason.startswith("DataLoader worker"):
            raise
        what = f"a process that loads images died: {reason[:160]}"
        fix = "often memory ran out (free -h, df -h /dev/shm): --set data.workers=0, or fewer than now"
        raise DataError(what, "data.workers", fix) from None


@dataclasses.dataclass(frozen=True)
class _LoadFailure:
    """What stands in the place of an item that cannot be loaded. torch would hand on an error's text alone."""

    error: SsbenchError


class _Caught(TorchDataset[Any]):
    """Items, or the errors that loading them raised."""

    def __init__(self, items: TorchDataset[Any]) -> None:
        self.items = items

    def __getitem__(self, index: int) -> Any:
        try:
            return self.items[index]
        except Exception as error:  # a library's or a plug-in's: it must not end in a worker
            return _LoadFailure(_as_load_error(error))


def _as_load_error(error: Exception) -> SsbenchError:
    if isinstance(error, SsbenchError):
        return error
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    if isinstance(error, MemoryError):
        return DataError("memory ran out while images were loaded", where, "--set data.workers=0, or a smaller batch")
    text = (str(error).splitlines() or [""])[0][:200]
    what = f"images cannot be loaded: {type(error).__name__}: {text}"
    return DataError(what, where, "look at that line: a file, a map of a plug-in's `prepare`, or the package")


def _end_workers(iterator: Iterator[Any]) -> None:
    """End the worker processes now. An error keeps frames, and so the iterator, alive until the program ends; then
    Python waits for ever for workers, which take a first SIGTERM for one to the trainer (see `quiet_worker`).
    """
    workers = getattr(iterator, "_workers", ())
    if workers:
        iterator._shutdown_workers()  # type: ignore[attr-defined]
    for worker in workers:
        if worker.is_alive():
            worker.kill()
            worker.join()


def useful_workers(workers: int) -> int:
    """`workers`, but no more than there are cores: more would only take turns."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(workers, cores)


def quiet_worker(_: int) -> None:
    """One thread a worker; signals are the trainer's to handle, or a Ctrl-C would cut batches short.

    A signal to the whole process group (Slurm, `timeout`) reaches workers too: the first SIGTERM leaves them serving
    until the trainer has saved, a second one, such as the loader's own clean-up sends, ends them.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))
