"""Reads all of a user's folder, or of an archive of one: what an import would write, and everything that is wrong."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ssbench.data.dataset import IGNORE
from ssbench.errors import DataError
from ssbench.files import disk_full
from ssbench.prepare.job import PrepareJob, parallel
from ssbench.prepare.own_checks import class_notes, conversion_notes, conversions_of, findings_of
from ssbench.prepare.own_classes import find_file, read_classmap
from ssbench.prepare.own_findings import SKIPPABLE, Finding, group_findings
from ssbench.prepare.own_layout import FolderLayout, class_folders
from ssbench.prepare.own_masks import ConvertRules
from ssbench.prepare.own_pairs import ImageMaskPair, Pages, PairSearch, find_pairs
from ssbench.prepare.own_samples import SampleStats, convert_sample
from ssbench.prepare.own_splits import DrawRules, Subsets, amount, divide, twin_notes
from ssbench.prepare.unpack import bound, is_archive, unpack
from ssbench.splits.draw import labeled_count


@dataclass(frozen=True)
class ImportOptions:
    """What to import and how.

    folder: or an archive of one. unlabeled: images without a mask stay, for training. pages: files of several pages.
    skip_bad: pairs with something wrong of their own are left out. changes: those of --map, for classes that a file
    names which is found later (in an archive). command: the command line, for lines to paste.
    """

    folder: Path
    name: str
    rules: ConvertRules
    layout: FolderLayout = field(default_factory=FolderLayout)
    draws: DrawRules = field(default_factory=DrawRules)
    unlabeled: bool = False
    pages: Pages | None = None
    skip_bad: bool = False
    replace: bool = False
    changes: tuple[str, ...] = ()
    command: str = "ssbench import FOLDER --name NAME"


@dataclass(frozen=True)
class FolderCheck:
    """What is in a folder: images with masks and without, findings, a row per class, notes, kinds of masks.

    labels: those in the mask of each image. skipped: findings of pairs that --skip-bad leaves out. conversions: what
    was converted -> ids. folder: what was read; an archive's is gone by now.
    """

    pairs: tuple[ImageMaskPair, ...]
    findings: tuple[Finding, ...]
    classes: tuple[dict[str, Any], ...]
    notes: tuple[str, ...]
    masks: dict[str, int]
    labels: dict[str, frozenset[int]] = field(default_factory=dict)
    skipped: tuple[Finding, ...] = ()
    conversions: dict[str, list[str]] = field(default_factory=dict)
    subsets: Subsets = field(default_factory=lambda: Subsets({}))
    folder: str = ""

    def json(self) -> dict[str, Any]:
        """As a JSON object: images, unlabeled (counts), masks (kind -> count), classes, notes, findings, groups."""
        return {
            "images": len(self.pairs),
            "unlabeled": sum(pair.mask is None and not pair.layers for pair in self.pairs),
            "masks": self.masks,
            "classes": list(self.classes),
            "notes": list(self.notes),
            "findings": [asdict(finding) for finding in self.findings],
            "groups": [asdict(group) for group in group_findings(self.findings)],
            "skipped": [asdict(finding) for finding in self.skipped],
        }


@contextmanager
def opened_source(options: ImportOptions, job: PrepareJob, data_root: Path | None) -> Iterator[ImportOptions]:
    """The options with the folder to read: the given one, or what the given archive unpacks to, for the block."""
    if options.folder.is_dir():
        yield _with_classes(options)
        return
    if not is_archive(options.folder):
        raise DataError(f"no folder '{options.folder}'", str(options.folder.absolute()), "check the path")
    place = tempfile.mkdtemp(prefix=f".{options.name}.unpacked.", dir=data_root)
    try:
        unpacked = Path(place) / options.folder.name.split(".")[0]
        unpack(options.folder, unpacked, bound(options.folder), bars=job.bars)
        yield _with_classes(replace(options, folder=unpacked))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def read_folder(options: ImportOptions, job: PrepareJob, dest: Path | None) -> FolderCheck:
    """Every image and mask read, and written below `dest` where one is given."""
    classes = options.rules.classes
    search = PairSearch(options.folder, options.layout, options.unlabeled, options.pages, classes.names)
    pairs = find_pairs(search)
    if dest is not None:
        paths = [path for pair in pairs for path in (pair.image, pair.mask, *(part for part, _ in pair.layers)) if path]
        needed = sum(path.stat().st_size for path in paths)
        if needed > shutil.disk_usage(dest).free:
            raise disk_full(dest, needed)
    read = partial(convert_sample, rules=options.rules, dest=dest)
    samples = parallel(read, pairs, job, f"{'importing' if dest else 'reading'} {options.name}")
    skipped: tuple[Finding, ...] = ()
    if options.skip_bad:
        search.findings, pairs, samples, skipped = _without_bad(search.findings, samples)
    findings = search.findings + findings_of(samples, options.rules)
    if not classes.is_named:
        findings.append(Finding.at(options.folder, "classes", "the classes have no names: --classes a,b,c or a file"))
    labels = {sample.pair.id: frozenset(sample.labels) - {IGNORE} for sample in samples}
    images = Counter(label for sample in samples for label in sample.labels)
    rows = tuple(_class_rows(samples, options, images))
    subsets = _subsets(options, pairs, labels, findings)
    notes = [*search.notes, *classes.notes, *conversion_notes(samples), *class_notes(classes, images)]
    empty = [row for row in rows if not row["images"] and row["label"] != IGNORE]
    notes += [f"class {row['label']} '{row['class']}' occurs in no mask" for row in empty]
    notes += [*subsets.notes, *twin_notes(subsets, pairs), *_left_notes(pairs, skipped)]
    masks = Counter(sample.kind for sample in samples if sample.kind)
    return FolderCheck(
        tuple(pairs),
        tuple(findings),
        rows,
        tuple(notes),
        dict(masks),
        labels,
        skipped,
        conversions_of(samples),
        subsets,
        str(options.folder),
    )


def _with_classes(options: ImportOptions) -> ImportOptions:
    """The options with the classes of a file inside the folder, where nobody has named them yet."""
    if options.rules.classes.is_named:
        return options
    path = find_file(class_folders(options.folder))
    if path is None:
        return options
    classes = read_classmap(str(path), options.folder, options.changes)
    return replace(options, rules=replace(options.rules, classes=classes))


def _without_bad(
    findings: list[Finding], samples: list[SampleStats]
) -> tuple[list[Finding], list[ImageMaskPair], list[SampleStats], tuple[Finding, ...]]:
    """Findings, pairs and samples without those that --skip-bad leaves out, and the findings about them."""
    bad = [s for s in samples if s.findings and all(finding.kind in SKIPPABLE for finding in s.findings)]
    skipped = [finding for finding in findings if finding.kind in SKIPPABLE]
    skipped += [finding for sample in bad for finding in sample.findings]
    ids = {sample.pair.id for sample in bad}
    kept = [sample for sample in samples if sample.pair.id not in ids]
    rest = [finding for finding in findings if finding.kind not in SKIPPABLE]
    return rest, [sample.pair for sample in kept], kept, tuple(skipped)


def _subsets(
    options: ImportOptions, pairs: Sequence[ImageMaskPair], labels: dict[str, frozenset[int]], findings: list[Finding]
) -> Subsets:
    """The subsets; that there are too few images is said only where nothing else is wrong."""
    subsets = divide(pairs, options.draws, labels)
    labeled = {pair.id for pair in pairs if pair.mask or pair.layers} & set(subsets.ids["train"])
    if findings:
        return subsets
    if not subsets.ids["val"] or not labeled:
        short = f"{len(labeled)} with masks for train and {len(subsets.ids['val'])} for val"
        what = f"{len(pairs)} images are too few: {short}"
        raise DataError(what, str(options.folder), "bring more images with masks")
    if not options.draws.group:
        for text in options.draws.labeled:
            labeled_count(*amount(text), len(labeled))
    return subsets


def _class_rows(samples: list[SampleStats], options: ImportOptions, images: Counter[int]) -> Iterator[dict[str, Any]]:
    """Label, name, pixels and images (in which it occurs) of each class, and of 255."""
    pixels: Counter[int] = Counter()
    for sample in samples:
        pixels.update(sample.labels)
    names: list[tuple[int, str]] = [*enumerate(options.rules.classes.names)]
    if not options.rules.classes.is_named:
        names = [(label, f"class{label}") for label in sorted(pixels) if label != IGNORE]
    for label, name in [*names, (IGNORE, "ignore")]:
        yield {"label": label, "class": name, "pixels": pixels[label], "images": images[label]}


def labels_seen(check: FolderCheck) -> list[int]:
    """The labels that the masks hold, without 255."""
    return [row["label"] for row in check.classes if row["label"] != IGNORE]


def _left_notes(pairs: Sequence[ImageMaskPair], skipped: Sequence[Finding]) -> Iterator[str]:
    """Images without a mask that were kept, and files that were left out."""
    unlabeled = sum(pair.mask is None and not pair.layers for pair in pairs)
    if unlabeled:
        yield f"images without a mask, kept as unlabelled ones: {unlabeled}"
    for group in group_findings(skipped):
        names = ", ".join(Path(path).name for path in group.paths)
        rest = f" and {group.count - len(group.paths)} more" if group.count > len(group.paths) else ""
        yield f"left out by --skip-bad, {group.kind}: {group.count} ({names}{rest})"
