"""Cityscapes, fine annotations: 2,975 training and 500 val images of 2048 x 1024, 19 classes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ssbench.data.dataset import Dataset, read_image, read_mask
from ssbench.errors import UsageError, nearest

CITIES = {
    "train": (
        *("aachen", "bochum", "bremen", "cologne", "darmstadt", "dusseldorf", "erfurt", "hamburg", "hanover", "jena"),
        *("krefeld", "monchengladbach", "strasbourg", "stuttgart", "tubingen", "ulm", "weimar", "zurich"),
    ),
    "val": ("frankfurt", "lindau", "munster"),
}
"""The cities of each subset: none is in two, so an id says where its files are."""

SUBSET = {city: subset for subset, cities in CITIES.items() for city in cities}


def subset_of(id: str) -> str:
    """ "train" or "val", by the city an id begins with; UsageError for a city that is in neither."""
    city = id.split("_")[0]
    if city not in SUBSET:
        raise UsageError(f"no city '{city}' in the train and val sets of cityscapes", id, nearest(city, list(SUBSET)))
    return SUBSET[city]


class Cityscapes(Dataset):
    """Prepared by `ssbench prepare cityscapes`, in the folders of the official archives.

    leftImg8bit/<subset>/<city>/<id>_leftImg8bit.png and gtFine/<subset>/<city>/<id>_gtFine_labelTrainIds.png; an id is
    <city>_<sequence>_<frame> (aachen_000000_000019). The test set has no labels and is not prepared.
    """

    name = "cityscapes"
    subsets = ("train", "val")
    classes = (
        *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
        *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
    )
    palette = (
        *((128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)),
        *((250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)),
        *((255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)),
    )

    def image_path(self, id: str) -> Path:
        """Where the photograph of `id` is."""
        return self.root / "leftImg8bit" / subset_of(id) / id.split("_")[0] / f"{id}_leftImg8bit.png"

    def mask_path(self, id: str) -> Path:
        """Where the trainId mask of `id` is."""
        return self.root / "gtFine" / subset_of(id) / id.split("_")[0] / f"{id}_gtFine_labelTrainIds.png"

    def image(self, id: str) -> Image.Image:
        """The photograph, RGB."""
        return read_image(self.image_path(id))

    def mask(self, id: str) -> Image.Image:
        """Mode L: trainIds 0..18, 255 for every other label."""
        return read_mask(self.mask_path(id))
