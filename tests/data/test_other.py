"""All of VOC labelled, COCO unlabelled: images of two datasets in one run, and the splits that name them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.data.coco import Coco
from ssbench.data.voc import Voc
from ssbench.data.wrapped import OTHER_NAMES, WithOtherImages
from ssbench.errors import DataError, RecipeError, UsageError
from ssbench.jobs.job import Places
from ssbench.jobs.run import RunSpec
from ssbench.recipe.recipe import load
from ssbench.splits import manifest as splits
from ssbench.splits.manifest import Partition, manifest
from ssbench.splits.passport import catalogue

OWN, OTHER = "2007_000032", "000000000139"


@pytest.fixture
def both(tmp_path: Path) -> WithOtherImages:
    for name, folder, id, side in (("voc", "JPEGImages", OWN, 8), ("coco", "train2017", OTHER, 6)):
        (tmp_path / name / folder).mkdir(parents=True)
        Image.new("RGB", (side, side + 1), (side, 0, 0)).save(tmp_path / name / folder / f"{id}.jpg")
        (tmp_path / name / "val.txt").write_text("")
    (tmp_path / "voc/SegmentationClassAug").mkdir()
    Image.new("L", (8, 9), 3).save(tmp_path / f"voc/SegmentationClassAug/{OWN}.png")
    (tmp_path / "voc/train.txt").write_text(f"{OWN}\n")
    return WithOtherImages(Voc(tmp_path / "voc"), Coco(tmp_path / "coco"))


def test_an_id_says_whose_image_it_is(both: WithOtherImages) -> None:
    assert (both.image(OWN).size, both.image(OTHER).size) == ((8, 9), (6, 7))
    assert set(np.unique(both.mask(OWN))) == {3}


def test_of_an_image_of_the_other_dataset_no_label_is_known(both: WithOtherImages) -> None:
    mask = both.mask(OTHER)
    assert (mask.mode, mask.size, set(np.unique(mask))) == ("L", (6, 7), {255})


def test_classes_of_an_image_of_the_other_dataset_match_by_name(both: WithOtherImages, tmp_path: Path) -> None:
    """COCO's airplane, couch and tv are VOC's aeroplane, sofa and tvmonitor; what VOC has not is left out."""
    coco = {name: k for k, name in enumerate(Coco.classes)}
    labels = [coco[name] for name in ("background", "airplane", "couch", "tv", "dog", "banana")]
    (tmp_path / "coco/masks").mkdir()
    Image.fromarray(np.resize(np.array(labels, np.uint8), (7, 6))).save(tmp_path / f"coco/masks/{OTHER}.png")
    shown = {Voc.classes[label] for label in both.labels_in(OTHER)}
    assert shown == {"background", "aeroplane", "sofa", "tvmonitor", "dog"}
    assert both.labels_in(OWN) == {3}
    assert set(OTHER_NAMES.values()) <= set(Coco.classes)
    assert {OTHER_NAMES.get(name, name) for name in Voc.classes} <= set(Coco.classes), "every class of VOC is in COCO"


def test_all_else_is_the_datasets_own(both: WithOtherImages) -> None:
    assert (both.name, len(both.classes), both.ids("train")) == ("voc", 21, (OWN,))
    assert both.volumes("val") is None
    again = pickle.loads(pickle.dumps(both))  # noqa: S301  our own; workers get it so
    assert again.image(OTHER).size == (6, 7)


def test_datasets_whose_ids_look_alike_are_refused(both: WithOtherImages) -> None:
    with pytest.raises(RecipeError, match="images of voc cannot be told from those of voc"):
        WithOtherImages(both.dataset, both.dataset)


def lists(root: Path, coco: int) -> None:
    """The two pools as far as they are needed, and a manifest's count of them."""
    (root / "splits/voc/all/coco").mkdir(parents=True)
    (root / "splits/voc/all/full").mkdir(parents=True)
    for part in ("coco", "full"):
        (root / f"splits/voc/all/{part}/labeled.txt").write_text(f"{OWN}\n")
    (root / "coco").mkdir()
    (root / "coco/train.txt").write_text("".join(f"{k:012}\n" for k in range(coco)))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest with pools of one and of three images."""
    whole = manifest()
    changed = dict(whole.splits)
    for part, count in (("full", 0), ("coco", 3)):
        entry = whole.splits[f"voc/all/{part}"]
        labeled = entry.labeled.model_copy(update={"count": 1, "fingerprint": None})
        unlabeled = entry.unlabeled.model_copy(update={"count": count})
        changed[f"voc/all/{part}"] = entry.model_copy(update={"labeled": labeled, "unlabeled": unlabeled})
    monkeypatch.setattr(splits, "manifest", lambda: whole.model_copy(update={"splits": changed}))


@pytest.mark.usefixtures("small")
def test_the_splits_are_the_whole_pools(tmp_path: Path) -> None:
    lists(tmp_path, 3)
    full, coco = (Partition.read(f"voc/all/{part}", tmp_path) for part in ("full", "coco"))
    assert (full.labeled, full.unlabeled, full.other, full.custom) == ((OWN,), (), "", False)
    assert (coco.labeled, coco.unlabeled, coco.other) == ((OWN,), tuple(f"{k:012}" for k in range(3)), "coco")
    assert coco.sha256 != full.sha256


@pytest.mark.usefixtures("small")
def test_a_coco_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    lists(tmp_path, 2)
    with pytest.raises(DataError, match="train.txt has 2 ids, manifest says 3") as error:
        Partition.read("voc/all/coco", tmp_path)
    assert error.value.fix == f"ssbench prepare coco --data-root {tmp_path}"


def test_coco_has_to_be_prepared(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in catalogue(tmp_path)}
    assert (rows["voc/all/coco"]["labeled"], rows["voc/all/coco"]["unlabeled"]) == (10582, 118287)
    assert (rows["voc/all/full"]["labeled"], rows["voc/all/full"]["unlabeled"]) == (10582, 0)
    assert not rows["voc/all/coco"]["here"]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("recipe", "part", "reads", "has"), [
    ("mask2former/mask2former_voc_r101", "coco", "voc", "coco"),
    ("upc/upc_mask2former_voc_coco_r101_512", "full", "coco", "voc"),
])  # fmt: skip
def test_a_recipe_and_a_split_of_other_images_do_not_go_together(
    recipe: str, part: str, reads: str, has: str, tmp_path: Path
) -> None:
    lists(tmp_path, 3)
    places = Places(tmp_path, tmp_path / "runs", tmp_path / "results")
    with pytest.raises(UsageError, match=f"reads unlabelled images of {reads}, split .* has those of {has}"):
        RunSpec.of(load(recipe), f"voc/all/{part}", 0, places)


def test_an_unknown_dataset_of_unlabelled_images_is_refused_when_read() -> None:
    with pytest.raises(RecipeError, match="no dataset 'cocoa'"):
        load("upc/upc_mask2former_voc_coco_r101_512", ["data.unlabeled=cocoa"])
