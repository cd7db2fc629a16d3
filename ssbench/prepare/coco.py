"""COCO 2017: masks of 81 classes, painted from the instance annotations, or read from the COCO-Stuff maps.

Neither PseudoSeg nor UniMatch published how their masks were made. Ours, the default: every instance of
`instances_*2017.json` painted as its class, larger ones first so that small ones stay visible, crowds as their class,
nothing ignored. The other candidate serves a source that brings stuffthingmaps instead of the annotations: things keep
their class, stuff and unlabelled pixels become background. Which one was used is in the ledger's settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ssbench.data.coco import Coco
from ssbench.data.dataset import read_mask
from ssbench.errors import DataError
from ssbench.prepare.coco_instances import Picture, paint, rasteriser, read_instances, stuff_table
from ssbench.prepare.convert import (
    Pair,
    as_mask,
    find_folder,
    need_all,
    need_folder,
    owned,
    put_list,
    put_pair,
    some,
    stems,
)
from ssbench.prepare.prepare import Archive, Job, parallel

ADDRESS = "http://images.cocodataset.org"
STUFF_MAPS = "stuffthingmaps_trainval2017.zip"
ARCHIVES = (
    Archive(
        "train2017.zip",
        (f"{ADDRESS}/zips/train2017.zip",),
        md5="cced6f7f71b7629ddf16f17bbcfab6b2",
        size=19_336_861_798,
    ),
    Archive("val2017.zip", (f"{ADDRESS}/zips/val2017.zip",), md5="442b8da7639aecaf257c1dceb8ba8c80", size=815_585_330),
    Archive(
        "annotations_trainval2017.zip",
        (f"{ADDRESS}/annotations/annotations_trainval2017.zip",),
        md5="f4bbac642086de4f52a3fdda2de5fa2c",
        size=252_907_541,
    ),
    # calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset, no checksum
    Archive(STUFF_MAPS, optional=True, replaces="annotations_trainval2017.zip"),
)
MANUAL: str | None = None
COUNTS = {"train": 118_287, "val": 5_000}

INSTANCES = {
    "masks": "instances",
    "overlaps": "larger instances first, by their annotated area",
    "crowds": "painted as their class",
    "ignored": "nothing",
}
STUFF = {"masks": "stuffthingmaps", "stuff": "background", "unlabelled": "background"}
HIGHEST = 181
"""The last stuff value of a COCO-Stuff map; 255 is unlabelled."""


def convert(source: Path, dest: Path, job: Job) -> None:
    """Write images, masks and lists of both subsets below `dest`; what an earlier run finished stays.

    DataError names a missing, damaged or ill-labelled file. Whether all ids are there is for the caller to count, so
    part of the dataset converts too. UsageError when pycocotools is needed and not there.
    """
    annotations = find_folder(source, "annotations", "instances_*2017.json")
    job.declare(**(INSTANCES if annotations else STUFF))
    if annotations:
        rasteriser()  # said now, not after minutes of parsing
    for subset in COUNTS:
        images = need_folder("coco", source, f"{subset}2017", "*.jpg", f"{subset}2017.zip")
        if annotations:
            _from_instances(images, annotations / f"instances_{subset}2017.json", dest, job)
        else:
            _from_stuff(images, source, dest, job)
        put_list(dest / f"{subset}.txt", stems(images, "*.jpg"))


@dataclass(frozen=True)
class Annotated(Pair):
    """An image whose labels are painted; `labels` is the annotation file `picture` was read from."""

    picture: Picture


def _from_instances(images: Path, file: Path, dest: Path, job: Job) -> None:
    if not file.is_file():
        raise DataError(f"no file {file.name}", str(file), "unpack annotations_trainval2017.zip again")
    ids = stems(images, "*.jpg")
    todo = [pair for pair in _pairs(ids, images, file, dest) if not pair.finished]
    if not todo:
        return  # no need to read the big file again
    pictures = read_instances(file)
    need_all(pictures, ids, lambda id: images / f"{id}.jpg", f"images of {file.name}")
    need_all(ids, pictures, lambda id: images / f"{id}.jpg", f"images in {file.name}")
    work = [Annotated(p.image, file, p.to_image, p.to_mask, pictures[p.image.stem]) for p in todo]
    parallel(partial(convert_annotated, link=owned(images, job)), work, job, f"coco: {images.name}")


def _from_stuff(images: Path, source: Path, dest: Path, job: Job) -> None:
    maps = need_folder("coco", source, images.name, "*.png", f"annotations_trainval2017.zip or {STUFF_MAPS}")
    ids = stems(images, "*.jpg")
    need_all(ids, stems(maps, "*.png"), lambda id: maps / f"{id}.png", "COCO-Stuff maps")
    need_all(stems(maps, "*.png"), ids, lambda id: images / f"{id}.jpg", "images")
    pairs = [
        Pair(p.image, maps / f"{p.image.stem}.png", p.to_image, p.to_mask) for p in _pairs(ids, images, maps, dest)
    ]
    work = [pair for pair in pairs if not pair.finished]
    parallel(partial(convert_mapped, link=owned(images, job)), work, job, f"coco: {images.name}")


def _pairs(ids: set[str], images: Path, labels: Path, dest: Path) -> list[Pair]:
    here, masks = dest / images.name, dest / "masks"
    return [Pair(images / f"{id}.jpg", labels, here / f"{id}.jpg", masks / f"{id}.png") for id in sorted(ids)]


def convert_annotated(pair: Annotated, link: bool) -> None:
    """Write one image and the mask painted from its instances."""
    put_pair(pair, as_mask(paint(pair.picture, pair.labels)), len(Coco.classes), link)


def convert_mapped(pair: Pair, link: bool) -> None:
    """Write one image and the mask read from its COCO-Stuff map; DataError for a value no such map has."""
    values = read_mask(pair.labels)
    wrong = [value for value, count in enumerate(values.histogram()) if count and HIGHEST < value < 255]
    if wrong:
        what = f"{pair.labels.name} has values {some(wrong)}; allowed are 0..{HIGHEST} and 255"
        raise DataError(what, str(pair.labels), f"bring the map of {STUFF_MAPS}")
    put_pair(pair, as_mask(stuff_table()[np.asarray(values)]), len(Coco.classes), link)
