"""One image and mask of a user's folder, read, judged and brought into the prepared form; the findings over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.data.dataset import IGNORE, read_any
from ssbench.errors import DataError
from ssbench.prepare.files import put_copy, put_png
from ssbench.prepare.own_classes import ClassMap, Color
from ssbench.prepare.own_pairs import Finding, Own

AS_THEY_ARE = {".jpg": "JPEG", ".png": "PNG"}
"""Files that are copied when they hold what their name says; others, and converted ones, become PNG."""
LOSSY = (".jpg", ".jpeg")
COLOURS = 12


@dataclass(frozen=True)
class Seen:
    """What a sample holds: kind of the mask ("grey", "palette", "colours"; "" without one), pixels of each value as
    stored and of each label it ends as, colours that are in no table, and what is wrong with it alone."""

    own: Own
    kind: str = ""
    values: dict[int, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    strange: dict[Color, int] = field(default_factory=dict)
    finding: Finding | None = None


def bring(own: Own, classes: ClassMap, channels: int, dest: Path | None) -> Seen:
    """Read `own` and, unless something is wrong or `dest` is None, write images/<id> and masks/<id>.png below it."""
    try:
        image = _image(own.image, channels)
        if own.mask is None:
            seen, labels = Seen(own), np.full(image.size[::-1], IGNORE, np.uint8)
        else:
            seen, labels = _mask(own, own.mask, classes)
    except DataError as error:
        return Seen(own, finding=Finding("unreadable", error.where, error.what))
    if labels.shape != image.size[::-1]:
        return Seen(own, finding=_sizes(own, labels.shape, image.size))
    if dest is not None and not seen.strange and all(classes.known(value) for value in seen.values):
        _write(own, image, dest)
        put_png(dest / "masks" / f"{own.id}.png", Image.fromarray(labels))
    return seen


def findings_of(seen: list[Seen], classes: ClassMap) -> list[Finding]:
    """The findings of each sample, then those over all masks: unknown values and colours, and 0 and 255 alone."""
    alone = [one.finding for one in seen if one.finding]
    return [*alone, *_unknown_values(seen, classes), *_unknown_colours(seen, classes), *_binary(seen, classes)]


def _image(path: Path, channels: int) -> Image.Image:
    """The image as RGB, or as L for one channel; an alpha channel that is opaque everywhere is dropped."""
    image = _opaque(read_any(path))
    if image.mode not in ("RGB", "L") or (channels == 1 and image.mode != "L"):
        wanted = "an 8-bit RGB or grey image" if channels == 3 else "an 8-bit grey image (--grey was given)"
        raise DataError(f"{path.name} has mode '{image.mode}', not {wanted}", str(path))
    return image


def _opaque(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA") and image.getchannel("A").getextrema() == (255, 255):
        return image.convert(image.mode[:-1])
    return image


def _write(own: Own, image: Image.Image, dest: Path) -> None:
    """The user's own file where the loaders read it as it is, else a PNG of what was read."""
    suffix = own.image.suffix.lower().replace(".jpeg", ".jpg")
    if image.format == AS_THEY_ARE.get(suffix, ""):
        put_copy(own.image, dest / "images" / f"{own.id}{suffix}")
    else:
        put_png(dest / "images" / f"{own.id}.png", image)


def _mask(own: Own, path: Path, classes: ClassMap) -> tuple[Seen, NDArray[np.uint8]]:
    """What the mask holds, and its labels [H, W]."""
    if path.suffix.lower() in LOSSY:
        raise DataError(f"{path.name} is a JPEG: compression blurs labels", str(path))
    image = _opaque(read_any(path))
    pixels: NDArray[np.uint8] = np.asarray(image)
    if image.mode == "RGB":
        labels, strange = classes.decode(pixels)
        return Seen(own, "colours", labels=_counted(labels), strange=strange), labels
    if image.mode not in ("L", "P"):
        raise DataError(f"{path.name} has mode '{image.mode}', not 8-bit grey, palette or RGB", str(path))
    labels = classes.table()[pixels]
    kind = "palette" if image.mode == "P" else "grey"
    return Seen(own, kind, _counted(pixels), _counted(labels)), labels


def _counted(pixels: NDArray[np.uint8]) -> dict[int, int]:
    return {value: int(n) for value, n in enumerate(np.bincount(pixels.ravel(), minlength=256)) if n}


def _sizes(own: Own, mask: tuple[int, ...], image: tuple[int, int]) -> Finding:
    turned = " (sides exchanged: is the image turned by EXIF only?)" if mask == image else ""
    detail = f"is {image[0]}x{image[1]}, its mask {mask[1]}x{mask[0]}{turned}"
    return Finding("size", str(own.image), detail)


def _unknown_values(seen: list[Seen], classes: ClassMap) -> Iterator[Finding]:
    pixels: Counter[int] = Counter()
    where: dict[int, list[Own]] = {}
    for one in seen:
        for value, count in one.values.items():
            if not classes.known(value):
                pixels[value] += count
                where.setdefault(value, []).append(one.own)
    for value in sorted(pixels):
        detail = f"value {value} is no class: {pixels[value]} pixels in {len(where[value])} masks; classes are "
        detail += f"0..{len(classes.names) - 1} and 255 (--map {value}=255 ignores it)"
        yield Finding("value", str(where[value][0].mask), detail)


def _unknown_colours(seen: list[Seen], classes: ClassMap) -> Iterator[Finding]:
    pixels: Counter[Color] = Counter()
    where: dict[Color, list[Own]] = {}
    for one in seen:
        pixels.update(one.strange)
        for colour in one.strange:
            where.setdefault(colour, []).append(one.own)
    if not pixels:
        return
    if not classes.colours:
        first = next(iter(where.values()))[0].mask
        lines = "; ".join(" ".join(map(str, colour)) for colour, _ in pixels.most_common(COLOURS))
        detail = f"is colour-coded, and the classes have no colours: write `name R G B` lines into classes.txt; {lines}"
        yield Finding("colour", str(first), f"{detail} are the most frequent of {len(pixels)}")
        return
    for colour, count in pixels.most_common(COLOURS):
        detail = f"colour {' '.join(map(str, colour))} is no class: {count} pixels in {len(where[colour])} masks"
        yield Finding("colour", str(where[colour][0].mask), f"{detail} (`ignore R G B` in classes.txt ignores it)")


def _binary(seen: list[Seen], classes: ClassMap) -> Iterator[Finding]:
    """Masks of 0 and 255 only: 255 is "ignored" here, and was hardly meant so."""
    values = {value for one in seen for value in one.values}
    if values == {0, IGNORE} and IGNORE not in classes.values:
        first = next(one.own.mask for one in seen if IGNORE in one.values)
        detail = "all masks hold 0 and 255 alone, and 255 means ignored: --map 255=1 makes it class 1"
        yield Finding("value", str(first), f"{detail} (--map 255=255 if it is to be ignored)")
