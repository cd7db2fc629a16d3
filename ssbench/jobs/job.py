"""A job, one run to do: its name, where its files go, and its outcome. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ssbench.errors import SsbenchError, Stopped, UsageError
from ssbench.recipe.recipe import Division, Recipe, load
from ssbench.splits.manifest import dataset_of_split


class Busy(UsageError):  # noqa: N818  a state of the run's folder, not a fault
    """Another process has locked the run's folder."""

    def __init__(self, holder: str, folder: Path) -> None:
        what = f"process {holder} works on this run"
        super().__init__(what, str(folder), "ssbench status shows it; wait for it, or stop it")
        self.folder = folder


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


@dataclass(frozen=True)
class Job:
    """One run to do: recipe x split x seed (x overrides).

    track: names of the trackers that its epochs are sent to. They are no part of which run it is.
    """

    recipe: str
    split: str
    seed: int
    overrides: tuple[str, ...] = ()
    quick: bool = False
    division: Division | None = None
    track: tuple[str, ...] = field(default=(), compare=False)

    def __str__(self) -> str:
        return " ".join([self.recipe, *self.overrides, self.split, f"seed {self.seed}"])

    def load_recipe(self, places: Places) -> Recipe:
        """The recipe with its overrides. RecipeError where it is wrong."""
        dataset = dataset_of_split(self.split, places.data)
        return load(self.recipe, self.overrides, self.quick, self.division, places.data, dataset=dataset)

    def queue_entry(self, places: Places, slurm_job: str | None = None) -> dict[str, Any]:
        """The job as an entry of a queue file (`queue_file.QueueEntry`). RecipeError where its recipe is wrong."""
        recipe = self.load_recipe(places)
        folder = run_folder(recipe, self.split, self.seed, places).relative_to(places.runs)
        names = {"recipe": recipe.stored_name, "split": self.split, "seed": self.seed, "quick": self.quick}
        return {**names, "folder": str(folder), "job": slurm_job}


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with a record, or with an error.

    repeated: the record was there already, or another process made it meanwhile.
    busy: the folder of the run, where another process holds it; the job has not been tried, and `error` says so.
    """

    job: Job
    record: dict[str, Any] | None = None
    error: SsbenchError | None = None
    repeated: bool = False
    busy: Path | None = None

    @property
    def state(self) -> str:
        """ "failed", "stopped" (the same command resumes it), "done" or "was done"."""
        if self.error is not None:
            return "stopped" if isinstance(self.error, Stopped) else "failed"
        return "was done" if self.repeated else "done"

    def __str__(self) -> str:
        if self.error is not None:
            return f"{self.job}: {self.error.what}" if self.busy else f"{self.state} {self.job}: {self.error.what}"
        if self.job.quick:
            return f"{self.job} runs (a quick run: toy data, a small net, a few steps; its numbers mean nothing)"
        assert self.record is not None  # noqa: S101  an outcome without an error has a record
        best, last = self.record["scores"]["best"], self.record["scores"]["last"]
        scores = f"best {best['report']:.2f} (epoch {best['epoch'] + 1}), last {last['report']:.2f}"
        return f"{self.state} {self.job}: {self.record['metric']} {scores}"

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench run --json`."""
        return {
            "recipe": self.job.recipe,
            "split": self.job.split,
            "seed": self.job.seed,
            "state": self.state,
            "error": str(self.error) if self.error else None,
            "scores": self.record["scores"] if self.record else None,
            "metric": self.record["metric"] if self.record else None,
        }
