from __future__ import annotations

import filecmp
import hashlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.data.toy import Toy
from ssbench.data.toy_scene import CLASSES, COARSE_SHARE, IGNORE, SIDES, is_coarse, layers, scene, within
from ssbench.errors import DataError, UsageError
from ssbench.prepare.prepare import PrepareReport, check, prepare
from ssbench.prepare.toy import COUNTS
from ssbench.splits.manifest import Partition


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Toy, PrepareReport]:
    """All of the toy data, prepared once."""
    root = tmp_path_factory.mktemp("data")
    report = prepare("toy", root, workers=1)
    return Toy(root / "toy"), report


@pytest.fixture(scope="module")
def masks(whole: tuple[Toy, PrepareReport]) -> dict[str, np.ndarray]:
    toy = whole[0]
    return {id: np.asarray(toy.mask(id)) for subset in Toy.subsets for id in toy.ids(subset)}


def test_prepare_makes_all_of_it_and_the_ledger_holds(whole):
    toy, report = whole
    assert report.counts == COUNTS == {"train": 320, "val": 80, "test": 80}
    assert report.files == 2 * 480 + 4
    assert check("toy", toy.root.parent) == []
    assert [toy.ids(s)[0] for s in Toy.subsets] == ["train_0000", "val_0000", "test_0000"]


def test_a_second_preparation_has_the_same_bytes_on_any_number_of_processes(whole, tmp_path):
    toy, _ = whole
    prepare("toy", tmp_path, workers=2)
    paths = [p.relative_to(toy.root) for p in sorted(toy.root.rglob("*")) if p.is_file()]
    assert filecmp.cmpfiles(toy.root, tmp_path / "toy", [str(p) for p in paths], shallow=False)[1:] == ([], [])


def test_scenes_are_pinned():
    """Pixels before compression: they change only with the generator, not with machine or library versions."""
    pages = [scene(id, 0) for id in ("train_0000", "train_0004", "val_0000", "test_0079")]
    digest = hashlib.sha256(b"".join(page.image.tobytes() + page.mask.tobytes() for page in pages)).hexdigest()
    assert digest == "045837ac508d857e3e432515cc47dab7d14af325aa7964f7bc3dcf8eb86cdae3"


def test_a_scene_depends_on_seed_and_id_alone():
    first = scene("train_0003", 0)
    scene("val_0001", 0)
    assert np.array_equal(scene("train_0003", 0).image, first.image)
    assert (
        scene("train_0003", 1).image.shape != first.image.shape or (scene("train_0003", 1).image != first.image).any()
    )


def test_files_are_real_images_of_native_size(whole, masks):
    toy, _ = whole
    for id, mask in masks.items():
        image = toy.image(id)
        assert image.mode == "RGB"
        assert image.size == mask.shape[::-1]
        assert all(SIDES[0] <= side <= SIDES[1] for side in image.size)
    assert len({mask.shape for mask in masks.values()}) > 100
    with Image.open(toy.root / "images" / "train_0000.jpg") as image:
        assert image.format == "JPEG"
        drawn = scene("train_0000", 0).image.astype(float)
        assert np.abs(np.asarray(image) - drawn).mean() < 8


def test_masks_hold_label_values_and_show_in_the_colours_of_the_palette(whole, masks):
    toy, _ = whole
    assert toy.mask("val_0000").mode == "L"
    assert set(np.unique(np.concatenate([m.ravel() for m in masks.values()]))) == {*range(len(CLASSES)), IGNORE}
    with Image.open(toy.root / "masks" / "val_0000.png") as image:
        colours, mask = np.asarray(image.convert("RGB")), masks["val_0000"]
    for value in set(np.unique(mask)) - {IGNORE}:
        assert (colours[mask == value] == toy.palette[value]).all()
    assert len(toy.palette) == len(toy.classes) == len(set(toy.palette))


@pytest.mark.parametrize(("subset", "first"), [("train", 10), ("train", 320), ("val", 10), ("val", 80), ("test", 80)])
def test_every_class_occurs(whole, masks, subset, first):
    ids = whole[0].ids(subset)[:first]
    counts = np.bincount(np.concatenate([masks[id].ravel() for id in ids]), minlength=256)
    shares = counts[: len(CLASSES)] / counts[: len(CLASSES)].sum()
    assert 0.5 < shares[0] < 0.8
    assert shares[1:].min() > 0.02


@pytest.mark.parametrize("part", ["1_32", "1_16"])
def test_every_class_occurs_among_the_few_labelled(whole, masks, part):
    labeled = Partition.read(f"toy/ours/{part}", whole[0].root.parent).labeled
    for value in range(len(CLASSES)):
        assert sum((masks[id] == value).sum() > 50 for id in labeled) >= 3


def test_fine_masks_have_a_border_and_coarse_ones_none(whole, masks):
    toy, _ = whole
    coarse = set(toy.coarse())
    assert coarse < set(toy.ids("train"))
    assert abs(len(coarse) / COUNTS["train"] - COARSE_SHARE) < 0.05
    assert coarse == {id for id in toy.ids("train") if is_coarse(id, 0)}
    for id, mask in masks.items():
        share = (mask == IGNORE).mean()
        assert share == 0 if id in coarse else 0 < share < 0.25
    fine = [(mask == IGNORE).mean() for id, mask in masks.items() if id not in coarse]
    assert 0.04 < np.mean(fine) < 0.12


def test_two_labels_never_touch_in_a_fine_mask(masks):
    for id in ("val_0000", "val_0001", "test_0000"):
        for way in (masks[id], masks[id].T):
            for a, b in pairwise(way):
                assert ((a == b) | (a == IGNORE) | (b == IGNORE)).all()


def test_a_rough_mask_agrees_with_the_fine_one_on_most_pixels_and_not_on_all():
    for id in (f"train_{i:04d}" for i in range(20)):
        image, fine, rough = layers(id, 0)
        assert np.array_equal(scene(id, 0).image, image)
        assert np.array_equal(scene(id, 0).mask, rough if is_coarse(id, 0) else fine)
        assert 0.75 < (fine == rough)[fine != IGNORE].mean() < 1
        assert (set(np.unique(fine)) - {0, IGNORE}) <= set(np.unique(rough))


def test_an_interrupted_preparation_goes_on(whole, tmp_path):
    prepare("toy", tmp_path, workers=1)
    lost = tmp_path / "toy" / "images" / "val_0007.jpg"
    lost.unlink()
    assert prepare("toy", tmp_path, workers=1).state == "prepared"
    assert lost.read_bytes() == (whole[0].root / "images" / "val_0007.jpg").read_bytes()
    assert prepare("toy", tmp_path, workers=1).state == "complete"


def test_inside_of_a_polygon():
    square = within([(1, 1), (4, 1), (4, 3), (1, 3)], 5, 6)
    assert np.array_equal(np.argwhere(square), [(y, x) for y in (1, 2) for x in (1, 2, 3)])


def test_what_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(UsageError, match="no subset 'vla'"):
        Toy(tmp_path).ids("vla")
    with pytest.raises(DataError, match="toy is not prepared"):
        Toy(tmp_path).ids("train")
    with pytest.raises(DataError):
        Toy(tmp_path).image("train_0000")
