"""Converts COCO 2017: masks of 81 classes, painted from the instance annotations, or read from the COCO-Stuff maps.

Neither PseudoSeg nor UniMatch published how their masks were made (card: datasets 4). Ours, the default: every instance
of `instances_*2017.json` painted as its class, larger ones first so that small ones stay visible, crowds as their
class, nothing ignored. The other way serves a source that brings stuffthingmaps instead of the annotations: things keep
their class, stuff and unlabelled pixels become background. Which one was used is in the ledger's settings.

Rasterising is pycocotools' (extra `coco`): filling polygons by other means gives slightly different edges.
"""

from __future__ import annotations

import re
import warnings
from array import array
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from ssbench.data.coco import CATEGORIES, Coco
from ssbench.data.dataset import read_mask
from ssbench.errors import DataError, UsageError, first_few
from ssbench.files import read_json, shown
from ssbench.prepare.convert import (
    ConvertTask,
    Labels,
    as_mask,
    find_folder,
    may_link,
    need_all,
    need_folder,
    put_list,
    put_pair,
    stems,
)
from ssbench.prepare.job import Archive, PrepareJob, parallel
from ssbench.splits.lists import IDS

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
CLASS = {category: index for index, category in enumerate(CATEGORIES, 1)}
STUFF = {"masks": "stuffthingmaps", "stuff": "background", "unlabelled": "background"}
HIGHEST = 181
"""The last stuff value of a COCO-Stuff map; 255 is unlabelled."""
LARGEST = 1 << 30
"""Bytes of an instances file that are read; that of train2017 is 450 MB."""
TALLEST = 16_384  # pixels a side; COCO's images have at most 640
LONGEST_OUTLINE = 1_000_000  # pixels around one object, all polygons together
UNPACK_AGAIN = "unpack annotations_trainval2017.zip again"


class Instance(NamedTuple):
    """One annotated object; `shape` is a list of polygons (x, y, x, y, ...) or a run-length code (crowds)."""

    image: int
    id: int
    category: int
    area: float
    shape: Any


class AnnotatedImage(NamedTuple):
    """One image of an instances file: its name, its size in pixels, its objects."""

    name: str
    width: int
    height: int
    instances: tuple[Instance, ...]


@dataclass(frozen=True)
class PaintTask(ConvertTask):
    """An image whose labels are painted; `labels` is the annotation file that `annotated` was read from."""

    annotated: AnnotatedImage


def convert(source: Path, dest: Path, job: PrepareJob) -> None:
    """Write images, masks and lists of both subsets below `dest`; what an earlier run finished stays.

    DataError names a missing, damaged or ill-labelled file. Whether all ids are there is for the caller to count, so
    part of the dataset converts too. UsageError when pycocotools is needed and not there.
    """
    annotations = find_folder(source, "annotations", "instances_*2017.json")
    job.declare(**(INSTANCES if annotations else STUFF))
    if annotations:
        rasteriser()  # an error now, not after minutes of parsing
    for subset in COUNTS:
        images = need_folder("coco", source, f"{subset}2017", "*.jpg", f"{subset}2017.zip")
        ids = stems(images, "*.jpg")
        for id in sorted(ids):
            if not re.fullmatch(IDS["coco"], id):
                what = f"{shown(id)}.jpg in {images.name} is not named by twelve digits"
                raise DataError(what, shown(images / f"{id}.jpg"), "take this file out of the folder")
        if annotations:
            _from_instances(ids, images, annotations / f"instances_{subset}2017.json", dest, job)
        else:
            _from_stuff(ids, images, source, dest, job)
        put_list(dest / f"{subset}.txt", ids)


def _from_instances(ids: set[str], images: Path, file: Path, dest: Path, job: PrepareJob) -> None:
    tasks = [task for task in _tasks(ids, images, file, dest) if not task.is_finished]
    if not tasks:
        return  # no need to read the big file again
    annotated = read_instances(file)
    need_all(annotated, ids, lambda id: images / f"{id}.jpg", f"images of {file.name}")
    need_all(ids, annotated, lambda id: images / f"{id}.jpg", f"images in {file.name}")
    work = [PaintTask(t.image, file, t.to_image, t.to_mask, annotated[t.image.stem]) for t in tasks]
    parallel(partial(convert_annotated, link=may_link(images, job)), work, job, f"coco: {images.name}")


def _from_stuff(ids: set[str], images: Path, source: Path, dest: Path, job: PrepareJob) -> None:
    maps = need_folder("coco", source, images.name, "*.png", f"annotations_trainval2017.zip or {STUFF_MAPS}")
    need_all(ids, stems(maps, "*.png"), lambda id: maps / f"{id}.png", "COCO-Stuff maps")
    need_all(stems(maps, "*.png"), ids, lambda id: images / f"{id}.jpg", "images")
    tasks = [
        ConvertTask(t.image, maps / f"{t.image.stem}.png", t.to_image, t.to_mask)
        for t in _tasks(ids, images, maps, dest)
        if not t.is_finished
    ]
    parallel(partial(convert_mapped, link=may_link(images, job)), tasks, job, f"coco: {images.name}")


def _tasks(ids: set[str], images: Path, labels: Path, dest: Path) -> list[ConvertTask]:
    here, masks = dest / images.name, dest / "masks"
    return [ConvertTask(images / f"{id}.jpg", labels, here / f"{id}.jpg", masks / f"{id}.png") for id in sorted(ids)]


def convert_annotated(task: PaintTask, link: bool) -> None:
    """Write one image and the mask painted from its instances."""
    put_pair(task, as_mask(paint(task.annotated, task.labels)), len(Coco.classes), link)


def convert_mapped(task: ConvertTask, link: bool) -> None:
    """Write one image and the mask read from its COCO-Stuff map; DataError for a value no such map has."""
    values = read_mask(task.labels)
    unknown = [value for value, count in enumerate(values.histogram()) if count and HIGHEST < value < 255]
    if unknown:
        what = f"{task.labels.name} has values {first_few(unknown, 5)}; allowed are 0..{HIGHEST} and 255"
        raise DataError(what, str(task.labels), f"bring the map of {STUFF_MAPS}")
    put_pair(task, as_mask(stuff_table()[np.asarray(values)]), len(Coco.classes), link)


def stuff_table() -> Labels:
    """256 uint8: the class of each value of a COCO-Stuff map (category id - 1): things 1..80, all else 0."""
    table = np.zeros(256, np.uint8)
    table[np.array(CATEGORIES) - 1] = list(CLASS.values())
    return table


def rasteriser() -> ModuleType:
    """`pycocotools.mask`; UsageError naming the extra where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        what = "masks from COCO's instance annotations need pycocotools, which is not installed"
        raise UsageError(what, "", "pip install 'ssbench[coco]'") from error
    module: ModuleType = mask
    return module


def read_instances(path: Path) -> dict[str, AnnotatedImage]:
    """Id (twelve digits) -> annotated image, for every image of an `instances_*.json`; DataError naming the file.

    Objects are cut down while they are parsed (coordinates in arrays, boxes and names dropped): the 450 MB of train2017
    would otherwise take several gigabytes.
    """
    raw = read_json(path, "COCO instances file", UNPACK_AGAIN, hook=partial(_slim, path), max_bytes=LARGEST)
    try:
        images: dict[int, dict[str, Any]] = {image["id"]: image for image in raw["images"]}
        instances: dict[int, list[Instance]] = defaultdict(list)
        for instance in raw["annotations"]:
            if not isinstance(instance, Instance):
                raise ValueError(f"an annotation without a segmentation: {str(instance)[:80]}")
            instances[instance.image].append(instance)
        strange = instances.keys() - images.keys()
        if strange:
            raise ValueError(f"objects of image {min(strange)}, which is not listed")
        return {
            Path(image["name"]).stem: AnnotatedImage(
                image["name"], image["width"], image["height"], tuple(instances[id])
            )
            for id, image in images.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _not_whole(path, error) from error


def _slim(path: Path, record: dict[str, Any]) -> Any:
    """What is needed of one JSON object, its types checked; the parser calls this for the inner ones first."""
    try:
        if "segmentation" in record:
            shape = record["segmentation"]
            if isinstance(shape, list):
                shape = [array("d", polygon) for polygon in shape]
            image, id, category = (_whole(record[key], key) for key in ("image_id", "id", "category_id"))
            return Instance(image, id, category, float(record["area"]), shape)
        if "file_name" in record:
            width, height = (_whole(record[key], key, 1, TALLEST) for key in ("width", "height"))
            id, name = _whole(record["id"], "id"), str(record["file_name"])
            return {"id": id, "name": name, "width": width, "height": height}
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise _not_whole(path, error) from error
    return record


def _not_whole(path: Path, error: Exception) -> DataError:
    what = f"{path.name} is not a whole instances file of COCO: {type(error).__name__}: {error}"
    return DataError(shown(what), str(path), UNPACK_AGAIN)


def _whole(value: Any, field: str, least: int = 0, most: int = 1 << 60) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"field '{field}' is {str(value)[:40]!r}, not a whole number of {least} to {most}")
    return value


def paint(annotated: AnnotatedImage, origin: Path) -> Labels:
    """H W uint8 labels: 0, and 1..80 where an object lies; of overlapping ones the smallest is on top.

    "Small" is the annotated area (equal ones: in order of id). DataError naming the object in `origin` that cannot be.
    """
    tool = rasteriser()
    labels = np.zeros((annotated.height, annotated.width), np.uint8)
    for instance in sorted(annotated.instances, key=lambda i: (-i.area, i.id)):
        try:
            if instance.category not in CLASS:
                raise ValueError(f"category {instance.category}")
            labels[_region(tool, instance.shape, annotated.height, annotated.width)] = CLASS[instance.category]
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            what = f"{origin.name}: object {instance.id} of image {instance.image:012d} has {error}"
            raise DataError(what, str(origin), UNPACK_AGAIN) from error
    return labels


def _region(tool: ModuleType, shape: Any, height: int, width: int) -> np.ndarray[Any, np.dtype[np.bool]]:
    """H W bool, true on the object."""
    if isinstance(shape, list):
        if not shape or any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
            raise ValueError("a polygon of fewer than three points")  # pycocotools would take four numbers for a box
        if not sum(map(_length, shape)) < LONGEST_OUTLINE:
            raise ValueError("an outline far longer than any in its image")
        code = tool.merge(tool.frPyObjects([list(polygon) for polygon in shape], height, width))
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # pycocotools 2.0.11 under numpy 2: `copy` of its arrays
            region: np.ndarray[Any, np.dtype[np.bool]] = tool.decode(code).astype(bool)
            return region
    if list(shape["size"]) != [height, width]:
        raise ValueError(f"a run-length code of {shape['size']} in an image of {[height, width]}")
    # Run lengths are not given to pycocotools: where they do not add up it returns memory that was never written.
    counts = shape["counts"]
    runs = list(counts) if isinstance(counts, list) else _decoded_runs(counts)
    if sum(_whole(run, "counts", 0, height * width) for run in runs) != height * width:
        raise ValueError("a run-length code that does not cover the image")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def _length(polygon: Any) -> float:
    """Length of an outline, in the larger coordinate. pycocotools takes memory in proportion; NaN is not below any."""
    points = np.asarray(polygon).reshape(-1, 2)
    return float(np.abs(np.diff(points, axis=0, append=points[:1])).max(1).sum())


def _decoded_runs(counts: Any) -> list[int]:
    """Run lengths of COCO's compressed text: five bits a character from "0" on, the sixth says that more follow, and
    from the fourth number on each is the difference to the one two before (`rleFrString` of cocoapi's maskApi.c)."""
    if not isinstance(counts, str):
        raise TypeError("a run-length code that is no text")
    runs: list[int] = []
    value = shift = 0
    for character in counts:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 30:
            raise ValueError(f"the character {character!r} in its run-length code")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (1 << shift) if bits & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    if shift:
        raise ValueError("a run-length code cut short")
    return runs
