"""The weak pipelines: pieces that each draw one step of geometry, and the settings of every pipeline.

A piece is a pure function (sample, draw, settings) -> sample. It adds its step to what is to be carried out; `settle`
then moves image, mask, valid and maps at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, TypeAlias

from PIL import Image
from pydantic import Field, model_validator

from ssbench.views.geometry import Crop, Flip, How, Resize, Rotate, Size, Turn
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import ASCENDING, LARGEST, LOOSE, Factors, Padded, Scale, Share, ViewsConfig

Piece: TypeAlias = Callable[[Sample, Draw, Any], Sample]
Side: TypeAlias = Annotated[int, Field(ge=1, le=8192)]
Degrees: TypeAlias = Annotated[int, Field(ge=-180, le=180)]


class LongSide(ViewsConfig):
    """Settings of `resize_long_side`."""

    scale: Scale = (0.5, 2.0)  # card: views 2, 3, 4
    base: Annotated[int, Field(ge=1, le=8192)] | None = None  # long side that `scale` multiplies; null: the image's own

    @model_validator(mode="after")
    def _refuse_huge(self) -> Self:
        if self.base and self.base * self.scale[1] > LARGEST:
            raise ValueError(f"`base` {self.base} times `scale` {self.scale[1]} is above {LARGEST} pixels")
        return self


class Flipped(ViewsConfig):
    """Settings of `flip`."""

    flip: Share = 0.5  # every release


def resize_long_side(sample: Sample, draw: Draw, cfg: LongSide) -> Sample:
    """Long side a uniform integer in [int(base lo), int(base hi)], short side in proportion, halves up.

    Card: views 2.
    """
    w, h = sample.size
    base = cfg.base or max(w, h)
    low, high = (int(base * s) for s in cfg.scale)
    long = max(int(draw("resize").integers(low, high + 1)), 1)
    short = int(min(w, h) * long / max(w, h) + 0.5)
    return _resized(sample, (short, long) if h > w else (long, short), "pil")


def resize_augseg(sample: Sample, draw: Draw, cfg: AugSegWeak) -> Sample:
    """As `resize_long_side`, or with `both_sides` one float factor for both sides, sizes truncated (card: views 4)."""
    if not cfg.both_sides:
        return resize_long_side(sample, draw, cfg)
    return _scaled(sample, draw("resize").uniform(*cfg.scale), "pil")


def resize_halves(sample: Sample, draw: Draw, cfg: U2plWeak) -> Sample:
    """With p 0.5 a factor from [lo, 1], else from [1, hi]; sizes truncated (card: views 5)."""
    rng = draw("resize")
    low, high = (cfg.scale[0], 1.0) if rng.random() < 0.5 else (1.0, cfg.scale[1])
    return _scaled(sample, rng.uniform(low, high), "float")


def resize_fitted(sample: Sample, draw: Draw, cfg: SemivlWeak) -> Sample:
    """`target` (long, short side) times a factor, sides cut to whole pixels; the image fits in it, ratio kept.

    Card: semivl 9.
    """
    factor = draw("resize").uniform(*cfg.scale)
    long, short = (max(int(side * factor), 1) for side in cfg.target)
    w, h = sample.size
    ratio = min(long / max(w, h), short / min(w, h))
    return _resized(sample, (int(w * ratio + 0.5), int(h * ratio + 0.5)), "point")


def resize_choice(sample: Sample, draw: Draw, cfg: CpsWeak) -> Sample:
    """A factor from the list `scales`; sizes truncated (card: views 7)."""
    return _scaled(sample, cfg.scales[draw("resize").integers(len(cfg.scales))], "point")


def resize_short(sample: Sample, draw: Draw, cfg: Mask2FormerWeak) -> Sample:
    """Short side `base` times one of `scales`, drawn evenly (card: mask2former 7)."""
    factor = cfg.scales[draw("resize").integers(len(cfg.scales))]
    return _resized(sample, short_side_size(sample.size, int(cfg.base * factor), 4 * cfg.base), "pil")


def short_side_size(size: Size, short: int, longest: int) -> Size:
    """Width and height with a short side of `short`, or less where the long side would pass `longest`; halves up.

    detectron2's ResizeShortestEdge (card: mask2former 7).
    """
    scale = short / min(size)
    sides = [float(short) if side == min(size) else scale * side for side in size]
    if max(sides) > longest:
        sides = [side * (longest / max(sides)) for side in sides]
    return max(int(sides[0] + 0.5), 1), max(int(sides[1] + 0.5), 1)


def crop_inside(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """A uniform crop that never leaves the image: a side that is shorter stays as it is (card: mask2former 7)."""
    rng, sides = draw("crop"), [min(side, cfg.crop) for side in sample.size]
    x, y = (int(rng.integers(whole - side + 1)) for whole, side in zip(sample.size, sides, strict=True))
    return sample.then(Crop(sample.size, x, y, (sides[0], sides[1])))


def pad_corner(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """Padded on the right and below up to the crop; nothing is drawn (card: mask2former 7)."""
    return _cropped(sample, 0, 0, cfg.crop)


def crop_corner(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """Padded on the right and below up to the crop, then a uniform crop (card: views 2, 3, 4)."""
    rng = draw("crop")
    x, y = (int(rng.integers(max(side - cfg.crop, 0) + 1)) for side in sample.size)
    return _cropped(sample, x, y, cfg.crop)


def crop_centred(sample: Sample, draw: Draw, cfg: ViewsConfig) -> Sample:
    """Padded on both sides up to the crop, the odd pixel right and below, then a uniform crop (card: views 5)."""
    rng = draw("crop")
    x, y = (int(rng.integers(max(side - cfg.crop, 0) + 1)) - _before(side, cfg.crop) for side in sample.size)
    return _cropped(sample, x, y, cfg.crop)


def crop_overrun(sample: Sample, draw: Draw, cfg: CpsWeak) -> Sample:
    """As `crop_centred`, but a crop may start one pixel too late then padded by one (`overrun`; card: views 7)."""
    rng = draw("crop")
    starts = [max(side - cfg.crop, 0) + 1 + (cfg.overrun and side > cfg.crop) for side in sample.size]
    x, y = (int(rng.integers(n)) - _before(side, cfg.crop) for n, side in zip(starts, sample.size, strict=True))
    return _cropped(sample, x, y, cfg.crop)


def crop_scaled(sample: Sample, draw: Draw, cfg: CutmixSegWeak) -> Sample:
    """A square of round(crop / s) pixels, s = lo + k / 10, resized to the crop; centred padding (card: views 8)."""
    rng = draw("crop")
    low, high = cfg.scale
    side = max(round(cfg.crop / (low + int(rng.integers(round((high - low) * 10) + 1)) / 10)), 1)
    x, y = (round(max(s - side, 0) * rng.random()) - _before(s, side) for s in sample.size)
    if side > min(sample.size):  # the release fades to zero where image and padding meet
        sample = replace(sample, alpha=Image.new("F", sample.mask.size, 1.0))
    return _resized(_cropped(sample, x, y, side), (cfg.crop, cfg.crop), "point")


def flip(sample: Sample, draw: Draw, cfg: Flipped) -> Sample:
    """Left and right exchanged with p `flip`."""
    return sample.then(Flip(sample.size)) if draw("flip").random() < cfg.flip else sample


def turn_or_rotate(sample: Sample, draw: Draw, cfg: AcdcWeak) -> Sample:
    """With p `turn` 0 to 3 quarter turns and always a flip along a random axis; else with p `rotate` a rotation.

    Angles are whole degrees, both ends of `angles` included (card: views 9).
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
    """To crop x crop, image and mask alike by nearest neighbour (card: views 9); nothing is drawn."""
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


class UniMatchWeak(LongSide, Flipped, Padded):
    """Card: views 2."""


class StppWeak(UniMatchWeak):
    """Card: views 3."""

    @model_validator(mode="after")
    def _need_base(self) -> Self:
        if self.base is None:
            raise ValueError("weak pipeline 'stpp' needs `base`: 400 for VOC, 2048 for Cityscapes")
        return self


class AugSegWeak(LongSide, Flipped, Padded):
    """Card: views 4."""

    both_sides: bool = False  # one float factor for both sides of the image (card: views 4, Cityscapes)
    padding: Literal["black", "mean", "zero"] = "mean"  # card: views 4

    @model_validator(mode="after")
    def _need_base(self) -> Self:
        if self.both_sides and self.base is not None:
            raise ValueError("`both_sides: true` scales the image's own sides, so `base` is not read; leave it out")
        if not self.both_sides and self.base is None:
            raise ValueError("weak pipeline 'augseg' needs `base`: 500 for VOC (Cityscapes: both_sides: true)")
        return self


class SemivlWeak(Flipped, Padded):
    """SemiVL on VOC and ADE20K, where mmsegmentation resizes. Card: semivl 9."""

    scale: Scale = (0.5, 2.0)  # card: semivl 9
    target: Annotated[tuple[Side, Side], LOOSE] = (2048, 512)  # longest and shortest side (card: semivl 9)

    @model_validator(mode="after")
    def _refuse_huge(self) -> Self:
        if max(self.target) * self.scale[1] > LARGEST:
            raise ValueError(f"`target` {list(self.target)} times `scale` {self.scale[1]} is above {LARGEST} pixels")
        return self


class U2plWeak(Flipped, Padded):
    """The geometry of U2PL and AEL, who normalise before they pad. Card: views 5."""

    scale: Scale = (0.5, 2.0)  # card: views 5
    padding: Literal["black", "mean", "zero"] = "zero"  # card: views 5

    @model_validator(mode="after")
    def _need_one(self) -> Self:
        if not self.scale[0] <= 1 <= self.scale[1]:
            raise ValueError(f"`scale` {list(self.scale)} must contain 1: half of the images shrink, the others grow")
        return self


class CpsWeak(Flipped, Padded):
    """Card: views 7."""

    scales: Factors = (0.5, 0.75, 1.0, 1.5, 1.75, 2.0)  # card: views 7; 1.25 is missing in the release too
    overrun: bool = True  # the release's crop may start one pixel late (card: views 7); false: never
    padding: Literal["black", "mean", "zero"] = "zero"  # card: views 7


class CutmixSegWeak(Flipped, Padded):
    """Card: views 8."""

    scale: Scale = (0.5, 1.5)  # card: views 8
    padding: Literal["black", "mean", "zero"] = "zero"  # card: views 8: an alpha channel

    @model_validator(mode="after")
    def _refuse_huge(self) -> Self:
        if self.crop / self.scale[0] > LARGEST:
            raise ValueError(f"`crop` {self.crop} divided by `scale` {self.scale[0]} is above {LARGEST} pixels")
        return self


class Mask2FormerWeak(Flipped):
    """The authors' semantic mapper, colours and all (`views.ssd`). Card: mask2former 7."""

    base: Annotated[int, Field(ge=1, le=2048)] = 512  # short side that `scales` multiplies; release ADE20K
    scales: Factors = tuple(round(0.5 + 0.1 * k, 1) for k in range(16))  # release: 0.5 to 2.0
    brightness: Annotated[float, Field(ge=0, le=255)] = 32  # detectron2 ColorAugSSDTransform: added, in bytes
    contrast: Scale = (0.5, 1.5)  # detectron2
    saturation: Scale = (0.5, 1.5)  # detectron2
    hue: Annotated[int, Field(ge=0, le=90)] = 18  # detectron2: of 180
    colour_share: Share = 0.5  # detectron2: of each of the four
    grey: Annotated[int, Field(ge=0, le=255)] = 128  # release: of the padding, before normalising


class AcdcWeak(ViewsConfig):
    """UniMatch's pipeline for ACDC: slices are zoomed, never cropped or padded. Card: views 9."""

    turn: Share = 0.5  # quarter turn and flip (card: views 9)
    rotate: Share = 0.5  # else a rotation (card: views 9)
    angles: Annotated[tuple[Degrees, Degrees], LOOSE, ASCENDING] = (
        -20,
        19,
    )  # whole degrees, both ends included (card: views 9)
    normalise: Literal["imagenet", "half", "none"] = "none"  # card: views 9


WEAK: dict[str, tuple[type[ViewsConfig], tuple[Piece, ...]]] = {
    "none": (ViewsConfig, ()),
    "unimatch": (UniMatchWeak, (resize_long_side, crop_corner, flip)),
    "stpp": (StppWeak, (resize_long_side, crop_corner, flip)),
    "augseg": (AugSegWeak, (resize_augseg, flip, crop_corner)),
    "semivl": (SemivlWeak, (resize_fitted, crop_corner, flip)),
    "u2pl": (U2plWeak, (resize_halves, flip, crop_centred)),
    "cps": (CpsWeak, (flip, resize_choice, crop_overrun)),
    "cutmix_seg": (CutmixSegWeak, (crop_scaled, flip)),
    "acdc": (AcdcWeak, (turn_or_rotate, zoom)),
    "mask2former": (Mask2FormerWeak, (resize_short, crop_inside, flip, pad_corner)),
}
"""Settings and pieces of every weak pipeline, in the order of the releases."""
