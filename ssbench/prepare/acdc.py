"""ACDC from any of its three forms (challenge NIfTI, SSL4MIS h5, PNG) to one: 8-bit PNG slices and labels."""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Iterator
from pathlib import Path

from ssbench.errors import DataError
from ssbench.prepare.acdc_forms import FORMS, PATIENTS, Volume
from ssbench.prepare.files import intact, put
from ssbench.prepare.job import Archive, Job, parallel

ARCHIVES = (Archive("ACDC.zip"),)  # packed by the server on request, so neither size nor checksum is published
MANUAL = """\
ACDC is given under terms that you accept yourself (research only, cite Bernard et al. 2018):
1. read https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html
2. save https://humanheart-project.creatis.insa-lyon.fr/database/api/v1/folder/637218e573e9f0047faa00fc/download
   (about 2 GB) as ACDC.zip
3. ssbench prepare acdc --source ACDC.zip
   a folder with training/patient001 ..., with SSL4MIS's data/*.h5, or with slices/ and labels/ of PNG will do too"""
COUNTS = {"train": 1312, "val": 210, "test": 380}
COLUMNS = ("volume", "subset", "slices", "height", "width", "spacing")

# Patients of val.list and test.list of HiLab-git/SSL4MIS 06df604, data/ACDC; the other 70 are train.list.
VAL = (2, 19, 28, 30, 39, 45, 78, 82, 85, 87)
TEST = (1, 7, 8, 11, 13, 22, 24, 33, 52, 59, 64, 65, 66, 68, 75, 80, 81, 83, 84, 93)


def convert(source: Path, dest: Path, job: Job) -> None:
    """From the first folder, looking from `source` downwards, that holds volumes in a known form."""
    volumes = find_volumes(source)
    job.declare(form=volumes[0].form, intensity=f"{volumes[0].intensity}; 8 bit")
    rows = parallel(functools.partial(convert_volume, dest=dest), volumes, job, "converting acdc")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *sorted(rows)])
    put(dest / "volumes.csv", text.getvalue().encode())


def find_volumes(source: Path) -> list[Volume]:
    """All volumes of the first form found in `source` or up to three folders below; DataError when there is none."""
    for folder in _folders(source):
        for form in FORMS:
            if volumes := form.find(folder):
                return list(volumes)
    what = "no ACDC volumes: neither training/patient001/*.nii.gz, nor patient*.h5, nor slices/*.png with labels/*.png"
    raise DataError(what, str(source), MANUAL)


def convert_volume(volume: Volume, dest: Path) -> tuple[str, str, int, int, int, str]:
    """Write slices/ and labels/ of one volume below `dest` (unless they are there); its row of volumes.csv."""
    subset, (slices, height, width) = subset_of(volume.name), volume.shape()
    ids = [f"{volume.name}_slice_{k}" for k in range(1, slices + 1)]
    paths = [(dest / "slices" / f"{id}.png", dest / "labels" / f"{id}.png") for id in ids]
    if not all(intact(path) for pair in paths for path in pair):
        volume.write(paths)
    return volume.name, subset, slices, height, width, volume.spacing()


def subset_of(volume: str) -> str:
    """train, val or test: both volumes of a patient are in the same; DataError for an unknown patient."""
    patient = int(volume[len("patient") : len("patient") + 3])
    if not 1 <= patient <= PATIENTS:
        raise DataError(f"no patient {patient} in the training release of acdc", volume, "bring patients 001 to 100")
    return "val" if patient in VAL else "test" if patient in TEST else "train"


def _folders(source: Path, depth: int = 3) -> Iterator[Path]:
    """`source` and the folders below it, the nearest first."""
    level = [source]
    for _ in range(depth + 1):
        yield from level
        level = [path for folder in level for path in sorted(folder.iterdir()) if path.is_dir()]
