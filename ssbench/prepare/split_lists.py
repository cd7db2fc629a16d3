"""Fetches the published id lists: from a folder on disk, or from their repositories at the pinned commits."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ssbench.errors import DataError, UsageError, nearest
from ssbench.files import write_text
from ssbench.paths import quoted
from ssbench.prepare.fetch import fetch
from ssbench.prepare.job import Archive
from ssbench.splits import lists
from ssbench.splits.manifest import (
    OURS,
    ListEntry,
    folder,
    manifest,
    pool_file,
    read_list,
    restore_command,
    verify,
)

GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class _ListTask:
    """A list to have at `dest`; `labeled`: the list it is the complement of, when its own file may be unreadable."""

    dest: Path
    entry: ListEntry
    origin: str
    format: str
    labeled: Path | None = None


def fetch_lists(
    dataset: str,
    data_root: Path,
    source: Path | None = None,
    train: Collection[str] | None = None,
    host: str = GITHUB,
) -> int:
    """Have every published list of `dataset` under `<data root>/splits`, in canonical form and verified.

    Each list is looked for below `source` (a copy of the repositories side by side, one of them, or a folder with
    such a `splits` in or beside it), else downloaded from `host` at the manifest's commit; what is stored and right is
    left alone. `train` are the ids of the whole training pool, from which lists that exist upstream but could not be
    pinned (coco) are rebuilt as a complement; without it such a list is taken from `source` or downloaded, and left
    out when a `source` is given that has none. Lists shipped with ssbench are only verified.

    Returns how many lists are in place. Raises UsageError for an unknown dataset, DataError for a list that cannot be
    had or is not the manifest's; what was fetched before stays.
    """
    known = list(manifest().pools)
    if dataset not in known:
        raise UsageError(f"no lists of a dataset '{dataset}'; {nearest(dataset, known)}", fix="ssbench list datasets")
    pool = frozenset(train) if train is not None else None
    fetcher = _ListFetcher(dataset, data_root, source.resolve() if source else None, pool, host)
    return sum(fetcher.bring(task) for task in _tasks(dataset, data_root))


def find_list(source: Path, origin: str, path: str) -> Path | None:
    """The file that stands at `path` in repository `origin`, somewhere customary below or beside `source`."""
    bases = (source / origin, source / "splits" / origin, source.parent / "splits" / origin, source)
    return next((base / path for base in bases if (base / path).is_file()), None)


def _tasks(dataset: str, data_root: Path) -> Iterator[_ListTask]:
    """Every list of a dataset: its pools, then the two of each split, the labelled one first."""
    for subset, pool in manifest().pools[dataset].items():
        if pool.fingerprint is not None and (pool.path is not None or pool.origin == OURS):  # else in no file
            yield _ListTask(pool_file(dataset, subset, data_root), pool, pool.origin, pool.format)
    for name, split in manifest().splits.items():
        if name.split("/")[0] == dataset:
            where = folder(name, data_root)
            labeled = where / "labeled.txt"
            yield _ListTask(labeled, split.labeled, split.origin, split.format)
            minus = labeled if split.unlabeled.complement else None
            if split.unlabeled.has_file or split.origin == OURS:
                yield _ListTask(where / "unlabeled.txt", split.unlabeled, split.origin, split.format, minus)


@dataclass(frozen=True)
class _ListFetcher:
    """Brings the lists of one dataset; the arguments are those of `fetch_lists`."""

    dataset: str
    data_root: Path
    source: Path | None
    train: frozenset[str] | None
    host: str

    def bring(self, task: _ListTask) -> bool:
        """True when the list is in place, brought now if need be; False when it may be left out and is."""
        try:
            read_list(task.dest, task.entry, self.dataset, self.command(task))
            return True
        except DataError:
            if task.origin == OURS:
                raise
        ids = self.complement(task) or self.published(task)
        if ids is not None:
            write_text(task.dest, lists.dump(ids if task.entry.order else sorted(ids)))
        return ids is not None

    def command(self, task: _ListTask) -> str:
        return restore_command(self.dataset, task.origin, self.data_root)

    def complement(self, task: _ListTask) -> tuple[str, ...] | None:
        """The pool without the labelled list, when the pool given is the whole one."""
        whole = manifest().pools[self.dataset].get(task.entry.complement or "")
        if task.labeled is None or whole is None or self.train is None or len(self.train) != whole.count:
            return None
        labeled = lists.parse(task.labeled.read_text(encoding="utf-8"), "bare", self.dataset, task.labeled)
        missing = sorted(set(labeled) - self.train)
        if missing:
            what = f"labelled id '{missing[0]}' is not among the {len(self.train)} images"
            raise DataError(what, str(task.labeled), self.command(task))
        unlabeled = tuple(sorted(self.train - set(labeled)))
        verify(unlabeled, task.entry, task.dest, self.command(task))
        return unlabeled

    def published(self, task: _ListTask) -> tuple[str, ...] | None:
        """The ids of the upstream file, verified; None when it may be left out and is not in the source."""
        repository, path = manifest().repositories[task.origin], str(task.entry.path)
        local = find_list(self.source, task.origin, path) if self.source else None
        if local is not None:
            fix = f"bring {path} of github.com/{repository.slug} at commit {repository.commit}"
            return self.read(local, task, fix)
        if self.source is not None and task.labeled is not None:
            return None
        clone = f"SOURCE/splits/{task.origin}"
        fix = (
            f"git clone https://github.com/{repository.slug} {clone} && git -C {clone} checkout {repository.commit}"
            f" && ssbench prepare {self.dataset} --source SOURCE --data-root {quoted(self.data_root)}"
        )
        with tempfile.TemporaryDirectory() as scratch:
            archive = Archive(Path(path).name, (repository.url(path, self.host),), sha256=task.entry.sha256)
            return self.read(fetch(archive, Path(scratch), fix), task, self.command(task))

    def read(self, path: Path, task: _ListTask, fix: str) -> tuple[str, ...]:
        """Ids of an upstream file. Their fingerprint decides, not the bytes: a checkout may have changed line ends."""
        data = path.read_bytes()
        if task.entry.git_blob not in (None, lists.git_blob(data)):
            raise DataError(f"{path.name} is not the file of the pinned commit (git blob differs)", str(path), fix)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name} is not a text file: {error}", str(path), fix) from error
        ids = lists.parse(text, task.format, self.dataset, path)
        verify(ids, task.entry, path, fix)
        return ids
