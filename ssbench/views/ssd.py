"""The colours of SSD as detectron2 draws them: brightness, contrast, saturation and hue on 8-bit pictures.

Source: detectron2's ColorAugSSDTransform, which Mask2Former's mappers use (card: mask2former 7). Every operation ends
in bytes. HSV is OpenCV's 8-bit form (hue in 0 to 179), computed here with its fixed-point tables, because OpenCV is no
dependency; tests compare with stored values of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssbench.views.sample import Draw, Sample
from ssbench.views.warp import eight_bit
from ssbench.views.weak import Mask2FormerWeak

Bytes: TypeAlias = NDArray[np.uint8]
SHIFT = 12
"""Bits after the point of OpenCV's division tables."""


def ssd_colour(sample: Sample, draw: Draw, cfg: Mask2FormerWeak) -> Sample:
    """A settled sample in other colours, its padding painted in `grey`. Each operation happens with `colour_share`.

    Brightness comes first, then contrast before saturation and hue or after them, by a coin. The release colours before
    it flips and pads; a colour does not depend on the place, so only the padding has to be painted again.
    """
    image = np.array(eight_bit(sample.image).convert("RGB"))
    rng = draw("ssd")

    def happens() -> bool:
        return bool(rng.random() < cfg.colour_share)

    def brightness(image: Bytes) -> Bytes:
        return _converted(image, 1.0, rng.uniform(-cfg.brightness, cfg.brightness)) if happens() else image

    def contrast(image: Bytes) -> Bytes:
        return _converted(image, rng.uniform(*cfg.contrast), 0.0) if happens() else image

    def saturation(image: Bytes) -> Bytes:
        if not happens():
            return image
        hsv = to_hsv(image)
        hsv[..., 1] = _converted(hsv[..., 1], rng.uniform(*cfg.saturation), 0.0)
        return to_rgb(hsv)

    def hue(image: Bytes) -> Bytes:
        if not happens():
            return image
        hsv = to_hsv(image)
        hsv[..., 0] = (hsv[..., 0].astype(np.int64) + int(rng.integers(-cfg.hue, cfg.hue + 1))) % 180
        return to_rgb(hsv)

    order: list[Callable[[Bytes], Bytes]] = [contrast, saturation, hue]
    image = brightness(image)
    for operation in order if rng.integers(2) else [*order[1:], order[0]]:
        image = operation(image)
    image[np.asarray(sample.valid) == 0] = cfg.grey
    return replace(sample, image=Image.fromarray(image))


def _converted(values: Bytes, factor: float, summand: float) -> Bytes:
    """Bytes x factor + summand, cut to 0 to 255 and truncated."""
    out: Bytes = np.clip(values.astype(np.float32) * factor + summand, 0, 255).astype(np.uint8)
    return out


def to_hsv(rgb: Bytes) -> Bytes:
    """H W 3 RGB as OpenCV's 8-bit HSV: hue in 0 to 179, saturation and value in 0 to 255."""
    red, green, blue = (rgb[..., k].astype(np.int64) for k in range(3))
    value = rgb.max(-1).astype(np.int64)
    span = value - rgb.min(-1)
    half = 1 << (SHIFT - 1)
    saturation = (span * _table(255)[value] + half) >> SHIFT
    sector = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * span, red - green + 4 * span)
    )
    hue = (sector * _table(30)[span] + half) >> SHIFT
    hue += np.where(hue < 0, 180, 0)
    return np.stack([hue, saturation, value], -1).clip(0, 255).astype(np.uint8)


def to_rgb(hsv: Bytes) -> Bytes:
    """H W 3 of OpenCV's 8-bit HSV as RGB, truncated to bytes.

    That is what OpenCV 4 and 5 compute on x86 wherever a row has a whole vector of pixels left; the last ones of a row
    (none of 512) are rounded there.
    """
    hue, saturation, value = (hsv[..., k].astype(np.float32) for k in range(3))
    hue, saturation, value = hue * np.float32(6 / 180), saturation * np.float32(1 / 255), value * np.float32(1 / 255)
    sector = np.floor(hue)
    rest = hue - sector
    unit = np.float32(1)

    def left(share: NDArray[np.float32]) -> NDArray[np.float32]:
        """1 - saturation x share, rounded once, as a fused multiply-add."""
        return (1 - saturation.astype(np.float64) * share).astype(np.float32)

    tab = np.stack([value, value * (unit - saturation), value * left(rest), value * left(unit - rest)], -1)
    channels = np.array([[0, 3, 1], [2, 0, 1], [1, 0, 3], [1, 2, 0], [3, 1, 0], [0, 1, 2]])
    picked = np.take_along_axis(tab, channels[sector.astype(np.int64) % 6], -1)
    return (picked * np.float32(255)).clip(0, 255).astype(np.uint8)


def _table(whole: int) -> NDArray[np.int64]:
    """Entry i: whole / i in fixed point, as OpenCV rounds it; entry 0 is 0."""
    entries = np.arange(1, 256, dtype=np.float64)
    return np.concatenate([[0], np.rint((whole << SHIFT) / entries)]).astype(np.int64)
