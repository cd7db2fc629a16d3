"""Finds the pictures of a user's folder, which are images and which are masks, and what subset each is of.

The forms that are known: images/ and masks/, both perhaps with train/, val/ and test/ in them; train/images/ and so on;
train/ beside train_masks/; images and masks side by side, told apart by the end of their names (00.jpg, 00_mask.png).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from ssbench.data.decode import SUFFIXES
from ssbench.errors import DataError
from ssbench.prepare.own_findings import Finding

IMAGES = ("images", "image", "imgs", "img", "JPEGImages", "leftImg8bit", "photos", "Images", "rgb")
MASKS = ("masks", "mask", "labels", "label", "annotations", "SegmentationClass", "gt", "gtFine", "Masks", "labelsTr")
SUBSETS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Our name of a subset, and what its folder may be called."""
ENDS = ("mask", "masks", "label", "labels", "gt", "seg", "segmentation", "annotation", "groundtruth", "ground_truth")
"""Words that a mask's name may have behind its image's, where both are in one folder."""
LONGEST_ID = 200  # bytes; a file system takes 255 for the name with its ending
DEEPEST = 12  # folders within folders


@dataclass(frozen=True)
class FolderLayout:
    """What the folders inside are called (None: one of the usual names), and what images and masks have behind what
    they share. layers: the masks are one 0/255 picture for each image and label, with the label in the name."""

    images: str | None = None
    masks: str | None = None
    mask_suffix: str = ""
    image_suffix: str = ""
    layers: bool = False


@dataclass(frozen=True)
class SubsetFolder:
    """Where one subset is ("" in an undivided folder): images and masks, which are one folder when side by side."""

    subset: str
    images: Path
    masks: Path
    layout: FolderLayout

    @property
    def is_mixed(self) -> bool:
        """Whether images and masks lie in one folder."""
        return self.images == self.masks


def find_subsets(folder: Path, layout: FolderLayout) -> tuple[list[SubsetFolder], list[str]]:
    """The subset folders of `folder`, and notes on what was recognised. DataError when there are no images at all."""
    folder = _innermost(folder)
    homes = _divided(folder, layout) or _inside_images(folder, layout) or _beside(folder, layout)
    if homes:
        return homes, []
    return _side_by_side(folder, layout)


def class_folders(folder: Path) -> list[Path]:
    """Where a file of classes may be: the folder, the one folder in it, its subset folders."""
    inner = _innermost(folder)
    subsets = [inner / name for names in SUBSETS.values() for name in names if (inner / name).is_dir()]
    return list(dict.fromkeys((folder, inner, *subsets)))


def _innermost(folder: Path) -> Path:
    """`folder`, or the one folder in it where it holds nothing else: archives often add such a level."""
    for _ in range(4):
        entries = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        known = {name for names in (IMAGES, MASKS, *SUBSETS.values()) for name in names}
        if len(entries) != 1 or not entries[0].is_dir() or entries[0].name in known:
            break
        folder = entries[0]
    return folder


def _divided(folder: Path, layout: FolderLayout) -> list[SubsetFolder]:
    """train/images and train/masks, and so on."""
    homes = []
    for subset, names in SUBSETS.items():
        home = _first_folder(folder, names)
        images = _first_folder(home, _names(layout.images, IMAGES)) if home else None
        if home and images:
            homes.append(SubsetFolder(subset, images, _need(home, _names(layout.masks, MASKS), "masks"), layout))
    return homes


def _inside_images(folder: Path, layout: FolderLayout) -> list[SubsetFolder]:
    """images/ and masks/, with subsets in them or not."""
    images = _first_folder(folder, _names(layout.images, IMAGES))
    if images is None:
        return []
    masks = _first_folder(folder, _names(layout.masks, MASKS))
    if masks is None and layout.masks is None and _mask_end(_stems(images), layout):
        masks = images  # both in one folder
    masks = masks or _need(folder, _names(layout.masks, MASKS), "masks")
    homes = []
    for subset, names in SUBSETS.items():
        below = _first_folder(images, names)
        if below:
            beside = _first_folder(masks, names) or masks / below.name
            homes.append(SubsetFolder(subset, below, beside, _with_end(below, masks == images, layout)))
    return homes or [SubsetFolder("", images, masks, _with_end(images, masks == images, layout))]


def _beside(folder: Path, layout: FolderLayout) -> list[SubsetFolder]:
    """train/ beside train_masks/ (or train_labels/), images_train/ beside masks_train/."""
    homes = []
    for subset, names in SUBSETS.items():
        for name in names:
            images = _first_folder(folder, (f"{name}_images", f"images_{name}", name))
            ends = _names(layout.masks, MASKS)
            masks = _first_folder(
                folder, [t for end in ends for t in (f"{name}_{end}", f"{end}_{name}", f"{name}{end}")]
            )
            if images and masks:
                homes.append(SubsetFolder(subset, images, masks, layout))
                break
    return homes


def _side_by_side(folder: Path, layout: FolderLayout) -> tuple[list[SubsetFolder], list[str]]:
    """Images and masks in one folder, or in one a subset."""
    places = {subset: _first_folder(folder, names) for subset, names in SUBSETS.items()}
    divided = {subset: home for subset, home in places.items() if home and next(walk_pictures(home), None)}
    homes = divided or {"": folder}
    stems = {stem for home in homes.values() for stem in _stems(home)}
    end = layout.mask_suffix or _mask_end(stems, layout)
    if not end or not any(stem.endswith(end) for stem in stems):
        _need(folder, _names(layout.images, IMAGES), "images")
    used = replace(layout, mask_suffix=end)
    notes = [] if layout.mask_suffix else [f"images and masks lie side by side: masks end with {end} (--mask-suffix)"]
    return [SubsetFolder(subset, home, home, used) for subset, home in homes.items()], notes


def _with_end(folder: Path, is_mixed: bool, layout: FolderLayout) -> FolderLayout:
    """`layout` with the end of the masks' names, where they lie among the images."""
    return replace(layout, mask_suffix=layout.mask_suffix or _mask_end(_stems(folder), layout)) if is_mixed else layout


def _mask_end(stems: Iterable[str], layout: FolderLayout) -> str:
    """The end that tells masks from images in one folder: every stem with it has a partner without; "" for none."""
    if layout.mask_suffix:
        return layout.mask_suffix
    known = set(stems)
    for sign in "_-.":
        for word in ENDS:
            ended = [stem for stem in known if stem.endswith(sign + word)]
            if ended and 2 * sum(stem.removesuffix(sign + word) in known for stem in ended) > len(ended):
                return sign + word
    return ""


def _stems(folder: Path) -> set[str]:
    return {id for id, _ in walk_pictures(folder)}


def walk_pictures(folder: Path, below: str = "", depth: int = 0) -> Iterator[tuple[str, Path]]:
    """(path below `folder` without its ending, in composed Unicode; the file) of every picture, in order of name."""
    if not folder.is_dir():
        return
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            continue
        path = Path(entry.path)
        if entry.is_dir():
            if depth < DEEPEST:  # a link to a folder above would never end
                yield from walk_pictures(path, f"{below}{entry.name}/", depth + 1)
        elif path.suffix.lower() in SUFFIXES:
            yield unicodedata.normalize("NFC", f"{below}{path.stem}"), path


def collect(
    folder: Path, end: str, findings: list[Finding], skip: str = "", within: set[str] | None = None
) -> dict[str, Path]:
    """Id (without `end`) -> file of the pictures in a folder whose names end with `end`.

    skip: names with this end belong to the other side. within: names of folders that are not gone into.
    """
    files: dict[str, Path] = {}
    for stem, path in walk_pictures(folder):
        if (end and not stem.endswith(end)) or (skip and stem.endswith(skip)):
            continue
        if within and stem.split("/")[0] in within and "/" in stem:
            continue
        id = stem[: len(stem) - len(end)]
        parts = id.split("/")
        if not all(part and part == part.strip() and part.isprintable() for part in parts):  # bytes that are no UTF-8
            findings.append(Finding.at(path, "name", f"{id!r} cannot be an id: give the file a plain name"))
        elif max(len(part.encode()) for part in parts) > LONGEST_ID:
            detail = f"is longer than {LONGEST_ID} bytes: give the file a shorter name"
            findings.append(Finding.at(path, "name", detail))
        elif id in files:
            detail = f"has the stem of {files[id].name}: one of them must go"
            findings.append(Finding.at(path, "duplicate", detail))
        else:
            files[id] = path
    return files


def strays(homes: list[SubsetFolder]) -> Iterator[Finding]:
    """What would be left out in silence: images and folders beside train/ and val/."""
    divided = {h.images.parent for h in homes if h.subset and h.images.name in SUBSETS[h.subset]}
    known = {path for home in homes for path in (home.images, home.masks)}
    parents = {path.parent for path in known}
    for path in sorted(path for folder in divided for path in folder.iterdir()):
        if path in known or path in parents or path.name.startswith((".", "__MACOSX")) or path.parent in known:
            continue
        bare = re.sub(r"[_-]?(train|val|valid|test)(ing|idation)?[_-]?", "", path.name)
        is_images = path.is_dir() and next(walk_pictures(path), None) and bare not in MASKS
        if is_images or path.suffix.lower() in SUFFIXES:
            yield Finding.at(path, "stray", "is not read: beside train/, val/ and test/ no other folder is")


def _names(given: str | None, usual: tuple[str, ...]) -> tuple[str, ...]:
    return usual if given is None else (given,)


def _first_folder(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _need(folder: Path, names: tuple[str, ...], what: str) -> Path:
    path = _first_folder(folder, names)
    if path is None:
        fix = f"a folder with images/ and masks/ is expected; say how they are called: --{what} NAME"
        raise DataError(f"no folder of {what} ({', '.join(names)})", str(folder), fix)
    return path
