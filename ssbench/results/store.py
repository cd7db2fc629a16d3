"""Result records: one JSON file a run under `results/<recipe>/<split>/`, added but never lost.

Which file a record takes:

* `seed<k>.json` is the run as its recipe stands: no quick version, closed division, the split's published list;
* `seed<k>.<first 8 of the run key>.json` is every other run, and a record that another one has displaced.

Runs with `--set` are other recipes here: their name ends in `+` and a hash of the overrides.

Of two records for the same file, `done` beats `failed`, a later failure replaces an earlier one, and the first `done`
record of a run key stands: doing a run again until its number pleases changes nothing. A `done` run with another key
(the recipe was edited in between) takes `seed<k>.json` and moves the former one to its keyed name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ssbench.errors import DataError, UsageError
from ssbench.files import write_bytes
from ssbench.results.record import HEAD, Record, parse_record, read_record, read_whole

Place = tuple[str, str]
"""(stored name of a recipe, split): the folder of a run's records."""
_NAME = re.compile(r"seed\d+(\.[0-9A-Za-z]+)?\.json")


class ResultStore:
    """The records under one folder (default of the command line: `results/`).

    A damaged record is passed over, so that it never hides the others; `damaged` has its path and what is wrong. With
    `strict` reading raises the DataError instead.
    """

    def __init__(self, root: Path, *, strict: bool = False) -> None:
        self.root = Path(root)
        self.strict = strict
        self.damaged: dict[Path, DataError] = {}

    def folder(self, recipe: str, split: str) -> Path:
        """Where runs of a recipe on a split are kept. UsageError for a name that would leave the store."""
        parts = recipe.split("/")
        if not recipe or any(p in ("", ".", "..") or "\\" in p for p in parts) or not re.fullmatch(r"[\w./+-]+", split):
            raise UsageError(f"no result can be stored under recipe '{recipe}', split '{split}'", str(self.root))
        return self.root.joinpath(*parts, split.replace("/", "-"))

    def runs(self, recipe: str, split: str) -> list[Record]:
        """The records of one recipe on one split, by seed; empty when there are none. No other folder is read."""
        records = [r for r in self._readable(_in_folder(self.folder(recipe, split))) if r.split == split]
        return sorted(records, key=lambda r: (r.seed, r.path.name))

    def select(self, places: Iterable[Place]) -> Iterator[Record]:
        """The records of these places, each once; an empty split stands for every split of the recipe.

        The way to read what a plan, a report or a gate needs: a store of 100,000 records costs no more than one of
        these alone.
        """
        for recipe, split in dict.fromkeys(places):
            if split:
                yield from self.runs(recipe, split)
            else:
                folder = self.folder(recipe, "any").parent
                for below in sorted(folder.iterdir()) if folder.is_dir() else ():
                    yield from (r for r in self._readable(_in_folder(below)) if r.recipe == recipe)

    def records(self, datasets: Collection[str] | None = None) -> Iterator[Record]:
        """Every record, in the order of their paths; `datasets`: only of splits of these.

        Folders of other datasets are not opened: their names begin with the dataset's.
        """
        prefixes = ("",) if datasets is None else tuple(f"{name}-" for name in datasets)
        records = self._readable(record_paths(self.root, prefixes))
        return (r for r in records if datasets is None or r.split.partition("/")[0] in datasets)

    def whole(self, record: Record) -> dict[str, Any] | None:
        """Every field of a record; None when what its head does not hold is damaged."""
        try:
            return record.full()
        except DataError as error:
            self._note(record.path, error)
            return None

    def add(self, record: Mapping[str, Any]) -> Path:
        """Store a record by the rules above; the path of the record that stands for this run afterwards.

        DataError when a field that the tables need is missing.
        """
        fields = _in_file_order(record)
        data = _text(fields)
        fresh = parse_record(Path("the new record"), data)
        folder = self.folder(fresh.recipe, fresh.split)
        keyed = folder / f"seed{fresh.seed}.{fresh.key[:8]}.json"
        main = folder / f"seed{fresh.seed}.json"
        published = fresh.division == "closed" and not (fresh.quick or fresh.custom_split)
        if not published or _is_done(keyed):
            return _settle(keyed, data)
        try:
            holder = _sound(main) if main.is_file() else None
        except DataError:
            return _settle(keyed, data)  # a broken file is somebody's evidence: left alone
        if holder is None or holder.key == fresh.key:
            return _settle(main, data)
        if holder.status == "done":
            if fresh.status != "done":
                return _settle(keyed, data)
            write_bytes(folder / f"seed{holder.seed}.{holder.key[:8]}.json", main.read_bytes())
        write_bytes(main, data)
        return main

    def _readable(self, paths: Iterable[Path]) -> Iterator[Record]:
        for path in paths:
            try:
                yield read_record(path)
            except DataError as error:
                self._note(path, error)

    def note_damaged(self, error: DataError) -> None:
        """Pass over a file that was kept beside the records and is damaged (`error.where`); raised when `strict`."""
        self._note(Path(error.where), error)

    def _note(self, path: Path, error: DataError) -> None:
        if self.strict:
            raise error
        self.damaged[path] = error


def record_paths(root: Path, prefixes: tuple[str, ...] = ("",)) -> Iterator[Path]:
    """The files of every record below `root`, in order; only in folders whose name begins with one of `prefixes`."""
    for folder, below, names in os.walk(root):
        below.sort()
        path = Path(folder)
        if path.name.startswith(prefixes):
            yield from (path / name for name in sorted(names) if _NAME.fullmatch(name))


def _in_folder(folder: Path) -> list[Path]:
    """The files of the records right in `folder`, by name."""
    return sorted(p for p in folder.iterdir() if _NAME.fullmatch(p.name)) if folder.is_dir() else []


def settings_digest(resolved: object) -> str:
    """12 hex digits that are equal where two resolved recipes are."""
    text = json.dumps(_finite(resolved), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _sound(path: Path) -> Record:
    """The record in `path`, all of it checked. DataError when it is damaged anywhere."""
    read_whole(path)
    return read_record(path)


def _is_done(path: Path) -> bool:
    try:
        return path.is_file() and _sound(path).status == "done"
    except DataError:
        return False


def _settle(path: Path, data: bytes) -> Path:
    """Write `data` to `path` unless a done record already stands there; a damaged one is kept as `.broken`."""
    try:
        if path.is_file() and _sound(path).status == "done":
            return path
    except DataError:
        path.replace(path.with_name(f"{path.name}.broken"))
    write_bytes(path, data)
    return path


def _in_file_order(record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields in file order, with the fingerprint of the settings; a number that is not finite becomes null."""
    fields: dict[str, Any] = {"reason": None, **record}
    fields["settings"] = settings_digest(fields.get("resolved"))
    fields.setdefault("resolved", {})
    head = [name for name in HEAD if name in fields]
    return {name: _finite(fields[name]) for name in [*head, "resolved", *(n for n in fields if n not in HEAD)]}


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _text(fields: Mapping[str, Any]) -> bytes:
    lines = (f" {json.dumps(k)}: {json.dumps(v, ensure_ascii=False, allow_nan=False)}" for k, v in fields.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()
