"""`ssbench prepare`: from a source to a folder of verified, converted data with a ledger of digests.

The module of each dataset, `ssbench/prepare/<name>.py`, defines

    ARCHIVES: tuple[Archive, ...]    what is downloaded, or looked for in the source
    MANUAL: str | None               the steps by hand when the data sits behind a login (then nothing is downloaded)
    COUNTS: dict[str, int]           expected ids per subset
    def convert(source: Path, dest: Path, job: PrepareJob) -> None
                                     first `job.declare(setting=...)`; then writes below `dest` with the functions of
                                     `ssbench.prepare.convert`, and skips what an earlier run, cut off, left intact

The work is done in `<data root>/.<name>.partial`, which becomes `<data root>/<name>` when everything is verified and
the ledger is written: a dataset is there in full or not at all. Files whose name begins with a dot (the cache) are not
part of it: the ledger does not list them, and no check reads them.
"""

from __future__ import annotations

import importlib
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ssbench import find
from ssbench.console import Bars
from ssbench.data.folder import CARD
from ssbench.data.ledger import NAME, Ledger
from ssbench.errors import DataError, UsageError, nearest
from ssbench.files import readable_errors, remove_temporary, write_json
from ssbench.paths import quoted
from ssbench.prepare import cache
from ssbench.prepare.job import PrepareJob, preparation_lock, processors
from ssbench.prepare.sources import SourceSpec, find_source
from ssbench.prepare.split_lists import fetch_lists
from ssbench.prepare.verify import (
    Problem,
    belongs,
    compare,
    lost_files,
    open_folder,
    sample_problem,
    verify,
    write_ledger,
)

MARKER = ".settings.json"


@dataclass(frozen=True)
class PrepareReport:
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


def source_spec(name: str) -> SourceSpec:
    """What the module of a dataset states: archives, steps by hand, counts. UsageError for an unknown name."""
    if name not in known():
        what = f"no dataset '{name}' to prepare; {nearest(name, known())}"
        raise UsageError(what, fix="ssbench list datasets")
    module = importlib.import_module(f"ssbench.prepare.{name}")
    return SourceSpec(module.ARCHIVES, module.MANUAL, module.COUNTS, module.convert)


def prepare(
    name: str, data_root: Path, source: Path | None = None, workers: int | None = None, bars: Bars | None = None
) -> PrepareReport:
    """Make `<data root>/<name>` complete: find or download, verify, unpack, convert, verify, fetch split lists.

    Of a complete dataset only sizes are compared, and digests of files written since. One that lost files is mended,
    but for an imported folder, which only its owner can bring again.

    Raises:
        UsageError: an unknown name.
        DataError: everything else, naming the file. What was done so far is kept: the same command goes on from there.
    """
    began, data_root = time.monotonic(), data_root.absolute()
    lists = 0
    if (data_root / name / CARD).is_file():
        final, is_new = data_root / name, False
        ledger = _imported(final, bars)
    else:
        spec = source_spec(name)
        source = source.absolute() if source else None
        job = PrepareJob(name, data_root, source, workers or processors(), bars or Bars(show=False))
        with readable_errors(data_root), preparation_lock(data_root, name):
            final = (data_root / name).resolve()
            complete = _complete(final, job)
            ledger, is_new = complete or _make(spec, job, final), complete is None
            lists = fetch_lists(name, data_root, source, train=open_folder(name, str(final)).ids("train"))
    return PrepareReport(
        name=name,
        state="prepared" if is_new else "complete",
        counts=ledger.counts,
        files=len(ledger.files),
        bytes=ledger.bytes,
        seconds=round(time.monotonic() - began, 3),
        ledger=str(final / NAME),
        lists=lists,
        settings=ledger.settings,
    )


def check(name: str, data_root: Path, bars: Bars | None = None) -> list[Problem]:
    """Every missing, extra, truncated or changed file of `<data root>/<name>`, by digest, and of its cache, if any.

    Changes nothing. Empty when all is as it was prepared; `Problem("missing", "ledger.json", ...)` when it was never
    finished.
    """
    root = (data_root / name).absolute()
    if not (root / CARD).is_file():
        source_spec(name)  # an unknown name is a UsageError
    try:
        ledger = Ledger.read(root)
    except DataError as error:
        return [Problem("changed", NAME, error.what)]
    if ledger is None:
        return [Problem("missing", NAME, f"not prepared, or not to the end: ssbench prepare {name}")]
    problems = compare(root, ledger, bars)
    touched = [p.path for p in problems if p.kind in ("truncated", "changed")]
    ids = {id for subset in ledger.counts for id in _ids_if_readable(name, root, subset)} if touched else set()
    near = [id for id in sorted(ids) if any(belongs(path, id) for path in touched)]
    problems += [p for id in near if (p := sample_problem(name, str(root), id)) and p.kind == "bad-mask"]
    return problems + cache.check(root, bars)


def _ids_if_readable(name: str, root: Path, subset: str) -> tuple[str, ...]:
    """The ids of a subset, none when its list is damaged."""
    try:
        return open_folder(name, str(root)).ids(subset)
    except DataError:
        return ()


def _imported(root: Path, bars: Bars | None) -> Ledger:
    """The ledger of an imported folder; DataError when it lost files, which only its owner has."""
    fix = f"ssbench import FOLDER --name {root.name} --replace --data-root {quoted(root.parent)}"
    try:
        ledger = Ledger.read(root)
    except DataError as error:
        raise DataError(error.what, error.where, fix) from None
    problems = lost_files(root, ledger, bars) if ledger else [Problem("missing", NAME)]
    if ledger is None or problems:
        count = f"({len(problems)} such files)"
        what = f"{root.name}, an imported folder: {problems[0].path} is {problems[0].kind} {count}"
        raise DataError(what, str(root / problems[0].path), fix)
    return ledger


def _complete(final: Path, job: PrepareJob) -> Ledger | None:
    """The ledger of `final` when all its files are there; otherwise its good files go back to the partial folder."""
    try:
        ledger = Ledger.read(final)
    except DataError:
        shutil.rmtree(final)  # the ledger is damaged, so nothing tells good files from bad ones
        return None
    if ledger is None:
        if final.exists() and any(final.iterdir()):
            what = f"{final} holds files that ssbench did not put there"
            fix = f"move it away, and if it is the data: ssbench prepare {job.name} --source WHERE_IT_IS_NOW"
            raise DataError(what, str(final), fix)
        return None
    problems = lost_files(final, ledger, job.bars)
    if not problems:
        return ledger
    for problem in problems:
        (final / problem.path).unlink(missing_ok=True)
    (final / NAME).unlink()
    shutil.rmtree(_partial(final), ignore_errors=True)
    final.replace(_partial(final))
    write_json(_partial(final) / MARKER, job.statement(ledger.settings))
    return None


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _make(spec: SourceSpec, job: PrepareJob, final: Path) -> Ledger:
    """Convert and verify in the partial folder, write its ledger, give it its name."""
    work = _partial(final)
    work.mkdir(parents=True, exist_ok=True)
    remove_temporary(work, keep=MARKER)
    job.marker = work / MARKER
    spec.convert(find_source(spec, job), work, job)
    counts = verify(spec, job, work)
    remove_temporary(work, keep=MARKER)
    write_ledger(work, job.name, job.settings, counts, job.bars)
    job.marker.unlink(missing_ok=True)
    work.replace(final)
    open_folder.cache_clear()
    shutil.rmtree(job.downloads / "unpacked", ignore_errors=True)
    ledger = Ledger.read(final)
    if ledger is None:
        raise DataError(f"{job.name} was changed while it was prepared", str(final), f"ssbench prepare {job.name}")
    return ledger
