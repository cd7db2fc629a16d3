"""PASCAL VOC 2012 with the SBD masks: 10,582 training images ("train_aug"), 1,449 of val, 21 classes."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from ssbench.data.dataset import Dataset, read_image, read_mask


def bit_palette(count: int) -> tuple[tuple[int, int, int], ...]:
    """The first `count` colours (R, G, B in 0..255) of VOC's rule, which COCO's masks use too.

    The bits of the index, three at a time from the low end, become the bits of R, G and B from the high end.
    """
    return tuple((_channel(index, 0), _channel(index, 1), _channel(index, 2)) for index in range(count))


def _channel(index: int, channel: int) -> int:
    return sum((index >> (3 * step + channel) & 1) << (7 - step) for step in range(8))


class Voc(Dataset):
    """Prepared by `ssbench prepare voc`: JPEGImages/<id>.jpg, SegmentationClassAug/<id>.png and the lists.

    An id is VOC's own (2007_000032). "train" is train_aug; "fine" are its 1,464 ids with VOC's own masks, border
    pixels 255; the other 9,118 carry SBD's masks, which have no 255.
    """

    name = "voc"
    subsets = ("train", "val", "fine")
    classes = (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
    palette = bit_palette(21)

    def image_path(self, id: str) -> Path:
        """Where the photograph of `id` is."""
        return self.root / "JPEGImages" / f"{id}.jpg"

    def mask_path(self, id: str) -> Path:
        """Where the one-channel mask of `id` is."""
        return self.root / "SegmentationClassAug" / f"{id}.png"

    def image(self, id: str) -> Image.Image:
        """The photograph, RGB; grey ones are repeated over the channels."""
        return read_image(self.image_path(id))

    def mask(self, id: str) -> Image.Image:
        """Mode L: 0..20, 255 on VOC's borders."""
        return read_mask(self.mask_path(id))
