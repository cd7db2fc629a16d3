"""A recipe from the record of a run that used it: `ssbench run --from RECORD.json` repeats the run from it alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ssbench.errors import DataError
from ssbench.files import read_model
from ssbench.recipe.marks import Keys, Mark, Marked
from ssbench.recipe.recipe import Recipe, resolve

SET = "set "  # how a record's departures begin where a `--set` made them


class RunHead(BaseModel):
    """The part of a record that says which run it is of; the rest is ignored."""

    model_config = ConfigDict(extra="ignore", strict=True)

    key: str
    recipe: str
    paper: str | None = None
    split: str
    split_sha256: str
    seed: int
    division: str = "closed"
    quick: bool = False
    departures: list[str] = []
    resolved: dict[str, Any]


@dataclass(frozen=True)
class StoredRun:
    """What a record says of its run. differs: why the present code would give it another key, "" if it would not."""

    recipe: Recipe
    split: str
    split_sha256: str
    seed: int
    key: str
    differs: str


def read_stored_run(path: Path, data_root: Path | None = None) -> StoredRun:
    """The run of the record at `path`: its recipe as resolved then, its split and seed.

    Raises:
        DataError: no record, a damaged one, or the record of a quick run.
        RecipeError: a setting that the present code no longer takes.
    """
    fix = "name a record that ssbench run wrote: results/<recipe>/<split>/seed0.json"
    head = read_model(path, RunHead, "record", fix)
    if head.quick:
        raise DataError("this is the record of a quick run", str(path), "ssbench run RECIPE --quick runs it again")
    overrides = tuple(text.removeprefix(SET) for text in head.departures if text.startswith(SET))
    name = head.recipe.rsplit("+", 1)[0] if overrides else head.recipe
    data = {section: block for section, block in head.resolved.items() if block}
    if len(head.resolved.get("plugin") or []) == 1:
        data["plugin"] = head.resolved["plugin"][0]
    data |= {"paper": head.paper, "division": head.division, "title": f"repeats {path.name}"}
    data["departures"] = [text for text in head.departures if not text.startswith(SET)]
    mark = Mark(str(path), 0, "as in the record")
    marked = Marked(data, {keys: mark for section, block in data.items() for keys in _places((section,), block)})
    recipe = resolve(name, path, marked, overrides, False, data_root)
    changes = list(differences(head.resolved, recipe.resolved()))
    if not changes and recipe.key(head.split_sha256, head.seed) != head.key:
        changes = [f"behaviour of {part}: version {n} now" for part, n in recipe.behaviours().items()]
        changes = changes or ["its key is not the one of its settings"]
    return StoredRun(recipe, head.split, head.split_sha256, head.seed, head.key, "; ".join(changes))


def differences(before: Any, now: Any, at: str = "") -> Iterator[str]:
    """Each value that differs between two resolved recipes: "optim.lr: 0.01, now 0.02"."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys([*before, *now]):
            yield from differences(before.get(name), now.get(name), f"{at}.{name}" if at else str(name))
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for i, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from differences(old, new, f"{at}.{i}")
    elif before != now:
        yield f"{at}: {before}, now {now}"


def _places(at: Keys, block: Any) -> Iterator[Keys]:
    yield at
    inner = block.items() if isinstance(block, dict) else enumerate(block) if isinstance(block, list) else ()
    for key, value in inner:
        yield from _places((*at, key), value)
