"""Describes splits: the catalogue of all, the passport of one, the difference of two.

Lists are read by `ssbench.splits.manifest` and drawn by `ssbench.splits.draw`.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ssbench.errors import DataError, UsageError
from ssbench.splits import lists
from ssbench.splits.draw import LabelSource
from ssbench.splits.groups import Grouping
from ssbench.splits.manifest import (
    OURS,
    Partition,
    folder,
    manifest,
    pool_file,
    read_custom,
    read_list,
    restore_command,
    split_folder,
)


def catalogue(data_root: Path | None = None) -> list[dict[str, Any]]:
    """One row per split of the manifest: name, dataset, family, part, labeled, unlabeled, repository, commit, note.

    With `data_root`, `here` says whether both lists are stored (not whether they are right).
    """
    rows = []
    for name, entry in manifest().splits.items():
        dataset, family, part = name.split("/")
        row: dict[str, Any] = {"name": name, "dataset": dataset, "family": family, "part": part}
        row |= {"labeled": entry.labeled.count, "unlabeled": entry.unlabeled.count}
        row |= {key: _origin(name).get(key) for key in ("repository", "commit")} | {"note": entry.note}
        if data_root is not None:
            where, rest = folder(name, data_root), entry.unlabeled
            files = [where / "labeled.txt"]
            if rest.pool is not None:
                files.append(data_root / f"{rest.pool}.txt")
            elif rest.has_file or entry.origin == OURS:
                files.append(where / "unlabeled.txt")
            row["here"] = all(file.is_file() for file in files)
        rows.append(row)
    return rows


def passport(name: str, data_root: Path, dataset: LabelSource | None = None) -> dict[str, Any]:
    """All that identifies the split `name` and says whether it may be used.

    Keys: name, dataset, custom, sha256, labeled and unlabeled {count, fingerprint}, origin (repository, commit, paths;
    or seed and rule), also (published files with the same labelled set), note, fine (share of labelled images with
    fine masks; voc only), classes (pixels and images of each class in the labelled masks; needs the prepared `dataset`,
    else None), namesakes (overlap of the labelled set with other splits of its size), leaks (ids also in val or test).
    Raises what `Partition.read` raises. Lists that were not fetched are named with a reason, not skipped.
    """
    split = Partition.read(name, data_root)
    page: dict[str, Any] = {
        "name": split.name,
        "dataset": split.dataset,
        "custom": split.custom,
        "sha256": split.sha256,
    }
    for role, ids in (("labeled", split.labeled), ("unlabeled", split.unlabeled)):
        page[role] = {"count": len(ids), "fingerprint": lists.fingerprint(ids)}
    entry = None if split.custom else manifest().splits[name]
    page["origin"] = _drawn_by(name, data_root) if entry is None else _origin(name)
    page["also"] = [] if entry is None else list(entry.also)
    page["note"] = "" if entry is None else entry.note
    page["fine"] = _fine(split, data_root)
    page["classes"] = None if dataset is None else histogram(dataset, split.labeled)
    page["namesakes"] = _namesakes(split, data_root)
    page["leaks"] = _leaks(split, data_root, dataset)
    return page


def diff(a: str, b: str, data_root: Path) -> dict[str, Any]:
    """How two splits of one dataset differ.

    For each role (labeled, unlabeled): a, b (counts), common (count), only_a, only_b (sorted ids).
    Raises UsageError for splits of two datasets, and what `Partition.read` raises.
    """
    first, second = Partition.read(a, data_root), Partition.read(b, data_root)
    if first.dataset != second.dataset:
        what = f"'{a}' is a split of {first.dataset}, '{b}' of {second.dataset}"
        raise UsageError(what, fix="name two of one dataset")
    page: dict[str, Any] = {"a": first.name, "b": second.name, "dataset": first.dataset}
    for role in ("labeled", "unlabeled"):
        left, right = set(getattr(first, role)), set(getattr(second, role))
        page[role] = {"a": len(left), "b": len(right), "common": len(left & right)}
        page[role] |= {"only_a": sorted(left - right), "only_b": sorted(right - left)}
    return page


def histogram(dataset: LabelSource, ids: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """Class -> pixels and images (in which it occurs), counted in the masks of `ids`; "ignore" is value 255."""
    pixels, images = np.zeros(256, np.int64), np.zeros(256, np.int64)
    for id in ids:
        counts = np.bincount(np.asarray(dataset.mask(id)).ravel(), minlength=256)
        pixels += counts
        images += counts > 0
    names = dict(enumerate(dataset.classes)) | {255: "ignore"}
    return {names[v]: {"pixels": int(pixels[v]), "images": int(images[v])} for v in names}


def _origin(name: str) -> dict[str, Any]:
    entry = manifest().splits[name]
    if entry.origin == OURS:
        return {"repository": OURS, "seed": entry.seed, "rule": manifest().rule}
    repository = manifest().repositories[entry.origin]
    paths = {"labeled": entry.labeled.path, "unlabeled": entry.unlabeled.path}
    return {"repository": repository.slug, "commit": repository.commit, "paths": paths, "licence": repository.licence}


def _drawn_by(name: str, data_root: Path) -> dict[str, Any]:
    inside = data_root / "splits" / name
    stated = read_custom(inside if inside.is_dir() else Path(name))
    return {"repository": "custom", **stated.model_dump(include={"seed", "rule", "drawn"}, exclude_none=True)}


def _fine(split: Partition, data_root: Path) -> dict[str, Any] | None:
    if "fine" not in manifest().pools.get(split.dataset, {}):
        return None
    ids, why = _pool(split.dataset, "fine", data_root)
    if ids is None:
        return {"count": None, "share": None, "why": why}
    count = len(ids & set(split.labeled))
    return {"count": count, "share": count / len(split.labeled)}


def _namesakes(split: Partition, data_root: Path) -> list[dict[str, Any]]:
    """Overlaps with splits of as many labelled images, one more or less (10582/4 became 2646 here and 2645 there)."""
    rows = []
    for name, entry in manifest().splits.items():
        if name.split("/")[0] != split.dataset or name == split.name:
            continue
        if abs(entry.labeled.count - len(split.labeled)) > 1:
            continue
        row: dict[str, Any] = {"name": name, "labeled": entry.labeled.count, "common": None}
        try:
            fix = restore_command(split.dataset, entry.origin, data_root)
            other = read_list(folder(name, data_root) / "labeled.txt", entry.labeled, split.dataset, fix)
            row["common"] = len(set(split.labeled) & set(other))
        except DataError as error:
            row["why"] = error.what
        rows.append(row)
    return rows


def _leaks(split: Partition, data_root: Path, dataset: LabelSource | None) -> dict[str, dict[str, Any]]:
    """Of each evaluation subset: its size, and the split's ids that share a unit (image, patient, group) with it."""
    folder = split_folder(split.name, data_root) if split.custom else None
    group = read_custom(folder).group if folder else None
    unit = Grouping(group).of if group else partial(lists.unit, split.dataset) if dataset is None else dataset.unit
    page: dict[str, dict[str, Any]] = {}
    used = split.labeled + split.unlabeled
    for subset in ("val", "test"):
        ids, why = _pool(split.dataset, subset, data_root, dataset)
        if ids is None and why is None:
            continue
        if ids is None:
            page[subset] = {"count": None, "shared": None, "why": why}
        else:
            held = {unit(id) for id in ids}
            shared = [id for id in used if unit(id) in held]
            page[subset] = {"count": len(ids), "shared": sorted(shared)}
    return page


def _pool(
    dataset: str, subset: str, data_root: Path, prepared: LabelSource | None = None
) -> tuple[set[str] | None, str | None]:
    """The ids of a subset, or why they are not known; (None, None) when the manifest and the data know no such list."""
    entry = manifest().pools.get(dataset, {}).get(subset)
    try:
        if entry is not None:
            fix = restore_command(dataset, entry.origin, data_root)
            return set(read_list(pool_file(dataset, subset, data_root), entry, dataset, fix)), None
        return (None, None) if prepared is None else (set(prepared.ids(subset)), None)
    except DataError as error:
        return None, error.what
    except UsageError:
        return None, None  # this dataset has no such subset
