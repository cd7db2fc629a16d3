"""What an import draws: val where the folder has none, the splits asked for; and which older splits no longer fit."""

from __future__ import annotations

import math
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from ssbench.data.folder import Folder
from ssbench.errors import DataError, UsageError, first_few
from ssbench.files import read_text, sha256
from ssbench.prepare.own_pairs import ImageMaskPair
from ssbench.splits.draw import Drawn, DrawRequest, draw, draw_split, refuse_used
from ssbench.splits.groups import Grouping, guess_grouping
from ssbench.splits.manifest import own_splits, read_custom


@dataclass(frozen=True)
class DrawRules:
    """How val and the splits are drawn.

    val: share of the labelled images that becomes "val" where the folder has none. labeled: splits to draw, "1_8" or a
    count. stratify: by class. group: the pattern of what stays together; shares and counts are then of groups.
    """

    val: float = 0.2
    labeled: tuple[str, ...] = ()
    seed: int = 0
    stratify: bool = False
    group: str | None = None

    def check(self) -> None:
        """UsageError for shares, counts and patterns that cannot be."""
        if not 0 < self.val < 1:
            raise UsageError(f"--val {self.val} is no share between 0 and 1", "--val", "for instance --val 0.2")
        for text in self.labeled:
            amount(text)
        if self.group:
            Grouping(self.group)


@dataclass(frozen=True)
class Subsets:
    """Ids of each subset, and notes on how they came about."""

    ids: dict[str, list[str]]
    notes: tuple[str, ...] = field(default=())


def amount(text: str) -> tuple[int | None, Fraction | None]:
    """What "1_8", "1/8" or "50" asks for: a count, or a fraction; UsageError for anything else."""
    match = re.fullmatch(r"([1-9]\d{0,8})(?:[_/]([1-9]\d{0,8}))?", text, re.ASCII)
    if match is None:
        raise UsageError(f"--labeled {text!r} is neither a fraction nor a count", "--labeled", "1_8, or 50")
    whole, part = match.groups()
    return (int(whole), None) if part is None else (None, Fraction(int(whole), int(part)))


def divide(pairs: Sequence[ImageMaskPair], rules: DrawRules, labels: Mapping[str, Collection[int]]) -> Subsets:
    """The subsets: those of the folder, and a val drawn where it has none. `labels`: those in the mask of each id."""
    ids = {subset: [pair.id for pair in pairs if pair.subset == subset] for subset in ("train", "val", "test")}
    ids["train"] += [pair.id for pair in pairs if pair.subset == ""]
    every = [pair.id for pair in pairs]
    notes = []
    grouping = Grouping(rules.group) if rules.group else None
    if grouping and every:
        grouping.check(every)
    has_val = bool(ids["val"])
    if not has_val:
        masked = {pair.id for pair in pairs if pair.mask or pair.layers}
        drawn = _drawn_for_val([id for id in ids["train"] if id in masked], rules, labels)
        units = {grouping.of(id) for id in drawn} if grouping else set()
        together = [id for id in ids["train"] if grouping and grouping.of(id) in units and id in masked]
        ids["val"] = sorted({*drawn, *together})
        of = f" of {len(units)} groups" if grouping else ""
        shown = f"--val {rules.val}, seed {rules.seed}" + (", --stratify" if rules.stratify else "")
        notes.append(f"no val folder: {len(ids['val'])} images{of} with masks are drawn for val ({shown})")
        if grouping is None and (guess := guess_grouping(every)):
            notes.append(
                f"ids look grouped ({guess[1]} groups), and val was drawn image by image: --group '{guess[0]}' keeps "
                "each group on one side"
            )
    elif grouping:
        held = {grouping.of(id) for id in (*ids["val"], *ids["test"])}
        torn = sorted(held & {grouping.of(id) for id in ids["train"]})
        if torn:
            notes.append(f"{len(torn)} groups stand in train and in val or test, first '{torn[0]}'")
    left = set(ids["val"])
    if grouping and not has_val:  # unlabelled images of a patient in val leave training too
        units = {grouping.of(id) for id in ids["val"]}
        dropped = [id for id in ids["train"] if id not in left and grouping.of(id) in units]
        left |= set(dropped)
        if dropped:
            notes.append(f"{len(dropped)} unlabelled images of groups in val are left out of train")
    ids["train"] = sorted(set(ids["train"]) - left)
    return Subsets(ids, tuple(notes))


def twin_notes(subsets: Subsets, pairs: Sequence[ImageMaskPair]) -> Iterator[str]:
    """A note where pictures with the same bytes stand under two names, in train and in val or test.

    Only files of equal size are read again; copies that were encoded anew are not seen.
    """
    sizes: dict[tuple[int, int | None], list[ImageMaskPair]] = {}
    for pair in pairs:
        sizes.setdefault((pair.image.stat().st_size, pair.page), []).append(pair)
    trained, held = set(subsets.ids["train"]), {*subsets.ids["val"], *subsets.ids["test"]}
    twins = []
    for alike in sizes.values():
        if not any(pair.id in held for pair in alike) or not any(pair.id in trained for pair in alike):
            continue  # hashes no file where nothing could stand on both sides
        first: dict[str, str] = {}
        for pair in alike:
            if pair.id in trained:
                first.setdefault(sha256(pair.image), pair.id)
        others = ((pair.id, first.get(sha256(pair.image))) for pair in alike if pair.id in held)
        twins += [f"{twin} = {id}" for id, twin in others if twin]
    if twins:
        yield (
            f"pictures of val or test that stand in train too, byte for byte under another name: {len(twins)} "
            f"({first_few(twins)}): the score counts what was trained on; take one of each away"
        )


def _drawn_for_val(labeled: list[str], rules: DrawRules, labels: Mapping[str, Collection[int]]) -> list[str]:
    """Ids of the labelled images held out for val, rounded up; at least one image (or group) stays for training."""
    grouping = Grouping(rules.group) if rules.group else None
    units: dict[str, list[str]] = {}
    for id in labeled:
        units.setdefault(grouping.of(id) if grouping else id, []).append(id)
    strata = None
    if rules.stratify:
        strata = {unit: {label for id in members for label in labels.get(id, ())} for unit, members in units.items()}
    count = min(math.ceil(rules.val * len(units)), max(len(units) - 1, 0))
    return [id for unit in draw(units, count, rules.seed, strata) for id in units[unit]]


def plan_splits(
    dataset: Folder, rules: DrawRules, masked: Collection[str], data_root: Path, name: str, replace: bool
) -> dict[str, Drawn | None]:
    """Split name -> what is to be written; None where it is there already and fits. Nothing is written here.

    Drawn are the splits asked for, and the one of all masks where some images have none. Raises UsageError for an
    impossible count, and where lists of other ids are in the way.
    """
    train = dataset.ids("train")
    pool = set(masked) & set(train)
    end = f"-seed{rules.seed}" if rules.seed else ""
    amounts = {text.replace("/", "_") + end: amount(text) for text in rules.labeled}
    splits: dict[str, Drawn | None] = {}
    for part, (count, fraction) in amounts.items():
        request = DrawRequest(count, fraction, rules.seed, rules.stratify, pool, rules.group)
        splits[f"{name}/custom/{part}"] = draw_split(dataset, request)
    if len(pool) < len(train):
        request = DrawRequest(None, Fraction(1), rules.seed, pool=pool, group=rules.group)
        splits[f"{name}/custom/all"] = draw_split(dataset, request)
    for split in splits:
        folder = data_root / "splits" / split
        if not replace and folder.is_dir():
            if _fits(folder, train):
                splits[split] = None
            else:
                refuse_used(folder)
    return splits


def write_splits(splits: Mapping[str, Drawn | None], data_root: Path) -> None:
    """Write what `plan_splits` planned, over older lists of the same names."""
    for split, drawn in splits.items():
        if drawn is not None:
            folder = data_root / "splits" / split
            shutil.rmtree(folder, ignore_errors=True)
            drawn.write(folder)


def stale_splits(name: str, train: Collection[str], data_root: Path) -> Iterator[str]:
    """A line for each split of the dataset that names images which are no longer for training."""
    known = set(train)
    for split in own_splits(data_root, name):
        folder = data_root / "splits" / split
        try:
            texts = [read_text(folder / f"{role}.txt", "list", "") for role in ("labeled", "unlabeled")]
        except DataError:
            continue
        ids = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
        gone = [id for id in ids if id not in known]
        if gone:
            yield (
                f"split {split} no longer fits: {len(gone)} of its {len(ids)} ids are not for training now, first "
                f"'{gone[0]}'; delete {folder} and draw it again"
            )


def _fits(out: Path, train: Collection[str]) -> bool:
    """Whether a split that is there already holds the dataset's training ids, all of them."""
    paths = [out / f"{role}.txt" for role in ("labeled", "unlabeled")]
    if not all(path.is_file() for path in paths) or not read_custom(out).dataset:
        return False
    ids = [id for path in paths for id in read_text(path, f"list {path.name}", f"delete {out}").splitlines()]
    return sorted(ids) == list(train)
