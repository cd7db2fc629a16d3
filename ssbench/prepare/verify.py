"""Verifies prepared data: counts and samples before the ledger is written, every file against the ledger afterwards."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from ssbench import __version__, find
from ssbench.console import Bars
from ssbench.data.dataset import Dataset, bad_values
from ssbench.data.folder import CARD, Folder
from ssbench.data.ledger import NAME, Ledger
from ssbench.errors import DataError
from ssbench.files import readable_errors, sha256, shown, walk_files
from ssbench.prepare.job import PrepareJob, parallel, processors
from ssbench.prepare.sources import SourceSpec


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a prepared folder; `path` is relative to it."""

    kind: Literal["missing", "extra", "truncated", "changed", "bad-mask"]
    path: str
    detail: str = ""


@functools.lru_cache(maxsize=4)
def open_folder(name: str, root: str) -> Dataset:
    """The dataset `name` on the folder `root`, finished or not, read from its files and never from a cache."""
    cls = Folder if (Path(root) / CARD).is_file() else find.load("dataset", name)
    dataset: Dataset = cls(Path(root))
    return dataset


def verify(spec: SourceSpec, job: PrepareJob, root: Path) -> dict[str, int]:
    """Ids per subset, when they are as many as published and every image and mask is readable and fits its pair.

    Raises:
        DataError: fewer or more ids, or bad samples. The files of bad samples are deleted, so that the next run
            converts them again.
    """
    open_folder.cache_clear()
    dataset = open_folder(job.name, str(root))
    counts = {subset: len(dataset.ids(subset)) for subset in spec.counts}
    short = [f"{subset} has {counts[subset]} of {n}" for subset, n in spec.counts.items() if counts[subset] != n]
    if short:
        fix = f"bring the complete data: ssbench prepare {job.name} --source FOLDER"
        raise DataError(f"{job.name} is not complete: {', '.join(short)}", str(job.source or job.downloads), fix)
    ids = sorted({id for subset in counts for id in dataset.ids(subset)})
    check_sample = functools.partial(sample_problem, job.name, str(root))
    bad = [problem for problem in parallel(check_sample, ids, job, f"checking {job.name}") if problem]
    if bad:
        files = [path for problem in bad for path, _ in walk_files(root) if belongs(path, problem.path)]
        for path in files:
            (root / path).unlink()
        rest = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        fix = f"bring good copies of these files, then: ssbench prepare {job.name}"
        raise DataError(f"{job.name}: {bad[0].path}: {bad[0].detail}{rest}", ", ".join(files[:10]), fix)
    return counts


def sample_problem(name: str, root: str, id: str) -> Problem | None:
    """What is wrong with the image and mask of `id`; None when nothing is. `path` of the problem is the id."""
    dataset = open_folder(name, root)
    try:
        size = dataset.image(id).size
    except DataError as error:
        return Problem("truncated", id, error.what)
    try:
        mask = dataset.mask(id)
    except DataError as error:
        return Problem("bad-mask", id, error.what)
    if mask.size != size:
        return Problem("bad-mask", id, f"mask of {mask.size} beside an image of {size} pixels")
    if values := bad_values(mask, len(dataset.classes)):
        return Problem("bad-mask", id, f"mask has values {values}, known are 0..{len(dataset.classes) - 1} and 255")
    return None


def belongs(path: str, id: str) -> bool:
    """True when a file below a dataset's root is the image, mask, ... of `id`, which may have folders in it."""
    stem = Path(path).stem
    return stem == id or stem.startswith(f"{id}_") or path.rpartition(".")[0].endswith(f"/{id}")


def write_ledger(
    root: Path, dataset: str, settings: dict[str, Any], counts: dict[str, int], bars: Bars | None = None
) -> None:
    """Hash every file below `root` and write `ledger.json`, a file a line; everything is flushed to disk first."""
    head = {"schema": 1, "dataset": dataset, "tool": f"ssbench {__version__}", "settings": settings, "counts": counts}
    paths = [path for path, _ in walk_files(root) if path != NAME]
    temporary = root / f".{NAME}"
    os.sync()  # the files were written without waiting for the disk; the ledger must not be there before them
    with readable_errors(root), temporary.open("w", encoding="utf-8") as out:
        out.write(json.dumps(head, indent=1, ensure_ascii=False)[:-2] + ',\n "files": {')
        for i, (path, size, digest) in enumerate(_digests(root, paths, bars)):
            out.write(f'{"," if i else ""}\n  {json.dumps(path, ensure_ascii=False)}: [{size}, "{digest}"]')
        out.write("\n }\n}\n")
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(root / NAME)


def compare(root: Path, ledger: Ledger, bars: Bars | None = None, quick: bool = False) -> list[Problem]:
    """What differs between `root` and its ledger, in order of path.

    Every file is hashed; `quick` hashes only files written after the ledger, and trusts the size of the others.
    """
    written = (root / NAME).stat().st_mtime_ns
    present = {path: status for path, status in walk_files(root) if path != NAME}
    problems = [Problem("missing", path) for path in ledger.files if path not in present]
    problems += [Problem("extra", shown(path), "not in the ledger") for path in present if path not in ledger.files]
    same_size = []
    for path in ledger.files.keys() & present.keys():
        expected, size = ledger.files[path][0], present[path].st_size
        if size != expected:
            problems.append(Problem("truncated" if size < expected else "changed", path, f"{size} of {expected} bytes"))
        elif not quick or present[path].st_mtime_ns > written:
            same_size.append(path)
    for path, _, digest in _digests(root, sorted(same_size), bars):
        if digest != ledger.files[path][1]:
            problems.append(Problem("changed", path, f"SHA-256 {digest}, was {ledger.files[path][1]}"))
    return sorted(problems, key=lambda p: p.path)


def lost_files(root: Path, ledger: Ledger, bars: Bars | None = None) -> list[Problem]:
    """What `compare` finds quickly, but for files that are there in addition: they harm nothing."""
    return [problem for problem in compare(root, ledger, bars, quick=True) if problem.kind != "extra"]


def _digests(root: Path, paths: list[str], bars: Bars | None) -> Iterator[tuple[str, int, str]]:
    """(path, bytes, SHA-256) in the order given; threads, because hashing and reading leave the interpreter free."""

    def measure(path: str) -> tuple[str, int, str]:
        with readable_errors(root / path):
            return path, (root / path).stat().st_size, sha256(root / path)

    if not paths:
        return
    rest: Iterable[str] = iter(paths)
    label = f"digests of {root.name.strip('.').removesuffix('.partial')}"
    with (bars or Bars(show=False)).stage(label, len(paths)) as bar, ThreadPoolExecutor(processors()) as pool:
        while block := list(islice(rest, 1024)):  # `map` of all paths would queue all of COCO at once
            for measured in pool.map(measure, block):
                bar.advance()
                yield measured
