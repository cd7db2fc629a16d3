"""CamVid in the SegNet form: 367 training, 101 val and 233 test images of 480 x 360, 11 classes."""

from __future__ import annotations

from PIL import Image

from ssbench.data.dataset import Dataset, find_image, read_image, read_mask


class CamVid(Dataset):
    """Prepared by `ssbench prepare camvid`: images/<id>.jpg or .png, masks/<id>.png, train.txt, val.txt, test.txt.

    An id is the stem of the file (0001TP_006690). Val frames lie between training frames of the same drive, so scores
    on val are optimistic; "test" holds a drive that training has not.
    """

    name = "camvid"
    subsets = ("train", "val", "test")
    classes = (
        *("sky", "building", "pole", "road", "pavement", "tree", "sign symbol", "fence", "car", "pedestrian"),
        "bicyclist",
    )
    palette = (
        *((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0)),
        *((192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192)),
    )

    def image(self, id: str) -> Image.Image:
        """The frame, RGB: the published PNG, or the JPEG it was made into."""
        return read_image(find_image(self.root / "images", id, self.name))

    def mask(self, id: str) -> Image.Image:
        """Mode L: 0..10, 255 where the publisher says void."""
        return read_mask(self.root / "masks" / f"{id}.png")
