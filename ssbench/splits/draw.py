"""Draws which images count as labelled: seeded, optionally stratified by the classes present.

The lists shipped with ssbench (`camvid/ours`, `toy/ours`) and a user's own are drawn by the same function.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from ssbench import keyed
from ssbench.errors import UsageError
from ssbench.files import write_text
from ssbench.splits import lists
from ssbench.splits.groups import Grouping, guess_grouping


class LabelSource(Protocol):
    """What a draw and a passport need of a prepared dataset. Splits know no datasets: `data.Dataset` fits this."""

    name: str
    classes: tuple[str, ...]

    def ids(self, subset: str) -> tuple[str, ...]:
        """Sorted ids of a subset; UsageError for one it does not have."""

    def mask(self, id: str) -> Any:
        """H W label values of an image, as an image or an array."""

    def unit(self, id: str) -> str:
        """What a split must not tear apart: the image, its patient or group."""

    def labels_in(self, id: str) -> frozenset[int]:
        """Label values that occur in the mask of an image, without 255."""

    def unmasked(self) -> frozenset[str]:
        """Ids of images that came without a mask."""


def draw(
    ids: Iterable[str], count: int, seed: int, strata: Mapping[str, Collection[int]] | None = None
) -> tuple[str, ...]:
    """`count` of `ids`, sorted: those that come first when all are ordered by a keyed hash of (seed, id).

    Without `strata` the draws of one seed are nested (each smaller one lies in each larger one), and depend neither on
    the order of `ids` nor on any library's generator. With `strata` (id -> classes present in it) ids are taken in
    that order, rarest class first, until each class has one id, then until each has its share of the pool, then freely;
    such draws are not nested. Raises UsageError for a count that is negative or above the number of ids.
    """
    order = sorted(set(ids), key=lambda id: (keyed.key("split", seed, id), id))
    if not 0 <= count <= len(order):
        raise UsageError(f"cannot draw {count} of {len(order)} ids", fix=f"give a count from 0 to {len(order)}")
    return tuple(sorted(order[:count] if strata is None else _stratified(order, count, strata)))


def _stratified(order: list[str], count: int, strata: Mapping[str, Collection[int]]) -> set[str]:
    total = Counter(c for id in order for c in set(strata[id]))
    rarest_first = sorted(total, key=lambda c: (total[c], c))
    chosen: set[str] = set()
    for share in (0.0, count / len(order) if order else 0.0):  # one of each class, then each class's share
        for c in rarest_first:
            candidates = (id for id in order if c in strata[id] and id not in chosen)
            missing = max(1, round(share * total[c])) - sum(c in strata[id] for id in chosen)
            chosen.update(list(islice(candidates, max(0, min(missing, count - len(chosen))))))
    unchosen = (id for id in order if id not in chosen)
    return chosen | set(islice(unchosen, count - len(chosen)))


def presence(dataset: LabelSource, ids: Iterable[str]) -> dict[str, frozenset[int]]:
    """The classes (train ids, without 255) that occur in the mask of each id."""
    return {id: dataset.labels_in(id) for id in ids}


@dataclass(frozen=True)
class DrawRequest:
    """What to draw: `count`, or `fraction` in (0, 1], of the units; the seed; by class or freely; groups kept together.

    stratify reads every mask and keeps the share of images in which each class occurs. pool: ids that may become
    labelled, and that a fraction is of; all by default. group: a pattern for this draw, instead of the dataset's own.
    """

    count: int | None = None
    fraction: Fraction | float | None = None
    seed: int = 0
    stratify: bool = False
    pool: Collection[str] | None = None
    group: str | None = None


@dataclass(frozen=True)
class Drawn:
    """A split that was drawn and not written: its lists, sorted, and the content of split.yaml.

    units: (labelled, of how many): images, patients or groups.
    """

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    content: dict[str, Any]
    units: tuple[int, int]
    request: DrawRequest

    def notes(self, dataset: LabelSource) -> list[str]:
        """Groups counted, ids that look grouped, classes that no labelled mask has (their masks are read)."""
        notes, every = [], (*self.labeled, *self.unlabeled)
        if self.units[0] != len(self.labeled):
            notes.append(f"{self.units[0]} of {self.units[1]} groups are labelled: {len(self.labeled)} images")
        elif not self.request.group and dataset.unit(every[0]) == every[0] and (guess := guess_grouping(every)):
            notes.append(f"ids look grouped ({guess[1]} groups): --group '{guess[0]}' keeps each on one side")
        present = frozenset[int]().union(*presence(dataset, self.labeled).values())
        if line := missing_classes(dataset, present):
            advice = "" if self.request.stratify else "; --stratify draws so that each class that can be is there"
            notes.append(line + advice)
        return notes

    def write(self, out: Path) -> None:
        """Write `out`/labeled.txt, unlabeled.txt and split.yaml."""
        import yaml

        write_text(out / "labeled.txt", lists.dump(self.labeled))
        write_text(out / "unlabeled.txt", lists.dump(self.unlabeled))
        write_text(out / "split.yaml", yaml.safe_dump(self.content, sort_keys=False))


def draw_split(dataset: LabelSource, request: DrawRequest) -> Drawn:
    """Draw a split of `dataset`'s train ids.

    A fraction is rounded up as the published lists are (10582/16 -> 662). In acdc, and where images have groups, both
    count patients or groups, whose images stay together. Raises UsageError for an impossible count or pattern.
    """
    ids = dataset.ids("train")
    drawable = [id for id in ids if request.pool is None or id in request.pool]
    grouping = Grouping(request.group) if request.group else None
    if grouping:
        grouping.check(ids)
    units: dict[str, list[str]] = {}
    for id in drawable:
        units.setdefault(grouping.of(id) if grouping else dataset.unit(id), []).append(id)
    strata = None
    if request.stratify:
        classes = presence(dataset, drawable)
        strata = {unit: frozenset[int]().union(*(classes[id] for id in members)) for unit, members in units.items()}
    chosen = draw(units, labeled_count(request.count, request.fraction, len(units)), request.seed, strata)
    labeled = {id for unit in chosen for id in units[unit]}
    unlabeled = set(ids) - labeled
    content = {
        "dataset": dataset.name,
        "seed": request.seed,
        "rule": "stratified by class presence" if request.stratify else "first of the keyed order, nested for one seed",
        "drawn": date.today().isoformat(),
        "labeled": {"count": len(labeled), "fingerprint": lists.fingerprint(labeled)},
        "unlabeled": {"count": len(unlabeled), "fingerprint": lists.fingerprint(unlabeled)},
    }
    if request.group:
        content["group"] = request.group
    return Drawn(tuple(sorted(labeled)), tuple(sorted(unlabeled)), content, (len(chosen), len(units)), request)


def make(
    dataset: LabelSource,
    out: Path,
    *,
    count: int | None = None,
    fraction: Fraction | float | None = None,
    seed: int = 0,
    stratify: bool = False,
    pool: Collection[str] | None = None,
    group: str | None = None,
) -> dict[str, Any]:
    """Draw a new split (`draw_split`) into the folder `out`. Returns the content of split.yaml.

    Raises UsageError for an impossible count, and for an `out` in use.
    """
    refuse_used(out)
    drawn = draw_split(dataset, DrawRequest(count, fraction, seed, stratify, pool, group))
    drawn.write(out)
    return drawn.content


def refuse_used(out: Path) -> None:
    """UsageError for a folder that holds lists."""
    if any((out / f"{role}.txt").exists() for role in ("labeled", "unlabeled")):
        raise UsageError("there are lists in that folder already", str(out), "choose another folder, or remove it")


def labeled_count(count: int | None, fraction: Fraction | float | None, total: int) -> int:
    """How many of `total` a count or a fraction (rounded up) asks for; UsageError unless it is 1 to `total`."""
    if (count is None) == (fraction is None):
        raise UsageError("a split needs either a count or a fraction", fix="for instance --fraction 1/16")
    if fraction is not None:
        if not 0 < fraction <= 1:
            raise UsageError(f"the fraction {fraction} is not above 0 and at most 1", fix="for instance 1/16")
        count = math.ceil(Fraction(fraction).limit_denominator(1_000_000) * total)
    if not 1 <= (count or 0) <= total:
        raise UsageError(f"cannot label {count} of {total}", "the number of labelled images", f"1 to {total}")
    return int(count or 0)


def missing_classes(dataset: LabelSource, labels: Iterable[int]) -> str:
    """A line that names the classes that are not in `labels`; "" where all are."""
    missing = [name for label, name in enumerate(dataset.classes) if label not in set(labels)]
    if not missing:
        return ""
    names = ", ".join(missing[:12]) + (f" and {len(missing) - 12} more" if len(missing) > 12 else "")
    return f"{len(missing)} of {len(dataset.classes)} classes stand in no labelled mask: {names}"
