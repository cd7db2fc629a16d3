"""Reads a user's folder: which image goes with which mask, what each holds, and everything that is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.data.dataset import IGNORE, read_any
from ssbench.errors import DataError
from ssbench.files import shown
from ssbench.prepare.convert import put_copy, put_png
from ssbench.prepare.own_classes import ClassMap, Color

K = TypeVar("K", bound=Hashable)
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
IMAGES = ("images", "image", "imgs", "img", "JPEGImages")
MASKS = ("masks", "mask", "labels", "label", "annotations", "SegmentationClass", "gt")
SUBSETS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test",)}
"""Our name of a subset, and what its folder may be called."""
COPIED = {".jpg": "JPEG", ".png": "PNG"}
"""Files that are copied when they hold what their name says; others, and converted ones, become PNG."""
LOSSY = (".jpg", ".jpeg")
LONGEST_ID = 200  # bytes; a file system takes 255 for the name with its ending
COLOURS = 12
"""Unknown colours that are reported one by one."""


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a user's folder: its kind, where, and the details."""

    kind: str
    path: str
    detail: str

    @classmethod
    def at(cls, path: Path | None, kind: str, detail: str) -> Self:
        """A finding at a path, which is printed even where its bytes are no text."""
        return cls(kind, shown(path or ""), detail)


@dataclass(frozen=True)
class ImageMaskPair:
    """One image of a user's folder; no `mask`: an unlabelled image; `subset` is "" in an undivided folder."""

    id: str
    subset: str
    image: Path
    mask: Path | None

    def __str__(self) -> str:
        return str(self.image)  # how a pool names the item that failed


@dataclass(frozen=True)
class FolderLayout:
    """What the folders inside are called (None: one of the usual names), and what masks have behind the stem."""

    images: str | None = None
    masks: str | None = None
    mask_suffix: str = ""


@dataclass(frozen=True)
class SampleStats:
    """What a sample holds: kind of the mask ("grey", "palette", "colours"; "" without one), pixels of each value as
    stored and of each label it becomes, colours that are in no table, and what is wrong with it alone."""

    pair: ImageMaskPair
    kind: str = ""
    values: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    strange: dict[Color, int] = field(default_factory=dict)
    finding: Finding | None = None


def find_pairs(folder: Path, layout: FolderLayout, unlabeled: bool) -> tuple[list[ImageMaskPair], list[Finding]]:
    """Images and masks matched by stem, in order of id, and what is wrong: no partner, a stem twice, odd names, strays.

    The folder holds images/ and masks/, both perhaps with train/, val/ and test/ in them, or train/images/ and so on.
    An image without a mask is a finding, but for one of train where `unlabeled` keeps them. DataError when no images
    are found at all.
    """
    pairs: dict[str, ImageMaskPair] = {}
    homes = _homes(folder, layout)
    findings = list(_strays({subset: images for subset, (images, _) in homes.items()}))
    for subset, (images, masks) in homes.items():
        for pair in _matched(subset, images, masks, layout.mask_suffix, findings):
            if pair.id in pairs:
                detail = f"has the stem of {pairs[pair.id].image}: one of them must go, or train and val share an image"
                findings.append(Finding.at(pair.image, "duplicate", detail))
            elif pair.mask is None and not (unlabeled and subset in ("", "train")):
                detail = "has no mask" + ("" if subset not in ("", "train") else "; --unlabeled keeps it for training")
                findings.append(Finding.at(pair.image, "no-mask", detail))
            else:
                pairs[pair.id] = pair
    return [pairs[id] for id in sorted(pairs)], findings


def _homes(folder: Path, layout: FolderLayout) -> dict[str, tuple[Path, Path]]:
    """Subset -> its folders of images and masks."""
    image_names = IMAGES if layout.images is None else (layout.images,)
    mask_names = MASKS if layout.masks is None else (layout.masks,)
    homes = {}
    for subset, names in SUBSETS.items():
        home = _first_folder(folder, names)
        images = _first_folder(home, image_names) if home else None
        if home and images:
            homes[subset] = images, _need(home, mask_names, "masks")
    if homes:
        return homes
    images, masks = _need(folder, image_names, "images"), _need(folder, mask_names, "masks")
    for subset, names in SUBSETS.items():
        below = _first_folder(images, names)
        if below:
            homes[subset] = below, _first_folder(masks, names) or masks / below.name
    return homes or {"": (images, masks)}


def _strays(homes: dict[str, Path]) -> Iterator[Finding]:
    """What would be left out in silence: folders inside a folder of images, images beside train/ and val/."""
    divided = {home.parent for subset, home in homes.items() if subset and home.name in SUBSETS[subset]}
    for path in sorted(path for folder in {*homes.values(), *divided} for path in folder.iterdir()):
        if path in homes.values() or path.name.startswith("."):
            continue
        if path.is_dir() or (path.parent in divided and path.suffix.lower() in SUFFIXES):
            yield Finding.at(path, "stray", "is not read: only train/, val/ and test/ may divide a folder")


def _first_folder(folder: Path, names: Iterable[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _need(folder: Path, names: tuple[str, ...], what: str) -> Path:
    path = _first_folder(folder, names)
    if path is None:
        fix = f"a folder with images/ and masks/ is expected; say how they are called: --{what} NAME"
        raise DataError(f"no folder of {what} ({', '.join(names)})", str(folder), fix)
    return path


def _matched(
    subset: str, images: Path, masks: Path, mask_suffix: str, findings: list[Finding]
) -> Iterator[ImageMaskPair]:
    pictures, labels = _by_stem(images, "", findings), _by_stem(masks, mask_suffix, findings)
    if not pictures:
        raise DataError(f"no images in {images.name}", str(images), f"known are {', '.join(SUFFIXES)}")
    for id in sorted(labels.keys() - pictures.keys()):
        findings.append(Finding.at(labels[id], "no-image", f"has no image called {id}"))
    yield from (ImageMaskPair(id, subset, path, labels.get(id)) for id, path in pictures.items())


def _by_stem(folder: Path, suffix: str, findings: list[Finding]) -> dict[str, Path]:
    """Stem (without `suffix`) -> file, of the pictures in a folder, in order."""
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.stem.endswith(suffix):
            continue
        id = path.stem.removesuffix(suffix)
        if not id or id != id.strip() or not id.isprintable():  # bytes that are no UTF-8 are not printable either
            findings.append(Finding.at(path, "name", f"{id!r} cannot be an id: give the file a plain name"))
        elif len(id.encode()) > LONGEST_ID:
            findings.append(
                Finding.at(path, "name", f"is longer than {LONGEST_ID} bytes: give the file a shorter name")
            )
        elif id in files:
            findings.append(Finding.at(path, "duplicate", f"has the stem of {files[id].name}: one of them must go"))
        else:
            files[id] = path
    return files


def convert_sample(pair: ImageMaskPair, classes: ClassMap, channels: int, dest: Path | None) -> SampleStats:
    """Read `pair` and, unless something is wrong or `dest` is None, write images/<id> and masks/<id>.png below it."""
    try:
        image = _read_image(pair.image, channels)
        if pair.mask is None:
            sample, labels = SampleStats(pair), np.full(image.size[::-1], IGNORE, np.uint8)
        else:
            sample, labels = _read_labels(pair, pair.mask, classes)
    except DataError as error:
        return SampleStats(pair, finding=Finding("unreadable", error.where, error.what))
    if labels.shape != image.size[::-1]:
        turned = " (sides exchanged: is the image turned by EXIF only?)" if labels.shape == image.size else ""
        detail = f"is {image.width}x{image.height}, its mask {labels.shape[1]}x{labels.shape[0]}{turned}"
        return SampleStats(pair, finding=Finding.at(pair.image, "size", detail))
    if dest is not None and not sample.strange and all(classes.is_known(value) for value in sample.values):
        suffix = pair.image.suffix.lower().replace(".jpeg", ".jpg")
        if image.format == COPIED.get(suffix, ""):
            put_copy(pair.image, dest / "images" / f"{pair.id}{suffix}")
        else:
            put_png(dest / "images" / f"{pair.id}.png", image)
        put_png(dest / "masks" / f"{pair.id}.png", Image.fromarray(labels))
    return sample


def _read_image(path: Path, channels: int) -> Image.Image:
    """The image as RGB, or as L for one channel; an alpha channel that is opaque everywhere is dropped."""
    image = _without_opaque_alpha(read_any(path))
    if image.mode not in ("RGB", "L") or (channels == 1 and image.mode != "L"):
        expected = "an 8-bit RGB or grey image" if channels == 3 else "an 8-bit grey image (--grey was given)"
        raise DataError(f"{path.name} has mode '{image.mode}', not {expected}", str(path))
    return image


def _without_opaque_alpha(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255):
        return image.convert(image.mode[:-1])
    return image


def _read_labels(pair: ImageMaskPair, path: Path, classes: ClassMap) -> tuple[SampleStats, NDArray[np.uint8]]:
    """What the mask holds, and its labels [H, W]."""
    if path.suffix.lower() in LOSSY:
        raise DataError(f"{path.name} is a JPEG: compression blurs labels", str(path))
    image = _without_opaque_alpha(read_any(path))
    pixels: NDArray[np.uint8] = np.asarray(image)
    if image.mode == "RGB":
        labels, strange = classes.decode(pixels)
        return SampleStats(pair, "colours", labels=_histogram(labels), strange=strange), labels
    if image.mode not in ("L", "P"):
        raise DataError(f"{path.name} has mode '{image.mode}', not 8-bit grey, palette or RGB", str(path))
    labels = classes.table()[pixels]
    kind = "palette" if image.mode == "P" else "grey"
    return SampleStats(pair, kind, _histogram(pixels), _histogram(labels)), labels


def _histogram(pixels: NDArray[np.uint8]) -> dict[int, int]:
    return {value: int(n) for value, n in enumerate(np.bincount(pixels.ravel(), minlength=256)) if n}


def findings_of(samples: list[SampleStats], classes: ClassMap) -> list[Finding]:
    """The findings of each sample, then those over all masks: unknown values and colours, and 0 and 255 alone."""
    alone = [sample.finding for sample in samples if sample.finding]
    return [*alone, *_unknown_values(samples, classes), *_unknown_colours(samples, classes), *_binary(samples, classes)]


def _collected(counts: Iterable[tuple[ImageMaskPair, dict[K, int]]]) -> tuple[Counter[K], dict[K, list[Path | None]]]:
    """Pixels of each value over all masks, and the masks it occurs in."""
    pixels: Counter[K] = Counter()
    masks: dict[K, list[Path | None]] = {}
    for pair, values in counts:
        pixels.update(values)
        for value in values:
            masks.setdefault(value, []).append(pair.mask)
    return pixels, masks


def _unknown_values(samples: list[SampleStats], classes: ClassMap) -> Iterator[Finding]:
    pixels, masks = _collected(
        (s.pair, {value: n for value, n in s.values.items() if not classes.is_known(value)}) for s in samples
    )
    for value in sorted(pixels):
        detail = f"value {value} is no class: {pixels[value]} pixels in {len(masks[value])} masks; classes are "
        detail += f"0..{len(classes.names) - 1} and 255 (--map {value}=255 ignores it)"
        yield Finding.at(masks[value][0], "value", detail)


def _unknown_colours(samples: list[SampleStats], classes: ClassMap) -> Iterator[Finding]:
    pixels, masks = _collected((sample.pair, sample.strange) for sample in samples)
    if pixels and not classes.colours:
        lines = "; ".join(" ".join(map(str, colour)) for colour, _ in pixels.most_common(COLOURS))
        detail = f"is colour-coded, and the classes have no colours: write `name R G B` lines into classes.txt; {lines}"
        first = next(iter(masks.values()))[0]
        yield Finding.at(first, "colour", f"{detail} are the most frequent of {len(pixels)}")
        return
    for colour, count in pixels.most_common(COLOURS):
        detail = f"colour {' '.join(map(str, colour))} is no class: {count} pixels in {len(masks[colour])} masks"
        yield Finding.at(masks[colour][0], "colour", f"{detail} (`ignore R G B` in classes.txt ignores it)")


def _binary(samples: list[SampleStats], classes: ClassMap) -> Iterator[Finding]:
    """Masks of 0 and 255 only: 255 means "ignored" here, and was hardly meant so."""
    values = {value for sample in samples for value in sample.values}
    if values == {0, IGNORE} and IGNORE not in classes.values:
        first = next(sample.pair.mask for sample in samples if IGNORE in sample.values)
        detail = "all masks hold 0 and 255 alone, and 255 means ignored: --map 255=1 makes it class 1"
        yield Finding.at(first, "value", f"{detail} (--map 255=255 if it is to be ignored)")
