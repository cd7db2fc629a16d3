"""Reads partitions: which images of a dataset count as labelled, from lists that must be the manifest's.

`splits/manifest.yaml` gives each list's origin, commit, path, count and digest. Another list is refused, unless it is a
user's own folder: such a partition is marked `custom`.
"""

from __future__ import annotations

import functools
import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from ssbench import paths
from ssbench.errors import DataError, UsageError, nearest
from ssbench.files import as_model, read_text, read_yaml
from ssbench.paths import quoted
from ssbench.splits import lists
from ssbench.splits.resolve import known_ids, read_list_text, resolve, unknown_error

OURS = "ours"
"""Origin of the lists drawn and shipped here."""


class _ManifestEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ListEntry(_ManifestEntry):
    """One list: `count` ids of fingerprint `fingerprint`, from `path` in the origin, whose bytes have `sha256`.

    An upstream file nobody could read has no fingerprint; it has the `git_blob` SHA-1 of its bytes, and is rebuilt as
    the pool `complement` minus the labelled list. A labelled list that upstream does not sort has the `order` digest
    of its ids as they stand in the file: which images are repeated once more than others depends on it. An unlabelled
    list without a file has no ids, or it is a whole subset of another prepared dataset (`pool`: "coco/train").
    """

    count: Annotated[int, Field(ge=0)]
    fingerprint: str | None = None
    order: str | None = None
    path: str | None = None
    sha256: str | None = None
    git_blob: str | None = None
    complement: str | None = None
    pool: str | None = None

    @property
    def has_file(self) -> bool:
        """Whether the ids stand in a list of their own."""
        return self.pool is None and (self.count > 0 or self.path is not None)


class PoolEntry(ListEntry):
    """A whole subset of a dataset (train, val, test), for leak checks; `volumes`: its ids are whole volumes."""

    origin: str
    format: str = "bare"


class SplitEntry(_ManifestEntry):
    """One split `dataset/family/part`: its two lists, where they come from, and who else publishes the same set."""

    origin: str
    format: str = "bare"
    labeled: ListEntry
    unlabeled: ListEntry
    seed: int | None = None
    also: tuple[str, ...] = Field(default=(), strict=False)
    note: str = ""


class Repository(_ManifestEntry):
    """A public repository at one commit; `licence` is what its licence file says."""

    slug: str
    commit: str
    licence: str

    def url(self, path: str, host: str) -> str:
        """Address of the raw file `path` at the pinned commit."""
        return f"{host}/{self.slug}/{self.commit}/{path}"


class CustomSplit(BaseModel):
    """`split.yaml` in a user's own split: what `ssbench splits make` writes; every line may be missing."""

    model_config = ConfigDict(frozen=True, strict=True)

    dataset: str = ""
    seed: int | None = None
    rule: str | None = None
    drawn: Annotated[str | None, BeforeValidator(lambda day: day if day is None else str(day))] = None
    labeled: ListEntry | None = None
    unlabeled: ListEntry | None = None
    group: str | None = None


class Manifest(_ManifestEntry):
    """`splits/manifest.yaml`: repositories by short name, pools by dataset and subset, splits by name."""

    version: int
    repositories: dict[str, Repository]
    pools: dict[str, dict[str, PoolEntry]]
    rule: str
    splits: dict[str, SplitEntry]


def manifest() -> Manifest:
    """The shipped manifest, read once."""
    return _read_manifest(paths.shipped("splits") / "manifest.yaml")


@functools.cache
def _read_manifest(path: Path) -> Manifest:
    kind, fix = "split manifest", "reinstall ssbench"
    return as_model(read_yaml(path, kind, fix), Manifest, str(path), kind, fix)


@dataclass(frozen=True)
class Partition:
    """The ids of one split: labelled ones in the order of their file, unlabelled ones sorted.

    `sha256` covers the order of the first list (card: views 1) and the set of the second.
    """

    name: str
    dataset: str
    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    sha256: str
    custom: bool
    other: str = ""
    """The dataset of the unlabelled images, where it is not `dataset`."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """How the lines of a user's own lists were understood, where they are not plain ids."""

    @classmethod
    def read(cls, name: str, data_root: Path) -> Partition:
        """The split `name`, every id verified.

        `name` is a published or shipped split (`voc/classic/1_16`), a split of one's own under the data root
        (`voc/custom/mine`), or a folder with `labeled.txt` and `unlabeled.txt`; the last two are `custom`.
        Raises UsageError for an unknown name; DataError for a list that is missing, or not the manifest's.
        """
        entry = manifest().splits.get(name)
        if entry is not None:
            return _published(name, entry, data_root)
        folder = split_folder(name, data_root)
        if folder is None:
            raise UsageError(
                f"no split '{name}'; {_nearest_split(name, data_root)}",
                fix="ssbench list splits   (or give a folder with labeled.txt and unlabeled.txt)",
            )
        return _custom(folder, data_root)


def dataset_of_split(name: str, data_root: Path) -> str | None:
    """The dataset of a split, or of a folder of lists; None where the name is no split's."""
    if name in manifest().splits:
        return name.partition("/")[0]
    try:
        folder = split_folder(name, data_root)
        return None if folder is None else read_custom(folder).dataset or _guessed(folder, "")
    except DataError:
        return None


def folder(name: str, data_root: Path) -> Path:
    """Where the two lists of the manifest's split `name` are stored: shipped ones in the package, others fetched."""
    shipped = manifest().splits[name].origin == OURS
    return (paths.shipped("splits") if shipped else data_root / "splits") / name


def pool_file(dataset: str, subset: str, data_root: Path) -> Path:
    """Where the id list of a whole subset is stored."""
    shipped = manifest().pools[dataset][subset].origin == OURS
    return (paths.shipped("splits") if shipped else data_root / "splits") / dataset / f"{subset}.txt"


def read_list(path: Path, entry: ListEntry, dataset: str, fix: str) -> tuple[str, ...]:
    """The canonical ids stored in `path`, in its order; they must be those of `entry`.

    Raises DataError naming the file when it is missing, damaged or another list; `fix` is the command that mends it.
    """
    ids = lists.parse(_text(path, fix), "bare", dataset, path)
    verify(ids, entry, path, fix)
    return ids


def verify(ids: tuple[str, ...], entry: ListEntry, where: str | Path, fix: str, book: str = "manifest") -> None:
    """Raise DataError unless `ids` are as many as `entry`, which stands in `book`, counts and have its fingerprint."""
    if len(ids) != entry.count:
        guess = "last line lost?" if len(ids) < entry.count else "lines added?"
        what = f"{Path(where).name} has {len(ids)} ids, {book} says {entry.count} ({guess})"
        raise DataError(what, str(where), fix)
    digest = lists.fingerprint(ids)
    if entry.fingerprint not in (None, digest):
        what = f"{Path(where).name} has {len(ids)} ids, as the {book} says, but others"
        raise DataError(f"{what}: digest {digest[:16]}, not {str(entry.fingerprint)[:16]}", str(where), fix)
    if entry.order not in (None, lists.order_digest(ids)):
        what = f"{Path(where).name} has the ids of the {book} in another order than the published file"
        raise DataError(f"{what} (older versions of ssbench sorted it)", str(where), fix)


def digest(labeled: tuple[str, ...], unlabeled: tuple[str, ...]) -> str:
    """SHA-256 (hex) of the labelled list's order digest and the unlabelled one's fingerprint, a newline between."""
    return _joined(lists.order_digest(labeled), lists.fingerprint(unlabeled))


def published_digest(entry: SplitEntry) -> str | None:
    """`Partition.sha256` of a split of the manifest, without its lists; None where upstream's bytes are not known."""
    both = entry.labeled.order or entry.labeled.fingerprint, entry.unlabeled.fingerprint
    return None if both[0] is None or both[1] is None else _joined(both[0], both[1])


def _joined(labeled: str, unlabeled: str) -> str:
    return hashlib.sha256(f"{labeled}\n{unlabeled}".encode()).hexdigest()


def restore_command(dataset: str, origin: str, data_root: Path) -> str:
    """The command that restores the lists of `dataset`."""
    if origin == OURS:
        return "these lists are shipped: reinstall ssbench, or `git checkout -- splits` in a checkout"
    return f"ssbench prepare {dataset} --data-root {quoted(data_root)}"


def _published(name: str, entry: SplitEntry, data_root: Path) -> Partition:
    dataset, fix = name.split("/")[0], restore_command(name.split("/")[0], entry.origin, data_root)
    where = folder(name, data_root)
    labeled = read_list(where / "labeled.txt", entry.labeled, dataset, fix)
    if entry.unlabeled.pool is not None:
        other, subset = entry.unlabeled.pool.split("/")
        unlabeled = _whole_subset(other, subset, entry.unlabeled, data_root)
        return Partition(name, dataset, labeled, unlabeled, digest(labeled, unlabeled), custom=False, other=other)
    if not entry.unlabeled.has_file and entry.origin != OURS:
        return Partition(name, dataset, labeled, (), digest(labeled, ()), custom=False)
    unlabeled = tuple(sorted(read_list(where / "unlabeled.txt", entry.unlabeled, dataset, fix)))
    _disjoint(labeled, unlabeled, where, fix)
    return Partition(name, dataset, labeled, unlabeled, digest(labeled, unlabeled), custom=False)


def _whole_subset(dataset: str, subset: str, entry: ListEntry, data_root: Path) -> tuple[str, ...]:
    """The ids of a subset of a prepared dataset, as many as `entry` counts."""
    path, fix = data_root / dataset / f"{subset}.txt", f"ssbench prepare {dataset} --data-root {data_root}"
    ids = tuple(sorted(lists.parse(_text(path, fix), "bare", dataset, path)))
    verify(ids, entry, path, fix)
    return ids


def own_splits(data_root: Path, dataset: str = "*") -> list[str]:
    """Names of the splits of a user's own below the data root, sorted."""
    folders = (path.parent for path in (data_root / "splits").glob(f"{dataset}/custom/*/labeled.txt"))
    return sorted("/".join(folder.parts[-3:]) for folder in folders)


def _nearest_split(name: str, data_root: Path) -> str:
    """What `name` may have meant: a split of the user's own before a published one."""
    own = own_splits(data_root)
    if get_close_matches(name, own, n=1, cutoff=0.5) or any(split.split("/")[0] == name.split("/")[0] for split in own):
        return nearest(name, [split for split in own if split.split("/")[0] == name.split("/")[0]] or own)
    return nearest(name, [*own, *manifest().splits])


def split_folder(name: str, data_root: Path) -> Path | None:
    """The folder of a split of one's own: below the data root, or the folder `name` itself; None for another name."""
    inside = data_root / "splits" / name
    try:
        if name.count("/") == 2 and name.split("/")[1] == "custom" and inside.is_dir():
            return inside
        return Path(name) if Path(name).is_dir() else None
    except (OSError, ValueError):  # a name too long for a path, or with a NUL in it
        return None


def _custom(where: Path, data_root: Path) -> Partition:
    fix = "put one id a line into labeled.txt and unlabeled.txt, or: ssbench splits make"
    stated = read_custom(where)
    dataset = stated.dataset or _guessed(where, fix)
    subsets = known_ids(data_root / dataset)
    known = frozenset[str]().union(*subsets.values())
    both, notes = [], list[str]()
    for role, entry in (("labeled", stated.labeled), ("unlabeled", stated.unlabeled)):
        ids, remarks = _own_list(where / f"{role}.txt", dataset, known, fix)
        notes += [f"{role}.txt: {note}" for note in remarks]
        if entry is not None:
            change = "restore the list, or delete split.yaml if the change is meant"
            verify(ids, entry, where / f"{role}.txt", change, "split.yaml")
        both.append(ids)
    labeled, unlabeled = both[0], tuple(sorted(both[1]))
    if not labeled:
        raise DataError("labeled.txt is empty", str(where / "labeled.txt"), fix)
    _disjoint(labeled, unlabeled, where, "remove them from one of the lists")
    name = f"{dataset}/custom/{where.resolve().name}"
    return Partition(name, dataset, labeled, unlabeled, digest(labeled, unlabeled), custom=True, notes=tuple(notes))


def _own_list(path: Path, dataset: str, known: frozenset[str], fix: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The ids of a user's own list, and notes: one a line, or what `resolve` understands, held against the dataset's.

    Without those (the dataset is not prepared) a list must have one id a line, or name images as paths do.
    """
    text = read_list_text(path, fix)
    try:
        ids = lists.parse(text, "bare", dataset, path)
    except DataError:
        if not known and dataset not in lists.IDS:
            raise
        ids = ()
    if ids and (not known or known.issuperset(ids)):
        return ids, ()
    resolved = resolve(text, known, dataset)
    if resolved.unknown:
        raise unknown_error(resolved, known, dataset, path)
    resolved.refuse_twice(path)
    return resolved.ids, resolved.notes


def read_custom(where: Path) -> CustomSplit:
    """`split.yaml` of a custom split's folder; an empty one where there is none. DataError for a damaged one."""
    path = where / "split.yaml"
    if not path.is_file():
        return CustomSplit()
    kind, fix = "split.yaml", "mend or delete it"
    return as_model(read_yaml(path, kind, fix), CustomSplit, str(path), kind, fix)


def _guessed(where: Path, fix: str) -> str:
    path = where / "labeled.txt"
    dataset = lists.guess(lists.parse(read_list_text(path, fix), "bare", "", path))
    if dataset is None:
        name_it = f"echo 'dataset: voc' > {where / 'split.yaml'}   (with the name of the dataset)"
        raise DataError("cannot tell from the ids which dataset this split is of", str(path), name_it)
    return dataset


def _text(path: Path, fix: str) -> str:
    if not path.is_file():
        raise DataError(f"{path.name} is not there", str(path), fix)
    return read_text(path, f"list {path.name}", fix)


def _disjoint(labeled: tuple[str, ...], unlabeled: tuple[str, ...], where: Path, fix: str) -> None:
    both = sorted(set(labeled) & set(unlabeled))
    if both:
        what = f"{len(both)} ids are labelled and unlabelled at once, first '{both[0]}'"
        raise DataError(what, str(where), fix)


def custom_splits(dataset: str, data_root: Path) -> tuple[Partition, ...]:
    """The readable custom splits of a dataset, fewest labelled images first; a damaged one is left out."""
    partitions = []
    for name in own_splits(data_root, dataset):
        with suppress(DataError):
            partitions.append(Partition.read(name, data_root))
    return tuple(sorted(partitions, key=lambda partition: (len(partition.labeled), partition.name)))
