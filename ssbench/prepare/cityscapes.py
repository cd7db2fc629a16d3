"""Converts Cityscapes: images as they are, trainId masks made here from the official label ids.

The masks every split list names (`_gtFine_labelTrainIds.png`) are not in the archive, and the copies others pass on
are against the terms. A lookup table gives what the official tool draws from the polygons (card: datasets 2).
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ssbench.data.cityscapes import CITIES, Cityscapes
from ssbench.data.dataset import read_mask
from ssbench.errors import DataError, first_few
from ssbench.files import shown
from ssbench.prepare.convert import (
    ConvertTask,
    Labels,
    as_mask,
    may_link,
    need_all,
    need_folder,
    put_list,
    put_pair,
)
from ssbench.prepare.job import Archive, PrepareJob, parallel
from ssbench.splits.lists import IDS

ARCHIVES = (
    Archive("leftImg8bit_trainvaltest.zip", md5="0a6e97e94b616a514066c9e2adb0c97f", size=11_592_327_197),
    Archive("gtFine_trainvaltest.zip", md5="4237c19de34c8a376e9ba46b495d6f66", size=252_567_705),
)
MANUAL: str | None = """\
Cityscapes is given only to registered users, who may not pass it on:
1. make an account at https://www.cityscapes-dataset.com/register/ (institutional address; approval can take days)
2. log in at https://www.cityscapes-dataset.com/login/ and save, with the browser, into one folder
     https://www.cityscapes-dataset.com/file-handling/?packageID=1   as gtFine_trainvaltest.zip (0.25 GB)
     https://www.cityscapes-dataset.com/file-handling/?packageID=3   as leftImg8bit_trainvaltest.zip (11.6 GB)
3. ssbench prepare cityscapes --source THAT_FOLDER
   which verifies both (MD5 4237c19de34c8a376e9ba46b495d6f66 and 0a6e97e94b616a514066c9e2adb0c97f), unpacks and converts
   them; a folder with leftImg8bit/ and gtFine/ already unpacked will do too"""
COUNTS = {"train": 2_975, "val": 500}

TRAIN_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""The official label id of each trainId 0..18; all others are ignored."""
LABELS = 34  # label ids are 0..33; the -1 of licence plates is stored nowhere


def convert(source: Path, dest: Path, job: PrepareJob) -> None:
    """Write images, trainId masks and lists of train and val below `dest`; what an earlier run finished stays.

    DataError names a missing, damaged or ill-labelled file. Whether all ids are there is for the caller to count, so
    part of the dataset converts too. The test set, which has no labels, is left out.
    """
    job.declare(masks="trainIds by lookup table from gtFine labelIds")
    images = need_folder("cityscapes", source, "leftImg8bit", "*/*/*_leftImg8bit.png", ARCHIVES[0].name)
    labels = need_folder("cityscapes", source, "gtFine", "*/*/*_gtFine_labelIds.png", ARCHIVES[1].name)
    tasks = {subset: find_pairs(images / subset, labels / subset, Cityscapes(dest)) for subset in CITIES}
    for subset, by_id in tasks.items():
        work = [task for task in by_id.values() if not task.is_finished]
        parallel(partial(convert_pair, link=may_link(source, job)), work, job, f"cityscapes: {subset}")
        put_list(dest / f"{subset}.txt", by_id)


def find_pairs(images: Path, labels: Path, target: Cityscapes) -> dict[str, ConvertTask]:
    """Id -> files of one subset, in order; DataError names what has no partner, or lies where it does not belong."""
    photos, masks = _by_id(images, "_leftImg8bit.png"), _by_id(labels, "_gtFine_labelIds.png")
    need_all(photos, masks, lambda id: labels / id.split("_")[0] / f"{id}_gtFine_labelIds.png", "label files")
    need_all(masks, photos, lambda id: images / id.split("_")[0] / f"{id}_leftImg8bit.png", "images")
    return {
        id: ConvertTask(photos[id], masks[id], target.image_path(id), target.mask_path(id)) for id in sorted(photos)
    }


def _by_id(folder: Path, end: str) -> dict[str, Path]:
    paths = {p.name.removesuffix(end): p for p in sorted(folder.glob(f"*/*{end}")) if not p.name.startswith(".")}
    for id, path in paths.items():
        city = path.parent.name
        if not re.fullmatch(IDS["cityscapes"], id) or id.split("_")[0] != city or city not in CITIES[folder.name]:
            what = f"{shown(path.name)} does not belong in {folder.name}/{shown(city)}"
            raise DataError(what, shown(path), "bring the folders as the official archives have them")
    return paths


def convert_pair(task: ConvertTask, link: bool) -> None:
    """Write one image and its trainId mask."""
    mask = to_train_ids(read_mask(task.labels), task.labels)
    put_pair(task, mask, len(Cityscapes.classes), link)


def to_train_ids(labels: Image.Image, origin: Path) -> Image.Image:
    """Label ids (mode L, 0..33) to trainIds (mode L, 0..18, 255); DataError naming `origin` for any other value."""
    unknown = [value for value, count in enumerate(labels.histogram()) if count and value >= LABELS]
    if unknown:
        what = f"{origin.name} has label ids {first_few(unknown, 5)}; allowed are 0..{LABELS - 1}"
        raise DataError(what, str(origin), "bring the labelIds file of the official archive")
    return as_mask(_table()[np.asarray(labels)])


def _table() -> Labels:
    table = np.full(LABELS, 255, np.uint8)
    table[list(TRAIN_IDS)] = np.arange(len(TRAIN_IDS))
    return table
