"""The pieces of the weak pipelines: each draws one piece of geometry and adds it to what is to be carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from PIL import Image

from ssbench.views.geometry import Crop, Flip, How, Resize, Rotate, Size, Turn
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import ViewsConfig

Piece: TypeAlias = Callable[[Sample, Draw, ViewsConfig], Sample]


def resize_long_side(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """Long side a uniform integer in [int(base lo), int(base hi)], short side in proportion, halves up (unimatch 2)."""
    w, h = sample.size
    base = cfg.base or max(w, h)
    low, high = (int(base * s) for s in cfg.scale)
    long = max(int(draw("resize").integers(low, high + 1)), 1)
    short = int(min(w, h) * long / max(w, h) + 0.5)
    return _resized(sample, (short, long) if h > w else (long, short), "pil")


def resize_augseg(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """As `resize_long_side`, or with `both_sides` one float factor for both sides, truncated (augseg 2, Cityscapes)."""
    if not cfg.both_sides:
        return resize_long_side(sample, draw, cfg)
    return _scaled(sample, draw("resize").uniform(*cfg.scale), "pil")


def resize_halves(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """With p 0.5 a factor from [lo, 1], else from [1, hi]; sizes truncated (u2pl 3, ael 2)."""
    rng = draw("resize")
    low, high = (cfg.scale[0], 1.0) if rng.random() < 0.5 else (1.0, cfg.scale[1])
    return _scaled(sample, rng.uniform(low, high), "float")


def resize_choice(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """A factor from the list `scales`; sizes truncated (cps 2)."""
    return _scaled(sample, cfg.scales[draw("resize").integers(len(cfg.scales))], "point")


def crop_corner(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """Padded on the right and below up to the crop, then a uniform crop (unimatch 2, stpp 3, augseg 3.1)."""
    rng = draw("crop")
    x, y = (int(rng.integers(max(side - cfg.crop, 0) + 1)) for side in sample.size)
    return _cropped(sample, x, y, cfg.crop)


def crop_centred(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """Padded on both sides up to the crop, the odd pixel right and below, then a uniform crop (u2pl 3, ael 3.1)."""
    rng = draw("crop")
    x, y = (int(rng.integers(max(side - cfg.crop, 0) + 1)) - _before(side, cfg.crop) for side in sample.size)
    return _cropped(sample, x, y, cfg.crop)


def crop_overrun(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """As `crop_centred`, but a crop may start one pixel too late and is then padded by one (cps 2; `overrun`)."""
    rng = draw("crop")
    starts = [max(side - cfg.crop, 0) + 1 + (cfg.overrun and side > cfg.crop) for side in sample.size]
    x, y = (int(rng.integers(n)) - _before(side, cfg.crop) for n, side in zip(starts, sample.size, strict=True))
    return _cropped(sample, x, y, cfg.crop)


def crop_scaled(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """A square of round(crop / s) pixels, s = lo + k / 10, resized to the crop; centred padding (cutmix_seg 4)."""
    rng = draw("crop")
    low, high = cfg.scale
    side = max(round(cfg.crop / (low + int(rng.integers(round((high - low) * 10) + 1)) / 10)), 1)
    x, y = (round(max(s - side, 0) * rng.random()) - _before(s, side) for s in sample.size)
    if side > min(sample.size):  # the release fades to zero where image and padding meet
        sample = replace(sample, alpha=Image.new("F", sample.mask.size, 1.0))
    return _resized(_cropped(sample, x, y, side), (cfg.crop, cfg.crop), "point")


def flip(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """Left and right exchanged with p `flip`."""
    return sample.then(Flip(sample.size)) if draw("flip").random() < cfg.flip else sample


def turn_or_rotate(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """With p `turn` 0 to 3 quarter turns and always a flip along a random axis; else with p `rotate` a rotation.

    unimatch 4 (ACDC). Angles are whole degrees, both ends of `angles` included.
    """
    rng = draw("turn")
    if rng.random() < cfg.turn:
        turned = sample.then(Turn(sample.size, int(rng.integers(4))))
        return turned.then(Flip(turned.size, vertical=bool(rng.integers(2))))
    if rng.random() < cfg.rotate:
        low, high = cfg.angles
        return sample.then(Rotate(sample.size, int(rng.integers(low, high + 1))))
    return sample


def zoom(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """To crop x crop, image and mask alike by nearest neighbour (unimatch 4, ACDC); nothing is drawn."""
    return _resized(sample, (cfg.crop, cfg.crop), "zoom")


def _scaled(sample: Sample, factor: float, how: How) -> Sample:
    w, h = sample.size
    return _resized(sample, (int(w * factor), int(h * factor)), how)


def _resized(sample: Sample, size: Size, how: How) -> Sample:
    return sample.then(Resize(sample.size, (max(size[0], 1), max(size[1], 1)), how))


def _cropped(sample: Sample, x: int, y: int, side: int) -> Sample:
    return sample.then(Crop(sample.size, x, y, (side, side)))


def _before(side: int, crop: int) -> int:
    """Padding on the left (or above) of a side that is shorter than the crop."""
    return max(crop - side, 0) // 2
