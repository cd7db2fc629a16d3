"""ACDC, cardiac MRI: 100 patients, two volumes each, 1,902 slices, three structures and background."""

from __future__ import annotations

import csv
import functools
import os
from pathlib import Path

from PIL import Image

from ssbench.data.dataset import Dataset, read_float, read_grey, read_mask
from ssbench.errors import DataError

SUBSETS = {"train": ("train",), "val": ("val",), "test": ("test",), "val+test": ("val", "test")}


class Acdc(Dataset):
    """Prepared by `ssbench prepare acdc`: slices/<id>, labels/<id>.png and volumes.csv.

    Slices from NIfTI or HDF5 are float32 TIFF, those from PNG stay 8-bit PNG (card: datasets 3).

    Volumes are called patient099_frame01 (and 02, the later of the two annotated frames), their slices
    patient099_frame01_slice_1 and on. UniMatch scores on "val+test", 60 volumes; SSL4MIS keeps the two apart.
    """

    name = "acdc"
    subsets = tuple(SUBSETS)
    classes = ("background", "right ventricle", "myocardium", "left ventricle")
    palette = ((0, 0, 0), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    channels = 1

    def ids(self, subset: str) -> tuple[str, ...]:
        """Sorted slice ids of "train" (1,312), "val" (210), "test" (380) or "val+test" (590); see `Dataset.ids`."""
        return tuple(sorted(id for slices in self.volumes(subset).values() for id in slices))

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]]:
        """Volume -> its slice ids from the first to the last."""
        self.check_subset(subset)
        rows = [row for row in table(self.root / "volumes.csv") if row[1] in SUBSETS[subset]]
        return {name: tuple(f"{name}_slice_{k}" for k in range(1, slices + 1)) for name, _, slices in rows}

    def image(self, id: str) -> Image.Image:
        """The slice: mode "F", intensity in [0, 1]; or mode "L", where value / 255 is the intensity."""
        path = self.root / "slices" / f"{id}.tif"
        if os.path.isfile(path):  # noqa: PTH113  Path.is_file raises for a name too long
            return read_float(path)
        return read_grey(self.root / "slices" / f"{id}.png")

    def mask(self, id: str) -> Image.Image:
        """Mode L: 0 background, 1 right ventricle, 2 myocardium, 3 left ventricle."""
        return read_mask(self.root / "labels" / f"{id}.png")


@functools.lru_cache(maxsize=4)
def _rows(path: Path, stamp: int) -> tuple[tuple[str, str, int], ...]:
    with path.open(newline="", encoding="utf-8") as file:
        rows = [(row["volume"], row["subset"], int(row["slices"])) for row in csv.DictReader(file)]
    if any(not 0 < slices < 1000 for *_, slices in rows):  # a volume has 6 to 18; a forged number could fill memory
        raise ValueError("a number of slices outside 1 to 999")
    return tuple(sorted(rows))


def table(path: Path) -> tuple[tuple[str, str, int], ...]:
    """(volume, subset, number of slices) of each row of `volumes.csv`, sorted; DataError when missing or damaged."""
    try:
        return _rows(path, path.stat().st_mtime_ns)
    except FileNotFoundError:
        raise DataError("acdc is not prepared: no volumes.csv", str(path), "ssbench prepare acdc") from None
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(f"volumes.csv is damaged: {error!r}", str(path), "ssbench prepare acdc") from error
