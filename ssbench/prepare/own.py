"""Imports a user's own images and masks (`ssbench import FOLDER`): checked, and brought into the prepared form.

Everything that is wrong is found in one pass and reported together; a folder with findings is not imported. What was
written is read by `ssbench.data.folder`, and every method and plug-in runs on it.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ssbench import find
from ssbench.console import Bars
from ssbench.data.dataset import IGNORE
from ssbench.data.folder import CARD, Card, Folder
from ssbench.data.ledger import NAME, Ledger
from ssbench.errors import DataError, UsageError
from ssbench.files import disk_full, read_text, readable_errors
from ssbench.prepare.convert import put, put_list
from ssbench.prepare.job import PrepareJob, parallel, preparation_lock, processors
from ssbench.prepare.own_checks import (
    Finding,
    FolderLayout,
    ImageMaskPair,
    SampleStats,
    convert_sample,
    find_pairs,
    findings_of,
)
from ssbench.prepare.own_classes import ClassMap
from ssbench.prepare.verify import compare, write_ledger
from ssbench.splits.draw import draw, labeled_count, make
from ssbench.splits.manifest import read_custom

RESERVED = ("downloads", "splits")
"""Folders of a data root that are no datasets."""
SHOWN = 10
"""Findings in the text of an error; `--check` shows all."""


@dataclass(frozen=True)
class ImportOptions:
    """What to import and how.

    channels: 1 keeps grey images grey. unlabeled: images without a mask stay, for training. val: share of the labelled
    images that becomes "val" where the folder has none. labeled: splits to draw, "1_8" or a count. seed: of both draws.
    """

    folder: Path
    name: str
    classes: ClassMap
    layout: FolderLayout = field(default_factory=FolderLayout)
    channels: Literal[1, 3] = 3
    unlabeled: bool = False
    val: float = 0.2
    labeled: tuple[str, ...] = ()
    seed: int = 0
    replace: bool = False


@dataclass(frozen=True)
class FolderCheck:
    """What is in a folder: images with masks and without, findings, a row per class, notes, kinds of masks."""

    pairs: tuple[ImageMaskPair, ...]
    findings: tuple[Finding, ...]
    classes: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    masks: dict[str, int]

    def json(self) -> dict[str, Any]:
        """As a JSON object: images, unlabeled (counts), masks (kind -> count), classes, notes, findings."""
        return {
            "images": len(self.pairs),
            "unlabeled": sum(pair.mask is None for pair in self.pairs),
            "masks": self.masks,
            "classes": list(self.classes),
            "notes": list(self.notes),
            "findings": [asdict(finding) for finding in self.findings],
        }


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


def check_folder(options: ImportOptions, workers: int | None = None, bars: Bars | None = None) -> FolderCheck:
    """Check every image and mask, writing nothing; DataError only when there is nothing to look at."""
    job = PrepareJob(options.name, options.folder, workers=workers or processors(), bars=bars or Bars(show=False))
    with readable_errors(options.folder):
        return _read_folder(options, job, None)


def import_folder(
    options: ImportOptions, data_root: Path, workers: int | None = None, bars: Bars | None = None
) -> ImportReport:
    """Bring the folder to `<data root>/<name>` and draw its splits.

    The same folder again changes nothing (state "complete"); another under the same name needs `replace`.

    Raises:
        UsageError: a name that cannot be, a share or count that cannot be.
        DataError: everything that is wrong with the folder. Nothing half-imported stays.
    """
    _check_options(options)
    began, data_root, source = time.monotonic(), data_root.absolute(), options.folder.absolute()
    job = PrepareJob(options.name, data_root, source, workers or processors(), bars or Bars(show=False))
    final, work = data_root / options.name, data_root / f".{options.name}.partial"
    with readable_errors(data_root), preparation_lock(data_root, options.name):
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
            check = _read_folder(options, job, work)
            if check.findings:
                raise findings_error(options, check)
            counts = _write_lists(options, check.pairs, work)
            write_ledger(work, options.name, {"import": str(source), "masks": check.masks}, counts, job.bars)
            state = _place(work, final, options)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        splits = tuple(_draw_splits(options, Folder(final), check.pairs, data_root))
        ledger = Ledger.read(final)
    assert ledger is not None  # noqa: S101  written above
    seconds, size, path = round(time.monotonic() - began, 3), ledger.bytes, str(final / NAME)
    return ImportReport(options.name, state, ledger.counts, len(ledger.files), size, seconds, path, splits, check)


def findings_error(options: ImportOptions, check: FolderCheck) -> DataError:
    """The error that counts the findings by kind, and gives the first in full."""
    kinds = Counter(finding.kind for finding in check.findings)
    counted = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    lines = [f"{finding.path}: {finding.detail}" for finding in check.findings[:SHOWN]]
    if len(check.findings) > SHOWN:
        lines.append(f"... and {len(check.findings) - SHOWN} more: add --check to see all")
    what = f"{len(check.findings)} things are wrong with {options.folder}: {counted}"
    return DataError("\n    ".join([what, *lines]), str(options.folder), "mend them, or leave these files out")


def _check_options(options: ImportOptions) -> None:
    """UsageError for a name that is taken or no name, and for shares that cannot be."""
    is_name = re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", options.name)
    if not is_name or options.name in (*find.names("dataset"), *RESERVED):
        what = f"'{options.name}' cannot be the name of a dataset of yours"
        fix = "up to 64 small letters, digits, - and _; not the name of a built-in dataset"
        raise UsageError(what, "--name", fix)
    if not 0 < options.val < 1:
        raise UsageError(f"--val {options.val} is no share between 0 and 1", "--val", "for instance --val 0.2")
    for text in options.labeled:
        amount(text)


def amount(text: str) -> tuple[int | None, Fraction | None]:
    """What "1_8", "1/8" or "50" asks for: a count, or a fraction; UsageError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,8})(?:[_/]([1-9]\d{0,8}))?", text, re.ASCII)
    if match is None:
        raise UsageError(f"--labeled {text!r} is neither a fraction nor a count", "--labeled", "1_8, or 50")
    whole, part = match.groups()
    return (int(whole), None) if part is None else (None, Fraction(int(whole), int(part)))


def _read_folder(options: ImportOptions, job: PrepareJob, dest: Path | None) -> FolderCheck:
    """Every image and mask read, and written below `dest` where one is given."""
    if not options.folder.is_dir():
        raise DataError(f"no folder '{options.folder}'", str(options.folder.absolute()), "check the path")
    pairs, findings = find_pairs(options.folder, options.layout, options.unlabeled)
    if dest is not None:
        needed = sum(path.stat().st_size for pair in pairs for path in (pair.image, pair.mask) if path)
        if needed > shutil.disk_usage(dest).free:
            raise disk_full(dest, needed)
    read = partial(convert_sample, classes=options.classes, channels=options.channels, dest=dest)
    samples = parallel(read, pairs, job, f"{'importing' if dest else 'reading'} {options.name}")
    findings += findings_of(samples, options.classes)
    masks = Counter(sample.kind for sample in samples if sample.kind)
    rows = tuple(_class_rows(samples, options.classes))
    return FolderCheck(tuple(pairs), tuple(findings), rows, tuple(_notes(pairs, rows, options)), dict(masks))


def _class_rows(samples: list[SampleStats], classes: ClassMap) -> Iterator[dict[str, Any]]:
    """Label, name, pixels and images (in which it occurs) of each class, and of 255."""
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for sample in samples:
        pixels.update(sample.labels)
        images.update(sample.labels.keys())
    for label, name in [*enumerate(classes.names), (IGNORE, "ignore")]:
        yield {"label": label, "class": name, "pixels": pixels[label], "images": images[label]}


def _notes(pairs: list[ImageMaskPair], rows: tuple[dict[str, Any], ...], options: ImportOptions) -> Iterator[str]:
    """What need not be wrong, and may be."""
    for row in rows:
        if not row["images"] and row["label"] != IGNORE:
            yield f"class {row['label']} '{row['class']}' occurs in no mask"
    if not any(pair.subset == "val" for pair in pairs):
        drawn = f"--val {options.val}, seed {options.seed}"
        yield f"no val folder: {len(_drawn_for_val(options, pairs))} images with masks are drawn for val ({drawn})"
    unlabeled = sum(pair.mask is None for pair in pairs)
    if unlabeled:
        yield f"images without a mask, kept as unlabelled ones: {unlabeled}"


def _drawn_for_val(options: ImportOptions, pairs: Sequence[ImageMaskPair]) -> tuple[str, ...]:
    """Ids of the labelled images held out for val, rounded up; at least one labelled image stays for training."""
    labeled = [pair.id for pair in pairs if pair.mask and pair.subset in ("", "train")]
    return draw(labeled, min(math.ceil(options.val * len(labeled)), max(len(labeled) - 1, 0)), options.seed)


def _write_lists(options: ImportOptions, pairs: tuple[ImageMaskPair, ...], work: Path) -> dict[str, int]:
    """Write the lists and the card; ids per subset. DataError or UsageError when they would leave nothing to train."""
    ids = {subset: [pair.id for pair in pairs if pair.subset == subset] for subset in ("train", "val", "test")}
    ids["train"] += [pair.id for pair in pairs if pair.subset == ""]
    ids["val"] = ids["val"] or list(_drawn_for_val(options, pairs))
    ids["train"] = sorted(set(ids["train"]) - set(ids["val"]))
    labeled = {pair.id for pair in pairs if pair.mask} & set(ids["train"])
    if not ids["val"] or not labeled:
        short = f"{len(labeled)} with masks for train and {len(ids['val'])} for val"
        raise DataError(
            f"{len(pairs)} images are too few: {short}", str(options.folder), "bring more images with masks"
        )
    for text in options.labeled:
        labeled_count(*amount(text), len(labeled))
    counts = {subset: len(listed) for subset, listed in ids.items() if listed}
    for subset in counts:
        put_list(work / f"{subset}.txt", ids[subset])
    names, palette = options.classes.names, options.classes.palette
    card = Card(name=options.name, classes=names, palette=palette, channels=options.channels, subsets=counts)
    put(work / CARD, card.dump().encode())
    return counts


def _place(work: Path, final: Path, options: ImportOptions) -> Literal["imported", "complete"]:
    """Give the finished folder its name, unless the same one has it already."""
    if not final.exists():
        work.replace(final)
        return "imported"
    try:
        old, new = Ledger.read(final), Ledger.read(work)
    except DataError:
        old = new = None  # a damaged ledger is no reason to keep the folder
    if old and new and old.digest() == new.digest() and not compare(final, old, quick=True):
        return "complete"
    if not options.replace:
        what = f"{options.name} is there already, and holds something else"
        raise DataError(what, str(final), "choose another --name, or add --replace to the command")
    aside = final.with_name(f".{final.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    final.replace(aside)
    work.replace(final)
    shutil.rmtree(aside)
    return "imported"


def _draw_splits(
    options: ImportOptions, dataset: Folder, pairs: tuple[ImageMaskPair, ...], data_root: Path
) -> Iterator[str]:
    """Draw the splits asked for, and the one of all masks where some images have none; their names."""
    pool = {pair.id for pair in pairs if pair.mask} & set(dataset.ids("train"))
    end = f"-seed{options.seed}" if options.seed else ""
    amounts = {text.replace("/", "_") + end: amount(text) for text in options.labeled}
    if len(pool) < len(dataset.ids("train")):
        amounts["all"] = (len(pool), None)
    for part, (count, fraction) in amounts.items():
        name = f"{options.name}/custom/{part}"
        out = data_root / "splits" / name
        if options.replace:
            shutil.rmtree(out, ignore_errors=True)
        if not _is_split_of(out, dataset):
            make(dataset, out, count=count, fraction=fraction, seed=options.seed, pool=pool)
        yield name


def _is_split_of(out: Path, dataset: Folder) -> bool:
    """Whether a split that is there already holds the dataset's training ids, all of them."""
    lists = [out / f"{role}.txt" for role in ("labeled", "unlabeled")]
    if not all(path.is_file() for path in lists) or not read_custom(out).dataset:
        return False
    ids = [id for path in lists for id in read_text(path, f"list {path.name}", f"delete {out}").splitlines()]
    return sorted(ids) == list(dataset.ids("train"))
