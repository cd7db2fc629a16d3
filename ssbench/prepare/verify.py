"""The last look before a dataset counts as prepared: counts as published, every sample readable, known labels only."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path

from ssbench.data.dataset import Dataset, bad_values
from ssbench.data.folder import CARD, Folder
from ssbench.errors import DataError
from ssbench.prepare.files import walk
from ssbench.prepare.job import Job, parallel
from ssbench.prepare.ledger import Problem
from ssbench.prepare.sources import Plan, downloads


@functools.lru_cache(maxsize=4)
def opened(name: str, root: str) -> Dataset:
    """The dataset class of `ssbench/data/<name>.py` (of an imported folder: Folder) on `root`; it reads the files."""
    if (Path(root) / CARD).is_file():
        return Folder(Path(root))
    module = importlib.import_module(f"ssbench.data.{name}")
    own = (value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module.__name__)
    return next(value for value in own if issubclass(value, Dataset))(Path(root))


def verify(plan: Plan, job: Job, root: Path) -> dict[str, int]:
    """Ids per subset as expected, and every image and mask readable, of one size, with known labels only."""
    opened.cache_clear()
    counts = _counts(plan, job, root)
    every = sorted({id for subset in counts for id in opened(job.name, str(root)).ids(subset)})
    look = functools.partial(sample_problem, job.name, str(root))
    bad = [problem for problem in parallel(look, every, job, f"checking {job.name}") if problem]
    if bad:
        files = [path for problem in bad for path in _discard(root, problem.path)]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        fix = f"bring good copies of these files, then: ssbench prepare {job.name}"
        raise DataError(f"{job.name}: {bad[0].path}: {bad[0].detail}{more}", ", ".join(files[:10]), fix)
    return counts


def _counts(plan: Plan, job: Job, root: Path) -> dict[str, int]:
    """Ids found per subset; DataError when they are not as many as published."""
    dataset = opened(job.name, str(root))
    counts = {subset: len(dataset.ids(subset)) for subset in plan.counts}
    short = [f"{subset} has {counts[subset]} of {n}" for subset, n in plan.counts.items() if counts[subset] != n]
    if short:
        fix = f"bring the complete data: ssbench prepare {job.name} --source FOLDER"
        raise DataError(f"{job.name} is not complete: {', '.join(short)}", str(job.source or downloads(job)), fix)
    return counts


def sample_problem(name: str, root: str, id: str) -> Problem | None:
    """What is wrong with the image and mask of `id`; None when nothing is. `path` of the problem is the id."""
    dataset = opened(name, root)
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


def belongs(stem: str, id: str) -> bool:
    """True when a file of this stem is the image, mask, ... of `id` in every prepared layout."""
    return stem == id or stem.startswith(f"{id}_")


def ids_if_any(name: str, root: Path, subset: str) -> tuple[str, ...]:
    """The ids of a subset, none when its list is damaged."""
    try:
        return opened(name, str(root)).ids(subset)
    except DataError:
        return ()


def _discard(root: Path, id: str) -> list[str]:
    """Delete the files of `id`, so that the next run converts them again; their relative paths."""
    mine = [path for path, _ in walk(root) if belongs(Path(path).stem, id)]
    for path in mine:
        (root / path).unlink()
    return mine
