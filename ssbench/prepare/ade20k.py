"""Converts ADE20K (ADEChallengeData2016): images as they are, masks reduced by one.

The archive's masks hold 0 ("other") and 1..150; every method is trained on 0..149 with "other" ignored. UniMatch V2
gives masks that are reduced already, under the same names; whoever trains its code on the archive's masks scores 6.5
instead of 46.7 mIoU (issue 17 of its repository, card: datasets 9). So the form of the masks is detected before the
first one is written, said on the screen and in the ledger, and a source that mixes the two forms is refused.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from ssbench.data.ade20k import FOLDERS, Ade20k
from ssbench.data.dataset import IGNORE, read_mask
from ssbench.errors import DataError, first_few
from ssbench.files import shown
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

ADDRESS = "data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
ARCHIVES = (
    Archive(  # card: datasets 7
        "ADEChallengeData2016.zip", (f"http://{ADDRESS}", f"https://{ADDRESS}"), md5="7328b3957e407ddae1d3cbf487f149ef"
    ),
)
MANUAL: str | None = None
COUNTS = {"train": 20_210, "val": 2_000}

MaskForm = Literal["archive", "reduced"]
"""archive: 0 is "other", 1..150 are the classes. reduced: 0..149 are the classes, 255 is "other"."""
OTHER, LAST = 0, len(Ade20k.classes)
LOOKED_AT = 256  # masks that tell the form; of the real archive nearly every one has pixels of "other"
RULES = {
    "archive": "those of the archive (0..150), reduced by one: 0 becomes 255, 1..150 become 0..149",
    "reduced": "reduced by one already (0..149 and 255), taken as they are",
}
ONE_FORM = "bring the masks of one source: those of ADEChallengeData2016.zip, or those of UniMatch V2"


def convert(source: Path, dest: Path, job: PrepareJob) -> None:
    """Write images, reduced masks and lists of train and val below `dest`; what an earlier run finished stays.

    DataError names a missing, damaged or ill-labelled file, and a source whose masks are of both forms. Whether all ids
    are there is for the caller to count, so part of the dataset converts too.
    """
    target = Ade20k(dest)
    tasks = {subset: find_pairs(source, subset, target) for subset in COUNTS}
    form = detect_form([task.labels for by_id in tasks.values() for task in by_id.values()], job)
    job.declare(masks=RULES[form])
    for subset, by_id in tasks.items():
        work = [task for task in by_id.values() if not task.is_finished]
        parallel(partial(convert_pair, form=form, link=may_link(source, job)), work, job, f"ade20k: {subset}")
        put_list(dest / f"{subset}.txt", by_id)


def find_pairs(source: Path, subset: str, target: Ade20k) -> dict[str, ConvertTask]:
    """Id -> files of one subset, in order; DataError names what has no partner, or lies where it does not belong."""
    inside, archive = FOLDERS[subset], ARCHIVES[0].name
    if find_folder(source, f"annotations/{inside}", "*.png") is None and _is_full_ade20k(source):
        what = "this is the full ADE20K with coloured *_seg.png masks, not the challenge's 150 classes"
        fix = f"bring {archive} (or let it be fetched: ssbench prepare ade20k)"
        raise DataError(what, str(source), fix)
    images = need_folder("ade20k", source, f"images/{inside}", "*.jpg", archive)
    labels = need_folder("ade20k", source, f"annotations/{inside}", "*.png", archive)
    photos, masks = stems(images, "*.jpg"), stems(labels, "*.png")
    for name, folder, end in [*((id, images, ".jpg") for id in photos), *((id, labels, ".png") for id in masks)]:
        if not re.fullmatch(IDS["ade20k"], name) or name.split("_")[1] != subset:
            what = f"{shown(name)}{end} does not belong in {folder.parent.name}/{inside}"
            raise DataError(what, shown(folder / f"{name}{end}"), "bring the folders as the official archive has them")
    need_all(photos, masks, lambda id: labels / f"{id}.png", "masks")
    need_all(masks, photos, lambda id: images / f"{id}.jpg", "images")
    return {
        id: ConvertTask(images / f"{id}.jpg", labels / f"{id}.png", target.image_path(id), target.mask_path(id))
        for id in sorted(photos)
    }


def _is_full_ade20k(source: Path) -> bool:
    return next(source.rglob("ADE_*_seg.png"), None) is not None


def detect_form(masks: list[Path], job: PrepareJob) -> MaskForm:
    """Which form the masks have, from `LOOKED_AT` of them, spread evenly: only reduced ones have 255, others 150.

    Masks with neither are those of the archive, where 255 never stands. DataError where some have 255 and some 150.
    """
    chosen = [masks[k * len(masks) // LOOKED_AT] for k in range(LOOKED_AT)] if len(masks) > LOOKED_AT else masks
    highest = dict(zip(chosen, parallel(_highest, chosen, job, "ade20k: form of the masks"), strict=True))
    reduced = [path for path, value in highest.items() if value == IGNORE]
    raw = [path for path, value in highest.items() if value == LAST]
    if reduced and raw:
        what = f"{raw[0].name} has the label {LAST} of the archive's masks, {reduced[0].name} the 255 of reduced ones"
        raise DataError(what, str(raw[0]), ONE_FORM)
    return "reduced" if reduced else "archive"


def _highest(path: Path) -> int:
    """The highest value of a mask."""
    return int(np.asarray(read_mask(path)).max())


def convert_pair(task: ConvertTask, form: MaskForm, link: bool) -> None:
    """Write one image and its mask in reduced form; DataError for a value that masks of this form do not have."""
    put_pair(task, reduce_mask(read_mask(task.labels), form, task.labels), LAST, link)


def reduce_mask(mask: Image.Image, form: MaskForm, origin: Path) -> Image.Image:
    """A mask (mode L) in reduced form: 0..149, 255; DataError naming `origin` for a value its form does not have."""
    allowed = f"0..{LAST}" if form == "archive" else f"0..{LAST - 1} and 255"
    values = [value for value, count in enumerate(mask.histogram()) if count]
    top = LAST if form == "archive" else LAST - 1
    if unknown := [v for v in values if v > top and not (form == "reduced" and v == IGNORE)]:
        what = f"{origin.name} has label values {first_few(unknown, 5)}; the other masks of this source have {allowed}"
        raise DataError(what, str(origin), ONE_FORM)
    return as_mask(_table()[np.asarray(mask)]) if form == "archive" else mask


def _table() -> Labels:
    """256 uint8: value of the archive -> label; what is no value of it stays ignored."""
    table = np.full(256, IGNORE, np.uint8)
    table[OTHER + 1 : LAST + 1] = np.arange(LAST)
    return table
