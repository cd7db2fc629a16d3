"""The ledger of a prepared folder: size and SHA-256 of every file, so that any later change can be named.

`ledger.json` is written last. Its files come one a line, so it is written, and read by eye or `grep`, as a stream.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ssbench import __version__
from ssbench.data.ledger import NAME, Ledger
from ssbench.files import sha256
from ssbench.prepare.files import readable_errors, walk
from ssbench.prepare.job import Progress, Silent, processors, stage

Kind = Literal["missing", "extra", "truncated", "changed", "bad-mask"]


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a prepared folder; `path` is relative to it."""

    kind: Kind
    path: str
    detail: str = ""


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
