"""`prepare coco` on archives in the official layout, made of the real samples; both rules for masks, side by side."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from ssbench.data.coco import CATEGORIES, UNUSED, Coco
from ssbench.errors import DataError, UsageError
from ssbench.prepare.coco import ARCHIVES, AnnotatedImage, Instance, convert, paint, read_instances, stuff_table
from ssbench.prepare.job import PrepareJob
from ssbench.prepare.prepare import prepare
from ssbench.prepare.sources import SourceSpec, find_source
from ssbench.prepare.verify import verify

PANOPTIC = ("000000142238", "000000439180")
TRAIN = ("000000184101", "000000500044")


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def instance(id: int, category: int, shape: Any, area: float, image: int = 7) -> Instance:
    return Instance(image, id, category, area, shape)


def box(x0: int, y0: int, x1: int, y1: int) -> list[list[float]]:
    return [[x0, y0, x1, y0, x1, y1, x0, y1]]


def rle(region: np.ndarray) -> dict[str, Any]:
    code = coco_mask.encode(np.asfortranarray(region.astype(np.uint8)))
    return {"size": [int(n) for n in code["size"]], "counts": code["counts"].decode()}


def write_instances(path: Path, images: Iterable[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    said = {"info": {"year": 2017}, "licenses": [{"id": 1}], "images": list(images), "annotations": annotations}
    categories = [{"id": c, "name": name} for c, name in zip(CATEGORIES, Coco.classes[1:], strict=True)]
    path.write_text(json.dumps(said | {"categories": categories}))


def record(id: str, size: tuple[int, int]) -> dict[str, Any]:
    return {"id": int(id), "file_name": f"{id}.jpg", "width": size[0], "height": size[1], "license": 3}


@pytest.fixture
def real(shared: Path) -> Path:
    return shared / "coco"


@pytest.fixture
def official(real: Path, tmp_path: Path) -> Path:
    """Images and instances as unpacked: val has two images with the real things of their panoptic annotations; train
    has two, with one object a class made from the real masks."""
    root = tmp_path / "official"
    for subset, ids in (("train2017", TRAIN), ("val2017", PANOPTIC)):
        (root / subset).mkdir(parents=True)
        for id in ids:
            (root / subset / f"{id}.jpg").write_bytes((real / subset / f"{id}.jpg").read_bytes())
    said = json.loads((real / "annotations/panoptic_detection_format_val2017.json").read_text())
    things = [a for a in said["annotations"] if a["category_id"] in CATEGORIES]
    assert len(things) > 10
    write_instances(root / "annotations/instances_val2017.json", said["images"], things)
    images, objects = [], []
    for id in TRAIN:
        mask = labels(real / f"masks/{id}.png")
        images.append(record(id, (mask.shape[1], mask.shape[0])))
        for value in np.unique(mask[mask > 0]):
            made = {"id": len(objects), "image_id": int(id), "category_id": CATEGORIES[value - 1], "iscrowd": 0}
            objects.append(made | {"area": int((mask == value).sum()), "segmentation": rle(mask == value), "bbox": []})
    write_instances(root / "annotations/instances_train2017.json", images, objects)
    return root


def drive(source: Path, root: Path, train: int = 2, val: int = 2) -> tuple[Coco, PrepareJob]:
    """What `prepare` does up to the ledger, for other counts and archives without checksums."""
    archives = tuple(type(a)(a.name, a.urls, optional=a.optional) for a in ARCHIVES)
    plan = SourceSpec(archives, None, {"train": train, "val": val}, convert)
    job, work = PrepareJob("coco", root, source), root / "coco"
    plan.convert(find_source(plan, job), work, job)
    verify(plan, job, work)
    return Coco(work), job


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def stamps(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_classes_are_the_panoptic_things_in_order(real: Path) -> None:
    said = json.loads((real / "annotations/panoptic_coco_categories.json").read_text())
    things = [category for category in said if category["isthing"]]
    assert tuple(category["id"] for category in things) == CATEGORIES
    assert ("background", *(category["name"] for category in things)) == Coco.classes
    assert len(CATEGORIES) == 80
    assert not set(UNUSED) & set(CATEGORIES)


def test_official_archives_end_to_end(official: Path, real: Path, tmp_path: Path) -> None:
    """The masks painted from the real panoptic things equal those made from the panoptic pictures in every pixel."""
    brought = tmp_path / "brought"
    brought.mkdir()
    for archive, inside in zip(ARCHIVES[:3], ("train2017", "val2017", "annotations"), strict=True):
        with zipfile.ZipFile(brought / archive.name, "w") as file:
            for path in sorted((official / inside).iterdir()):
                file.write(path, path.relative_to(official))
    coco, job = drive(brought, tmp_path / "data")
    assert (coco.ids("train"), coco.ids("val")) == (TRAIN, PANOPTIC)
    for id in TRAIN + PANOPTIC:
        np.testing.assert_array_equal(np.asarray(coco.mask(id)), labels(real / f"masks/{id}.png"))
        assert coco.image(id).mode == "RGB"
    assert coco.image_path(PANOPTIC[0]) == coco.root / "val2017" / f"{PANOPTIC[0]}.jpg"
    assert job.settings == {
        "masks": "instances",
        "overlaps": "larger instances first, by their annotated area",
        "crowds": "painted as their class",
        "ignored": "nothing",
    }


def stuff_source(real: Path, root: Path, train: int = 13, val: int = 8) -> Path:
    """The real images that have COCO-Stuff maps, maps and pictures in folders of one name as both zips have them."""
    for subset, count in (("train2017", train), ("val2017", val)):
        (root / subset).mkdir(parents=True)
        maps = sorted((real / "annotations/stuffthingmaps" / subset).glob("*.png"))[:count]
        for path in maps:
            (root / subset / path.name).write_bytes(path.read_bytes())
            (root / subset / f"{path.stem}.jpg").write_bytes((real / subset / f"{path.stem}.jpg").read_bytes())
    return root


@pytest.mark.real
def test_stuff_maps_give_the_masks_of_all_real_samples(real: Path, tmp_path: Path) -> None:
    coco, job = drive(stuff_source(real, tmp_path / "source"), tmp_path / "data", 13, 8)
    every = coco.ids("train") + coco.ids("val")
    differing = [id for id in every if (np.asarray(coco.mask(id)) != labels(real / f"masks/{id}.png")).any()]
    assert (len(every), differing) == (21, [])
    assert job.settings == {"masks": "stuffthingmaps", "stuff": "background", "unlabelled": "background"}


def test_both_rules_agree_where_objects_do_not_overlap(real: Path, tmp_path: Path) -> None:
    """One object a class, drawn from the COCO-Stuff maps: painting them gives the maps' classes back."""
    table = stuff_table()
    for path in sorted((real / "annotations/stuffthingmaps/train2017").glob("*.png")):
        values = table[labels(path)]
        objects = tuple(
            instance(int(v), CATEGORIES[v - 1], rle(values == v), float((values == v).sum()))
            for v in np.unique(values[values > 0])
        )
        picture = AnnotatedImage(path.name, values.shape[1], values.shape[0], objects)
        np.testing.assert_array_equal(paint(picture, path), values)


def test_smaller_objects_lie_on_top_whatever_their_order() -> None:
    large, small = instance(1, 18, box(0, 0, 8, 8), 64.0), instance(2, 90, box(2, 2, 5, 5), 9.0)
    for order in ((large, small), (small, large)):
        made = paint(AnnotatedImage("a.jpg", 10, 9, order), Path("a.json"))
        assert made.shape == (9, 10)
        assert (made[3, 3], made[6, 6], made[8, 9]) == (80, 17, 0)


def test_equal_objects_are_painted_in_order_of_id() -> None:
    one, two = instance(1, 1, box(0, 0, 4, 4), 16.0), instance(2, 2, box(0, 0, 4, 4), 16.0)
    assert paint(AnnotatedImage("a.jpg", 6, 6, (two, one)), Path("a.json"))[2, 2] == 2


def test_crowds_are_their_class_in_both_codes() -> None:
    region = np.zeros((6, 5), bool)
    region[1:4, 2:4] = True
    runs = {"size": [6, 5], "counts": [13, 3, 3, 3, 8]}  # column by column
    for shape in (rle(region), runs):
        made = paint(AnnotatedImage("a.jpg", 5, 6, (instance(1, 1, shape, 6.0),)), Path("a.json"))
        np.testing.assert_array_equal(made, region)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools, called here
def test_polygons_are_rasterised_as_pycocotools_does() -> None:
    polygons = [[1.5, 1.2, 7.9, 2.0, 4.3, 8.8], [8.0, 8.0, 11.0, 8.5, 9.0, 11.5]]
    made = paint(AnnotatedImage("a.jpg", 14, 12, (instance(1, 44, polygons, 30.0),)), Path("a.json"))
    wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, 12, 14)))
    np.testing.assert_array_equal(made == CATEGORIES.index(44) + 1, wanted.astype(bool))
    assert set(np.unique(made)) == {0, CATEGORIES.index(44) + 1}


def test_no_objects_is_all_background() -> None:
    assert not paint(AnnotatedImage("a.jpg", 4, 3, ()), Path("a.json")).any()


@pytest.mark.parametrize(
    ("category", "shape", "message"),
    [
        (12, box(0, 0, 2, 2), "object 5 of image 000000000007 has category 12"),
        (1, [[0.0, 0.0, 3.0, 3.0]], "object 5 .* has a polygon of fewer than three points"),
        (1, [], "object 5 .* has a polygon"),
        (1, {"size": [3, 4], "counts": [12]}, r"object 5 .* has a run-length code of \[3, 4\] in an image of \[4, 4\]"),
        (1, {"counts": [16]}, "object 5 .* has 'size'"),
    ],
)
def test_strange_objects_are_named(category: int, shape: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        paint(AnnotatedImage("a.jpg", 4, 4, (instance(5, category, shape, 4.0),)), Path("instances_val2017.json"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"images": [{"id": 1', "this COCO instances file is not JSON"),
        ('{"images": []}', "KeyError: 'annotations'"),
        ("[]", "TypeError"),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}', "'width'"),
        (
            '{"images": [], "annotations": '
            '[{"segmentation": [], "image_id": 3, "id": 1, "category_id": 1, "area": 1}]}',
            "objects of image 3, which is not listed",
        ),
    ],
)
def test_broken_annotation_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "instances_val2017.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as error:
        read_instances(path)
    assert error.value.where.removesuffix(":1") == str(path)


@pytest.mark.parametrize(
    ("damage", "file", "message"),
    [
        (
            "gone",
            f"val2017/{PANOPTIC[0]}.jpg",
            rf"1 of 2 images of instances_val2017\.json missing: {PANOPTIC[0]}\.jpg",
        ),
        ("cut", f"train2017/{TRAIN[0]}.jpg", rf"{TRAIN[0]}\.jpg cannot be read"),
        ("cut", "annotations/instances_val2017.json", "this COCO instances file is not JSON"),
        (
            "gone",
            "annotations/instances_train2017.json",
            r"this COCO instances file is not there: instances_train2017\.json",
        ),
        ("extra", f"val2017/{TRAIN[0]}.jpg", rf"1 of 3 images in instances_val2017\.json missing: {TRAIN[0]}\.jpg"),
        ("other", f"val2017/{PANOPTIC[0]}.jpg", rf"{PANOPTIC[0]}\.jpg is 640x360, its mask in instances_val2017\.json"),
    ],
)
def test_damage_is_named_and_mended(official: Path, tmp_path: Path, damage: str, file: str, message: str) -> None:
    good, path = contents(official), official / file
    if damage == "gone":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes((official / f"val2017/{PANOPTIC[1]}.jpg").read_bytes())
    with pytest.raises(DataError, match=message) as error:
        drive(official, tmp_path / "data")
    assert error.value.code == 4
    shutil.rmtree(official)
    for name, data in good.items():
        (official / name).parent.mkdir(parents=True, exist_ok=True)
        (official / name).write_bytes(data)
    coco, _ = drive(official, tmp_path / "data")
    assert len(contents(coco.root)) == 10  # four pairs and two lists


def test_stuff_maps_with_strange_values_or_without_an_image(real: Path, tmp_path: Path) -> None:
    source = stuff_source(real, tmp_path / "source", 1, 1)
    path = next((source / "val2017").glob("*.png"))
    values = labels(path).copy()
    values[0, 0] = 200
    Image.fromarray(values).save(path)
    with pytest.raises(DataError, match=rf"{path.name} has values 200; allowed are 0\.\.181 and 255"):
        drive(source, tmp_path / "data", 1, 1)
    path.unlink()
    with pytest.raises(DataError, match=r"no folder val2017 with files \*\.png"):
        drive(source, tmp_path / "data", 1, 1)


def test_a_second_run_converts_nothing_and_mends_what_is_cut(official: Path, tmp_path: Path) -> None:
    coco, _ = drive(official, tmp_path)
    before, good = stamps(coco.root), contents(coco.root)
    drive(official, tmp_path)
    assert stamps(coco.root) == before
    coco.mask_path(TRAIN[0]).write_bytes(coco.mask_path(TRAIN[0]).read_bytes()[:50])
    drive(official, tmp_path)
    assert contents(coco.root) == good


def test_grey_photograph_becomes_rgb(official: Path, tmp_path: Path) -> None:
    path = official / f"val2017/{PANOPTIC[0]}.jpg"
    with Image.open(path) as image:
        grey = image.convert("L")
    grey.save(path)
    coco, _ = drive(official, tmp_path)
    with Image.open(coco.image_path(PANOPTIC[0])) as image:
        assert image.mode == "L"
    assert coco.image(PANOPTIC[0]).mode == "RGB"


def test_without_pycocotools_the_extra_is_named(
    official: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(UsageError, match="need pycocotools") as error:
        drive(official, tmp_path)
    assert "ssbench[coco]" in error.value.fix


@pytest.mark.real
def test_prepare_names_the_missing_counts(official: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="train has 2 of 118287, val has 2 of 5000"):
        prepare("coco", tmp_path / "data", official, workers=1)
    assert not (tmp_path / "data" / "coco").exists()


def test_an_unknown_subset(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="coco has no subset 'test'"):
        Coco(tmp_path).ids("test")
