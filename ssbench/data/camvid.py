"""CamVid in the SegNet form: 367 training, 101 val and 233 test images of 480 x 360, 11 classes."""

from __future__ import annotations

from PIL import Image

from ssbench.data.dataset import Dataset, no_subset, read_ids, read_image, read_mask
from ssbench.errors import DataError

SUBSETS = ("train", "val", "test")


class CamVid(Dataset):
    """Prepared by `ssbench prepare camvid`: images/<id>.jpg or .png, masks/<id>.png, train.txt, val.txt, test.txt.

    An id is the stem of the file (0001TP_006690). Val frames lie between training frames of the same drive, so scores
    on val are optimistic; "test" holds a drive that training has not.
    """

    name = "camvid"
    classes = (
        *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian"),
        "bicyclist",
    )
    palette = (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    )

    def ids(self, subset: str) -> tuple[str, ...]:
        """Sorted ids of "train" (367), "val" (101) or "test" (233); see `Dataset.ids`."""
        if subset not in SUBSETS:
            raise no_subset(self.name, subset, SUBSETS)
        return read_ids(self.root / f"{subset}.txt", self.name)

    def image(self, id: str) -> Image.Image:
        """The frame, RGB: the published PNG, or the JPEG it was made into."""
        for path in (self.root / "images" / f"{id}{suffix}" for suffix in (".jpg", ".png")):
            if path.is_file():
                return read_image(path)
        raise DataError(f"no image of '{id}'", str(self.root / "images"), "ssbench prepare camvid --check names all")

    def mask(self, id: str) -> Image.Image:
        """Mode L: 0..10, 255 where the publisher says void."""
        return read_mask(self.root / "masks" / f"{id}.png")
