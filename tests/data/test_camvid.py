from __future__ import annotations

import filecmp
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.data.camvid import CamVid
from ssbench.errors import DataError, UsageError
from ssbench.prepare.prepare import PrepareReport, check, prepare


@pytest.fixture(scope="module")
def whole(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, PrepareReport]:
    """All of CamVid, prepared from the folder of JPEGs."""
    root = tmp_path_factory.mktemp("data")
    return root, prepare("camvid", root, shared / "camvid")


def test_the_png_form_of_the_repository(small_camvid, tmp_path):
    prepare("camvid", tmp_path, small_camvid, workers=1)
    data = CamVid(tmp_path / "camvid")
    assert data.ids("val") == ("val_000000", "val_000001")
    for id in data.ids("train"):
        assert filecmp.cmp(small_camvid / "train" / f"{id}.png", tmp_path / "camvid" / "images" / f"{id}.png", False)
        with Image.open(small_camvid / "trainannot" / f"{id}.png") as published:
            labels = np.asarray(published)
        assert np.array_equal(np.asarray(data.mask(id)), np.where(labels == 11, 255, labels))
        assert data.image(id).mode == "RGB"
    assert data.volumes("train") is None


def test_names_that_are_not_there(small_camvid, tmp_path):
    prepare("camvid", tmp_path, small_camvid, workers=1)
    data = CamVid(tmp_path / "camvid")
    with pytest.raises(UsageError, match="camvid has no subset 'validation'"):
        data.ids("validation")
    with pytest.raises(DataError, match="no image of 'x'"):
        data.image("x")
    with pytest.raises(DataError, match=r"no file x\.png"):
        data.mask("x")
    with pytest.raises(DataError, match="camvid is not prepared"):
        CamVid(tmp_path / "nowhere").ids("train")


def test_eleven_classes_and_colours():
    assert len(CamVid.classes) == len(set(CamVid.classes)) == 11
    assert len(CamVid.palette) == len(set(CamVid.palette)) == 11


@pytest.mark.real
def test_all_of_camvid(whole, shared):
    root, report = whole
    assert report.counts == {"train": 367, "val": 101, "test": 233}
    assert report.files == 2 * 701 + 3
    assert report.settings["images"] == [".jpg"]
    assert check("camvid", root) == []
    for subset in report.counts:
        listed = [Path(line.split()[0]).stem for line in (shared / "camvid" / f"{subset}.txt").read_text().splitlines()]
        assert CamVid(root / "camvid").ids(subset) == tuple(sorted(listed))


@pytest.mark.real
def test_images_are_copied_byte_for_byte(whole, shared):
    images = whole[0] / "camvid" / "images"
    names = [path.name for path in (shared / "camvid" / "test").iterdir()]
    same, different, unread = filecmp.cmpfiles(shared / "camvid" / "test", images, names, shallow=False)
    assert (len(same), different, unread) == (233, [], [])


@pytest.mark.real
def test_training_pixels_of_each_class_are_the_published_ones(whole):
    data = CamVid(whole[0] / "camvid")
    pixels = sum(np.bincount(np.asarray(data.mask(id)).ravel(), minlength=256) for id in data.ids("train"))
    assert pixels[:11].tolist() == [
        *(10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877, 405385, 184967),
    ]
    assert pixels[255] == 2503995
    assert pixels.sum() == 367 * 480 * 360
