"""Gives a run its folder: files of another run there are moved beside it, and its own are brought back.

The folder's name holds recipe, split and seed, so a run whose recipe, data or code have changed meets the files of the
one before. Going on from these would train half of it on each. `run.json` says which run a folder's files are of.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ssbench.errors import DataError
from ssbench.files import LOCK, read_model, write_json
from ssbench.jobs.progress import NAME as PROGRESS
from ssbench.jobs.progress import read_progress
from ssbench.recipe.identity import run_changes
from ssbench.recipe.stored import RunHead

NAME = "run.json"
LAST = (NAME, PROGRESS)
"""The files that say whose the others are. They are moved last, so that a killed move is gone on with."""


def claim_folder(folder: Path, head: RunHead, report: Callable[[str], None]) -> None:
    """Leave in `folder` the files of the run `head` alone. The caller holds the folder's lock.

    Args:
        report: called with a line for the person: what differs, and where the other run's files are.
    """
    before: RunHead | None = None
    with suppress(DataError):  # an older version wrote none, and a damaged one says nothing
        if (folder / NAME).is_file():
            before = read_model(folder / NAME, RunHead, "run's identity", "delete it")
    key = before.key if before else read_progress(folder).key
    if key is not None and key != head.key and _has_results(folder):
        aside = folder_of(folder, key)
        report(_kept_aside(folder, aside, before, head))
        _move(folder, aside)
    own = folder_of(folder, head.key)
    if own.is_dir() and not _has_results(folder):
        report(f"the earlier files of this very run are back from '{own}'")
        _move(own, folder)
    write_json(folder / NAME, head.model_dump(mode="json"))


def folder_of(folder: Path, key: str) -> Path:
    """Where the files of the run `key` are kept while another one has its folder: `seed0.<first 8 of the key>`."""
    return folder.with_name(f"{folder.name}.{key[:8]}")


def _has_results(folder: Path) -> bool:
    """Whether a training left anything that is worth keeping."""
    return (folder / "stages").is_dir() or (folder / "record.json").is_file() or any(folder.glob("*.pt"))


def _kept_aside(folder: Path, aside: Path, before: RunHead | None, head: RunHead) -> str:
    """The line about the other run: what differs, and where its files are kept."""
    state = "a finished run" if (folder / "record.json").is_file() else "an interrupted run"
    changes = list(run_changes(before, head)) if before else []
    what = "; ".join(changes) or "recipe, data or code have changed since"
    return f"'{folder}' holds {state} that is not this one: {what}; it is kept in '{aside}', this one starts anew"


def _move(source: Path, target: Path) -> None:
    """Move all files of a run but its lock, those that say whose they are last."""
    target.mkdir(exist_ok=True)
    paths = [path for path in source.iterdir() if path.name != LOCK]
    for path in sorted(paths, key=lambda path: (path.name in LAST, path.name)):
        path.replace(target / path.name)
    if not any(source.iterdir()):
        source.rmdir()
