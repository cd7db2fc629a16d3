"""A few processes that train as one team, each doing the same list of jobs; what they outcomes comes back as files."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import MethodType
from typing import Any

import torch
from running import SPLIT, Job, start, trainer_of

from ssbench.console import Bars
from ssbench.data.batch import Batch
from ssbench.errors import SsbenchError
from ssbench.jobs.run import run
from ssbench.methods.base import Method
from ssbench.train.distributed import Team, join
from ssbench.train.stages import fit
from ssbench.train.trainer import Trainer

Task = Callable[[Job, Team], Any]


@dataclass(frozen=True)
class Trained:
    """What a job ended with: every parameter and buffer, mean terms of each epoch, the confusion matrix of the best."""

    tensors: dict[str, torch.Tensor]
    terms: list[dict[str, float]]
    matrix: Any


def together(world: int, tasks: Sequence[tuple[Task, Job]], folder: Path) -> list[list[Any]]:
    """Results by process, then by task; an SsbenchError that ended a task is its result."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{rank}.pickle" for rank in range(world)]
    members = [start(member, rank, world, port, tasks, file) for rank, file in enumerate(files)]
    for process in members:
        process.join(400)
        process.kill()
    return [pickle.loads(file.read_bytes()) for file in files]  # noqa: S301  our own


def member(rank: int, world: int, port: int, tasks: Sequence[tuple[Task, Job]], out: Path) -> None:
    """One process of a team."""
    torch.set_num_threads(1)
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in places.items()}
    team, outcomes = join("cpu"), []
    for task, job in tasks:
        try:
            outcomes.append(task(job, team))
        except SsbenchError as error:
            outcomes.append(error)
        except Exception:
            outcomes.append(traceback.format_exc())
    out.write_bytes(pickle.dumps(outcomes))


class Exact(Trainer):
    """In double precision, so that rounding decides nothing: no label flips, no threshold is met by chance."""

    def _build_method(self) -> Method:
        method = super()._build_method().double()
        method.predict = MethodType(_predict_double, method)  # type: ignore[method-assign]  a copy gets its own
        return method

    def _step(self, batch: Batch) -> None:
        super()._step(_double(batch))


def _predict_double(method: Method, x: torch.Tensor) -> torch.Tensor:
    return type(method).predict(method, x.double())


def _double(value: Any) -> Any:
    """A batch whose floating-point tensors are double."""
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_double(v) for v in value)
    if is_dataclass(value):
        return replace(value, **{f.name: _double(getattr(value, f.name)) for f in fields(value)})  # type: ignore[type-var]
    return value


def trained(job: Job, team: Team) -> Trained:
    """Trains to the end, in double precision."""
    trainer = trainer_of(job, team, Exact)
    fit(trainer)
    tensors = {name: value.clone() for name, value in trainer.method.state_dict().items()}
    terms = [entry["terms"] for entry in trainer.state.history]
    return Trained(tensors, terms, trainer.state.best.matrix)


def scored(job: Job, team: Team) -> Any:
    """The confusion matrix of the networks as they start, on all images."""
    return trainer_of(job, team).score("val").matrix


def recorded(job: Job, team: Team) -> Any:
    """The whole run; its record, and what this process wrote."""
    written: list[str] = []
    watching = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        changes = event in ("os.rename", "os.link", "os.mkdir", "os.remove", "os.truncate")
        if watching[0] and (writes or changes) and str(job.out) in str(arguments[0]):
            written.append(f"{event} {arguments[0]}")

    sys.addaudithook(hook)
    record = run(job.loaded, SPLIT, job.seed, job.places, team, Bars(show=False, write_line=lambda _: None))[0]
    watching[0] = False
    return record, written


def stopped(job: Job, team: Team) -> Any:
    """The whole run, of which the last process alone is asked to stop at the end of the first epoch."""

    class Impatient(Bars):
        def watch(self, items: Any, label: str, total: int) -> Any:
            if team.rank == team.world - 1:
                signal.raise_signal(signal.SIGTERM)
            return super().watch(items, label, total)

    return run(job.loaded, SPLIT, job.seed, job.places, team, Impatient(show=False, write_line=lambda _: None))[0]


def damaged(job: Job, team: Team) -> Any:
    """The whole run, of data in which one image cannot be read; it is the last process's turn to read it."""
    return run(job.loaded, SPLIT, job.seed, job.places, team, Bars(show=False, write_line=lambda _: None))[0]
