"""Converts ACDC from any of its three forms (challenge NIfTI, SSL4MIS HDF5, PNG) to slices and labels.

NIfTI and HDF5 hold float intensities, which stay float (TIFF): the release trains and evaluates on them and cuts only
unlabelled slices to 8 bits (card: datasets 3). From 8-bit PNG that cannot be followed, so the slices stay 8 bits.
"""

from __future__ import annotations

import csv
import functools
import io
import re
import types
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.data.dataset import read_grey
from ssbench.errors import DataError, SsbenchError, UsageError, first_few
from ssbench.prepare.convert import is_intact, put, put_copy, put_png, put_tiff
from ssbench.prepare.job import Archive, PrepareJob, parallel

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
PATIENTS = 100  # of the training release; the challenge's test patients 101..150 are used by nobody here
LABELS = 4
MOST_VOXELS = 1 << 23  # the largest volume of ACDC has half of that; a header can claim 10^13
NAME = re.compile(r"patient(\d{3})_frame(\d{2})(?:_slice_(\d{1,4}))?", re.ASCII)

# Patients of val.list and test.list of HiLab-git/SSL4MIS 06df604, data/ACDC; the other 70 are train.list.
VAL = (2, 19, 28, 30, 39, 45, 78, 82, 85, 87)
TEST = (1, 7, 8, 11, 13, 22, 24, 33, 52, 59, 64, 65, 66, 68, 75, 80, 81, 83, 84, 93)


def convert(source: Path, dest: Path, job: PrepareJob) -> None:
    """From the first folder, looking from `source` downwards, that holds volumes in a known form."""
    volumes = find_volumes(source)
    job.declare(form=volumes[0].form, intensity=volumes[0].intensity)
    rows = parallel(functools.partial(convert_volume, dest=dest), volumes, job, "converting acdc")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([COLUMNS, *sorted(rows)])
    put(dest / "volumes.csv", text.getvalue().encode())


def find_volumes(source: Path) -> list[Volume]:
    """All volumes of the first form found in `source` or up to three folders below; DataError when there is none."""
    folders = [source]
    for _ in range(4):
        for folder in folders:
            for form in FORMS:
                if volumes := form.find(folder):
                    return list(volumes)
        folders = [path for folder in folders for path in sorted(folder.iterdir()) if path.is_dir()]
    what = "no ACDC volumes: neither training/patient001/*.nii.gz, nor patient*.h5, nor slices/*.png with labels/*.png"
    raise DataError(what, str(source), MANUAL)


def convert_volume(volume: Volume, dest: Path) -> tuple[str, str, int, int, int, str]:
    """Write slices/ and labels/ of one volume below `dest` (unless they are there); its row of volumes.csv."""
    subset, (slices, height, width) = subset_of(volume.name), volume.shape()
    ids = [f"{volume.name}_slice_{k}" for k in range(1, slices + 1)]
    paths = [(dest / "slices" / f"{id}{volume.suffix}", dest / "labels" / f"{id}.png") for id in ids]
    if not all(is_intact(path) for pair in paths for path in pair):
        volume.write(paths)
    return volume.name, subset, slices, height, width, volume.spacing()


def subset_of(volume: str) -> str:
    """train, val or test: both volumes of a patient are in the same; DataError for an unknown patient."""
    patient = int(volume[len("patient") : len("patient") + 3])
    if not 1 <= patient <= PATIENTS:
        raise DataError(f"no patient {patient} in the training release of acdc", volume, "bring patients 001 to 100")
    return "val" if patient in VAL else "test" if patient in TEST else "train"


@dataclass(frozen=True)
class Volume(ABC):
    """One volume under its SSL4MIS name; `files` are all it is read from, images first where labels lie apart."""

    form: ClassVar[str]
    intensity: ClassVar[str]
    suffix: ClassVar[str] = ".tif"
    name: str
    files: tuple[Path, ...]

    def __str__(self) -> str:
        return self.name  # how a pool names the item that failed

    @classmethod
    @abstractmethod
    def find(cls, folder: Path) -> list[Self]:
        """The volumes directly in `folder` in this form; none when it is not of this form."""

    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Slices, height, width, without reading the pixels."""

    def spacing(self) -> str:
        """Millimetres between slices, rows and columns, as "10x1.5x1.5"; empty when the form does not tell."""
        return ""

    @abstractmethod
    def write(self, slices: list[tuple[Path, Path]]) -> None:
        """Write every slice's image and labels to the pair of paths it is given."""


class PngVolume(Volume):
    """slices/<volume>_slice_<k>.png and labels/ the same: copied byte for byte, read by `prepare` afterwards."""

    form = "png"
    intensity = "as in the PNG files (the published ones: clipped at the 99th percentile of the volume, min-max); 8 bit"
    suffix = ".png"

    @classmethod
    def find(cls, folder: Path) -> list[Self]:
        """See `Volume.find`."""
        if not ((folder / "slices").is_dir() and (folder / "labels").is_dir()):
            return []
        groups = _grouped(sorted((folder / "slices").glob("patient*_slice_*.png")))
        return [cls(name, _counted(name, files)) for name, files in groups]

    def shape(self) -> tuple[int, int, int]:
        """See `Volume.shape`."""
        width, height = read_grey(self.files[0]).size
        return len(self.files), height, width

    def write(self, slices: list[tuple[Path, Path]]) -> None:
        """See `Volume.write`."""
        for path, (image_path, labels_path) in zip(self.files, slices, strict=True):
            put_copy(path, image_path)
            put_copy(path.parent.parent / "labels" / path.name, labels_path)


class FloatVolume(Volume):
    """A volume whose intensities are float."""

    @abstractmethod
    def read(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Image in [0, 1] and labels 0..3, both slices x height x width; DataError naming a damaged file."""

    def write(self, slices: list[tuple[Path, Path]]) -> None:
        """See `Volume.write`."""
        image, labels = self.read()
        for (image_path, labels_path), intensities, values in zip(slices, image, labels, strict=True):
            put_tiff(image_path, Image.fromarray(intensities))
            put_png(labels_path, Image.fromarray(values))


class NiftiVolume(FloatVolume):
    """The challenge's own files, training/patientNNN/patientNNN_frameXX.nii.gz and _gt.nii.gz."""

    form = "nifti"
    intensity = "min-max of the volume; float32"

    @classmethod
    def find(cls, folder: Path) -> list[Self]:
        """See `Volume.find`; frame 01 is the earlier of the two annotated frames, as in the SSL4MIS lists."""
        volumes = []
        for patient in sorted(folder.glob("patient[0-9][0-9][0-9]")):
            images = [p for p in sorted(patient.glob("patient*_frame*.nii*")) if "_gt." not in p.name]
            if images and int(patient.name[-3:]) <= PATIENTS:
                _agree_with_info(patient, images)
                for name, files in _grouped(images):
                    stem, _, end = files[0].name.partition(".")
                    volumes.append(cls(name, (files[0], files[0].with_name(f"{stem}_gt.{end}"))))
        return volumes

    def shape(self) -> tuple[int, int, int]:
        """See `Volume.shape`; nibabel gives column, row, slice, so the axes are turned round."""
        with _read_errors(self.files[0]):
            return _bounded(_library("nibabel").load(self.files[0]).shape[::-1])

    def spacing(self) -> str:
        """See `Volume.spacing`."""
        with _read_errors(self.files[0]):
            zooms = _library("nibabel").load(self.files[0]).header.get_zooms()[:3]
        return "x".join(f"{zoom:g}" for zoom in reversed(zooms))

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """See `FloatVolume.read`."""
        image, labels = (self._array(path) for path in self.files)
        with _read_errors(self.files[1]):
            if image.shape != labels.shape:
                raise ValueError(f"labels of {labels.shape} beside an image of {image.shape}")
        low, high = image.min(), image.max()
        if not (low < high and np.isfinite(high - low)):
            what = f"{self.files[0].name} is of one grey value, or holds values that are no numbers"
            raise DataError(what, str(self.files[0]), "fetch the file again")
        return ((image - low) / (high - low)).astype(np.float32), _labels(labels, self.files[1])

    def _array(self, path: Path) -> NDArray[np.float64]:
        with _read_errors(path):
            volume = _library("nibabel").load(path)
            _bounded(volume.shape)
            return np.asarray(volume.dataobj, dtype=np.float64).transpose(2, 1, 0)


class H5Volume(FloatVolume):
    """SSL4MIS's files: data/<volume>.h5, or, where that is missing, data/slices/<volume>_slice_<k>.h5."""

    form = "h5"
    intensity = "as in the h5 files, [0, 1]; float32"

    @classmethod
    def find(cls, folder: Path) -> list[Self]:
        """See `Volume.find`."""
        whole = dict(_grouped(sorted(folder.glob("patient*_frame*.h5"))))
        parts = dict(_grouped(sorted((folder / "slices").glob("patient*_slice_*.h5"))))
        parts = {name: files for name, files in parts.items() if name not in whole}
        whole |= {name: list(_counted(name, files)) for name, files in parts.items()}
        return [cls(name, tuple(files)) for name, files in sorted(whole.items())]

    def shape(self) -> tuple[int, int, int]:
        """See `Volume.shape`."""
        with _read_errors(self.files[0]), _library("h5py").File(self.files[0], "r") as file:
            shape = file["image"].shape
            return _bounded(shape if len(shape) == 3 else (len(self.files), *shape))

    def read(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """See `FloatVolume.read`."""
        images, labels = zip(*(self._pair(path) for path in self.files), strict=True)
        with _read_errors(self.files[0]):  # slices of other sizes do not make a volume
            return np.concatenate(images), np.concatenate(labels)

    def _pair(self, path: Path) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        with _read_errors(path), _library("h5py").File(path, "r") as file:
            shape = file["image"].shape
            stacked = _bounded(shape if len(shape) == 3 else (1, *shape))
            if file["label"].shape != shape:
                raise ValueError(f"a label of {file['label'].shape} beside an image of {shape}")
            image, labels = np.asarray(file["image"][()]), np.asarray(file["label"][()])
            if not (image.min() >= 0 and image.max() <= 1):
                what = f"{path.name}: image {shape} from {image.min():g} to {image.max():g}"
                raise DataError(what, str(path), "bring files with an image in [0, 1] and a label of the same shape")
        return image.reshape(stacked).astype(np.float32), _labels(labels.reshape(stacked), path)


FORMS: tuple[type[Volume], ...] = (PngVolume, NiftiVolume, H5Volume)


def _grouped(files: list[Path]) -> list[tuple[str, list[Path]]]:
    """Volume name -> its files in order of slice; frames called by their raw number become 01 and 02 in order."""
    groups: dict[tuple[str, int], list[tuple[int, Path]]] = defaultdict(list)
    for path in files:
        if match := NAME.fullmatch(path.name.split(".")[0]):
            groups[match[1], int(match[2])].append((int(match[3] or 0), path))
    frames: dict[str, list[int]] = defaultdict(list)
    for patient, frame in sorted(groups):
        frames[patient].append(frame)
    volumes = []
    for (patient, frame), numbered in sorted(groups.items()):
        rank = frame if set(frames[patient]) <= {1, 2} else frames[patient].index(frame) + 1
        if len(frames[patient]) > 2 or (rank != frame and len(frames[patient]) != 2):
            what = f"patient{patient} has frames {frames[patient]}, not two"
            raise DataError(what, str(numbered[0][1]), "bring both annotated frames of each patient")
        volumes.append((f"patient{patient}_frame{rank:02d}", [path for _, path in sorted(numbered)]))
    return volumes


def _counted(name: str, files: list[Path]) -> tuple[Path, ...]:
    """`files`, when their slice numbers run without a gap from 1 (or, in some copies, from 0)."""
    numbers = [int(path.stem.rpartition("_")[2]) for path in files]
    if numbers not in (list(range(len(files))), list(range(1, len(files) + 1))):
        raise DataError(f"{name} has slices {numbers}, not 1 to the last", str(files[0].parent), "bring all slices")
    return tuple(files)


def _agree_with_info(patient: Path, images: list[Path]) -> None:
    """DataError unless the frames are the ED and ES that Info.cfg names (where there is one)."""
    info = patient / "Info.cfg"
    if info.is_file():
        with info.open(encoding="latin-1") as file:  # its numbers are ASCII, whatever else it holds
            named = dict(re.findall(r"^(ED|ES):\s*(\d{1,4})\s*$", file.read(1 << 16), re.MULTILINE | re.ASCII))
        frames = sorted(int(match[2]) for path in images if (match := NAME.fullmatch(path.name.split(".")[0])))
        if sorted(map(int, named.values())) != frames:
            what = f"{patient.name} has frames {frames}, Info.cfg names {named}"
            raise DataError(what, str(info), "fetch this patient again")


def _bounded(shape: Any) -> tuple[int, int, int]:
    """A shape of three sides; ValueError for another rank, or for more than any volume has."""
    sides = tuple(int(side) for side in shape)
    if len(sides) != 3 or min(sides) < 1 or sides[0] * sides[1] * sides[2] > MOST_VOXELS:
        raise ValueError(f"an array of shape {sides}, where a volume is slices x height x width")
    return sides[0], sides[1], sides[2]


def _labels(labels: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    unknown = sorted(set(np.unique(labels).tolist()) - set(range(LABELS)))
    if unknown:
        what = f"{path.name} has labels [{first_few(unknown, 5)}], known are 0..{LABELS - 1}"
        raise DataError(what, str(path), "fetch it again")
    return labels.astype(np.uint8)


def _library(name: str) -> types.ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise UsageError(f"this form of acdc is read with {name}", fix="pip install 'ssbench[medical]'") from None


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Whatever h5py and nibabel raise on a damaged file, as a DataError naming it."""
    try:
        yield
    except SsbenchError:
        raise
    except Exception as error:  # they raise whatever the damaged bytes lead them to
        what = f"{path.name} cannot be read: {str(error) or type(error).__name__}"
        raise DataError(what, str(path), "fetch the file again") from error
