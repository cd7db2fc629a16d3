"""A drawn stand-in for COCO: official layout, twelve-digit names, 80 categories, crowds; a few images of 96 x 80."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from ssbench.data.coco import CATEGORIES

WIDTH, HEIGHT = 96, 80


def draw_toy_coco(root: Path, train: int = 8, val: int = 2) -> dict[str, int]:
    """Write {train,val}2017/ and annotations/ below `root`; returns the number of images of each subset.

    Every image has boxes of ten categories in a row, so eight images show all 80.
    """
    first = 0
    for subset, count in (("train", train), ("val", val)):
        (root / f"{subset}2017").mkdir(parents=True)
        images, things = [], []
        for k in range(first, first + count):
            name = f"{k + 1:012}.jpg"
            pixels = np.random.default_rng(k).integers(0, 80, (HEIGHT, WIDTH, 3), np.uint8)
            for n in range(10):
                place = (10 * k + n) % len(CATEGORIES)
                x0, y0 = 4 + 19 * (n % 5), 6 + 38 * (n // 5)
                pixels[y0 : y0 + 30, x0 : x0 + 15] += np.uint8(2 * place)  # a class is a shade
                corners = [x0, y0, x0 + 15, y0, x0 + 15, y0 + 30, x0, y0 + 30]
                things.append({
                    "id": len(things) + 1, "image_id": k + 1, "category_id": CATEGORIES[place], "area": 450,
                    "iscrowd": 0, "bbox": [x0, y0, 15, 30], "segmentation": [corners],
                })  # fmt: skip
            Image.fromarray(pixels).save(root / f"{subset}2017" / name, quality=95)
            images.append({"id": k + 1, "file_name": name, "width": WIDTH, "height": HEIGHT})
        first += count
        path = root / "annotations" / f"instances_{subset}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": things, "categories": []}))
    return {"train": train, "val": val}
