"""A user's own folder: which image goes with which mask, in which subset, and what has no partner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ssbench.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "label", "annotations", "SegmentationClass", "gt")
SUBSETS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Our name of a subset, and what its folder may be called."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a user's folder, its place, and the details."""

    kind: str
    path: str
    detail: str


@dataclass(frozen=True)
class Own:
    """One image of a user's folder; no `mask`: an unlabelled image; `subset` is "" in an undivided folder."""

    id: str
    subset: str
    image: Path
    mask: Path | None

    def __str__(self) -> str:
        return str(self.image)  # how a pool names the item that failed


@dataclass(frozen=True)
class Layout:
    """What the folders inside are called (None: one of the usual names), and what masks have behind the stem."""

    images: str | None = None
    masks: str | None = None
    mask_suffix: str = ""


def find_pairs(folder: Path, layout: Layout, unlabeled: bool) -> tuple[list[Own], list[Finding]]:
    """Images and masks matched by stem, in order of id, and what is wrong: no partner, a stem twice, odd names, strays.

    The folder holds images/ and masks/, both perhaps with train/, val/ and test/ in them, or train/images/ and so on.
    An image without a mask is a finding, but for one of train where `unlabeled` keeps them. DataError when no images
    are found at all.
    """
    found: dict[str, Own] = {}
    homes = _homes(folder, layout)
    findings = list(_strays({subset: images for subset, (images, _) in homes.items()}))
    for subset, (images, masks) in homes.items():
        for own in _matched(subset, images, masks, layout.mask_suffix, findings):
            if own.id in found:
                detail = f"has the stem of {found[own.id].image}: one of them must go, or train and val share an image"
                findings.append(Finding("duplicate", str(own.image), detail))
            elif own.mask is None and not (unlabeled and subset in ("", "train")):
                detail = "has no mask" + ("" if subset not in ("", "train") else "; --unlabeled keeps it for training")
                findings.append(Finding("no-mask", str(own.image), detail))
            else:
                found[own.id] = own
    return [found[id] for id in sorted(found)], findings


def _homes(folder: Path, layout: Layout) -> dict[str, tuple[Path, Path]]:
    """Subset -> its folders of images and masks."""
    inside = {subset: _first(folder, names) for subset, names in SUBSETS.items()}
    homes = {}
    for subset, home in inside.items():
        images = _first(home, _names(layout.images, IMAGES)) if home else None
        if home and images:
            homes[subset] = images, _need(home, _names(layout.masks, MASKS), "masks")
    if homes:
        return homes
    images = _need(folder, _names(layout.images, IMAGES), "images")
    masks = _need(folder, _names(layout.masks, MASKS), "masks")
    for subset, names in SUBSETS.items():
        below = _first(images, names)
        if below:
            homes[subset] = below, _first(masks, names) or masks / below.name
    return homes or {"": (images, masks)}


def _strays(homes: dict[str, Path]) -> Iterator[Finding]:
    """What would be passed over in silence: folders inside a folder of images, images beside train/ and val/."""
    divided = {home.parent for subset, home in homes.items() if subset and home.name in SUBSETS[subset]}
    for path in sorted(path for folder in {*homes.values(), *divided} for path in folder.iterdir()):
        if path in homes.values() or path.name.startswith("."):
            continue
        if path.is_dir() or (path.parent in divided and path.suffix.lower() in SUFFIXES):
            yield Finding("stray", str(path), "is not read: only train/, val/ and test/ may divide a folder")


def _names(given: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    return usual if given is None else (given,)


def _first(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _need(folder: Path, names: tuple[str, ...], what: str) -> Path:
    found = _first(folder, names)
    if found is None:
        fix = f"a folder with images/ and masks/ is expected; say how they are called: --{what} NAME"
        raise DataError(f"no folder of {what} ({', '.join(names)})", str(folder), fix)
    return found


def _matched(subset: str, images: Path, masks: Path, mask_suffix: str, findings: list[Finding]) -> list[Own]:
    pictures, labels = _by_stem(images, "", findings), _by_stem(masks, mask_suffix, findings)
    if not pictures:
        raise DataError(f"no images in {images.name}", str(images), f"known are {', '.join(SUFFIXES)}")
    for id in sorted(labels.keys() - pictures.keys()):
        findings.append(Finding("no-image", str(labels[id]), f"has no image called {id}"))
    return [Own(id, subset, path, labels.get(id)) for id, path in pictures.items()]


def _by_stem(folder: Path, suffix: str, findings: list[Finding]) -> dict[str, Path]:
    """Stem (without `suffix`) -> file, of the pictures in a folder, in order."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.stem.endswith(suffix):
            continue
        id = path.stem.removesuffix(suffix)
        if not id or id != id.strip() or not id.isprintable():
            findings.append(Finding("name", str(path), f"{id!r} cannot be an id: give the file a plain name"))
        elif id in found:
            findings.append(Finding("duplicate", str(path), f"has the stem of {found[id].name}: one of them must go"))
        else:
            found[id] = path
    return found
