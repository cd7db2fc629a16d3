"""ADE20K without its pixels: a few drawn pairs in the layout of the archive, and the published lists by their rule.

The lists of UniMatch V2 and SemiVL are the sorted training files in the order of `random.Random(0).shuffle` (card:
datasets 9), so a test can make their very bytes; the manifest's digests are held against them.
"""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

PARTS = {"1_128": 158, "1_64": 316, "1_32": 631, "1_16": 1263, "1_8": 2526, "1_4": 5052, "1_2": 10105}
COMMON = ("1_64", "1_32", "1_16", "1_8")
"""Parts that both repositories have; of 1_32 SemiVL has one image more."""


def training_ids() -> list[str]:
    """The 20,210 training ids in the order in which the published lists are cut."""
    ids = [f"ADE_train_{number:08d}" for number in range(1, 20_211)]
    random.Random(0).shuffle(ids)  # noqa: S311  the published rule
    return ids


def val_ids() -> list[str]:
    """The 2,000 val ids."""
    return [f"ADE_val_{number:08d}" for number in range(1, 2_001)]


def published_lists() -> dict[tuple[str, str], bytes]:
    """(repository, path) -> bytes of the list: UniMatch V2 ends its last line, SemiVL does not."""
    ids, files = training_ids(), {}
    for part, count in PARTS.items():
        for repository, folder, size in (
            ("UniMatch-V2", "ade20k", count),
            ("semivl", "ade", 632 if part == "1_32" else count),
        ):
            for role, chosen in (("labeled", ids[:size]), ("unlabeled", ids[size:])):
                text = "\n".join(_line(id, "training") for id in chosen) + "\n" * (repository == "UniMatch-V2")
                files[repository, f"splits/{folder}/{part}/{role}.txt"] = text.encode()
    files["semivl", "splits/ade/val.txt"] = "\n".join(_line(id, "validation") for id in val_ids()).encode()
    return files


def _line(id: str, folder: str) -> str:
    return f"images/{folder}/{id}.jpg annotations/{folder}/{id}.png"


def write_pairs(root: Path, masks: dict[str, list[int]], side: int = 8) -> None:
    """A photograph and a mask of vertical stripes for each id -> values, below `root` as in the archive."""
    rng = np.random.default_rng(0)
    for id, values in masks.items():
        folder = "training" if id.startswith("ADE_train") else "validation"
        image, mask = root / f"images/{folder}/{id}.jpg", root / f"annotations/{folder}/{id}.png"
        for path in (image, mask):
            path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side * len(values), 3), np.uint8)).save(image)
        Image.fromarray(np.repeat(np.array([values], np.uint8), side, 1).repeat(side, 0)).save(mask)
