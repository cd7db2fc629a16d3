from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssbench.errors import DataError
from ssbench.splits import lists

DATASET_OF = {
    "voc_pair": "voc",
    "cityscapes_image": "cityscapes",
    "cityscapes_pair": "cityscapes",
    "cityscapes_flat": "cityscapes",
    "coco_pair": "coco",
    "ade20k_pair": "ade20k",
    "acdc_slice": "acdc",
    "acdc_volume": "acdc",
}
ROUND_TRIPS = [*DATASET_OF.items(), *(("bare", dataset) for dataset in lists.IDS)]


@pytest.mark.parametrize(
    ("format", "dataset", "line", "id"),
    [
        ("bare", "voc", "2007_000032", "2007_000032"),
        ("voc_pair", "voc", "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png", "2007_000032"),
        ("cityscapes_image", "cityscapes", "leftImg8bit/val/ulm/ulm_000000_000019_leftImg8bit.png",
         "ulm_000000_000019"),
        ("cityscapes_flat", "cityscapes", "/images/train/ulm_000000_000019.png\t/segmentation/train/"
         "ulm_000000_000019_gtFine.png", "ulm_000000_000019"),
        ("cityscapes_pair", "cityscapes", "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png gtFine/train/ulm/"
         "ulm_000000_000019_gtFine_labelTrainIds.png", "ulm_000000_000019"),
        ("coco_pair", "coco", "train2017/000000177254.jpg masks/000000177254.png", "000000177254"),
        ("ade20k_pair", "ade20k", "images/training/ADE_train_00001609.jpg annotations/training/ADE_train_00001609.png",
         "ADE_train_00001609"),
        ("acdc_slice", "acdc", "data/slices/patient099_frame01_slice_1.h5", "patient099_frame01_slice_1"),
        ("acdc_volume", "acdc", "data/patient028_frame02.h5", "patient028_frame02"),
        ("bare", "camvid", "0006R0_f00930", "0006R0_f00930"),
        ("bare", "toy", "train_0319", "train_0319"),
        ("bare", "mine", "a picture of mine (2)", "a picture of mine (2)"),
    ],
)  # fmt: skip
def test_a_line_of_each_format(format: str, dataset: str, line: str, id: str) -> None:
    assert lists.parse(line, format, dataset, "f.txt") == (id,)


@given(data=st.data())
@pytest.mark.parametrize(("format", "dataset"), ROUND_TRIPS)
def test_normalising_a_rendered_list_gives_its_ids_back(format: str, dataset: str, data: st.DataObject) -> None:
    pattern = re.compile(lists.IDS[dataset], re.ASCII)
    ids = data.draw(st.lists(st.from_regex(pattern, fullmatch=True), unique=True, max_size=6))
    subset = data.draw(st.sampled_from(["train", "val", "train2017"]))
    end = data.draw(st.sampled_from(["\n", "\r\n", "\n\n", " \n"]))
    text = end.join(lists.render(id, format, subset) for id in ids) + data.draw(st.sampled_from(["", end]))
    assert lists.parse(text, format, dataset, "f.txt") == tuple(ids)


@given(st.lists(st.from_regex(re.compile(lists.IDS["voc"], re.ASCII), fullmatch=True), unique=True))
def test_the_stored_form_keeps_the_order_and_the_fingerprint_forgets_it(ids: list[str]) -> None:
    text = lists.dump(ids)
    assert lists.parse(text, "bare", "voc", "f.txt") == tuple(ids)
    assert hashlib.sha256(text.encode()).hexdigest() == lists.order_digest(ids)
    assert lists.order_digest(sorted(ids)) == lists.fingerprint(ids) == lists.fingerprint(ids[::-1])


@pytest.mark.parametrize(
    ("format", "dataset", "line"),
    [
        ("bare", "voc", "JPEGImages/2007_000032.jpg SegmentationClass/2007_000032.png"),
        ("bare", "voc", "2007_00003"),
        ("bare", "voc", "２００７_000032"),
        ("bare", "coco", "177254"),
        ("voc_pair", "voc", "2007_000032"),
        ("voc_pair", "voc", "JPEGImages/2007_000032.jpg SegmentationClass/2007_000033.png"),
        ("cityscapes_image", "cityscapes", "leftImg8bit/train/ulm/bonn_000000_000019_leftImg8bit.png"),
        ("cityscapes_flat", "cityscapes", "/images/train/a_000000_000019.png\t/segmentation/val/"
         "a_000000_000019_gtFine.png"),
        ("acdc_volume", "acdc", "data/slices/patient099_frame01_slice_1.h5"),
    ],
)  # fmt: skip
def test_a_line_of_another_format_is_refused_with_its_place(format: str, dataset: str, line: str) -> None:
    with pytest.raises(DataError) as caught:
        lists.parse(f"\n{line}\n", format, dataset, "some/labeled.txt")
    assert caught.value.where == "some/labeled.txt:2"
    assert format in caught.value.what
    assert lists.FORMATS[format] in caught.value.fix


def test_an_id_that_stands_twice_is_refused_with_both_places() -> None:
    with pytest.raises(DataError, match="'2007_000032' stands here twice, first on line 1") as caught:
        lists.parse("2007_000032\n2007_000033\r\n\n2007_000032", "bare", "voc", "l.txt")
    assert caught.value.where == "l.txt:4"


def test_a_byte_order_mark_is_not_part_of_the_first_id() -> None:
    assert lists.parse("\ufeff2007_000032\n", "bare", "voc", "f") == ("2007_000032",)


def test_no_ids_have_the_fingerprint_of_an_empty_file() -> None:
    assert lists.fingerprint([]) == hashlib.sha256(b"").hexdigest()


def test_git_blob_is_gits_own_hash() -> None:
    assert lists.git_blob(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # git's empty blob
    assert lists.git_blob(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # Pro Git, section 10.2


def test_ids_tell_their_dataset_where_only_one_fits() -> None:
    assert lists.guess(["2007_000032"]) == "voc"
    assert lists.guess(["0016E5_00390", "0006R0_f00930"]) == "camvid"
    assert lists.guess(["train_0001"]) == "toy"
    assert lists.guess(["patient001_frame01_slice_3"]) == "acdc"
    assert lists.guess(["2007_000032", "000000000139"]) is None
    assert lists.guess([]) is None


def test_acdc_is_split_by_patient_the_others_by_image() -> None:
    assert lists.unit("acdc", "patient099_frame02_slice_4") == "patient099"
    assert lists.unit("voc", "2007_000032") == "2007_000032"
