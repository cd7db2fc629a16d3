"""Bringing the published id lists home: from a folder on disk or from their repositories at the pinned commits."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ssbench.errors import DataError, UsageError, nearest
from ssbench.files import write_text
from ssbench.splits import lists
from ssbench.splits.manifest import OURS, ListEntry, folder, manifest, mend, pool_file, read_list, verify

GITHUB = "https://raw.githubusercontent.com"


@dataclass(frozen=True)
class _Wanted:
    """A list to have at `dest`; `labeled` is the list it is the complement of, when its own file may be unreadable."""

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
    had or is not the manifest's; what was brought before stays.
    """
    known = list(manifest().pools)
    if dataset not in known:
        raise UsageError(f"no lists of a dataset '{dataset}'; {nearest(dataset, known)}", fix="ssbench list datasets")
    pool = frozenset(train) if train is not None else None
    bringer = _Bringer(dataset, data_root, source.resolve() if source else None, pool, host)
    return sum(bringer.have(item) for item in _wanted(dataset, data_root))


def find_list(source: Path, origin: str, path: str) -> Path | None:
    """The file that stands at `path` in repository `origin`, somewhere customary below or beside `source`."""
    bases = (source / origin, source / "splits" / origin, source.parent / "splits" / origin, source)
    return next((base / path for base in bases if (base / path).is_file()), None)


def _wanted(dataset: str, data_root: Path) -> Iterator[_Wanted]:
    for subset, pool in manifest().pools[dataset].items():
        if pool.fingerprint is not None:
            yield _Wanted(pool_file(dataset, subset, data_root), pool, pool.origin, pool.format)
    for name, split in manifest().splits.items():
        if name.split("/")[0] == dataset:
            where = folder(name, data_root)
            labeled = where / "labeled.txt"
            yield _Wanted(labeled, split.labeled, split.origin, split.format)
            minus = labeled if split.unlabeled.complement else None
            yield _Wanted(where / "unlabeled.txt", split.unlabeled, split.origin, split.format, minus)


@dataclass(frozen=True)
class _Bringer:
    dataset: str
    data_root: Path
    source: Path | None
    train: frozenset[str] | None
    host: str

    def have(self, item: _Wanted) -> bool:
        """True when the list is in place, brought now if need be; False when it may be left out and is."""
        try:
            read_list(item.dest, item.entry, self.dataset, self.mend(item))
            return True
        except DataError:
            if item.origin == OURS:
                raise
        ids = self.rest(item) or self.published(item)
        if ids is not None:
            write_text(item.dest, lists.dump(ids))
        return ids is not None

    def mend(self, item: _Wanted) -> str:
        return mend(self.dataset, item.origin, self.data_root)

    def rest(self, item: _Wanted) -> tuple[str, ...] | None:
        """The pool without the labelled list, when the pool given is the whole one."""
        whole = manifest().pools[self.dataset].get(item.entry.complement or "")
        if item.labeled is None or whole is None or self.train is None or len(self.train) != whole.count:
            return None
        labeled = lists.parse(item.labeled.read_text(encoding="utf-8"), "bare", self.dataset, item.labeled)
        missing = sorted(set(labeled) - self.train)
        if missing:
            what = f"labelled id '{missing[0]}' is not among the {len(self.train)} images"
            raise DataError(what, str(item.labeled), self.mend(item))
        rest = tuple(sorted(self.train - set(labeled)))
        verify(rest, item.entry, item.dest, self.mend(item))
        return rest

    def published(self, item: _Wanted) -> tuple[str, ...] | None:
        """The ids of the upstream file, verified; None when it may be left out and is not in the source."""
        repository = manifest().repositories[item.origin]
        path = find_list(self.source, item.origin, str(item.entry.path)) if self.source else None
        if path is not None:
            fix = f"bring {item.entry.path} of github.com/{repository.slug} at commit {repository.commit}"
            return self.read(path, item, fix)
        if self.source is not None and item.labeled is not None:
            return None
        return self.downloaded(item)

    def downloaded(self, item: _Wanted) -> tuple[str, ...]:
        from ssbench.prepare.fetch import fetch
        from ssbench.prepare.job import Archive

        repository, path = manifest().repositories[item.origin], str(item.entry.path)
        clone = f"SOURCE/splits/{item.origin}"
        fix = (
            f"git clone https://github.com/{repository.slug} {clone} && git -C {clone} checkout {repository.commit}"
            f" && ssbench prepare {self.dataset} --source SOURCE --data-root {self.data_root}"
        )
        with tempfile.TemporaryDirectory() as scratch:
            archive = Archive(Path(path).name, (repository.url(path, self.host),), sha256=item.entry.sha256)
            return self.read(fetch(archive, Path(scratch), fix), item, self.mend(item))

    def read(self, path: Path, item: _Wanted, fix: str) -> tuple[str, ...]:
        """Ids of an upstream file. Their fingerprint decides, not the bytes: a checkout may have changed line ends."""
        data = path.read_bytes()
        if item.entry.git_blob not in (None, lists.git_blob(data)):
            raise DataError(f"{path.name} is not the file of the pinned commit (git blob differs)", str(path), fix)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path.name} is not a text file: {error}", str(path), fix) from error
        ids = lists.parse(text, item.format, self.dataset, path)
        verify(ids, item.entry, path, fix)
        return ids
