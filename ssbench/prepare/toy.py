"""Draws the toy data: nothing is fetched, every file is drawn from (seed, id).

Pixels of masks and of pictures before compression are the same everywhere. The bytes of the files also depend on the
JPEG and zlib encoders that Pillow was built with; they repeat wherever the same Pillow wheel is installed.
"""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path

from PIL import Image

from ssbench.data.dataset import IGNORE
from ssbench.data.toy import Toy
from ssbench.data.toy_scene import Scene, is_coarse, scene
from ssbench.prepare.convert import is_intact, put, put_list, put_png
from ssbench.prepare.job import Archive, PrepareJob, parallel

ARCHIVES: tuple[Archive, ...] = ()
MANUAL: str | None = None
COUNTS = {"train": 320, "val": 80, "test": 80}
SEED = 0
QUALITY = 92  # of the JPEGs: artefacts as photographs have them, hardly visible


def convert(source: Path, dest: Path, job: PrepareJob) -> None:
    """Draw every scene below `dest`; what an earlier, interrupted run drew stays. `source` is not read."""
    job.declare(seed=SEED, quality=QUALITY)
    ids = {subset: [f"{subset}_{i:04d}" for i in range(COUNTS[subset])] for subset in Toy.subsets}
    every = [id for subset in Toy.subsets for id in ids[subset]]
    parallel(partial(draw_pair, dest=dest), every, job, "drawing toy")
    for name, listed in {**ids, "coarse": [id for id in every if is_coarse(id, SEED)]}.items():
        put_list(dest / f"{name}.txt", listed)


def draw_pair(id: str, dest: Path) -> None:
    """Write images/<id>.jpg and masks/<id>.png, unless they are there."""
    image, mask = dest / "images" / f"{id}.jpg", dest / "masks" / f"{id}.png"
    if not (is_intact(image) and is_intact(mask)):
        drawn = scene(id, SEED)
        put(image, jpeg(drawn))
        put_png(mask, indexed(drawn))


def jpeg(drawn: Scene) -> bytes:
    """The picture of a scene as a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(drawn.image).save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()


def indexed(drawn: Scene) -> Image.Image:
    """The mask of a scene as a palette image that any viewer shows in the colours of the classes, 255 in near white."""
    page = Image.fromarray(drawn.mask)
    colours = [channel for colour in Toy.palette for channel in colour]
    unused = [0] * 3 * (IGNORE - len(Toy.palette))
    page.putpalette([*colours, *unused, 224, 224, 192])
    return page
