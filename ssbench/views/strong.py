"""The strong pipelines: operations on an 8-bit PIL picture as the releases apply them, and each pipeline's settings.

The four jitter operations are torchvision's on PIL images, bit for bit (tests compare), without importing torchvision
in every worker. They leave geometry alone; only `cutout` writes into the mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Self, TypeAlias

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from pydantic import Field, model_validator

from ssbench.views.regions import rectangle, refuse_endless
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import ASCENDING, LOOSE, Areas, Radii, Ratios, Share, ViewsConfig
from ssbench.views.warp import eight_bit
from ssbench.views.weak import Piece

Rng: TypeAlias = np.random.Generator
Op: TypeAlias = Callable[[Image.Image, Rng, "AugSegStrong"], Image.Image]
Strength: TypeAlias = Annotated[float, Field(ge=0, le=10)]
Turn: TypeAlias = Annotated[float, Field(ge=0, le=0.5)]
Strengths: TypeAlias = Annotated[tuple[Strength, Strength, Strength, Turn], LOOSE]
Count: TypeAlias = Annotated[int, Field(ge=0, le=16)]
Bits: TypeAlias = Annotated[int, Field(ge=1, le=8)]
Threshold: TypeAlias = Annotated[int, Field(ge=0, le=256)]


class Jittered(ViewsConfig):
    """Settings of `jitter`."""

    jitter: Strengths = (0.5, 0.5, 0.5, 0.25)  # brightness, contrast, saturation, hue (card: views 2, 3)
    jitter_share: Share = 0.8  # card: views 2, 3, 8


class Greyed(ViewsConfig):
    """Settings of `grey`."""

    grey_share: Share = 0.2  # card: views 2, 3, 8


class Blurred(ViewsConfig):
    """Settings of `blur`."""

    blur_share: Share = 0.5  # card: views 2, 3
    blur: Radii = (0.1, 2.0)  # PIL radius (card: views 2, 3)


JITTERS = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
"""Towards black, the mean grey of the picture (padding included), or grey (factor 0); unchanged (1); away from it."""


def hue(image: Image.Image, factor: float) -> Image.Image:
    """Colours turned by `factor` of the circle: trunc(factor x 255) added to the hue byte, modulo 256.

    The modulo is explicit because numpy 2 refuses the releases' cast of a negative number to a byte (card: views 4).
    """
    if image.mode != "RGB":
        return image
    shift = int(factor * 255)
    h, s, v = image.convert("HSV").split()
    return Image.merge("HSV", (h.point([(i + shift) % 256 for i in range(256)]), s, v)).convert("RGB")


def jitter(sample: Sample, draw: Draw, cfg: Jittered) -> Sample:
    """With p `jitter_share` torchvision's ColorJitter: four factors, applied in random order (card: views 2)."""
    rng = draw("jitter")
    if rng.random() >= cfg.jitter_share:
        return sample
    image, (*strengths, turn) = eight_bit(sample.image), cfg.jitter
    factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths] + [rng.uniform(-turn, turn)]
    for k in rng.permutation(4):
        image = hue(image, factors[3]) if k == 3 else JITTERS[k](image).enhance(factors[k])
    return replace(sample, image=image)


def grey(sample: Sample, draw: Draw, cfg: Greyed) -> Sample:
    """With p `grey_share` without colour, as many channels as before (card: views 2)."""
    if draw("grey").random() >= cfg.grey_share:
        return sample
    image = eight_bit(sample.image)
    return replace(sample, image=image.convert("L").convert(image.mode))


def blur(sample: Sample, draw: Draw, cfg: Blurred) -> Sample:
    """With p `blur_share` PIL's Gaussian blur, radius uniform in `blur` (card: views 2)."""
    rng = draw("blur")
    if rng.random() >= cfg.blur_share:
        return sample
    return replace(sample, image=_blurred(eight_bit(sample.image), rng, cfg))


def cutout(sample: Sample, draw: Draw, cfg: StppStrong) -> Sample:
    """With p `cutout_share` a rectangle of noise, labels 255 there (card: views 3); `erased` marks it.

    Noise is uniform in [0, 255) a pixel and channel, truncated to bytes as in the release, so 0 to 254.
    """
    rng = draw("cutout")
    if rng.random() >= cfg.cutout_share:
        return sample
    image, mask = np.array(eight_bit(sample.image)), np.array(sample.mask)
    where = rectangle(rng, mask.shape, cfg.cutout_area, cfg.cutout_ratio, redraw=True)
    image[where] = rng.integers(255, size=image[where].shape, dtype=np.uint8)
    mask[where] = 255
    gone = np.zeros(mask.shape, np.uint8)
    gone[where] = 1
    painted, labels, erased = (Image.fromarray(array) for array in (image, mask, gone))
    return replace(sample, image=painted, mask=labels, erased=erased)


def pool(sample: Sample, draw: Draw, cfg: AugSegStrong) -> Sample:
    """`pool_count` operations of AugSeg's eleven, drawn with replacement, in that order (card: views 4)."""
    rng = draw("pool")
    image, low, high = eight_bit(sample.image), *cfg.pool_count
    for k in rng.integers(len(POOL), size=int(rng.integers(low, high + 1))):
        image = POOL[k](image, rng, cfg)
    return replace(sample, image=image)


def _blurred(image: Image.Image, rng: Rng, cfg: Blurred | AugSegStrong) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(*cfg.blur)))


def _weaker(enhance: Callable[[Image.Image], ImageEnhance._Enhance]) -> Op:
    """An enhancement with a factor uniform in (lo, hi], the upper end included as in the release."""

    def op(image: Image.Image, rng: Rng, cfg: AugSegStrong) -> Image.Image:
        low, high = cfg.pool_factor
        return enhance(image).enhance(high - (high - low) * rng.random())

    return op


def _posterise(image: Image.Image, rng: Rng, cfg: AugSegStrong) -> Image.Image:
    return ImageOps.posterize(image, int(rng.integers(cfg.pool_bits[0], cfg.pool_bits[1] + 1)))


def _solarise(image: Image.Image, rng: Rng, cfg: AugSegStrong) -> Image.Image:
    return ImageOps.solarize(image, int(rng.integers(cfg.pool_solar[0], cfg.pool_solar[1] + 1)))


def _hue(image: Image.Image, rng: Rng, cfg: AugSegStrong) -> Image.Image:
    size = cfg.pool_hue * rng.random()
    return hue(image, -size if rng.random() < 0.5 else size)


POOL: tuple[Op, ...] = (
    lambda image, rng, cfg: image,
    lambda image, rng, cfg: ImageOps.autocontrast(image),
    lambda image, rng, cfg: ImageOps.equalize(image),
    _blurred,
    _weaker(ImageEnhance.Contrast),
    _weaker(ImageEnhance.Brightness),
    _weaker(ImageEnhance.Color),
    _weaker(ImageEnhance.Sharpness),
    _posterise,
    _solarise,
    _hue,
)


class UniMatchStrong(Jittered, Greyed, Blurred):
    """Card: views 2."""


class StppStrong(UniMatchStrong):
    """Card: views 3."""

    cutout_share: Share = 0.5  # card: views 3
    cutout_area: Areas = (0.02, 0.4)  # card: views 3
    cutout_ratio: Ratios = (0.3, 1 / 0.3)  # card: views 3

    @model_validator(mode="after")
    def _refuse_endless_cutout(self) -> Self:
        refuse_endless(self.cutout_area, self.cutout_ratio)
        return self


class AugSegStrong(ViewsConfig):
    """Card: views 4."""

    pool_count: Annotated[tuple[Count, Count], LOOSE, ASCENDING] = (1, 3)  # operations a picture, both ends included
    pool_factor: Annotated[tuple[Strength, Strength], LOOSE, ASCENDING] = (0.05, 0.95)  # of the four enhancements
    pool_bits: Annotated[tuple[Bits, Bits], LOOSE, ASCENDING] = (4, 7)  # posterise
    pool_solar: Annotated[tuple[Threshold, Threshold], LOOSE, ASCENDING] = (1, 255)  # solarise
    pool_hue: Turn = 0.5  # largest hue shift, as a share of the circle
    blur: Radii = (0.1, 2.0)  # PIL radius


class CutmixSegStrong(Jittered, Greyed):
    """Card: views 8."""

    jitter: Strengths = (0.4, 0.4, 0.4, 0.1)  # card: views 8


class AcdcStrong(Jittered, Blurred):
    """Card: views 9. Of the four jitters, only brightness and contrast change a grey picture."""


STRONG: dict[str, tuple[type[ViewsConfig], tuple[Piece, ...]]] = {
    "none": (ViewsConfig, ()),
    "unimatch": (UniMatchStrong, (jitter, grey, blur)),
    "stpp": (StppStrong, (jitter, grey, blur, cutout)),
    "augseg": (AugSegStrong, (pool,)),
    "cutmix_seg": (CutmixSegStrong, (jitter, grey)),
    "acdc": (AcdcStrong, (jitter, blur)),
}
"""Settings and pieces of every strong pipeline, in the order of the releases."""
