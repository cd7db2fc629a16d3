from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench import keyed
from ssbench.data.dataset import bad_values, read_grey, read_ids, read_image, read_mask
from ssbench.errors import DataError

RGB = keyed.rng("rgb").integers(0, 256, (20, 30, 3), np.uint8)
GREY = RGB[..., 0].copy()
READERS = [read_image, read_grey, read_mask]


def saved(path: Path, array: np.ndarray, **how) -> Path:
    Image.fromarray(array).save(path, **how)
    return path


def small_grey_png(path: Path, depth: int, values: list[list[int]]) -> Path:
    """A grey PNG of few bits a sample, which Pillow itself does not write from values."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    rows = b""
    for row in values:
        bits = "".join(format(value, f"0{depth}b") for value in row).ljust((len(row) * depth + 7) // 8 * 8, "0")
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    head = len(values[0]).to_bytes(4, "big") + len(values).to_bytes(4, "big") + bytes([depth, 0, 0, 0, 0])
    parts = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)
    return path


def test_a_photograph_is_rgb(tmp_path):
    image = read_image(saved(tmp_path / "a.png", RGB))
    assert image.mode == "RGB"
    assert np.array_equal(np.asarray(image), RGB)


def test_a_grey_photograph_becomes_rgb(tmp_path):
    image = read_image(saved(tmp_path / "a.jpg", GREY))
    assert image.mode == "RGB"
    assert (np.asarray(image) == np.asarray(image)[..., :1]).all()


def test_orientation_in_exif_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    path = saved(tmp_path / "a.jpg", RGB, exif=exif)
    assert read_image(path).size == (30, 20)


def test_a_palette_mask_is_read_by_index_not_by_brightness(tmp_path):
    values = np.array([[0, 1, 15, 255]], np.uint8)
    image = Image.fromarray(values)
    image.putpalette([channel for index in range(256) for channel in (255 - index, index // 2, 7)])
    assert image.mode == "P"
    image.save(tmp_path / "a.png")
    mask = read_mask(tmp_path / "a.png")
    assert mask.mode == "L"
    assert np.array_equal(np.asarray(mask), values)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_mask_of_few_bits_is_read_by_index_too(tmp_path, bits):
    values = np.array([[0, 1, 1, 0, 1]], np.uint8)
    image = Image.fromarray(values)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.save(tmp_path / "a.png", bits=bits)
    assert np.array_equal(np.asarray(read_mask(tmp_path / "a.png")), values)


@pytest.mark.parametrize(("depth", "values"), [(1, [[0, 1]]), (2, [[0, 3, 1]]), (4, [[0, 15, 7]])])
@pytest.mark.parametrize("read", READERS)
def test_grey_of_few_bits_would_be_rescaled_so_it_is_refused(tmp_path, read, depth, values):
    path = small_grey_png(tmp_path / "few.png", depth, values)
    with pytest.raises(DataError, match=r"few\.png"):
        read(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_16_bits_are_refused_by_name(tmp_path, read, kind):
    path = tmp_path / "deep.png"
    if kind == "grey":
        Image.fromarray(GREY.astype(np.uint16) * 256).save(path)
    else:
        saved(path, RGB)
        raw = RGB.astype(">u2").tobytes()
        rows = b"".join(b"\0" + raw[i : i + 180] for i in range(0, len(raw), 180))
        data = path.read_bytes()
        head = data[:24] + bytes([16]) + data[25:29]
        idat = zlib.compress(rows)
        body = len(idat).to_bytes(4, "big") + b"IDAT" + idat + zlib.crc32(b"IDAT" + idat).to_bytes(4, "big")
        path.write_bytes(head + zlib.crc32(head[12:29]).to_bytes(4, "big") + body + data[-12:])
        with Image.open(path) as image:
            assert image.mode == "RGB", "this is why it has to be looked at"
    with pytest.raises(DataError, match=r"deep\.png has mode .*16") as caught:
        read(path)
    assert caught.value.where == str(path)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "CMYK", "F", "I", "1", "P"])
def test_odd_modes_are_no_photograph(tmp_path, mode):
    path = tmp_path / ("odd.tif" if mode in ("CMYK", "F", "I") else "odd.png")
    Image.fromarray(GREY).convert(mode).save(path)
    with pytest.raises(DataError, match=rf"{path.name} has mode '{mode}"):
        read_image(path)


def test_a_colour_picture_is_no_mask_and_no_grey_image(tmp_path):
    path = saved(tmp_path / "a.png", RGB)
    for read in (read_mask, read_grey):
        with pytest.raises(DataError, match=r"a\.png has mode 'RGB'"):
            read(path)


@pytest.mark.parametrize("kind", ["png", "jpg"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_a_file_cut_short_is_named(tmp_path, kind, share):
    path = saved(tmp_path / f"cut.{kind}", GREY)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    for read in READERS:
        with pytest.raises(DataError, match=rf"cut\.{kind}") as caught:
            read(path)
        assert caught.value.where == str(path)


def test_a_png_that_lost_nothing_but_its_end_is_named(tmp_path):
    path = saved(tmp_path / "a.png", GREY)
    path.write_bytes(path.read_bytes()[:-20])
    with Image.open(path) as image:
        image.load()  # Pillow does not mind
    with pytest.raises(DataError, match=r"a\.png cannot be read: it is cut short"):
        read_mask(path)


def test_a_png_with_a_wrong_check_sum_is_named(tmp_path):
    path = saved(tmp_path / "a.png", GREY)
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.png cannot be read"):
        read_mask(path)


def test_a_missing_file_and_a_web_page_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no file gone\.png"):
        read_image(tmp_path / "gone.png")
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(DataError, match=r"page\.png cannot be read"):
        read_image(tmp_path / "page.png")


def test_a_huge_picture_is_refused_not_unpacked(tmp_path):
    path = small_grey_png(tmp_path / "huge.png", 8, [[0]])
    head = path.read_bytes()[:16] + (30_000).to_bytes(4, "big") * 2 + path.read_bytes()[24:29]
    path.write_bytes(head + zlib.crc32(head[12:]).to_bytes(4, "big") + path.read_bytes()[33:])
    with pytest.raises(DataError, match=r"huge\.png has 30000 x 30000 pixels; at most"):
        read_image(path)


def test_ids_are_sorted_whatever_the_line_ends_and_the_last_line(tmp_path):
    (tmp_path / "train.txt").write_bytes(b"b\r\na\n\nc")
    assert read_ids(tmp_path / "train.txt", "toy") == ("a", "b", "c")


def test_an_id_twice_and_a_missing_list_are_errors(tmp_path):
    (tmp_path / "train.txt").write_text("a\nb\na\n")
    with pytest.raises(DataError, match=r"train\.txt names 'a' twice"):
        read_ids(tmp_path / "train.txt", "toy")
    with pytest.raises(DataError, match="toy is not prepared") as caught:
        read_ids(tmp_path / "val.txt", "toy")
    assert caught.value.fix == "ssbench prepare toy"


def test_values_that_are_no_label(tmp_path):
    mask = Image.fromarray(np.array([[0, 3, 4, 37, 254, 255]], np.uint8))
    assert bad_values(mask, 4) == [4, 37, 254]
    assert bad_values(mask, 255) == []


@pytest.mark.real
def test_the_palette_masks_of_voc_and_their_grey_copies_are_the_same(shared):
    home = shared / "voc2012" / "VOCdevkit" / "VOC2012"
    files = sorted((home / "SegmentationClass").glob("*.png"))
    assert len(files) == 4
    for path in files:
        mask = read_mask(path)
        assert np.array_equal(np.asarray(mask), np.asarray(read_mask(home / "SegmentationClassAug" / path.name)))
        assert bad_values(mask, 21) == []
