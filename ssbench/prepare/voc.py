"""Converts PASCAL VOC 2012 + SBD: the augmented training set (10,582) and val (1,449), from the official archives.

VOC's own masks serve every id of VOC train and val; SBD's coarser ones serve the other SBD ids (of its train *and* val
lists) and never replace a VOC mask (card: datasets 1). A SegmentationClassAug folder, which many repositories pass on
without a checksum, can stand in for SBD; where there is one it is compared with what was written, pixel by pixel
(comparison.json).
"""

from __future__ import annotations

import shutil
import struct
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssbench.data.dataset import read_ids, read_mask
from ssbench.data.voc import Voc
from ssbench.errors import DataError
from ssbench.files import format_bytes, write_json
from ssbench.prepare.convert import (
    ConvertTask,
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
from ssbench.prepare.unpack import bound, unpack

AUG = "SegmentationClassAug"
VOC_ADDRESS = "/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
SBD_ADDRESS = "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz"
ARCHIVES = (
    Archive(
        "VOCtrainval_11-May-2012.tar",
        (f"http://host.robots.ox.ac.uk{VOC_ADDRESS}", f"https://thor.robots.ox.ac.uk{VOC_ADDRESS}"),
        md5="6cd6e144f989b92b3379bac3b3de84fd",  # card: datasets 7
        size=1_999_639_040,
    ),
    Archive("benchmark.tgz", (SBD_ADDRESS,), md5="82b4d87ceb2ed10f6038a1cba92111cb", size=1_419_539_633),
    Archive(f"{AUG}.zip", optional=True, replaces="benchmark.tgz"),  # no published checksum
)
MANUAL: str | None = None
LARGEST_MASK = 1 << 25  # bytes of a MATLAB file, and of what is in it; an image of VOC has 250,000 pixels
COUNTS = {"train": 10_582, "val": 1_449, "fine": 1_464}


@dataclass(frozen=True)
class VocFolders:
    """The folders of one source: VOC2012, and SBD's `dataset`, SegmentationClassAug, or both."""

    devkit: Path
    sbd: Path | None
    aug: Path | None


def convert(source: Path, dest: Path, job: PrepareJob) -> None:
    """Write images, one-channel masks and lists below `dest`; what an earlier run finished stays.

    DataError names a missing, damaged or ill-labelled file. Whether all ids are there is for the caller to count, so
    part of the dataset converts too.
    """
    folders = locate(source, job)
    job.declare(fine_masks="VOC SegmentationClass", coarse_masks="SBD GTcls" if folders.sbd else AUG)
    lists, masks = lists_and_masks(folders)
    target = Voc(dest)
    tasks = [
        ConvertTask(folders.devkit / f"JPEGImages/{id}.jpg", masks[id], target.image_path(id), target.mask_path(id))
        for id in sorted(masks)
    ]
    work = [task for task in tasks if not task.is_finished]
    parallel(partial(convert_pair, link=may_link(source, job)), work, job, "voc: images and masks")
    for subset, ids in lists.items():
        put_list(dest / f"{subset}.txt", ids)
    if folders.aug:
        compare(tasks, folders.aug, dest / "comparison.json", job)


def locate(source: Path, job: PrepareJob) -> VocFolders:
    """The folders at or below `source`, however deep; DataError when one is not there.

    A SegmentationClassAug.zip that lies beside an unpacked VOCdevkit is unpacked here, below the job's downloads.
    """
    images = need_folder("voc", source, "VOC2012/JPEGImages", "*.jpg", ARCHIVES[0].name)
    sbd = find_folder(source, "benchmark_RELEASE/dataset", "cls/*.mat")
    aug = _find_aug(source, job)
    if sbd is None and aug is None:
        fix = f"bring {ARCHIVES[1].name} (or {AUG}.zip) too: ssbench prepare voc --source FOLDER"
        raise DataError("no masks for the augmented training set: neither SBD's nor a copy of them", str(source), fix)
    return VocFolders(images.parent, sbd, aug)


def _find_aug(source: Path, job: PrepareJob) -> Path | None:
    """The folder of SegmentationClassAug's masks, however it was brought."""
    archive, home = source / f"{AUG}.zip", source
    if archive.is_file() and find_folder(source, AUG, "*.png") is None:
        home = job.downloads / "unpacked" / AUG
        shutil.rmtree(home, ignore_errors=True)
        unpack(archive, home, bound(archive), bars=job.bars)
    loose = home if next(home.glob("????_??????.png"), None) else None  # some zips have no folder in them
    return loose or find_folder(home, AUG, "*.png")


def lists_and_masks(folders: VocFolders) -> tuple[dict[str, set[str]], dict[str, Path]]:
    """The lists (subset -> ids) and the mask file of every id; DataError names listed files that are missing."""
    fine, val = (
        set(read_ids(folders.devkit / f"ImageSets/Segmentation/{name}.txt", "voc")) for name in ("train", "val")
    )
    own, photos = folders.devkit / "SegmentationClass", folders.devkit / "JPEGImages"
    need_all(fine | val, stems(own, "*.png"), lambda id: own / f"{id}.png", "VOC masks")
    coarse = {id: path for id, path in _coarse(folders).items() if id not in fine | val}
    masks = {**{id: own / f"{id}.png" for id in fine | val}, **coarse}
    need_all(masks, stems(photos, "*.jpg"), lambda id: photos / f"{id}.jpg", "images")
    return {"train": fine | coarse.keys(), "val": val, "fine": fine}, masks


def _coarse(folders: VocFolders) -> dict[str, Path]:
    """Id -> mask file, of all that SBD lists, or of all the copy holds."""
    if folders.sbd is not None:
        folder = folders.sbd / "cls"
        ids = {id for name in ("train", "val") for id in read_ids(folders.sbd / f"{name}.txt", "voc")}
        need_all(ids, stems(folder, "*.mat"), lambda id: folder / f"{id}.mat", "SBD masks")
        return {id: folder / f"{id}.mat" for id in ids}
    return {id: folders.aug / f"{id}.png" for id in stems(folders.aug, "*.png")} if folders.aug else {}


def convert_pair(task: ConvertTask, link: bool) -> None:
    """Write one image and its mask."""
    labels = read_sbd(task.labels) if task.labels.suffix == ".mat" else read_mask(task.labels)
    put_pair(task, labels, len(Voc.classes), link)


def read_sbd(path: Path) -> Image.Image:
    """The class labels of an SBD file (MATLAB struct GTcls, field Segmentation, H W uint8) as mode L; DataError."""
    from scipy.io import loadmat

    try:
        _bound_inflated(path)
        labels = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
        if labels.dtype != np.uint8 or labels.ndim != 2:
            raise ValueError(f"Segmentation is {labels.dtype} of shape {labels.shape}, not H W uint8")
    except Exception as error:  # scipy raises whatever the damaged bytes lead it to
        what = f"{path.name} cannot be read as an SBD mask: {type(error).__name__}: {error}"
        raise DataError(what, str(path), "unpack benchmark.tgz again, or fetch it again") from error
    return as_mask(labels)


def _bound_inflated(path: Path) -> None:
    """ValueError when a MATLAB file would inflate to more than any mask: scipy reads what a header claims, whole."""
    if path.stat().st_size > LARGEST_MASK:
        raise ValueError("larger than any mask")
    data, at, left = path.read_bytes(), 128, LARGEST_MASK  # 128 bytes of header, then elements: kind, size, content
    while at + 8 <= len(data):
        kind, size = struct.unpack_from("<II", data, at)
        if kind == 15:  # miCOMPRESSED
            left -= len(zlib.decompressobj().decompress(data[at + 8 : at + 8 + size], left + 1))
        if left < 0:
            raise ValueError(f"it inflates to more than {format_bytes(LARGEST_MASK)}")
        at += 8 + size


def compare(tasks: list[ConvertTask], aug: Path, report: Path, job: PrepareJob) -> dict[str, Any]:
    """Compare the masks written with those in `aug`; the report, a JSON file, names each file that differs.

    Returns the report: files compared (not those taken from `aug` itself), files and pixels that differ, how many ids
    are only here or only there.
    """
    here, there = {task.to_mask.stem for task in tasks}, stems(aug, "*.png")
    own = [task.to_mask for task in tasks if task.labels.parent != aug and task.to_mask.stem in there]
    pixels = parallel(differing, [(aug / path.name, path) for path in own], job, f"voc: comparison with {AUG}")
    differences = {path.stem: count for path, count in zip(own, pixels, strict=True) if count}
    content: dict[str, Any] = {"compared_with": AUG, "files": len(own), "differing": len(differences)}
    content |= {"only_here": len(here - there), "only_there": len(there - here), "differing_pixels": differences}
    write_json(report, content)
    return content


def differing(pair: tuple[Path, Path]) -> int:
    """Pixels in which two masks differ; all of the larger one when their sizes do."""
    a, b = (np.asarray(read_mask(path)) for path in pair)
    return int((a != b).sum()) if a.shape == b.shape else max(a.size, b.size)
