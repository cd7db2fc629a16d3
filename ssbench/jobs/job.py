"""A cell of a queue: one run to do, where its files go, and what became of it. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssbench.errors import SsbenchError, Stopped, UsageError
from ssbench.recipe.recipe import Division, Recipe, load


class Busy(UsageError):  # noqa: N818  says what is the case
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
class Cell:
    """One run to do: recipe x split x seed (x overrides)."""

    recipe: str
    split: str
    seed: int
    overrides: tuple[str, ...] = ()
    quick: bool = False
    division: Division | None = None

    def __str__(self) -> str:
        return " ".join([self.recipe, *self.overrides, self.split, f"seed {self.seed}"])

    def loaded(self, places: Places) -> Recipe:
        """Its recipe. RecipeError when that cannot be."""
        return load(self.recipe, self.overrides, self.quick, self.division, places.data)

    def posted(self, places: Places, job: str | None = None) -> dict[str, Any]:
        """What the board says of it; `job` is Slurm's."""
        recipe = self.loaded(places)
        folder = run_folder(recipe, self.split, self.seed, places).relative_to(places.runs)
        named = {"recipe": recipe.stored_name, "split": self.split, "seed": self.seed, "quick": self.quick}
        return {**named, "folder": str(folder), "job": job}


@dataclass(frozen=True)
class Done:
    """What became of a cell: a record, or an error; `repeated` when it had been done before, or elsewhere.

    busy: neither; another process works in this folder.
    """

    cell: Cell
    record: dict[str, Any] | None = None
    error: SsbenchError | None = None
    repeated: bool = False
    busy: Path | None = None

    @property
    def state(self) -> str:
        """failed, stopped (and to be gone on with), done, or was done."""
        if self.error is not None:
            return "stopped" if isinstance(self.error, Stopped) else "failed"
        return "was done" if self.repeated else "done"

    def __str__(self) -> str:
        if self.busy is not None:
            return f"{self.cell}: {self.as_error().what}"
        if self.error is not None:
            return f"{self.state} {self.cell}: {self.error.what}"
        if self.cell.quick:
            return f"{self.cell} runs (a quick run: toy data, a small net, a few steps; its numbers mean nothing)"
        assert self.record is not None  # noqa: S101  either or
        best, last = self.record["scores"]["best"], self.record["scores"]["last"]
        scores = f"best {best['report']:.2f} (epoch {best['epoch'] + 1}), last {last['report']:.2f}"
        return f"{self.state} {self.cell}: {self.record['metric']} {scores}"

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench run --json`."""
        return {
            "recipe": self.cell.recipe,
            "split": self.cell.split,
            "seed": self.cell.seed,
            "state": self.state,
            "error": str(self.error) if self.error else None,
            "scores": self.record["scores"] if self.record else None,
            "metric": self.record["metric"] if self.record else None,
        }

    def as_error(self) -> SsbenchError:
        """The error, for a single run's exit code."""
        assert self.error is not None  # noqa: S101  asked of failed ones only
        return self.error
