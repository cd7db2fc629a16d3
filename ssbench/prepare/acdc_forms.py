"""The three forms ACDC comes in, each a volume that knows its shape and can be read as 8-bit slices and labels."""

from __future__ import annotations

import re
import types
import zlib
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.data.dataset import read_grey, read_mask
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.prepare.files import put_copy, put_png

Array = NDArray[np.uint8]
PATIENTS = 100  # of the training release; the challenge's test patients 101..150 are used by nobody here
LABELS = 4
NAME = re.compile(r"patient(\d{3})_frame(\d{2})(?:_slice_(\d+))?")


@dataclass(frozen=True)
class Volume(ABC):
    """One volume under its SSL4MIS name; `files` are all it is read from, images first where labels lie apart."""

    form: ClassVar[str]
    intensity: ClassVar[str]
    name: str
    files: tuple[Path, ...]

    @classmethod
    @abstractmethod
    def find(cls, folder: Path) -> list[Self]:
        """The volumes directly in `folder` in this form; none when it is not of this form."""

    @abstractmethod
    def shape(self) -> tuple[int, int, int]:
        """Slices, height, width, without reading the pixels."""

    @abstractmethod
    def read(self) -> tuple[Array, Array]:
        """Image (0..255) and labels (0..3), both slices x height x width; DataError naming a damaged file."""

    def spacing(self) -> str:
        """Millimetres between slices, rows and columns, as "10x1.5x1.5"; empty when the form does not tell."""
        return ""

    def write(self, slices: list[tuple[Path, Path]]) -> None:
        """Every slice's image and labels to the pair of paths it is given."""
        image, labels = self.read()
        for (image_path, labels_path), grey, values in zip(slices, image, labels, strict=True):
            put_png(image_path, Image.fromarray(grey))
            put_png(labels_path, Image.fromarray(values))


class PngVolume(Volume):
    """slices/<volume>_slice_<k>.png and labels/ the same: copied byte for byte."""

    form = "png"
    intensity = "as in the PNG files (the published ones: clipped at the 99th percentile of the volume, min-max)"

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

    def read(self) -> tuple[Array, Array]:
        """See `Volume.read`."""
        labels = [np.asarray(read_mask(_label_file(path))) for path in self.files]
        return np.stack([np.asarray(read_grey(path)) for path in self.files]), np.stack(labels)

    def write(self, slices: list[tuple[Path, Path]]) -> None:
        """Copies, looked at by `prepare` afterwards as every sample is."""
        for path, (image_path, labels_path) in zip(self.files, slices, strict=True):
            put_copy(path, image_path)
            put_copy(_label_file(path), labels_path)


class NiftiVolume(Volume):
    """The challenge's own files, training/patientNNN/patientNNN_frameXX.nii.gz and _gt.nii.gz."""

    form = "nifti"
    intensity = "min-max of the volume"

    @classmethod
    def find(cls, folder: Path) -> list[Self]:
        """See `Volume.find`; frame 01 is the earlier of the two annotated frames, as in the SSL4MIS lists."""
        volumes = []
        for patient in sorted(folder.glob("patient[0-9][0-9][0-9]")):
            images = [p for p in sorted(patient.glob("patient*_frame*.nii*")) if "_gt." not in p.name]
            if images and int(patient.name[-3:]) <= PATIENTS:
                _agree_with_info(patient, images)
                groups = _grouped(images)
                volumes += [cls(name, (files[0], _truth_file(files[0]))) for name, files in groups]
        return volumes

    def shape(self) -> tuple[int, int, int]:
        """See `Volume.shape`."""
        with _read_errors(self.files[0]):
            columns, rows, slices = _library("nibabel").load(self.files[0]).shape
        return int(slices), int(rows), int(columns)

    def spacing(self) -> str:
        """See `Volume.spacing`."""
        with _read_errors(self.files[0]):
            zooms = _library("nibabel").load(self.files[0]).header.get_zooms()[:3]
        return "x".join(f"{zoom:g}" for zoom in reversed(zooms))

    def read(self) -> tuple[Array, Array]:
        """See `Volume.read`; nibabel gives column, row, slice, so the axes are turned round."""
        image, labels = (self._array(path) for path in self.files)
        low, high = image.min(), image.max()
        if not low < high:
            raise DataError(f"{self.files[0].name} is of one grey value", str(self.files[0]), "fetch the file again")
        return _quantised(((image - low) / (high - low)).astype(np.float32)), _labels(labels, self.files[1])

    def _array(self, path: Path) -> NDArray[np.float64]:
        with _read_errors(path):
            data = np.asarray(_library("nibabel").load(path).dataobj, dtype=np.float64)
        if data.ndim != 3:
            raise DataError(f"{path.name} has {data.ndim} dimensions, not 3", str(path), "fetch the file again")
        return data.transpose(2, 1, 0)


class H5Volume(Volume):
    """SSL4MIS's files: data/<volume>.h5, or, where that is missing, data/slices/<volume>_slice_<k>.h5."""

    form = "h5"
    intensity = "as in the h5 files, [0, 1]"

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
        shape = self._shape(self.files[0])
        return (shape[0], shape[1], shape[2]) if len(shape) == 3 else (len(self.files), shape[0], shape[1])

    def read(self) -> tuple[Array, Array]:
        """See `Volume.read`."""
        images, labels = zip(*(self._pair(path) for path in self.files), strict=True)
        return np.concatenate(images), np.concatenate(labels)

    def _shape(self, path: Path) -> tuple[int, ...]:
        with _read_errors(path), _library("h5py").File(path, "r") as file:
            return tuple(int(n) for n in file["image"].shape)

    def _pair(self, path: Path) -> tuple[Array, Array]:
        with _read_errors(path), _library("h5py").File(path, "r") as file:
            image, labels = np.asarray(file["image"][()]), np.asarray(file["label"][()])
        if image.shape != labels.shape or not (image.min() >= 0 and image.max() <= 1):
            what = f"{path.name}: image {image.shape} from {image.min():g} to {image.max():g}, label {labels.shape}"
            raise DataError(what, str(path), "bring files with an image in [0, 1] and a label of the same shape")
        stacked = image.reshape(-1, *image.shape[-2:])
        return _quantised(stacked), _labels(labels.reshape(stacked.shape), path)


FORMS: tuple[type[Volume], ...] = (PngVolume, NiftiVolume, H5Volume)


def _grouped(files: list[Path]) -> list[tuple[str, list[Path]]]:
    """Volume name -> its files in order of slice; frames called by their raw number become 01 and 02 in order."""
    groups: dict[tuple[str, int], list[tuple[int, Path]]] = defaultdict(list)
    for path in files:
        if found := NAME.fullmatch(path.name.split(".")[0]):
            groups[found[1], int(found[2])].append((int(found[3] or 0), path))
    frames: dict[str, list[int]] = defaultdict(list)
    for patient, frame in sorted(groups):
        frames[patient].append(frame)
    named = []
    for (patient, frame), numbered in sorted(groups.items()):
        rank = frame if set(frames[patient]) <= {1, 2} else frames[patient].index(frame) + 1
        if len(frames[patient]) > 2 or (rank != frame and len(frames[patient]) != 2):
            what = f"patient{patient} has frames {frames[patient]}, not two"
            raise DataError(what, str(numbered[0][1]), "bring both annotated frames of each patient")
        named.append((f"patient{patient}_frame{rank:02d}", [path for _, path in sorted(numbered)]))
    return named


def _counted(name: str, files: list[Path]) -> tuple[Path, ...]:
    """`files`, when their slice numbers run without a gap from 1 (or, in some copies, from 0)."""
    numbers = [int(path.stem.rpartition("_")[2]) for path in files]
    if numbers not in (list(range(len(files))), list(range(1, len(files) + 1))):
        raise DataError(f"{name} has slices {numbers}, not 1 to the last", str(files[0].parent), "bring all slices")
    return tuple(files)


def _label_file(path: Path) -> Path:
    return path.parent.parent / "labels" / path.name


def _truth_file(path: Path) -> Path:
    stem, _, end = path.name.partition(".")
    return path.with_name(f"{stem}_gt.{end}")


def _agree_with_info(patient: Path, images: list[Path]) -> None:
    """DataError unless the frames are the ED and ES that Info.cfg names (where there is one)."""
    info = patient / "Info.cfg"
    if info.is_file():
        said = dict(re.findall(r"^(ED|ES):\s*(\d+)\s*$", info.read_text(encoding="utf-8"), re.MULTILINE))
        there = sorted(int(found[2]) for path in images if (found := NAME.fullmatch(path.name.split(".")[0])))
        if sorted(map(int, said.values())) != there:
            what = f"{patient.name} has frames {there}, Info.cfg names {said}"
            raise DataError(what, str(info), "fetch this patient again")


def _quantised(image: NDArray[np.floating]) -> Array:
    """[0, 1] as 8 bits, rounded: an error of at most 1/510."""
    quantised: Array = np.rint(image * 255).astype(np.uint8)
    return quantised


def _labels(labels: NDArray[np.generic], path: Path) -> Array:
    unknown = sorted(set(np.unique(labels).tolist()) - set(range(LABELS)))
    if unknown:
        raise DataError(f"{path.name} has labels {unknown}, known are 0..{LABELS - 1}", str(path), "fetch it again")
    return labels.astype(np.uint8)


def _library(name: str) -> types.ModuleType:
    try:
        return import_module(name)
    except ImportError:
        raise UsageError(f"this form of acdc is read with {name}", fix="pip install 'ssbench[medical]'") from None


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Whatever the libraries raise on a damaged file, as a DataError naming it."""
    try:
        yield
    except SsbenchError:
        raise
    except (OSError, ValueError, KeyError, TypeError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read: {error}", str(path), "fetch the file again") from error
    except Exception as error:
        if type(error).__name__ != "ImageFileError":  # nibabel's own, and nibabel is optional
            raise
        raise DataError(f"{path.name} is no NIfTI file: {error}", str(path), "fetch the file again") from error
