"""Which files are opened as pictures, how large they may be, and what becomes of bands, depth and orientation."""

from __future__ import annotations

import ast
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.data.decode import MOST_PIXELS, DecodeRules, PictureError, opened, read_picture, read_upright
from ssbench.errors import DataError

PACKAGE = Path(__file__).resolve().parents[2] / "ssbench"
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8)


def png_head(path: Path, width: int, height: int) -> Path:
    """A PNG of which the header alone is there: it says how many pixels it would unpack to."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    return path


def test_a_picture_of_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has 20000 x 20000 pixels; at most 178,956,970 are read") as caught:
        read_picture(png_head(tmp_path / "bomb.png", 20_000, 20_000), DecodeRules())
    assert "cut it into tiles" in str(caught.value.__cause__.fix)  # type: ignore[union-attr]
    with opened(png_head(tmp_path / "large.png", 10_000, MOST_PIXELS // 10_000)) as image:  # no warning either
        assert image.size[0] == 10_000


def test_a_second_page_may_not_be_larger_than_the_first_said(tmp_path: Path) -> None:
    path = tmp_path / "two.tif"
    small = Image.new("L", (4, 4))
    small.save(path, save_all=True, append_images=[Image.new("L", (5, 5))])
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<HHIH", 256, 4, 1, 5)) if struct.pack("<HHIH", 256, 4, 1, 5) in data else None
    at = at if at is not None else data.index(struct.pack("<HHIHH", 256, 3, 1, 5, 0))
    data[at + 2 : at + 12] = struct.pack("<HII", 4, 1, 2_000_000_000)
    path.write_bytes(data)
    with pytest.raises(PictureError, match=r"has 2000000000 x 5 pixels"):
        read_picture(path, DecodeRules(), page=1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n", "it is a PostScript file"),
        (b"%PDF-1.7\n", "it is a PDF"),
        (b"<!DOCTYPE html><html></html>", "it is a web page: a download that failed?"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"", "it is empty"),
        (b"II*\0\x08\0\0\0\0\0", "a TIFF of a form that is not read"),
    ],
)
def test_what_is_no_picture_is_called_by_its_name(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(PictureError, match=re.escape(words)) as caught:
        read_picture(path, DecodeRules())
    assert caught.value.kind == "unreadable"


def test_every_call_that_opens_a_picture_names_the_formats_it_means() -> None:
    bare = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                bare += [] if any(word.arg == "formats" for word in node.keywords) else [f"{path.name}:{node.lineno}"]
    assert not bare, f"Image.open would hand PostScript to Ghostscript; use data.decode.opened: {bare}"


@pytest.mark.parametrize(
    ("mode", "rules", "expected"),
    [
        ("RGB", {}, PIXELS),
        ("L", {}, PIXELS[..., 0]),
        ("L", {"channels": 1}, PIXELS[..., 0]),
        ("LA", {"bands": (1,)}, PIXELS[..., 0]),
        ("RGBA", {"bands": (1, 2, 3)}, PIXELS),
        ("RGBA", {"bands": (3, 2, 1)}, PIXELS[..., ::-1]),
        ("RGBA", {"bands": (4,), "channels": 1}, 255 - PIXELS[..., 0]),
    ],
)
def test_bands_are_those_that_the_rules_name(
    mode: str, rules: dict[str, object], expected: np.ndarray, tmp_path: Path
) -> None:
    bands = {"L": PIXELS[..., 0], "LA": np.dstack([PIXELS[..., 0], 255 - PIXELS[..., 0]]), "RGB": PIXELS,
             "RGBA": np.dstack([PIXELS, 255 - PIXELS[..., 0]])}  # fmt: skip
    Image.fromarray(bands[mode]).save(tmp_path / "a.png")
    decoded = read_picture(tmp_path / "a.png", DecodeRules(**rules))  # type: ignore[arg-type]
    assert np.array_equal(np.asarray(decoded.image), expected)


@pytest.mark.parametrize(("mode", "kind", "option"), [("RGBA", "alpha", "--bands 1,2,3"), ("LA", "alpha", "--bands 1")])
def test_a_band_too_many_is_asked_about_and_an_opaque_one_dropped(
    mode: str, kind: str, option: str, tmp_path: Path
) -> None:
    image = Image.fromarray(PIXELS).convert("L" if mode == "LA" else "RGB")
    image.putalpha(255)
    image.save(tmp_path / "a.png")
    decoded = read_picture(tmp_path / "a.png", DecodeRules())
    assert (decoded.image.mode, decoded.changes) == (mode[:-1], ("an alpha channel that is opaque: dropped",))
    image.putpixel((0, 0), (0,) * (len(mode) - 1) + (254,))
    image.save(tmp_path / "a.png")
    with pytest.raises(PictureError) as caught:
        read_picture(tmp_path / "a.png", DecodeRules())
    assert (caught.value.kind, caught.value.option) == (kind, option)


def test_sixteen_bits_become_eight_by_a_rule_or_not_at_all(tmp_path: Path) -> None:
    path, values = tmp_path / "a.png", np.array([[0, 255, 256, 65535]], np.uint16)
    Image.fromarray(values).save(path)
    with pytest.raises(PictureError, match="has 16 bits a sample") as caught:
        read_picture(path, DecodeRules())
    assert caught.value.option == "--depth16 full"
    assert np.asarray(read_picture(path, DecodeRules(depth16="full")).image).tolist() == [[0, 0, 1, 255]]
    Image.fromarray(np.array([[-4.5, 0.5, 2.5]], np.float32)).save(tmp_path / "f.tif")
    assert read_picture(tmp_path / "f.tif", DecodeRules(depth16="percentile")).image.mode == "L"
    with pytest.raises(PictureError, match="whose full range is not known"):
        read_picture(tmp_path / "f.tif", DecodeRules(depth16="full"))


@pytest.mark.parametrize("way", range(1, 9))
def test_a_turned_picture_is_shown_upright(way: int, tmp_path: Path) -> None:
    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_90",
            7: "TRANSVERSE", 8: "ROTATE_270"}  # fmt: skip
    upright, exif = Image.fromarray(PIXELS), Image.Exif()
    exif[0x0112] = way
    stored = upright if way == 1 else upright.transpose(Image.Transpose[back[way]])
    for suffix in ("png", "tif"):
        stored.save(tmp_path / f"a.{suffix}", exif=exif)
        shown = read_upright(tmp_path / f"a.{suffix}", DecodeRules())
        assert np.array_equal(np.asarray(shown), PIXELS), suffix
