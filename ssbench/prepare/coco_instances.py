"""COCO instance annotations: the JSON file read once, in little memory, and one image's instances painted as labels.

Rasterising is pycocotools' (extra `coco`): filling polygons by other means gives slightly different edges.
"""

from __future__ import annotations

import json
import warnings
from array import array
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from ssbench.data.coco import CATEGORIES
from ssbench.errors import DataError, UsageError
from ssbench.prepare.convert import Labels

CLASS = {category: index for index, category in enumerate(CATEGORIES, 1)}


class Instance(NamedTuple):
    """One annotated object; `shape` is a list of polygons (x, y, x, y, ...) or a run-length code (crowds)."""

    image: int
    id: int
    category: int
    area: float
    shape: Any


class Picture(NamedTuple):
    """One image of the file: its name, its size in pixels, its objects."""

    name: str
    width: int
    height: int
    instances: tuple[Instance, ...]


class Rasteriser(Protocol):
    """What is used of `pycocotools.mask`."""

    def frPyObjects(self, shape: Any, height: int, width: int) -> Any:  # noqa: N802  pycocotools' name
        """Run-length codes of polygons or of an uncompressed code."""

    def merge(self, codes: Any) -> Any:
        """Their union."""

    def decode(self, code: Any) -> Labels:
        """H W of 0 and 1."""


def rasteriser() -> Rasteriser:
    """`pycocotools.mask`; UsageError naming the extra where it is not installed."""
    try:
        from pycocotools import mask
    except ImportError as error:
        what = "masks from COCO's instance annotations need pycocotools, which is not installed"
        raise UsageError(what, "", "pip install 'ssbench[coco]'") from error
    found: Rasteriser = mask
    return found


def read_instances(path: Path) -> dict[str, Picture]:
    """Id (twelve digits) -> picture, for every image of an `instances_*.json`; DataError naming the file.

    Objects are cut down while they are parsed (coordinates in arrays, boxes and names dropped): the 450 MB of train2017
    would otherwise take several gigabytes.
    """
    try:
        with path.open(encoding="utf-8") as file:
            raw = json.load(file, object_hook=_slim)
        pictures = {record["id"]: record for record in raw["images"]}
        objects: dict[int, list[Instance]] = defaultdict(list)
        for instance in raw["annotations"]:
            objects[instance.image].append(instance)
        strange = objects.keys() - pictures.keys()
        if strange:
            raise ValueError(f"objects of image {min(strange)}, which is not listed")
        return {Path(p["name"]).stem: Picture(**_size(p), instances=tuple(objects[id])) for id, p in pictures.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"{path.name} is not a whole instances file of COCO: {type(error).__name__}: {error}"
        raise DataError(what, str(path), "unpack annotations_trainval2017.zip again") from error


def paint(picture: Picture, origin: Path) -> Labels:
    """H W uint8 labels: 0, and 1..80 where an object lies; of overlapping ones the smallest is on top.

    "Small" is the annotated area (equal ones: in order of id). DataError naming the object in `origin` that cannot be.
    """
    tool = rasteriser()
    labels = np.zeros((picture.height, picture.width), np.uint8)
    for instance in sorted(picture.instances, key=lambda i: (-i.area, i.id)):
        if instance.category not in CLASS:
            raise _strange(instance, f"category {instance.category}", origin)
        labels[_region(tool, instance, picture, origin)] = CLASS[instance.category]
    return labels


def _region(tool: Rasteriser, instance: Instance, picture: Picture, origin: Path) -> np.ndarray[Any, np.dtype[np.bool]]:
    """H W bool, true on the object."""
    shape, height, width = instance.shape, picture.height, picture.width
    try:
        if isinstance(shape, list):
            if not shape or any(len(polygon) < 6 or len(polygon) % 2 for polygon in shape):
                raise ValueError(
                    "a polygon of fewer than three points"
                )  # pycocotools would take four numbers for a box
            code = tool.merge(tool.frPyObjects([list(polygon) for polygon in shape], height, width))
        elif list(shape["size"]) != [height, width]:
            raise ValueError(f"a run-length code of {shape['size']} in an image of {[height, width]}")
        else:
            code = tool.frPyObjects(shape, height, width) if isinstance(shape["counts"], list) else shape
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # pycocotools 2.0.11 under numpy 2: `copy` of its arrays
            return tool.decode(code).astype(bool)
    except (ValueError, TypeError, KeyError) as error:
        raise _strange(instance, str(error), origin) from error


def _slim(record: dict[str, Any]) -> Any:
    """What is needed of one JSON object; called by the parser for the inner ones first."""
    if "segmentation" in record:
        shape = record["segmentation"]
        if isinstance(shape, list):
            shape = [array("d", polygon) for polygon in shape]
        return Instance(record["image_id"], record["id"], record["category_id"], record["area"], shape)
    if "file_name" in record:
        return {"id": record["id"], "name": record["file_name"], "width": record["width"], "height": record["height"]}
    return record


def _size(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record[key] for key in ("name", "width", "height")}


def _strange(instance: Instance, why: str, origin: Path) -> DataError:
    what = f"{origin.name}: object {instance.id} of image {instance.image:012d} has {why}"
    return DataError(what, str(origin), "unpack annotations_trainval2017.zip again")


def stuff_table() -> Labels:
    """256 uint8: the class of each value of a COCO-Stuff map (category id - 1): things 1..80, all else 0."""
    table = np.zeros(256, np.uint8)
    table[np.array(CATEGORIES) - 1] = list(CLASS.values())
    return table
