"""Opens picture files: only the formats the suite reads, of bounded size; and turns what cameras and tools write into
8-bit RGB or grey by stated rules.

Pillow tries every format it knows, whatever a file is called: a PostScript file named .png is handed to Ghostscript.
So every picture is opened by `opened`, which names the formats. `read_picture` is for pictures that people bring (an
import, `ssbench predict`); prepared data have one form already, and `ssbench.data.dataset` reads them.
"""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image

from ssbench.errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM")
"""Pillow's names of the formats that are opened; MPO, of some cameras, is opened as JPEG."""
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm")
MOST_PIXELS = 178_956_970
"""Pixels of the largest picture: where Pillow itself refuses. Decoded as RGB it takes half a gigabyte."""
Image.MAX_IMAGE_PIXELS = None  # `opened` counts instead: Pillow would warn at half of this, a line for each picture
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for a file that is damaged or no picture."""
ORIENTATION = 0x0112
"""The EXIF tag that says how a picture is to be turned."""
LOW, HIGH = 1.0, 99.0  # ours: percentiles of the "percentile" rule
Depth16: TypeAlias = Literal["full", "percentile"]


@dataclass(frozen=True)
class DecodeRules:
    """How pictures of many forms become 8-bit ones.

    channels: 3 gives RGB, 1 grey. bands: which bands of a picture of several to take, counted from 1; () takes three,
    and refuses a picture of four. depth16: "full" keeps the high byte of each 16-bit sample; "percentile" stretches
    each picture from its 1st to its 99th percentile; None refuses such pictures.
    """

    channels: Literal[1, 3] = 3
    bands: tuple[int, ...] = ()
    depth16: Depth16 | None = None


@dataclass(frozen=True)
class Decoded:
    """A picture of mode RGB or L as it is stored; what was changed, in a few words each; its EXIF orientation, 1 to 8.

    `format`: Pillow's name of the file's format, when the file's pixels are these very ones, else "".
    """

    image: Image.Image
    changes: tuple[str, ...]
    orientation: int
    format: str


class PictureError(DataError):
    """A picture that is not read as it is. kind: unreadable, alpha, bands, depth, mode; option: what would mend it."""

    def __init__(self, kind: str, path: Path, detail: str, option: str = "") -> None:
        super().__init__(f"{path.name} {detail}", str(path), f"add {option}" if option else "save it in another form")
        self.kind, self.detail, self.option = kind, detail, option


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The picture in `path`, opened and not yet decoded.

    Raises:
        DataError: from here or from the block: no such file, no picture of `FORMATS`, damaged, or too many pixels.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            refuse_bomb(path, image.size)
            yield image
    except FileNotFoundError:
        raise DataError(f"no file {path.name}", str(path), "ssbench prepare DATASET --check names all") from None
    except DAMAGE as error:
        what = f"{path.name} cannot be read: {_described(path) or error}"
        raise DataError(what, str(path), "fetch the file again; ssbench prepare DATASET --check names all") from error


def refuse_bomb(path: Path, size: tuple[int, int]) -> None:
    """DataError for a picture of more than MOST_PIXELS: its header alone says so, before a byte of it is decoded."""
    if size[0] * size[1] > MOST_PIXELS:
        what = f"{path.name} has {size[0]} x {size[1]} pixels; at most {MOST_PIXELS:,} are read"
        raise DataError(what, str(path), "cut it into tiles, or scale it down")


def has_end(file: int) -> bool:
    """True when a PNG has its last chunk: Pillow reads one that lost its end, check sums and all, without a word."""
    return b"IEND\xaeB`\x82" in os.pread(file, 1024, max(0, os.fstat(file).st_size - 1024))


def raw_mode(image: Image.Image) -> str:
    """The form of the samples in the file, before Pillow changed it: "RGB;16B", "L;4"."""
    tiles = getattr(image, "tile", [])
    return ",".join(str(tile[3][0] if isinstance(tile[3], tuple) and tile[3] else tile[3]) for tile in tiles)


def load_page(image: Image.Image, path: Path, page: int) -> str:
    """Decode page `page` of an opened file in place; its `raw_mode`."""
    if page:
        image.seek(page)
        refuse_bomb(path, image.size)
    raw = raw_mode(image)
    file = getattr(image, "fp", None)
    if image.format == "PNG" and file and not has_end(file.fileno()):
        raise OSError("it is cut short")
    image.load()
    return raw


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation of a decoded picture; 1 where none is given. Pillow turns TIFFs itself, so they have 1."""
    try:
        value = image.getexif().get(ORIENTATION, 1) if image.format != "TIFF" else 1
    except DAMAGE:  # of the EXIF block alone: the picture itself is decoded
        return 1
    return value if value in range(1, 9) else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as a viewer shows it, given the orientation of its file."""
    ways = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270",
            7: "TRANSVERSE", 8: "ROTATE_90"}  # fmt: skip
    return image.transpose(Image.Transpose[ways[orientation]]) if orientation in ways else image


def load_picture(path: Path, page: int = 0) -> tuple[Image.Image, str, int]:
    """Page `page` of the picture in `path` decoded, its `raw_mode` and its EXIF orientation.

    Pillow's warnings of odd metadata are left out: the pixels are checked here, and a folder may have thousands.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with opened(path) as image:
                return image, load_page(image, path, page), orientation_of(image)
    except DataError as error:
        raise PictureError("unreadable", path, error.what.removeprefix(f"{path.name} ")) from error


def read_picture(path: Path, rules: DecodeRules, page: int = 0) -> Decoded:
    """Page `page` of the picture in `path` by `rules`, not yet turned.

    Raises:
        PictureError: it is damaged, or the rules do not say how to read it.
    """
    image, raw, orientation = load_picture(path, page)
    plain, changes = _eight_bits(path, image, raw, rules)
    plain, changes = _chosen_bands(path, plain, changes, rules)
    if rules.channels == 1 and plain.mode != "L":
        plain, changes = _grey(path, plain, changes)
    return Decoded(plain, changes, orientation, str(image.format) if not changes and page == 0 else "")


def read_upright(path: Path, rules: DecodeRules) -> Image.Image:
    """The picture in `path` by `rules`, turned as every viewer shows it."""
    decoded = read_picture(path, rules)
    return turned(decoded.image, decoded.orientation)


def _eight_bits(path: Path, image: Image.Image, raw: str, rules: DecodeRules) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture with 8 bits a sample; its bands are those of the file."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16") or ";16" in raw:
        return _scaled(path, image, raw, rules)
    if image.mode == "1":
        return image.convert("L"), ("1-bit pictures: 0 and 255",)
    if image.mode == "P":
        mode = "RGBA" if "transparency" in image.info else "RGB"
        return image.convert(mode), (f"palette pictures: converted to {mode}",)
    if image.mode in ("CMYK", "YCbCr") and not (rules.bands and max(rules.bands) > 3):
        return image.convert("RGB"), (f"{image.mode}: converted to RGB",)
    if image.mode == "PA":
        return image.convert("RGBA"), ("palette pictures: converted to RGBA",)
    if image.mode not in ("L", "RGB", "LA", "RGBA", "RGBX", "CMYK"):
        raise PictureError("mode", path, f"has mode '{image.mode}', not an 8-bit RGB or grey image")
    return image, ()


def _scaled(path: Path, image: Image.Image, raw: str, rules: DecodeRules) -> tuple[Image.Image, tuple[str, ...]]:
    """A picture of more than 8 bits a sample by the rule that was chosen."""
    form = image.mode if image.mode in ("I", "F") else "16 bits a sample"
    form = {"I": "32-bit whole numbers", "F": "32-bit floats"}.get(form, form)
    if rules.depth16 is None:
        detail = f"has {form}, and 8 are read: --depth16 full keeps the high byte, --depth16 percentile stretches"
        option = "--depth16 percentile" if image.mode in ("I", "F") else "--depth16 full"
        raise PictureError("depth", path, f"{detail} each picture from its 1st to its 99th percentile", option)
    if image.mode in ("RGB", "RGBA", "RGBX", "LA", "L"):  # Pillow keeps the high byte of each sample itself
        if rules.depth16 == "percentile":
            detail = "has several bands of 16 bits, of which the high byte alone is read"
            raise PictureError("depth", path, detail, "--depth16 full")
        return image, ("16 bits a sample: the high byte (--depth16 full)",)
    values: np.ndarray[Any, Any] = np.asarray(image)
    if rules.depth16 == "full":
        if image.mode == "F" or (values.size and (values.min() < 0 or values.max() > 65535)):
            detail = f"has {form} beyond 0 to 65535, whose full range is not known"
            raise PictureError("depth", path, detail, "--depth16 percentile")
        return Image.fromarray((values.astype(np.int64) >> 8).astype(np.uint8)), (
            "16 bits a sample: the high byte (--depth16 full)",
        )
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise PictureError("depth", path, "has samples that are no finite numbers")
    low, high = np.percentile(values, (LOW, HIGH))
    stretched = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    change = f"{form}: the 1st to 99th percentile of each picture (--depth16 percentile)"
    return Image.fromarray(stretched.clip(0, 255).round().astype(np.uint8)), (change,)


def _chosen_bands(
    path: Path, image: Image.Image, changes: tuple[str, ...], rules: DecodeRules
) -> tuple[Image.Image, tuple[str, ...]]:
    """The bands of `rules`; without any, a picture without its alpha channel where that is opaque everywhere."""
    count = len(image.getbands())
    if count == 1 or (count == 3 and rules.bands in ((), (1, 2, 3))):
        return image, changes
    if rules.bands:
        if max(rules.bands) > count:
            detail = f"has {count} bands, and --bands names band {max(rules.bands)}"
            raise PictureError("bands", path, detail, "--bands " + ",".join(map(str, range(1, min(count, 3) + 1))))
        pixels = np.asarray(image)[..., [band - 1 for band in rules.bands]]
        pixels = pixels[..., 0] if len(rules.bands) == 1 else pixels
        chosen = ",".join(map(str, rules.bands))
        return Image.fromarray(np.ascontiguousarray(pixels)), (*changes, f"{count} bands: bands {chosen} (--bands)")
    grey = image.mode == "LA"
    if image.mode in ("LA", "RGBA") and image.getchannel("A").getextrema() == (255, 255):
        return image.convert("L" if grey else "RGB"), (*changes, "an alpha channel that is opaque: dropped")
    if image.mode in ("LA", "RGBA"):
        detail = "has an alpha channel that is not opaque, or a further band that looks like one"
        raise PictureError("alpha", path, detail, "--bands 1" if grey else "--bands 1,2,3")
    raise PictureError("bands", path, f"has {count} bands, and three are read", "--bands 1,2,3")


def _grey(path: Path, image: Image.Image, changes: tuple[str, ...]) -> tuple[Image.Image, tuple[str, ...]]:
    """A colour picture as a grey one, where its three bands are equal."""
    pixels = np.asarray(image)
    if (pixels == pixels[..., :1]).all():
        return Image.fromarray(np.ascontiguousarray(pixels[..., 0])), (*changes, "RGB of equal bands: one band kept")
    raise PictureError("mode", path, f"has mode '{image.mode}', not an 8-bit grey image (--grey was given)")


_HEADS = (
    (b"%!PS", "it is a PostScript file"),
    (b"%PDF", "it is a PDF"),
    (b"version https://git-lfs", "it is a Git LFS pointer, not the picture: run `git lfs pull`"),
    (b"PK\x03\x04", "it is a zip archive"),
    (b"II*\0", "it is a TIFF of a form that is not read (number of bands, bits a sample)"),
    (b"MM\0*", "it is a TIFF of a form that is not read (number of bands, bits a sample)"),
)


def _described(path: Path) -> str:
    """What a file is that Pillow does not know, by its first bytes; "" where that does not tell."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""
    if not head:
        return "it is empty"
    if head.lstrip()[:15].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page: a download that failed?"
    try:
        with Image.open(path, formats=FORMATS):
            return ""  # known, so the library's own words are about the damage
    except DAMAGE:
        return next((words for magic, words in _HEADS if head.startswith(magic)), "")
