"""Reads a mask of a user's folder: grey values, numbers, a palette, colours, or one picture for each label."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.data.dataset import IGNORE
from ssbench.data.decode import (
    DecodeRules,
    PictureError,
    load_picture,
)
from ssbench.prepare.own_classes import NAN, OTHER, TRANSPARENT, ClassMap, Color, pack
from ssbench.prepare.own_pairs import ImageMaskPair

KEPT = 400
"""Different values of a mask that are counted one by one; the most frequent ones, of more."""
Exif: TypeAlias = Literal["apply", "ignore"]
Palette: TypeAlias = Literal["colour", "index"]
Value: TypeAlias = int | float | str
"""A value of a mask: a number, or NAN."""
Labels: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class ConvertRules:
    """How pairs are converted, where there are two ways; None refuses what could be read in two.

    exif: pictures that EXIF turns, and whose mask fits both ways. nearest: values and colours between those that mean
    something become the nearest one. palette: palette masks by their colours, or by index.
    """

    classes: ClassMap
    decode: DecodeRules = DecodeRules()
    exif: Exif | None = None
    nearest: bool = False
    palette: Palette | None = None


@dataclass
class MaskContent:
    """What a mask holds: the fields of `SampleStats`, its labels [H, W], and its EXIF orientation."""

    kind: str
    labels: Labels
    values: dict[Value, int] = field(default_factory=dict)
    strange: dict[Color, int] = field(default_factory=dict)
    palette: frozenset[tuple[int, Color]] = frozenset()
    overlap: int = 0
    orientation: int = 1
    changes: tuple[str, ...] = ()


def is_settled(value: Value, rules: ConvertRules) -> bool:
    """Whether it is settled what a stored value becomes."""
    classes = rules.classes
    if OTHER in classes.words:
        return True
    if isinstance(value, str):
        return value in classes.words
    return classes.is_known(value) or (rules.nearest and bool(classes.anchors))


def read_pair_mask(pair: ImageMaskPair, rules: ConvertRules) -> MaskContent | None:
    """The mask of a pair, None where it has none. PictureError for a file that is no mask."""
    if pair.layers:
        return _merge_layers(pair, rules)
    return None if pair.mask is None else _read_mask(pair.mask, rules, pair.page or 0)


def _read_mask(path: Path, rules: ConvertRules, page: int) -> MaskContent:
    """One mask file. PictureError for what is damaged, or has a form that says nothing of labels."""
    image, raw, orientation = load_picture(path, page)
    pixels = np.asarray(image)
    if image.mode == "1":
        mask = _of_numbers(pixels.astype(np.uint8), "1-bit", rules)
        mask.changes = ("1-bit masks: values 0 and 1",)
    elif image.mode == "L":
        step = {"L;2": 85, "L;4": 17}.get(raw, 1)  # Pillow stretches them to 255
        mask = _of_numbers(pixels // np.uint8(step), "grey", rules)
        mask.changes = () if step == 1 else (f"masks of {raw[2:]} bits a pixel: their values as stored",)
    elif image.mode == "P":
        mask = _of_palette(image, pixels, rules)
    elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
        mask = _of_numbers(pixels, "numbers", rules)
        mask.changes = ("masks of 16- or 32-bit numbers: whole numbers are labels",)
    elif image.mode in ("LA", "RGB", "RGBA", "PA") and ";16" not in raw:
        mask = _of_colours(path, image.convert("RGBA") if image.mode == "PA" else image, rules)
    else:
        form = raw if ";16" in raw else image.mode
        detail = f"has mode '{form}', not grey values, numbers, a palette or RGB"
        raise PictureError("mode", path, detail)
    if image.format in ("JPEG", "MPO"):
        mask.kind = "JPEG"
    if rules.nearest and (mask.strange or set(mask.values) - set(rules.classes.anchors)):
        mask.changes = (*mask.changes, "soft edges: the nearest value (--nearest)")
    mask.orientation = orientation
    return mask


def _of_numbers(pixels: NDArray[Any], kind: str, rules: ConvertRules) -> MaskContent:
    """A mask of numbers [H, W]."""
    if pixels.dtype == np.uint8 and not rules.nearest:  # by far the most frequent
        counts = np.bincount(pixels.ravel(), minlength=256)
        values: dict[Value, int] = {value: int(n) for value, n in enumerate(counts) if n}
        return MaskContent(kind, rules.classes.table[pixels], values)
    numbers, places, counts = np.unique(pixels, return_inverse=True, return_counts=True)
    labels = np.array([_label_of(number, rules) for number in numbers.tolist()], np.uint8)
    most = np.argsort(-counts, kind="stable")[:KEPT]
    values = {_value(numbers[k].item()): int(counts[k]) for k in most}
    return MaskContent(kind, labels[places].reshape(pixels.shape), values)


def _value(number: float) -> Value:
    if number != number:  # noqa: PLR0124  not a number
        return NAN
    return int(number) if number in (float("inf"), float("-inf")) or number == int(number) else float(number)


def _label_of(number: float, rules: ConvertRules) -> int:
    """The label of a value; 255 where it has no meaning."""
    classes = rules.classes
    if number != number:  # noqa: PLR0124
        return classes.words.get(NAN, classes.words.get(OTHER, IGNORE))
    if rules.nearest:
        anchors = classes.anchors
        anchor = min(anchors, key=lambda a: (abs(a - number), a))
        return classes.values.get(anchor, anchor)
    if number in classes.anchors if OTHER in classes.words else classes.is_known(number):
        return int(classes.values.get(int(number), int(number)))
    return classes.words.get(OTHER, IGNORE)


def _of_palette(image: Image.Image, indices: Labels, rules: ConvertRules) -> MaskContent:
    """A palette mask by its colours, where the classes have colours and it uses one of them; else by index."""
    flat = image.getpalette("RGB") or []
    table = np.zeros((256, 3), np.uint8)
    table[: len(flat) // 3] = np.array(flat[: len(flat) // 3 * 3], np.uint8).reshape(-1, 3)
    used = np.unique(indices).tolist()
    colours = {index: (int(table[index][0]), int(table[index][1]), int(table[index][2])) for index in used}
    classes = rules.classes
    known = {*classes.colours, *([classes.void] if classes.void else [])}
    by_colour = rules.palette == "colour" or (rules.palette is None and bool(known & set(colours.values())))
    if not by_colour or not classes.colours:
        mask = _of_numbers(indices, "palette", rules)
        mask.palette = frozenset(colours.items()) if rules.palette is None else frozenset()
        return mask
    labels, strange = classes.decode(table[indices], rules.nearest)
    if colours.get(IGNORE) not in known:  # index 255 stands for ignored pixels whatever its colour is
        labels = np.where(indices == IGNORE, np.uint8(IGNORE), labels)
        others = {colour for index, colour in colours.items() if index != IGNORE}
        strange = {colour: n for colour, n in strange.items() if colour in others}
    changes = ("palette masks: read by their colours, as the file of classes gives them",)
    return MaskContent("palette by colour", labels, strange=strange, changes=changes)


def _of_colours(path: Path, image: Image.Image, rules: ConvertRules) -> MaskContent:
    """A mask of mode LA, RGB or RGBA."""
    pixels, classes = np.asarray(image), rules.classes
    has_alpha = image.mode in ("LA", "RGBA")
    alpha = pixels[..., -1] if has_alpha else None
    colour = pixels[..., :-1] if has_alpha else pixels
    clear = _transparent(path, colour, alpha, rules)
    if colour.shape[-1] == 1 or (not classes.colours and (colour == colour[..., :1]).all()):
        mask = _of_numbers(np.ascontiguousarray(colour[..., 0]), "grey", rules)
        if colour.shape[-1] == 3:
            mask.changes = ("RGB masks of equal bands: read as grey values",)
    else:
        labels, strange = classes.decode(np.ascontiguousarray(colour), rules.nearest)
        mask = MaskContent("colours", labels, strange=strange)
    if clear is not None and TRANSPARENT in classes.words:
        mask.labels = np.where(clear, np.uint8(classes.words[TRANSPARENT]), mask.labels)
    elif clear is not None:
        mask.changes = (*mask.changes, "transparent pixels of masks: read by their colour")
    return mask


def _transparent(path: Path, colour: Labels, alpha: Labels | None, rules: ConvertRules) -> NDArray[np.bool_] | None:
    """Where a mask is transparent; None where nowhere. PictureError where that says something that nobody has named."""
    if alpha is None or alpha.min() == 255:
        return None
    if not rules.nearest and ((alpha > 0) & (alpha < 255)).any():
        raise PictureError("alpha", path, "has soft edges: pixels that are partly transparent", "--nearest")
    clear: NDArray[np.bool_] = alpha < 128
    if TRANSPARENT in rules.classes.words:
        return clear
    wide = np.repeat(colour, 3, -1) if colour.shape[-1] == 1 else colour
    if np.intersect1d(pack(wide[clear]), pack(wide[~clear])).size:
        detail = "has transparent pixels of the same colours as others: --map transparent=255 ignores them, "
        raise PictureError("alpha", path, f"{detail}transparent=0 makes them class 0", "--map transparent=255")
    return clear


def _layer_pixels(image: Image.Image) -> NDArray[Any]:
    """The pixels of a layer: its alpha channel, where that says something, else its brightness."""
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() != (255, 255):
        return np.asarray(image.getchannel("A"))
    return np.asarray(image if image.mode in ("I", "F") or image.mode.startswith("I;") else image.convert("L"))


def _merge_layers(pair: ImageMaskPair, rules: ConvertRules) -> MaskContent:
    """One mask of the layers of an image; where layers overlap the later class of the list wins."""
    merged: Labels | None = None
    claimed: NDArray[Any] | None = None
    for path, label in pair.layers:
        image, _, _ = load_picture(path, pair.page or 0)
        pixels = _layer_pixels(image)
        if len(np.unique(pixels)) > 2 and not rules.nearest:
            detail = "is a layer of more than two values: soft edges? --nearest cuts at half"
            raise PictureError("layer", path, detail, "--nearest")
        inside = pixels > (pixels.max() / 2 if rules.nearest and pixels.max() > 1 else 0)
        if merged is None or claimed is None:
            merged, claimed = np.full(pixels.shape, pair.ground, np.uint8), np.zeros(pixels.shape, np.int32)
        if inside.shape != merged.shape:
            detail = f"is {inside.shape[1]}x{inside.shape[0]}, other layers {merged.shape[1]}x{merged.shape[0]}"
            raise PictureError("size", path, detail)
        merged[inside] = label
        claimed += inside
    assert merged is not None and claimed is not None  # noqa: S101, PT018  a pair of layers has one
    return MaskContent("layers", merged, overlap=int((claimed > 1).sum()))
