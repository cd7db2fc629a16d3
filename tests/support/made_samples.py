"""Samples, settings and draws that the tests of the views share."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
from PIL import Image
from torch import Tensor

from ssbench.views.pipelines import LabeledView, UnlabeledView, read_views, views_class
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import UNREAD, ViewsConfig

BASE = {"augseg": 60, "stpp": 50}
MANY = 300
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def config(weak: str, crop: int = 32, **settings: object) -> ViewsConfig:
    """Settings of these pipelines; those of other pipelines are left out, so that one call serves all."""
    settings = {"weak": weak, "crop": crop, **({"base": BASE[weak]} if weak in BASE else {}), **settings}
    fields = views_class(settings).model_fields
    return read_views({name: value for name, value in settings.items() if name in fields or name not in UNREAD})


def sample(size: tuple[int, int] = (50, 40), mode: str = "RGB", seed: int = 0, id: str = "a") -> Sample:
    """Noise; the mask has values 0 to 20, and a map repeats it."""
    rng = np.random.default_rng(seed)
    w, h = size
    pixels = rng.integers(0, 256, (h, w, 3) if mode == "RGB" else (h, w), dtype=np.uint8)
    image = Image.fromarray(rng.random((h, w), dtype=np.float32)) if mode == "F" else Image.fromarray(pixels)
    mask = Image.fromarray(rng.integers(0, 21, (h, w), dtype=np.uint8))
    return Sample.of(id, image, mask, {"again": mask})


def draw(k: int = 0, view: str = "unlabeled0") -> Draw:
    return Draw(1, k, "a", view)


def bytes_of(view: LabeledView | UnlabeledView) -> dict[str, bytes]:
    """Every tensor of a view as bytes."""
    out: dict[str, bytes] = {}
    for field in fields(view):
        value = getattr(view, field.name)
        parts = {"": value} if isinstance(value, Tensor) else value
        parts = dict(enumerate(parts)) if isinstance(parts, tuple) else parts
        out |= {f"{field.name}{k}": t.numpy().tobytes() for k, t in parts.items() if isinstance(t, Tensor)}
    return out
