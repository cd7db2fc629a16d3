"""A few samples of each dataset in the layout its publishers use, for driving the command line from end to end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from made_ade20k import published_lists, write_pairs
from PIL import Image

from ssbench.data.cityscapes import subset_of

Counts = dict[str, int]


def _lines(path: Path, *ids: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{id}\n" for id in ids))


def voc(shared: Path, root: Path) -> Counts:
    """Three of VOC's own and one of SBD's, from a SegmentationClassAug folder."""
    real, devkit = shared / "voc2012" / "VOCdevkit" / "VOC2012", root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        shutil.copytree(real / name, (root if name.endswith("Aug") else devkit) / name)
    _lines(devkit / "ImageSets/Segmentation/train.txt", "2011_000003", "2011_000006")
    _lines(devkit / "ImageSets/Segmentation/val.txt", "2007_000129")
    return {"train": 3, "val": 1, "fine": 2}


def cityscapes(shared: Path, root: Path) -> Counts:
    """One pair of train and one of val."""
    for id in ("aachen_000000_000019", "frankfurt_000000_000294"):
        for path in (shared / "cityscapes").glob(f"*/{subset_of(id)}/{id.split('_')[0]}/{id}_*"):
            target = root / path.relative_to(shared / "cityscapes")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return {"train": 1, "val": 1}


def acdc(shared: Path, root: Path) -> Counts:
    """One volume of each subset, as PNG slices."""
    counts = {}
    for folder in ("slices", "labels"):
        (root / folder).mkdir(parents=True)
        for subset, volume in (("train", "patient003"), ("val", "patient002"), ("test", "patient001")):
            paths = sorted((shared / "acdc" / folder).glob(f"{volume}_frame01_*.png"))
            counts[subset] = len(paths)
            for path in paths:
                shutil.copy(path, root / folder)
    return counts


def coco(shared: Path, root: Path) -> Counts:
    """Two images of each subset, a person in a box in each."""
    for subset in ("train", "val"):
        (root / f"{subset}2017").mkdir(parents=True)
        images, things = [], []
        for path in sorted((shared / "coco" / f"{subset}2017").glob("*.jpg"))[:2]:
            shutil.copy(path, root / f"{subset}2017")
            with Image.open(path) as image:
                width, height = image.size
            images.append({"id": int(path.stem), "file_name": path.name, "width": width, "height": height})
            box = [[10, 10, 90, 10, 90, 80, 10, 80]]
            thing = {"id": len(things) + 1, "image_id": int(path.stem), "category_id": 1, "segmentation": box}
            things.append(thing | {"area": 5600, "iscrowd": 0, "bbox": [10, 10, 80, 70]})
        path = root / "annotations" / f"instances_{subset}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": things, "categories": []}))
    return {"train": 2, "val": 2}


def ade20k(shared: Path, root: Path) -> Counts:
    """Three drawn pairs, raw masks, and the published lists: their rule is known, so they need no real file."""
    write_pairs(
        root / "ADEChallengeData2016",
        {"ADE_train_00000001": [0, 1, 2], "ADE_train_00000002": [150, 3], "ADE_val_00000001": [0, 7]},
    )
    for (repository, path), text in published_lists().items():
        (root / repository / path).parent.mkdir(parents=True, exist_ok=True)
        (root / repository / path).write_bytes(text)
    return {"train": 2, "val": 1}


def camvid(shared: Path, root: Path) -> Counts:
    """Two frames of each subset."""
    for subset in ("train", "val", "test"):
        names = sorted(p.name for p in (shared / "camvid" / subset).iterdir())[:2]
        lines = []
        for name in names:
            image, mask = f"{subset}/{name}", f"{subset}annot/{Path(name).stem}.png"
            for file in (image, mask):
                (root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(shared / "camvid" / file, root / file)
            lines.append(f"/SegNet/CamVid/{image} /SegNet/CamVid/{mask}")
        _lines(root / f"{subset}.txt", *lines)
    return {"train": 2, "val": 2, "test": 2}


def toy(shared: Path, root: Path) -> Counts:
    """Drawn, from nothing."""
    root.mkdir(parents=True)
    return {"train": 4, "val": 2, "test": 2}


SOURCES: dict[str, Callable[[Path, Path], Counts]] = {
    f.__name__: f for f in (voc, cityscapes, acdc, coco, ade20k, camvid, toy)
}


def spoil(mask: Path) -> None:
    """Label values that no dataset has, in a file as long as before or not."""
    with Image.open(mask) as image:
        size = image.size
    Image.fromarray(np.full(size[::-1], 200, np.uint8)).save(mask)
