"""What a run is: its recipe, list and seed; and how a stored run differs from what the present code would do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ssbench.recipe.recipe import Recipe, load
from ssbench.recipe.stored import differences, read_run_head


@dataclass(frozen=True)
class RecordedRun:
    """What a record says of its run. differs: why the present code would give it another key, "" if it would not."""

    recipe: Recipe
    split: str
    split_sha256: str
    seed: int
    key: str
    differs: str


def read_recorded_run(path: Path, data_root: Path | None = None) -> RecordedRun:
    """The run of the record at `path`: its recipe as resolved then, its split and seed.

    Raises:
        DataError: no record, a damaged one, or the record of a quick run.
        RecipeError: a setting that the present code no longer takes.
    """
    head = read_run_head(path)
    recipe = load(str(path), data_root=data_root)
    changes = list(differences(head.resolved, recipe.resolved()))
    if not changes and recipe.key(head.split_sha256, head.seed) != head.key:
        changes = [f"behaviour of {part}: version {n} now" for part, n in recipe.behaviours().items()]
        changes = changes or ["its key is not the one of its settings"]
    return RecordedRun(recipe, head.split, head.split_sha256, head.seed, head.key, "; ".join(changes))
