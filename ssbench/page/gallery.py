"""Pictures for the page: what a baseline and the same baseline with a plug-in say of an image, as inlined files."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

SIDE = 320
"""Longest side of a picture on the page, in pixels; smaller ones are enlarged by the browser, pixel by pixel."""


@dataclass(frozen=True)
class Tile:
    """One picture. source: a data URI; alt: what it shows; photo: whether it may be smoothed when enlarged."""

    caption: str
    source: str
    width: int
    height: int
    alt: str
    photo: bool = False


@dataclass(frozen=True)
class Picture:
    """One image of the dataset. note: how far the two differ, in words."""

    id: str
    note: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Gallery:
    """A pair of runs. searched: how many images were looked through, of how many; classes: (name, colour "#rrggbb").

    missing: why there are no pictures, and commands: what to type for them; empty where there are some.
    """

    title: str
    split: str
    seed: int
    pictures: tuple[Picture, ...] = ()
    classes: tuple[tuple[str, str], ...] = ()
    searched: tuple[int, int] = (0, 0)
    missing: str = ""
    commands: tuple[str, ...] = ()


def photo_tile(caption: str, image: Image.Image, alt: str) -> Tile:
    """A photograph, at most SIDE pixels wide or high: JPEG, or PNG where that is smaller."""
    small = _fitted(image.convert("RGB"), Image.Resampling.LANCZOS)
    kinds = (("png", _bytes(small, "PNG", optimize=True)), ("jpeg", _bytes(small, "JPEG", quality=82, optimize=True)))
    kind, data = min(kinds, key=lambda pair: len(pair[1]))
    return Tile(caption, _uri(kind, data), *small.size, alt, True)


def label_tile(caption: str, image: Image.Image, alt: str) -> Tile:
    """A map of few colours: no colour that was not there, as a palette PNG."""
    small = _fitted(image.convert("RGB"), Image.Resampling.NEAREST)
    colours = small.getcolors(256)
    exact = small.quantize(len(colours), dither=Image.Dither.NONE) if colours else small
    return Tile(caption, _uri("png", _bytes(exact, "PNG", optimize=True)), *small.size, alt)


def hexes(palette: tuple[tuple[int, int, int], ...]) -> list[str]:
    """Colours as "#rrggbb"."""
    return ["#" + "".join(f"{v:02x}" for v in colour) for colour in palette]


def _fitted(image: Image.Image, how: Image.Resampling) -> Image.Image:
    factor = SIDE / max(image.size)
    if factor >= 1:
        return image
    return image.resize((max(1, round(image.width * factor)), max(1, round(image.height * factor))), how)


def _bytes(image: Image.Image, kind: str, **settings: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **settings)
    return out.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
