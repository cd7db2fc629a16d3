"""Imports a user's own images and masks (`ssbench import FOLDER`): checked, and brought into the prepared form.

Everything that is wrong is found in one pass and reported together, one line a kind; a folder with findings is not
imported, and leaves nothing behind. What was written is read by `ssbench.data.folder`.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ssbench import find
from ssbench.console import Bars
from ssbench.data.folder import CARD, UNMASKED, Card, Folder, write_labels
from ssbench.data.ledger import NAME, Ledger
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.files import readable_errors
from ssbench.paths import shipped
from ssbench.prepare.convert import put, put_list
from ssbench.prepare.job import PrepareJob, preparation_lock, processors
from ssbench.prepare.own_classes import unnamed_error
from ssbench.prepare.own_findings import group_findings, options_of
from ssbench.prepare.own_folder import FolderCheck, ImportOptions, labels_seen, opened_source, read_folder
from ssbench.prepare.own_splits import plan_splits, stale_splits, write_splits
from ssbench.prepare.verify import compare, write_ledger

RESERVED = ("downloads", "splits", "recipes")
"""Folders of a data root that are no datasets."""
SHOWN = 12
"""Kinds of findings in the text of an error; `--check` shows all."""


@dataclass(frozen=True)
class ImportReport:
    """What `import_folder` did: ids per subset, files and bytes, splits that are there now, and the check before."""

    name: str
    state: Literal["imported", "complete"]
    counts: dict[str, int]
    files: int
    bytes: int
    seconds: float
    ledger: str
    splits: tuple[str, ...]
    check: FolderCheck

    def json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        keys = ("name", "state", "counts", "files", "bytes", "seconds", "ledger")
        return {key: getattr(self, key) for key in keys} | {"splits": list(self.splits)} | self.check.json()


def check_folder(
    options: ImportOptions, data_root: Path | None = None, workers: int | None = None, bars: Bars | None = None
) -> FolderCheck:
    """Check every image and mask, and all else that an import would refuse; nothing stays written.

    Raises:
        UsageError: a name that cannot be, a share or count that cannot be.
        DataError: there is nothing to look at, or another import has the name. Other findings are returned.
    """
    _check_options(options)
    place = data_root.absolute() if data_root else None
    job = PrepareJob(options.name, options.folder, workers=workers or processors(), bars=bars or Bars(show=False))
    with readable_errors(options.folder), opened_source(options, job, None) as source:
        there = place is not None and (place / options.name).exists() and not options.replace
        if not there:
            return read_folder(source, job, None)
        with tempfile.TemporaryDirectory(prefix="ssbench-check-") as name:  # only the bytes tell whether it is the same
            work = Path(name) / options.name
            work.mkdir()
            check = read_folder(source, job, work)
            if not check.findings:
                _write_lists(source, check, work)
                write_ledger(work, options.name, {}, {}, job.bars)
                assert place is not None  # noqa: S101
                _refuse_other(work, place / options.name, options)
            return check


def import_folder(
    options: ImportOptions, data_root: Path, workers: int | None = None, bars: Bars | None = None
) -> ImportReport:
    """Bring the folder to `<data root>/<name>` and draw its splits.

    The same folder again changes nothing (state "complete"); another under the same name needs `replace`.

    Raises:
        UsageError: a name that cannot be, a share or count that cannot be, classes without names.
        DataError: everything that is wrong with the folder. Nothing half-imported stays.
    """
    _check_options(options)
    began, data_root, origin = time.monotonic(), data_root.absolute(), options.folder.absolute()
    job = PrepareJob(options.name, data_root, origin, workers or processors(), bars or Bars(show=False))
    final, work = data_root / options.name, data_root / f".{options.name}.partial"
    with readable_errors(data_root), _import_lock(data_root, options.name):
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
            with opened_source(options, job, data_root) as source:
                check = read_folder(source, job, work)
            if check.findings:
                raise findings_error(options, check)
            counts = _write_lists(source, check, work)
            masked = [pair.id for pair in check.pairs if pair.mask or pair.layers]
            write_ledger(work, options.name, _settings(origin, check), counts, job.bars)
            write_labels(work, check.labels)
            if final.exists() and not options.replace:
                _refuse_other(work, final, options)
            splits = plan_splits(Folder(work), options.draws, masked, data_root, options.name, options.replace)
            state = _place(work, final, options)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        write_splits(splits, data_root)
        ledger = Ledger.read(final)
        stale = stale_splits(options.name, Folder(final).ids("train"), data_root)
        drawn = (f"{split}: {note}" for split, lists in splits.items() if lists for note in lists.notes(Folder(final)))
        check = replace(check, notes=(*check.notes, *drawn, *stale))
    assert ledger is not None  # noqa: S101  written above
    seconds, size, path = round(time.monotonic() - began, 3), ledger.bytes, str(final / NAME)
    return ImportReport(
        options.name, state, ledger.counts, len(ledger.files), size, seconds, path, tuple(splits), check
    )


def findings_error(options: ImportOptions, check: FolderCheck, listed: bool = True) -> SsbenchError:
    """The error that counts the findings by kind, gives a line a kind, and the command with the options that mend them.

    listed: False leaves out the lines, where they were printed already.

    Classes without names are a UsageError where nothing else is wrong.
    """
    if [finding.kind for finding in check.findings] == ["classes"]:
        return unnamed_error(options.folder, labels_seen(check))
    counts = Counter(finding.kind for finding in check.findings)
    counted = ", ".join(f"{n} {kind}" for kind, n in counts.most_common())
    groups = group_findings(check.findings)
    lines = [group.line(check.folder) for group in groups[:SHOWN]] if listed else []
    if listed and len(groups) > SHOWN:
        lines.append(f"... and {len(groups) - SHOWN} more kinds: add --check to see all")
    things = "1 thing is" if len(check.findings) == 1 else f"{len(check.findings)} things are"
    what = f"{things} wrong with {options.folder}: {counted}"
    mend = options_of(groups)
    fix = f"{options.command} {mend}" if mend else "mend them, or leave these files out"
    return DataError("\n    ".join([what, *lines]), str(options.folder), fix)


def _check_options(options: ImportOptions) -> None:
    """UsageError for a name that is taken or no name, and for shares that cannot be."""
    is_name = re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", options.name)
    papers = [path.name for path in shipped("recipes").iterdir() if path.is_dir()]  # NAME/table1 must not be a paper's
    if not is_name or options.name in (*find.names("dataset"), *RESERVED, *papers):
        what = f"'{options.name}' cannot be the name of a dataset of yours"
        fix = "up to 64 small letters, digits, - and _; not the name of a built-in dataset or of a folder of recipes"
        raise UsageError(what, "--name", fix)
    options.draws.check()


@contextmanager
def _import_lock(data_root: Path, name: str) -> Iterator[None]:
    """Hold the lock of `name`; where the block fails, take away what was not there before: lock file, empty data root.

    Only the holder takes the lock file away. Who was refused must not: a third process would lock a new file and
    work in the folder of the first.
    """
    lock = data_root / f".{name}.lock"
    had_root, had_lock = data_root.exists(), lock.exists()
    with preparation_lock(data_root, name):
        try:
            yield
        except BaseException:
            if not had_lock:
                lock.unlink(missing_ok=True)
            if not had_root and data_root.is_dir() and not any(data_root.iterdir()):
                data_root.rmdir()
            raise


def _settings(origin: Path, check: FolderCheck) -> dict[str, Any]:
    """How the files were made, for the ledger; what was not used is left out."""
    settings: dict[str, Any] = {"import": str(origin), "masks": check.masks}
    if check.conversions:
        settings["converted"] = {change: len(ids) for change, ids in check.conversions.items()}
    if check.skipped:
        settings["skipped"] = [[finding.kind, finding.path] for finding in check.skipped]
    return settings


def _write_lists(options: ImportOptions, check: FolderCheck, work: Path) -> dict[str, int]:
    """Write the lists and the card; ids per subset."""
    ids, rules = check.subsets.ids, options.rules
    counts = {subset: len(listed) for subset, listed in ids.items() if listed}
    for subset in counts:
        put_list(work / f"{subset}.txt", ids[subset])
    unmasked = [pair.id for pair in check.pairs if pair.mask is None and not pair.layers]
    if unmasked:
        put_list(work / UNMASKED, unmasked)
    uses = " ".join(check.conversions)
    card = Card(
        name=options.name,
        classes=rules.classes.names,
        palette=rules.classes.palette,
        channels=rules.decode.channels,
        subsets=counts,
        group=options.draws.group,
        bands=rules.decode.bands if "--bands" in uses else (),
        depth16=rules.decode.depth16 if "--depth16" in uses else None,
    )
    put(work / CARD, card.dump().encode())
    return counts


def _refuse_other(work: Path, final: Path, options: ImportOptions) -> None:
    """DataError unless `final` holds the very files of `work`."""
    try:
        old, new = Ledger.read(final), Ledger.read(work)
    except DataError:
        old = new = None  # a damaged ledger is no reason to keep the folder
    if not (old and new and old.digest() == new.digest() and not compare(final, old, quick=True)):
        what = f"{options.name} is there already, and holds something else"
        raise DataError(what, str(final), "choose another --name, or add --replace to the command")


def _place(work: Path, final: Path, options: ImportOptions) -> Literal["imported", "complete"]:
    """Give the finished folder its name, unless the same one has it already."""
    if not final.exists():
        work.replace(final)
        return "imported"
    try:
        _refuse_other(work, final, options)
    except DataError:
        if not options.replace:
            raise
    else:
        return "complete"
    aside = final.with_name(f".{final.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    final.replace(aside)
    work.replace(final)
    shutil.rmtree(aside)
    return "imported"
