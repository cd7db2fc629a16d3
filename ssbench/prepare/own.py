"""`ssbench import FOLDER`: a user's own images and masks, looked over and brought into the prepared form.

Everything wrong is found in one pass and named together; a folder with findings is not imported. What was written is
read by `ssbench.data.folder`, and every method and plug-in runs on it.
"""

from __future__ import annotations

import math
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ssbench import find
from ssbench.data.dataset import IGNORE
from ssbench.data.folder import CARD, Card, Folder
from ssbench.data.ledger import NAME, Ledger
from ssbench.errors import DataError, UsageError
from ssbench.prepare import ledger
from ssbench.prepare.files import disk_full, locked, put, readable_errors
from ssbench.prepare.job import Job, Progress, Silent, parallel, processors
from ssbench.prepare.own_checks import Seen, bring, findings_of
from ssbench.prepare.own_classes import ClassMap
from ssbench.prepare.own_pairs import Finding, Layout, Own, find_pairs
from ssbench.splits.draw import draw, make
from ssbench.splits.lists import dump
from ssbench.splits.manifest import passport_of

TAKEN = ("downloads", "splits")
"""Folders of a data root that are no datasets."""
SHOWN = 10


@dataclass(frozen=True)
class Wish:
    """What to import and how.

    channels: 1 keeps grey images grey. unlabeled: images without a mask stay, for training. val: share of the labelled
    images that becomes "val" where the folder has none. labeled: splits to draw, "1_8" or a count. seed: of both draws.
    """

    folder: Path
    name: str
    classes: ClassMap
    layout: Layout = field(default_factory=Layout)
    channels: Literal[1, 3] = 3
    unlabeled: bool = False
    val: float = 0.2
    labeled: tuple[str, ...] = ()
    seed: int = 0
    replace: bool = False


@dataclass(frozen=True)
class Lint:
    """What was found in a folder: images with masks and without, findings, a row per class, notes, kinds of masks."""

    owns: tuple[Own, ...]
    findings: tuple[Finding, ...]
    classes: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    masks: dict[str, int]

    def json(self) -> dict[str, Any]:
        """As a JSON object: images, unlabeled (counts), masks (kind -> count), classes, notes, findings."""
        return {
            "images": len(self.owns),
            "unlabeled": sum(own.mask is None for own in self.owns),
            "masks": self.masks,
            "classes": list(self.classes),
            "notes": list(self.notes),
            "findings": [asdict(finding) for finding in self.findings],
        }


@dataclass(frozen=True)
class Report:
    """What `import_folder` did: ids per subset, files and bytes, splits that are there now, and what it saw."""

    name: str
    state: Literal["imported", "complete"]
    counts: dict[str, int]
    files: int
    bytes: int
    seconds: float
    ledger: str
    splits: tuple[str, ...]
    lint: Lint

    def json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        said = {key: getattr(self, key) for key in ("name", "state", "counts", "files", "bytes", "seconds", "ledger")}
        return said | {"splits": list(self.splits)} | self.lint.json()


def lint(wish: Wish, workers: int | None = None, progress: Progress | None = None) -> Lint:
    """Look the folder over, writing nothing; DataError only when there is nothing to look at."""
    job = Job(wish.name, wish.folder, workers=workers or processors(), progress=progress or Silent())
    return _looked(wish, job, None)


def import_folder(wish: Wish, data_root: Path, workers: int | None = None, progress: Progress | None = None) -> Report:
    """Bring the folder to `<data root>/<name>` and draw its splits.

    The same folder again changes nothing (state "complete"); another under the same name needs `replace`. Raises
    UsageError for a name that cannot be, DataError naming everything that is wrong: nothing half-imported stays.
    """
    _fitting(wish)
    began, data_root = time.monotonic(), data_root.absolute()
    job = Job(wish.name, data_root, wish.folder.absolute(), workers or processors(), progress or Silent())
    final, work = data_root / wish.name, data_root / f".{wish.name}.partial"
    with readable_errors(data_root), locked(data_root, wish.name):
        shutil.rmtree(work, ignore_errors=True)
        try:
            work.mkdir()
            seen = _looked(wish, job, work)
            if seen.findings:
                raise refused(wish, seen)
            counts = _lists(wish, seen.owns, work)
            ledger.write(work, wish.name, {"import": str(job.source), "masks": seen.masks}, counts, job.progress)
            state = _placed(work, final, wish)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        splits = tuple(_splits(wish, Folder(final), seen.owns, data_root))
    book = Ledger.read(final)
    assert book is not None  # noqa: S101  written above
    seconds = round(time.monotonic() - began, 3)
    where = str(final / NAME)
    return Report(wish.name, state, book.counts, len(book.files), book.bytes, seconds, where, splits, seen)


def refused(wish: Wish, seen: Lint) -> DataError:
    """The error that names what is wrong, kind by kind, and the first findings in full."""
    kinds = Counter(finding.kind for finding in seen.findings)
    counted = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    lines = [f"{finding.path}: {finding.detail}" for finding in seen.findings[:SHOWN]]
    more = [f"... and {len(seen.findings) - SHOWN} more: add --check to see all"] if len(seen.findings) > SHOWN else []
    what = f"{len(seen.findings)} things are wrong with {wish.folder}: {counted}"
    return DataError("\n    ".join([what, *lines, *more]), str(wish.folder), "mend them, or leave these files out")


def _fitting(wish: Wish) -> None:
    """UsageError for a name that is taken or no name, and for shares that cannot be."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", wish.name) or wish.name in (*find.names("dataset"), *TAKEN):
        what = f"'{wish.name}' cannot be the name of a dataset of yours"
        raise UsageError(what, "--name", "small letters, digits, - and _; not the name of a built-in dataset")
    if not 0 < wish.val < 1:
        raise UsageError(f"--val {wish.val} is no share between 0 and 1", "--val", "for instance --val 0.2")
    for text in wish.labeled:
        amount(text)


def amount(text: str) -> tuple[int | None, Fraction | None]:
    """What "1_8", "1/8" or "50" asks for: a count, or a fraction; UsageError for anything else."""
    found = re.fullmatch(r"([1-9]\d*)(?:[_/]([1-9]\d*))?", text)
    if found is None:
        raise UsageError(f"--labeled {text!r} is neither a fraction nor a count", "--labeled", "1_8, or 50")
    whole, part = found.groups()
    return (int(whole), None) if part is None else (None, Fraction(int(whole), int(part)))


def _looked(wish: Wish, job: Job, dest: Path | None) -> Lint:
    """Every image and mask read, and written below `dest` where one is given."""
    if not wish.folder.is_dir():
        raise DataError(f"no folder '{wish.folder}'", str(wish.folder.absolute()), "check the path")
    owns, findings = find_pairs(wish.folder, wish.layout, wish.unlabeled)
    if dest is not None:
        _room(owns, dest)
    work = partial(bring, classes=wish.classes, channels=wish.channels, dest=dest)
    seen: list[Seen] = parallel(work, owns, job, f"{'importing' if dest else 'reading'} {wish.name}")
    findings += findings_of(seen, wish.classes)
    masks = Counter(one.kind for one in seen if one.kind)
    rows = tuple(_rows(seen, wish.classes))
    return Lint(tuple(owns), tuple(findings), rows, tuple(_notes(owns, rows, wish)), dict(masks))


def _room(owns: list[Own], dest: Path) -> None:
    needed = sum(path.stat().st_size for own in owns for path in (own.image, own.mask) if path)
    if needed > shutil.disk_usage(dest).free:
        raise disk_full(dest, needed)


def _rows(seen: list[Seen], classes: ClassMap) -> Iterator[dict[str, Any]]:
    """Label, name, pixels and images (in which it occurs) of each class, and of 255."""
    pixels: Counter[int] = Counter()
    images: Counter[int] = Counter()
    for one in seen:
        pixels.update(one.labels)
        images.update(one.labels.keys())
    for label, name in [*enumerate(classes.names), (IGNORE, "ignore")]:
        yield {"label": label, "class": name, "pixels": pixels[label], "images": images[label]}


def _notes(owns: list[Own], rows: tuple[dict[str, Any], ...], wish: Wish) -> Iterator[str]:
    """What is no fault, and may be one."""
    for row in rows:
        if not row["images"] and row["label"] != IGNORE:
            yield f"class {row['label']} '{row['class']}' occurs in no mask"
    labelled = [own for own in owns if own.mask]
    if not any(own.subset == "val" for own in owns):
        drawn = f"--val {wish.val}, seed {wish.seed}"
        yield f"no val folder: {_held_out(wish, labelled)} images with masks are drawn for val ({drawn})"
    if len(labelled) < len(owns):
        yield f"images without a mask, kept as unlabelled ones: {len(owns) - len(labelled)}"


def _held_out(wish: Wish, labelled: list[Own]) -> int:
    mine = sum(own.subset in ("", "train") for own in labelled)
    return min(math.ceil(wish.val * mine), max(mine - 1, 0))


def _lists(wish: Wish, owns: tuple[Own, ...], work: Path) -> dict[str, int]:
    """Write the lists and the card; ids per subset."""
    ids = {subset: [own.id for own in owns if own.subset == subset] for subset in ("train", "val", "test")}
    ids["train"] += [own.id for own in owns if own.subset == ""]
    if not ids["val"]:
        labelled = [own for own in owns if own.mask and own.subset in ("", "train")]
        ids["val"] = list(draw([own.id for own in labelled], _held_out(wish, labelled), wish.seed))
        ids["train"] = sorted(set(ids["train"]) - set(ids["val"]))
    if not ids["val"] or not ids["train"]:
        short = f"{len(ids['train'])} for train and {len(ids['val'])} for val"
        raise DataError(f"{len(owns)} images are too few: {short}", str(wish.folder), "bring more images with masks")
    counts = {subset: len(listed) for subset, listed in ids.items() if listed}
    for subset in counts:
        put(work / f"{subset}.txt", dump(ids[subset]).encode())
    names, palette = wish.classes.names, wish.classes.palette
    card = Card(name=wish.name, classes=names, palette=palette, channels=wish.channels, subsets=counts)
    put(work / CARD, card.dump().encode())
    return counts


def _placed(work: Path, final: Path, wish: Wish) -> Literal["imported", "complete"]:
    """Give the finished folder its name, unless the same one has it already."""
    if not final.exists():
        work.replace(final)
        return "imported"
    old, new = Ledger.read(final), Ledger.read(work)
    if old and new and old.digest() == new.digest() and not ledger.compare(final, old, quick=True):
        return "complete"
    if not wish.replace:
        what = f"{wish.name} is there already, and holds something else"
        raise DataError(what, str(final), "choose another --name, or add --replace to the command")
    aside = final.with_name(f".{final.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    final.replace(aside)
    work.replace(final)
    shutil.rmtree(aside)
    return "imported"


def _splits(wish: Wish, dataset: Folder, owns: tuple[Own, ...], data_root: Path) -> Iterator[str]:
    """Draw the splits asked for, and the one of all masks where some images have none; their names."""
    pool = {own.id for own in owns if own.mask} & set(dataset.ids("train"))
    end = f"-seed{wish.seed}" if wish.seed else ""
    wanted = {text.replace("/", "_") + end: amount(text) for text in wish.labeled}
    if len(pool) < len(dataset.ids("train")):
        wanted["all"] = (len(pool), None)
    for part, (count, fraction) in wanted.items():
        name = f"{wish.name}/custom/{part}"
        out = data_root / "splits" / name
        if wish.replace:
            shutil.rmtree(out, ignore_errors=True)
        if not _drawn_from(out, dataset):
            make(dataset, out, count=count, fraction=fraction, seed=wish.seed, pool=pool)
        yield name


def _drawn_from(out: Path, dataset: Folder) -> bool:
    """Whether a split that is there already holds the dataset's training ids, all of them."""
    lists = [out / f"{role}.txt" for role in ("labeled", "unlabeled")]
    if not all(path.is_file() for path in lists) or not passport_of(out):
        return False
    ids = [id for path in lists for id in path.read_text(encoding="utf-8").splitlines()]
    return sorted(ids) == list(dataset.ids("train"))
