"""The ledger of a prepared folder: size and SHA-256 of every file, so that any later change can be named.

`ledger.json` is written last. Its files come one a line, so it is written, and read by eye or `grep`, as a stream.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ssbench import __version__
from ssbench.errors import DataError
from ssbench.files import sha256
from ssbench.prepare.files import readable_errors, walk
from ssbench.prepare.job import Progress, Silent, processors, stage

NAME = "ledger.json"
Kind = Literal["missing", "extra", "truncated", "changed", "bad-mask"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a prepared folder; `path` is relative to it."""

    kind: Kind
    path: str
    detail: str = ""


@dataclass(frozen=True)
class Ledger:
    """What was written: dataset, the settings it was converted with, ids per subset, path -> (bytes, SHA-256)."""

    dataset: str
    tool: str
    settings: dict[str, Any]
    counts: dict[str, int]
    files: dict[str, tuple[int, str]]

    @classmethod
    def read(cls, root: Path) -> Ledger | None:
        """The ledger of `root`; None when there is none, or none that can be read (both: not prepared)."""
        try:
            raw = json.loads((root / NAME).read_text(encoding="utf-8"))
            files = {path: (int(size), str(digest)) for path, (size, digest) in raw["files"].items()}
            return cls(raw["dataset"], raw["tool"], raw["settings"], raw["counts"], files)
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(size for size, _ in self.files.values())

    def digest(self, below: str = "") -> str:
        """SHA-256 over the lines "path sha256" of the files whose path begins with `below`, in order of path."""
        lines = (f"{path} {digest}\n" for path, (_, digest) in sorted(self.files.items()) if path.startswith(below))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def write(
    root: Path, dataset: str, settings: dict[str, Any], counts: dict[str, int], progress: Progress | None = None
) -> Path:
    """Hash every file below `root` and write `ledger.json`; everything is flushed to disk first."""
    head = {"schema": 1, "dataset": dataset, "tool": f"ssbench {__version__}", "settings": settings, "counts": counts}
    found = list(walk(root))
    temporary = root / f".{NAME}"
    os.sync()
    with readable_errors(root), temporary.open("w", encoding="utf-8") as out:
        out.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "files": {')
        paths = (path for path, status in found if path != NAME)
        for i, (path, size, digest) in enumerate(_digests(root, paths, len(found), progress)):
            out.write(f'{"," if i else ""}\n  {json.dumps(path, ensure_ascii=False)}: [{size}, "{digest}"]')
        out.write("\n }\n}\n")
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(root / NAME)
    return root / NAME


def compare(root: Path, ledger: Ledger, progress: Progress | None = None, quick: bool = False) -> list[Problem]:
    """What differs between `root` and its ledger, in order of path.

    Every file is hashed; `quick` hashes only files written after the ledger, and trusts the size of the others.
    """
    since = (root / NAME).stat().st_mtime_ns
    found = {path: status for path, status in walk(root) if path != NAME}
    problems = [Problem("missing", path) for path in ledger.files if path not in found]
    problems += [Problem("extra", path, "not in the ledger") for path in found if path not in ledger.files]
    same_size = []
    for path in ledger.files.keys() & found.keys():
        size, there = ledger.files[path][0], found[path].st_size
        if there != size:
            problems.append(Problem("truncated" if there < size else "changed", path, f"{there} of {size} bytes"))
        elif not quick or found[path].st_mtime_ns > since:
            same_size.append(path)
    for path, _, digest in _digests(root, sorted(same_size), len(same_size), progress):
        if digest != ledger.files[path][1]:
            problems.append(Problem("changed", path, f"SHA-256 {digest}, was {ledger.files[path][1]}"))
    return sorted(problems, key=lambda p: p.path)


def _digests(root: Path, paths: Iterable[str], total: int, progress: Progress | None) -> Iterator[tuple[str, int, str]]:
    """(path, bytes, SHA-256) in the order given; threads, because hashing and reading leave the interpreter free."""

    def one(path: str) -> tuple[str, int, str]:
        with readable_errors(root / path):
            return path, (root / path).stat().st_size, sha256(root / path)

    paths = iter(paths)
    if not total:
        return
    label = f"digests of {root.name.strip('.').removesuffix('.partial')}"
    with stage(progress or Silent(), total, label) as told, ThreadPoolExecutor(processors()) as pool:
        while block := list(islice(paths, 1024)):
            for done in pool.map(one, block):
                told.advance()
                yield done


def no_ledger(dataset: str, root: Path) -> DataError:
    """The error for a folder that was never prepared to the end."""
    return DataError(f"{dataset} is not prepared (no {NAME})", str(root), f"ssbench prepare {dataset}")
