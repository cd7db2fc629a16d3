"""Reads one image of a user's folder and its mask, brings both into the prepared form, and says what the mask holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from ssbench.data.dataset import IGNORE
from ssbench.data.decode import Decoded, PictureError, read_picture, turned
from ssbench.prepare.convert import put_copy, put_png
from ssbench.prepare.own_classes import Color
from ssbench.prepare.own_findings import Finding
from ssbench.prepare.own_masks import ConvertRules, Labels, MaskContent, Value, is_settled, read_pair_mask
from ssbench.prepare.own_pairs import ImageMaskPair

COPIED = {".jpg": "JPEG", ".png": "PNG"}
"""Files that are copied when they hold what their name says; others, and converted ones, become PNG."""


@dataclass(frozen=True)
class SampleStats:
    """What a sample holds: kind of the mask ("grey", "palette", "colours", ...; "" without one), pixels of each value
    as stored and of each label it becomes, colours that are in no table, the colour of each index of a palette that was
    read by index, pixels that several layers claim, what was converted, and what is wrong with it alone."""

    pair: ImageMaskPair
    kind: str = ""
    values: dict[Value, int] = field(default_factory=dict)
    labels: dict[int, int] = field(default_factory=dict)
    strange: dict[Color, int] = field(default_factory=dict)
    palette: frozenset[tuple[int, Color]] = frozenset()
    overlap: int = 0
    changes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()


def convert_sample(pair: ImageMaskPair, rules: ConvertRules, dest: Path | None) -> SampleStats:
    """Read `pair` and, unless something is wrong or `dest` is None, write images/<id> and masks/<id>.png below it."""
    findings: list[Finding] = []
    image = mask = None
    try:
        image = read_picture(pair.image, rules.decode, pair.page or 0)
    except PictureError as error:
        findings.append(Finding(error.kind, error.where, error.detail, error.option))
    try:
        mask = read_pair_mask(pair, rules)
    except PictureError as error:
        findings.append(Finding(error.kind, error.where, error.detail, error.option))
    if mask is not None and mask.kind == "JPEG" and not rules.nearest and pair.mask is not None:
        findings.append(Finding.at(pair.mask, "lossy", "is a JPEG: compression blurs labels", "--nearest"))
    changes: tuple[str, ...] = ()
    copied = ""
    if image is not None:
        picture, labels, copied, changes, finding = _fitted(pair, image, mask, rules)
        findings += [finding] if finding else []
    if image is not None and dest is not None and not findings:
        if mask is None:  # it has none, or there would be a finding
            labels = np.full(picture.size[::-1], IGNORE, np.uint8)
        if mask is None or (not mask.strange and all(is_settled(value, rules) for value in mask.values)):
            _write(pair, picture, labels, copied, dest)
    if mask is None:
        return SampleStats(pair, findings=tuple(findings), changes=changes)
    counted = {value: int(n) for value, n in enumerate(np.bincount(mask.labels.ravel(), minlength=256)) if n}
    return SampleStats(
        pair, mask.kind, mask.values, counted, mask.strange, mask.palette, mask.overlap,
        (*changes, *mask.changes), tuple(findings),
    )  # fmt: skip


def _write(pair: ImageMaskPair, picture: Image.Image, labels: Labels, copied: str, dest: Path) -> None:
    suffix = pair.image.suffix.lower().replace(".jpeg", ".jpg")
    if copied and copied == COPIED.get(suffix, ""):
        put_copy(pair.image, dest / "images" / f"{pair.id}{suffix}")
    else:
        put_png(dest / "images" / f"{pair.id}.png", picture)
    put_png(dest / "masks" / f"{pair.id}.png", Image.fromarray(np.ascontiguousarray(labels)))


def _fitted(
    pair: ImageMaskPair, image: Decoded, mask: MaskContent | None, rules: ConvertRules
) -> tuple[Image.Image, Labels, str, tuple[str, ...], Finding | None]:
    """Picture and labels turned so that they fit, the format where the file may be copied, changes, what is wrong."""
    way, picture = image.orientation, image.image
    upright = turned(picture, way)
    labels = mask.labels if mask else np.zeros(0, np.uint8)
    if mask is None and way == 1:
        return picture, labels, image.format, image.changes, None
    if mask is None:
        return upright, labels, "", (*image.changes, "EXIF orientation: applied"), None
    both = Image.fromarray(labels)
    if mask.orientation != 1 and (mask.orientation == way or rules.exif):
        apply = mask.orientation == way or rules.exif == "apply"
        labels = np.asarray(turned(both, mask.orientation)) if apply else labels
        both = Image.fromarray(labels)
        picture, upright = (upright, upright) if apply else (picture, picture)
        changes = (*image.changes, f"EXIF orientation: {'applied' if apply else 'ignored'} (image and mask)")
        return picture, labels, "" if apply else image.format, changes, _size_finding(pair, picture, both)
    if way == 1 and mask.orientation == 1:
        return picture, labels, image.format, image.changes, _size_finding(pair, picture, both)
    as_stored, as_shown = picture.size == both.size, upright.size == both.size
    if as_stored and as_shown and rules.exif is None:
        detail = "EXIF turns it and its mask fits both ways: --exif apply where masks were drawn on the picture as "
        detail += "viewers show it, --exif ignore where on the stored pixels"
        return picture, labels, "", (), Finding.at(pair.image, "exif", detail, "--exif apply")
    if as_shown and not (as_stored and rules.exif == "ignore"):
        return upright, labels, "", (*image.changes, "EXIF orientation: applied, the mask fits so"), None
    if as_stored:
        changes = (*image.changes, "EXIF orientation: ignored, the mask fits the stored pixels")
        return picture, labels, image.format, changes, None
    return picture, labels, "", (), _size_finding(pair, picture, both)


def _size_finding(pair: ImageMaskPair, picture: Image.Image, mask: Image.Image) -> Finding | None:
    if picture.size == mask.size:
        return None
    turn = " (sides exchanged: is the image turned by EXIF only?)" if mask.size == picture.size[::-1] else ""
    detail = f"is {picture.width}x{picture.height}, its mask {mask.width}x{mask.height}{turn}"
    return Finding.at(pair.image, "size", detail)
