"""What a run is: its recipe, list and seed, its data, its code; and how a stored run differs from the present one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ssbench import paths
from ssbench.errors import SsbenchError
from ssbench.recipe.outside import changes
from ssbench.recipe.recipe import Recipe, load, resolve
from ssbench.recipe.stored import (
    SET,
    Identity,
    RunHead,
    differences,
    read_run_head,
    recipe_text_of,
    without_own_plugins,
)


@dataclass(frozen=True)
class RecordedRun:
    """What a record says of its run. differs: why the present code would give it another key, "" if it would not."""

    recipe: Recipe
    split: str
    split_sha256: str
    seed: int
    key: str
    differs: str


def head_of(recipe: Recipe, split: str, split_sha256: str, seed: int) -> RunHead:
    """Which run this is, as its folder, its checkpoints and its record hold it."""
    return RunHead(
        key=recipe.key(split_sha256, seed),
        recipe=recipe.stored_name,
        paper=recipe.paper,
        split=split,
        split_sha256=split_sha256,
        seed=seed,
        division=recipe.division,
        quick=recipe.quick,
        departures=[*recipe.departures, *(f"{SET}{text}" for text in recipe.overrides)],
        identity=Identity(**dict(recipe.outside), versions=recipe.versions()),
        resolved=recipe.resolved(),
    )


def run_changes(before: RunHead, now: RunHead) -> Iterator[str]:
    """What makes two runs of one recipe, split and seed different runs: settings, lists, data, code."""
    yield from differences(before.resolved, now.resolved)
    if before.split_sha256 != now.split_sha256:
        yield f"the lists of {now.split} have changed"
    old, new = before.identity or Identity(), now.identity or Identity()
    if old.data != new.data:
        yield f"the data of '{now.split.partition('/')[0]}' have changed"
    digests = {file.role: file.sha256 for file in old.files}
    for file in new.files:
        if digests.get(file.role) != file.sha256:
            yield f"{file.role}: {Path(file.path).name} has changed"
    yield from version_changes(old.versions, new.versions)


def read_recorded_run(path: Path, data_root: Path | None = None) -> RecordedRun:
    """The run of the record at `path`: its recipe as resolved then, its split and seed.

    Raises:
        DataError: no record, a damaged one, or the record of a quick run.
        RecipeError: a setting that the present code no longer takes.
    """
    head = read_run_head(path)
    recipe = load(str(path), data_root=data_root)
    reasons: list[str] = []
    if recipe.key(head.split_sha256, head.seed) != head.key:
        reasons = [*differences(head.resolved, recipe.resolved()), *_stale(head, recipe, data_root)]
        reasons = reasons or ["its key is not the one of its settings"]
    return RecordedRun(recipe, head.split, head.split_sha256, head.seed, head.key, "; ".join(reasons))


def why_stale(path: Path, data_root: Path | None = None) -> tuple[str, ...]:
    """Why the data or the code of the recorded run at `path` are not the present ones; empty where they are.

    What is not there any more, and what an older version did not write down, counts as unchanged.
    """
    try:
        head = read_run_head(path)
    except SsbenchError:
        return ()
    return tuple(_stale(head, _as_now(head, path, data_root), data_root))


def version_changes(before: dict[str, int], now: dict[str, int]) -> Iterator[str]:
    """Each behaviour version that differs, of the parts that both have."""
    for part, version in before.items():
        if part in now and now[part] != version:
            yield f"behaviour of {part}: version {version}, now {now[part]}"


def _stale(head: RunHead, now: Recipe | None, data_root: Path | None) -> Iterator[str]:
    dataset = head.split.partition("/")[0]
    if head.identity is not None:
        yield from changes(head.identity, paths.data_root(data_root), dataset)
        yield from version_changes(head.identity.versions, now.versions() if now else {})
    elif now and head.resolved == now.resolved() and now.older_key(head.split_sha256, head.seed) != head.key:
        # A record of an older version states no versions. Those above 1 are part of its key.
        yield from (f"behaviour of {part}: version {n} now" for part, n in now.behaviours().items())


def _as_now(head: RunHead, path: Path, data_root: Path | None) -> Recipe | None:
    """The stored settings as the present code reads them; None where it does not take them.

    Plug-ins of the user's own are left out: their files are compared byte for byte, and need not be imported for that.
    """
    text = without_own_plugins(recipe_text_of(head, path), head)
    try:
        return resolve(head.name, path, text, head.overrides, False, data_root, is_checked=False)
    except SsbenchError:
        return None
