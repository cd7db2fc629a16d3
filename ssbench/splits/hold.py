"""Holds the lists of a split against their dataset, before anything is built: what a run could not use, or should not.

Published lists are those of the manifest, byte for byte, and have been held against their data by many. So only a
user's own lists are looked at here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ssbench.errors import DataError, UsageError, first_few
from ssbench.splits.draw import LabelSource, missing_classes
from ssbench.splits.manifest import Partition, read_custom

ALLOW = "--allow-leak, where it is meant"


def hold(split: Partition, dataset: LabelSource, folder: Path | None, allow_leak: bool = False) -> tuple[str, ...]:
    """What is to be known of a split that can be used; () where nothing is. `folder`: where its lists are.

    Raises:
        DataError: ids that the dataset does not have; images of val or test, or of their groups, among those trained on
            (unless `allow_leak`); patients of acdc on both sides; labelled images without a mask.
    """
    if not split.custom:
        return ()
    where = str(folder or split.name)
    _refuse_unknown(split, dataset, where)
    notes = [*split.notes, *_leaks(split, dataset, folder, allow_leak)]
    notes += _torn_groups(split, dataset, where, allow_leak)
    if bare := [id for id in split.labeled if id in dataset.unmasked()]:
        what = f"{len(bare)} of {len(split.labeled)} labelled images have no mask: {first_few(bare)}"
        raise DataError(what, where, "move them from labeled.txt to unlabeled.txt")
    return (*notes, *_missing_classes(split, dataset, where))


def leaked(split: Partition, dataset: LabelSource, subset: str) -> list[str]:
    """Ids of the split that share a unit (an image, a patient, a group) with a subset, in the split's order."""
    try:
        held = {dataset.unit(id) for id in dataset.ids(subset)}
    except (UsageError, DataError):  # the dataset has no such subset, or it is not here
        return []
    return [id for id in (*split.labeled, *split.unlabeled) if dataset.unit(id) in held]


def _refuse_unknown(split: Partition, dataset: LabelSource, where: str) -> None:
    known = set(dataset.ids("train"))
    for subset in ("val", "test"):
        try:
            known |= set(dataset.ids(subset))
        except (UsageError, DataError):
            continue
    unknown = [id for id in (*split.labeled, *split.unlabeled) if id not in known]
    if unknown:
        what = f"{len(unknown)} ids of {split.name} are no images of {dataset.name}: {first_few(unknown)}"
        raise DataError(what, where, f"ids of {dataset.name} look like: {first_few(sorted(known))}")


def _leaks(split: Partition, dataset: LabelSource, folder: Path | None, allow_leak: bool) -> Iterator[str]:
    for subset in ("val", "test"):
        shared = leaked(split, dataset, subset)
        if not shared:
            continue
        itself = set(shared) & set(dataset.ids(subset))
        what = f"{len(shared)} images that {split.name} trains on are in {subset}"
        what += f": {first_few(shared)}" if itself else f" by their group: {first_few(shared)}"
        if folder and read_custom(folder).drawn:
            what += f" ({subset} was drawn anew since this list was: draw the list again)"
        if not allow_leak:
            raise DataError(what, str(folder or split.name), f"take them out of the lists, or add {ALLOW}")
        yield f"{what}; allowed by --allow-leak"


def _torn_groups(split: Partition, dataset: LabelSource, where: str, allow_leak: bool) -> Iterator[str]:
    labeled = {dataset.unit(id) for id in split.labeled}
    torn = sorted({dataset.unit(id) for id in split.unlabeled} & labeled - set(split.labeled))
    if not torn:
        return
    what = f"{len(torn)} {'patients' if dataset.name == 'acdc' else 'groups'} are labelled in part: {first_few(torn)}"
    if dataset.name == "acdc" and not allow_leak:  # its published splits count patients (card: datasets 3)
        raise DataError(what, where, f"put all slices of a patient into one list, or add {ALLOW}")
    yield what


def _missing_classes(split: Partition, dataset: LabelSource, where: str) -> Iterator[str]:
    shown = {id: dataset.labels_in(id) for id in split.labeled}
    empty = [id for id, labels in shown.items() if not labels]
    if len(empty) == len(shown):
        what = f"every pixel of all {len(shown)} labelled masks is ignored (255): {first_few(empty)}"
        raise DataError(what, where, "label images that have labels")
    if empty:
        yield f"{len(empty)} of {len(shown)} labelled masks are ignored (255) everywhere: {first_few(empty)}"
    if line := missing_classes(dataset, frozenset[int]().union(*shown.values())):
        yield line
