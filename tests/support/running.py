"""Running ssbench for tests: in this process, or in a real one of its own that may be killed.

Python takes seconds to import torch. A fork server imports it once; each process it starts is a process like any
other (its own memory, files and signals), only sooner there.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from ssbench.console import Bars
from ssbench.jobs.job import Places, run_folder
from ssbench.jobs.run import run
from ssbench.recipe.recipe import Recipe, load
from ssbench.splits.manifest import Partition
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team
from ssbench.train.trainer import Trainer

SPLIT = "toy/ours/1_32"
TINY = (
    "net.encoder=test_resnet",
    "net.wide=32",
    "views.crop=48",
    "data.few=8",
    "schedule.labeled_batch=2",
    "schedule.unlabeled_batch=2",
    "eval.few=3",
    "eval.every=1",
)
ALONE = Team(0, 1, torch.device("cpu"))

context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(
    ["ssbench.cli", "ssbench.train.trainer", "ssbench.methods.unimatch", "ssbench.nets.deeplabv3plus"]
)


@dataclass(frozen=True)
class Job:
    """A run of tiny size: recipe with its overrides, and where its files go."""

    data: Path
    out: Path
    overrides: tuple[str, ...]
    recipe: str = "toy/none_unimatch"
    seed: int = 0

    @property
    def places(self) -> Places:
        return Places(self.data, self.out / "runs", self.out / "results")

    @property
    def loaded(self) -> Recipe:
        return load(self.recipe, self.overrides)

    @property
    def folder(self) -> Path:
        return run_folder(self.loaded, SPLIT, self.seed, self.places)

    @property
    def record(self) -> Path:
        name = self.folder.relative_to(self.out / "runs")
        return self.out / "results" / name.parent / f"{name.name}.json"

    @property
    def arguments(self) -> list[str]:
        sets = [part for text in self.overrides for part in ("--set", text)]
        roots = ["--data-root", self.data, "--runs", self.out / "runs", "--results", self.out / "results"]
        words = ["run", self.recipe, "--split", SPLIT, "--seed", self.seed, *sets, *roots, "--device", "cpu"]
        return [str(word) for word in words]

    def start(self) -> BaseProcess:
        """The command in a process of its own; its output goes to `log`."""
        self.out.mkdir(parents=True, exist_ok=True)
        return start(command, self.arguments, self.log)

    def finish(self) -> int:
        """The command to its end; the exit code."""
        process = self.start()
        process.join()
        assert process.exitcode is not None
        return process.exitcode

    def here(self, bars: Bars | None = None) -> dict[str, Any]:
        """The run in this process; its record."""
        return run(self.loaded, SPLIT, self.seed, self.places, ALONE, bars or Bars(show=False, write_line=_silent))[0]

    @property
    def log(self) -> Path:
        return self.out / "log.txt"


def _silent(_: str) -> None:
    """Where notes go that no test reads."""


def start(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """`target(*arguments)` in a process of its own."""
    process = context.Process(target=target, args=arguments)
    process.start()
    return process


def command(arguments: Sequence[str], log: Path) -> None:
    """What `ssbench` does with `arguments`; its two streams are appended to `log`."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    from ssbench.cli import main

    sys.argv = ["ssbench", *arguments]
    main()


def trainer_of(job: Job, team: Team = ALONE, kind: type[Trainer] = Trainer) -> Trainer:
    """The trainer of a job, nothing trained yet."""
    recipe = job.loaded
    dataset = dataset_of(recipe, job.data)
    return kind(recipe, partition_of(recipe, job.data), dataset, job.seed, job.folder, team, Bars(show=False))


def partition_of(recipe: Recipe, data: Path) -> Partition:
    """The split, cut as the recipe says."""
    from dataclasses import replace

    whole, few = Partition.read(SPLIT, data), recipe.data.few
    return replace(whole, labeled=whole.labeled[:few], unlabeled=whole.unlabeled[:few])


def wait_until(happened: Callable[[], bool], process: BaseProcess, seconds: float = 60) -> bool:
    """Whether it happened while the process lived; looks a thousand times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.is_alive():
        if happened():
            return True
        time.sleep(0.001)
    return happened()
