"""`ssbench prepare`: a folder of verified, converted data with a ledger of digests.

Each `prepare_<name>.py` defines

    ARCHIVES: tuple[Archive, ...]    what is downloaded, or looked for in the source
    MANUAL: str | None               the steps by hand when the data sits behind a login (then nothing is downloaded)
    COUNTS: dict[str, int]           expected ids per subset
    def convert(source: Path, dest: Path, job: Job) -> None
                                     first `job.declare(setting=...)`; then writes below `dest` by `put`, `put_png`,
                                     `put_copy`, and skips what is `intact` from an earlier run that was cut off

The work is done in `<data root>/.<name>.partial`, which becomes `<data root>/<name>` when everything is verified and
the ledger is written: a dataset is there in full or not at all. Names that begin with a dot (a cache, say) are no part
of it: no ledger names them, no check minds them.
"""

from __future__ import annotations

import importlib
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssbench import find
from ssbench.data.dataset import Dataset
from ssbench.data.folder import CARD
from ssbench.data.ledger import NAME, Ledger
from ssbench.errors import DataError, UsageError, nearest
from ssbench.files import write_json
from ssbench.prepare import cache, ledger
from ssbench.prepare.files import intact, locked, put, put_copy, put_png, readable_errors, sweep
from ssbench.prepare.job import Archive, Bar, Job, Progress, Silent, parallel, processors
from ssbench.prepare.ledger import Problem
from ssbench.prepare.sources import Plan, downloads, find_source
from ssbench.prepare.verify import belongs, ids_if_any, opened, sample_problem, verify

__all__ = [
    "Archive",
    "Bar",
    "Job",
    "Problem",
    "Progress",
    "Report",
    "Silent",
    "check",
    "intact",
    "known",
    "parallel",
    "plan_of",
    "prepare",
    "put",
    "put_copy",
    "put_png",
]
MARKER = ".settings.json"


@dataclass(frozen=True)
class Report:
    """What `prepare` did: ids per subset, files and bytes of the dataset, split lists in place, settings, seconds."""

    name: str
    state: Literal["prepared", "complete"]
    counts: dict[str, int]
    files: int
    bytes: int
    seconds: float
    ledger: str
    lists: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        return asdict(self)


def known() -> list[str]:
    """Names of the datasets that can be prepared."""
    modules = {path.stem for path in Path(__file__).parent.glob("*.py")}
    return sorted(modules & set(find.names("dataset")))  # a dataset's two files share its name


def prepare(
    name: str, data_root: Path, source: Path | None = None, workers: int | None = None, progress: Progress | None = None
) -> Report:
    """Make `<data root>/<name>` complete: find or download, verify, unpack, convert, verify, fetch split lists.

    A complete dataset is only looked over (sizes; digests of files written since); one that lost files is mended. An
    imported folder is looked over, too, and mended by importing it again.
    UsageError for an unknown name; DataError naming the file for everything else: what was done so far is kept, and the
    same command goes on from there.
    """
    began, data_root = time.monotonic(), data_root.absolute()
    if (data_root / name / CARD).is_file():
        return _looked_over(name, data_root, progress or Silent())
    plan = plan_of(name)
    job = Job(name, data_root, source.absolute() if source else None, workers or processors(), progress or Silent())
    with readable_errors(data_root), locked(data_root, name):
        final = (data_root / name).resolve()
        book = _complete(final, job)
        state: Literal["prepared", "complete"] = "complete" if book else "prepared"
        if book is None:
            book = _make(plan, job, final)
        lists = _fetch_lists(job, opened(name, str(final)))
    seconds = round(time.monotonic() - began, 3)
    path = str(final / NAME)
    return Report(name, state, book.counts, len(book.files), book.bytes, seconds, path, lists, book.settings)


def check(name: str, data_root: Path, progress: Progress | None = None) -> list[Problem]:
    """Every missing, extra, truncated or changed file of `<data root>/<name>`, by digest, and of its cache, if any.

    Changes nothing. Empty when all is as it was prepared; `Problem("missing", "ledger.json", ...)` when it was never
    finished.
    """
    root = (data_root / name).absolute()
    if not (root / CARD).is_file():
        plan_of(name)
    try:
        book = Ledger.read(root)
    except DataError as error:
        return [Problem("changed", NAME, error.what)]
    if book is None:
        return [Problem("missing", NAME, f"not prepared, or not to the end: ssbench prepare {name}")]
    problems = ledger.compare(root, book, progress)
    touched = [Path(p.path).stem for p in problems if p.kind in ("truncated", "changed")]
    ids = {id for subset in book.counts for id in ids_if_any(name, root, subset)} if touched else set()
    near = [id for id in sorted(ids) if any(belongs(stem, id) for stem in touched)]
    problems += [p for id in near if (p := sample_problem(name, str(root), id)) and p.kind == "bad-mask"]
    return problems + cache.check(root, progress)


def plan_of(name: str) -> Plan:
    """What a `prepare_<name>` module states: archives, counts. UsageError for an unknown name."""
    if name not in known():
        what = f"no dataset '{name}' to prepare; {nearest(name, known())}"
        raise UsageError(what, fix="ssbench list datasets")
    module = importlib.import_module(f"ssbench.prepare.{name}")
    return Plan(module.ARCHIVES, module.MANUAL, module.COUNTS, module.convert)


def _looked_over(name: str, data_root: Path, progress: Progress) -> Report:
    """The report on an imported folder; DataError when it lost files, which only its owner has."""
    began, root = time.monotonic(), data_root / name
    book = Ledger.read(root)
    found = ledger.compare(root, book, progress, quick=True) if book else [Problem("missing", NAME)]
    problems = [problem for problem in found if problem.kind != "extra"]
    if book is None or problems:
        what = f"{name}, an imported folder: {problems[0].path} is {problems[0].kind} ({len(problems)} such files)"
        fix = f"ssbench import FOLDER --name {name} --replace --data-root {data_root}"
        raise DataError(what, str(root / problems[0].path), fix)
    seconds, path = round(time.monotonic() - began, 3), str(root / NAME)
    return Report(name, "complete", book.counts, len(book.files), book.bytes, seconds, path, settings=book.settings)


def _complete(final: Path, job: Job) -> Ledger | None:
    """The ledger of `final` when all its files are there; otherwise its good files go back to work."""
    try:
        book = Ledger.read(final)
    except DataError:
        shutil.rmtree(final)  # the ledger is damaged, so nothing tells good files from bad ones
        return None
    if book is None:
        if final.exists() and any(final.iterdir()):
            what = f"{final} holds files that ssbench did not put there"
            fix = f"move it away, and if it is the data: ssbench prepare {job.name} --source WHERE_IT_IS_NOW"
            raise DataError(what, str(final), fix)
        return None
    problems = [p for p in ledger.compare(final, book, job.progress, quick=True) if p.kind != "extra"]
    if not problems:
        return book
    for problem in problems:
        (final / problem.path).unlink(missing_ok=True)
    (final / NAME).unlink()
    shutil.rmtree(_partial(final), ignore_errors=True)
    final.replace(_partial(final))
    write_json(_partial(final) / MARKER, job.statement(book.settings))
    return None


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _make(plan: Plan, job: Job, final: Path) -> Ledger:
    """Convert and verify in the partial folder, write its ledger, give it its name."""
    work = _partial(final)
    work.mkdir(parents=True, exist_ok=True)
    sweep(work, keep=MARKER)
    job.marker = work / MARKER
    plan.convert(find_source(plan, job), work, job)
    counts = verify(plan, job, work)
    sweep(work, keep=MARKER)
    ledger.write(work, job.name, job.settings, counts, job.progress)
    job.marker.unlink(missing_ok=True)
    work.replace(final)
    opened.cache_clear()
    shutil.rmtree(downloads(job) / "unpacked", ignore_errors=True)
    book = Ledger.read(final)
    if book is None:
        raise DataError(f"{job.name} was changed while it was prepared", str(final), f"ssbench prepare {job.name}")
    return book


def _fetch_lists(job: Job, dataset: Dataset) -> int:
    """The published split lists in place; how many."""
    from ssbench.splits.passport import fetch_lists

    return fetch_lists(job.name, job.data_root, job.source, train=dataset.ids("train"))
