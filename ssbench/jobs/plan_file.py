"""A plan's file (`ssbench plan --json`) as runs to do: its chosen ones, in its order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssbench.errors import RecipeError, UsageError
from ssbench.jobs.planned import lists_of
from ssbench.jobs.queue import Cell, cells
from ssbench.jobs.run import Places
from ssbench.recipe.recipe import Division, load

AGAIN = "make it again: ssbench plan TABLE... --json > plan.json"


class _Run(BaseModel):
    """What is read of an entry of `runs`."""

    model_config = ConfigDict(strict=True, frozen=True)

    recipe: str
    overrides: list[str] = []
    split: str
    seed: int = Field(ge=0)
    key: str | None = None
    chosen: bool = True


class _Plan(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)

    plan: int = Field(ge=1, le=1)
    runs: list[_Run]


def runs_of(
    plan: Path | None,
    targets: Sequence[str],
    splits: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    quick: bool,
    places: Places,
    division: Division | None = None,
) -> list[Cell]:
    """The runs of a plan's file, or those behind recipes and tables (`queue.cells`; seed 0 where none is given).

    Raises:
        UsageError: both or neither, or a plan and something that only recipes and tables leave open. Else as both.
    """
    if (plan is None) == (not targets):
        raise UsageError("either recipes and tables, or a plan", "arguments", "ssbench run TABLE, or --plan FILE")
    if plan is None:
        return cells(targets, splits, seeds or [0], overrides, quick, places, division)
    if splits or seeds or overrides or quick or division:
        what = "a plan says itself which splits, seeds and settings are run"
        raise UsageError(what, "--plan", "leave out --split, --seed, --set, --quick and --division")
    return planned(plan, places)


def planned(path: Path, places: Places) -> list[Cell]:
    """The chosen runs of the plan in `path`.

    Raises:
        UsageError: no plan there, one without a chosen run, or a recipe that has changed since, so that its run would
        be another one than was planned.
    """
    found = list(_cells(_read(path), path, places))
    if not found:
        raise UsageError("the plan has nothing left to run", str(path), AGAIN)
    return found


def _read(path: Path) -> _Plan:
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8"))
        return _Plan.model_validate(said)
    except OSError as error:
        raise UsageError(f"no plan: {error.strerror}", str(path), AGAIN) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise UsageError(f"no plan of `ssbench plan --json`: {place}: {first['msg']}", str(path), AGAIN) from None
    except ValueError as error:
        raise UsageError(f"no plan, not even JSON: {error}", str(path), AGAIN) from None


def _cells(plan: _Plan, path: Path, places: Places) -> Iterator[Cell]:
    for at, run in enumerate(plan.runs):
        if not run.chosen:
            continue
        recipe = load(run.recipe, run.overrides, data_root=places.data)
        digest = lists_of(run.split, places.data).sha256
        if run.key is not None and digest is not None and recipe.key(digest, run.seed) != run.key:
            what = (
                f"run {at + 1}, {run.recipe} on {run.split}, is not what was planned: its recipe or split has changed"
            )
            raise RecipeError(what, str(path), AGAIN)
        yield Cell(run.recipe, run.split, run.seed, tuple(run.overrides))
