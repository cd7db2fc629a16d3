from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.errors import DataError
from ssbench.prepare.convert import is_intact, put_copy, put_list, put_png, put_tiff


def test_a_picture_cut_short_is_not_intact(tmp_path: Path) -> None:
    for path in (tmp_path / "a.png", tmp_path / "a.jpg"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
        assert is_intact(path)
        path.write_bytes(path.read_bytes()[:-3])
        assert not is_intact(path)
    assert not is_intact(tmp_path / "gone.png")
    (tmp_path / "empty.txt").touch()
    assert not is_intact(tmp_path / "empty.txt")


def test_a_float_picture_comes_back_bit_for_bit(tmp_path: Path) -> None:
    values = np.linspace(0, 1, 63, dtype=np.float32).reshape(7, 9)
    put_tiff(tmp_path / "a.tif", Image.fromarray(values))
    with Image.open(tmp_path / "a.tif") as image:
        assert image.mode == "F"
        assert np.array_equal(np.asarray(image), values)


def test_a_copy_is_made_again_only_when_it_is_not_there_whole(tmp_path: Path) -> None:
    put_png(tmp_path / "a.png", Image.new("L", (9, 9)))
    put_copy(tmp_path / "a.png", tmp_path / "b.png")
    there = (tmp_path / "b.png").stat().st_ino
    put_copy(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_ino == there
    (tmp_path / "b.png").write_bytes(b"cut")
    put_copy(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    with pytest.raises(DataError, match=r"no file gone\.png"):
        put_copy(tmp_path / "gone.png", tmp_path / "c.png")


def test_a_list_is_sorted_whatever_it_is_made_of(tmp_path: Path) -> None:
    put_list(tmp_path / "train.txt", {f"{n:04d}" for n in range(50)})
    assert (tmp_path / "train.txt").read_text().split() == [f"{n:04d}" for n in range(50)]
