"""Reads and writes lists of image ids: published line formats, one canonical form of an id, a list's fingerprint.

Formats and their quirks (CRLF, no newline after the last line, tabs) are those of the published repositories
(card: datasets 8). Several repositories publish one set in several orders and formats, so lists are compared by the
fingerprint of their sorted canonical ids.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

from ssbench.errors import DataError

IDS = {
    "voc": r"\d{4}_\d{6}",
    "cityscapes": r"[a-z-]+_\d{6}_\d{6}",
    "acdc": r"patient\d{3}_frame\d{2}(?:_slice_\d+)?",  # with the slice number or, for evaluation, the whole volume
    "coco": r"\d{12}",
    "ade20k": r"ADE_(?:train|val)_\d{8}",
    "camvid": r"(?:0001TP|0006R0|0016E5|Seq05VD)_f?\d+",  # the drive and the frame
    "toy": r"[a-z]+_\d{4}",
}
"""Pattern of a canonical id, by dataset; a user's own dataset is not in here and may name its files freely."""

FORMATS = {
    "bare": "{id}",
    "voc_pair": "JPEGImages/{id}.jpg SegmentationClass/{id}.png",
    "cityscapes_image": "leftImg8bit/{subset}/{city}/{id}_leftImg8bit.png",
    "cityscapes_pair": "leftImg8bit/{subset}/{city}/{id}_leftImg8bit.png"
    " gtFine/{subset}/{city}/{id}_gtFine_labelTrainIds.png",
    "cityscapes_flat": "/images/{subset}/{id}.png\t/segmentation/{subset}/{id}_gtFine.png",
    "coco_pair": "{subset}/{id}.jpg masks/{id}.png",
    "ade20k_pair": "images/{subset}/{id}.jpg annotations/{subset}/{id}.png",
    "acdc_slice": "data/slices/{id}.h5",
    "acdc_volume": "data/{id}.h5",
}
"""One line of a list, by format name."""


def render(id: str, format: str, subset: str = "train") -> str:
    """The line that stands for `id` in a list of `format`; `subset` is the folder some formats name."""
    return FORMATS[format].format(id=id, subset=subset, city=id.split("_")[0])


def parse(text: str, format: str, dataset: str, where: str | Path) -> tuple[str, ...]:
    """Canonical ids of a list, in its own order.

    Line ends may be LF or CRLF, the last one may be missing, blank lines are skipped.
    Raises DataError (naming `where`:line) for a line of another format and for an id that stands there twice.
    """
    seen: dict[str, int] = {}
    pattern = _pattern(format, dataset)
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip():
            continue
        match = pattern.fullmatch(line.strip())
        id = match["id"] if match else ""
        subset = (match.groupdict().get("subset") if match else None) or "train"
        if match is None or render(id, format, subset) != line.strip():  # the city folder must be the id's own
            what = f"not a line of format '{format}': {line.strip()[:120]!r}"
            raise DataError(what, f"{where}:{number}", f"a line reads: {FORMATS[format]}")
        if id in seen:
            raise DataError(f"'{id}' stands here twice, first on line {seen[id]}", f"{where}:{number}", "remove one")
        seen[id] = number
    return tuple(seen)


def dump(ids: Iterable[str]) -> str:
    """The stored form of a list: canonical ids, one a line, newline after the last; nothing for no ids."""
    return "".join(f"{id}\n" for id in ids)


def fingerprint(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of the sorted ids: equal sets have equal fingerprints, whatever file they came from."""
    return order_digest(sorted(ids))


def order_digest(ids: Iterable[str]) -> str:
    """SHA-256 (hex) of the ids in their own order. Of a sorted list it is the fingerprint."""
    return hashlib.sha256(dump(ids).encode()).hexdigest()


def git_blob(data: bytes) -> str:
    """The SHA-1 (hex) under which git stores a file: all that is known of some upstream lists."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def unit(dataset: str, id: str) -> str:
    """What must not be torn apart by a split or shared with evaluation: the patient in acdc, else the image."""
    return id.split("_")[0] if dataset == "acdc" else id


def guess(ids: Iterable[str]) -> str | None:
    """The one dataset whose canonical ids all of `ids` could be, or None."""
    every = tuple(ids)
    fits = [name for name, pattern in IDS.items() if every and all(re.fullmatch(pattern, id, re.ASCII) for id in every)]
    return fits[0] if len(fits) == 1 else None


def _pattern(format: str, dataset: str) -> re.Pattern[str]:
    parts = {
        "id": f"(?P<id>{IDS.get(dataset, '.+')})",
        "subset": r"(?P<subset>[a-z0-9]+)",
        "city": r"(?P<city>[a-z-]+)",
    }
    source = re.escape(FORMATS[format]).replace(r"\{", "{").replace(r"\}", "}")
    for field, part in parts.items():
        source = source.replace(f"{{{field}}}", part, 1).replace(f"{{{field}}}", f"(?P={field})")
    return re.compile(source, re.ASCII)
