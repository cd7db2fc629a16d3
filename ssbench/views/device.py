"""Views of a whole batch on the device: loader workers hand over bytes and draws, the device computes the pictures.

The draws are those of the exact pipelines, and labels and maps are moved by them, bit for bit. Pictures are resized,
coloured and normalised in fp32 by the formulas of Pillow, with its rounding to bytes after each operation. What differs
is the rounding inside an operation: of a resize by one level of 255 at a pixel, of a blur by one, of a hue by a few
(tests/views/test_device.py bounds each). So it is for `precision: fast`. Card: views 2, 8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssbench.views import strong, tensors
from ssbench.views.geometry import Crop, Flip, Resize
from ssbench.views.pipelines import weak_steps, weaken
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import Padded, ViewsConfig
from ssbench.views.warp import MEAN, settle
from ssbench.views.weak import Mask2FormerWeak

STRONG = frozenset({strong.jitter, strong.grey, strong.blur})
"""Pieces of strong pipelines that are computed here. Cutout and AugSeg's pool have no form for batches yet."""
PASSES = 3
"""Box blurs that stand for one Gaussian in Pillow."""


@dataclass(frozen=True)
class RawPicture:
    """An image as a worker read it, and what is to be done to it: uint8 H W or H W 3, or float32 on the 0-255 scale."""

    pixels: Tensor
    steps: tuple[Resize | Crop | Flip, ...] = ()


@dataclass(frozen=True)
class Colours:
    """The draws of one strong view. order: of the four jitters; empty: none. blur: Pillow's radius; 0: none."""

    factors: tuple[float, ...] = ()
    order: tuple[int, ...] = ()
    grey: bool = False
    blur: float = 0.0


@dataclass(frozen=True)
class RawViews:
    """Pictures of a batch before they are computed, and the colours of each strong view, picture by picture.

    inside: B H W float32, how much of each pixel is image and not padding.
    """

    pictures: tuple[RawPicture, ...]
    inside: Tensor
    colours: tuple[tuple[Colours, ...], ...] = ()

    def weak(self, cfg: ViewsConfig) -> tuple[Tensor, Tensor]:
        """(normalised, on the 0-255 scale) weak views B C H W, on the device of the pixels."""
        plain = torch.stack([moved(picture, cfg) for picture in self.pictures])
        return normalised(plain, self.inside, cfg), plain

    def views(self, cfg: ViewsConfig) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The weak view B C H W and the strong ones; a strong view in which nothing happens is the weak one."""
        weak, plain = self.weak(cfg)
        strong_views = (
            normalised(coloured(plain, each), self.inside, cfg) if any(c != Colours() for c in each) else weak
            for each in self.colours
        )
        return weak, tuple(strong_views)


def is_possible(cfg: ViewsConfig) -> bool:
    """Whether the weak pipeline is geometry alone, and every piece of the strong one can be computed here."""
    return not isinstance(cfg, Mask2FormerWeak) and set(strong.STRONG[cfg.strong][1]) <= STRONG


# In a loader worker


def raw_view(
    sample: Sample, cfg: ViewsConfig, draw: Draw, finish: Callable[[Sample], Sample] | None = None
) -> tuple[RawPicture, Sample]:
    """The weak view: the picture to be computed, and the settled labels, padding and maps beside it.

    Geometry that turns pixels, or moves an alpha channel, is carried out here.

    Args:
        finish: what is done to a sample that was settled here (float slices are cut to bytes).
    """
    drawn = weak_steps(sample, cfg, draw)
    steps = tuple(step for step in drawn.pending if isinstance(step, Resize | Crop | Flip))
    is_flat = len(steps) == len(drawn.pending) and all(not isinstance(s, Resize) or s.how != "zoom" for s in steps)
    image = drawn.image
    if not is_flat or drawn.alpha or not isinstance(image, Image.Image) or image.mode == "F":
        settled = weaken(sample, cfg, draw)
        settled = settled if finish is None else finish(settled)
        return RawPicture(_bytes(settled)), settled
    settled = settle(replace(drawn, image=Image.new("L", image.size)))
    return RawPicture(torch.from_numpy(np.array(image)), steps), settled


def _bytes(sample: Sample) -> Tensor:
    array = np.array(sample.image)
    is_unit = isinstance(sample.image, Image.Image) and sample.image.mode == "F"
    return torch.from_numpy(array * np.float32(255) if is_unit else array)


def draw_colours(cfg: ViewsConfig, draw: Draw) -> Colours:
    """What the pieces of `views.strong` would draw, by the same generators in the same order."""
    colours, pieces = Colours(), strong.STRONG[cfg.strong][1]
    if strong.jitter in pieces and isinstance(cfg, strong.Jittered):
        rng = draw("jitter")
        if rng.random() < cfg.jitter_share:
            *strengths, turn = cfg.jitter
            factors = [rng.uniform(max(0.0, 1 - s), 1 + s) for s in strengths] + [rng.uniform(-turn, turn)]
            colours = replace(colours, factors=tuple(factors), order=tuple(map(int, rng.permutation(4))))
    if strong.grey in pieces and isinstance(cfg, strong.Greyed):
        colours = replace(colours, grey=bool(draw("grey").random() < cfg.grey_share))
    if strong.blur in pieces and isinstance(cfg, strong.Blurred):
        rng = draw("blur")
        if rng.random() < cfg.blur_share:
            colours = replace(colours, blur=float(rng.uniform(*cfg.blur)))
    return colours


# On the device


def moved(picture: RawPicture, cfg: ViewsConfig) -> Tensor:
    """The picture C H W on the 0-255 scale after its geometry; rounded to levels unless it was resized in float."""
    x = picture.pixels.float()
    x = x.movedim(-1, 0) if x.ndim == 3 else x[None]
    is_mean = isinstance(cfg, Padded) and cfg.padding == "mean"
    fill = x.new_tensor(MEAN["RGB" if len(x) == 3 else "L"]).view(-1, 1, 1) if is_mean else None
    for step in picture.steps:
        if isinstance(step, Flip):
            x = x.flip(-2 if step.vertical else -1)
        elif isinstance(step, Crop):
            x = _cropped(x, step, fill)
        else:
            x = _resized(x, step)
    return x.contiguous()


def _resized(x: Tensor, step: Resize) -> Tensor:
    """Of new size; Pillow filters rows and columns one after the other, and rounds to levels in between."""
    width, height = step.size
    if step.how != "pil":
        x = F.interpolate(x[None], (height, width), mode="bilinear", align_corners=False)[0]
        return x if step.how == "float" else x.round().clamp(0, 255)
    for size in ((x.shape[-2], width), (height, width)):
        if x.shape[-2:] != size:
            x = F.interpolate(x[None], size, mode="bilinear", align_corners=False, antialias=True)[0]
            x = (x + 0.5).floor().clamp(0, 255)
    return x


def _cropped(x: Tensor, step: Crop, fill: Tensor | None) -> Tensor:
    """The window, with `fill` C 1 1 (None: black) where it reaches outside."""
    (width, height), (rows, columns) = step.size, x.shape[-2:]
    top, left = max(step.y, 0), max(step.x, 0)
    bottom, right = min(step.y + height, rows), min(step.x + width, columns)
    part = x[:, top : max(bottom, top), left : max(right, left)]
    if part.shape[-2:] == (height, width):
        return part
    out = x.new_zeros(len(x), height, width) if fill is None else fill.expand(len(x), height, width).clone()
    out[:, top - step.y : top - step.y + part.shape[1], left - step.x : left - step.x + part.shape[2]] = part
    return out


def normalised(x: Tensor, inside: Tensor, cfg: ViewsConfig) -> Tensor:
    """Views B C H W on the 0-255 scale as networks take them; with `padding: zero`, 0 in padding."""
    if cfg.normalise == "none":
        out = x / 255
    else:
        mean, std = (x.new_tensor(v)[:, None, None] for v in tensors.STATISTICS[cfg.normalise])
        out = (x.expand(-1, 3, -1, -1) / 255 - mean) / std
    if isinstance(cfg, Padded) and cfg.padding == "zero":
        if cfg.normalise != "none":  # of a pixel that is partly image, as `tensors.view`
            out = out + (1 - inside)[:, None] * (mean / std)
        out = out * (inside > 0)[:, None]
    return out


def coloured(x: Tensor, colours: Sequence[Colours]) -> Tensor:
    """Pictures B C H W on the 0-255 scale after the strong pipeline, each by its own draws.

    As in the exact pipeline, a picture is rounded to whole levels before its first operation.
    """
    x = x.clone()
    _apply(x, [k for k, each in enumerate(colours) if each != Colours()], lambda part, _: part.round(), [])
    for at in range(4):
        for kind in range(4):
            chosen = [k for k, each in enumerate(colours) if each.order and each.order[at] == kind]
            _apply(x, chosen, JITTERS[kind], [colours[k].factors[kind] for k in chosen])
    _apply(x, [k for k, each in enumerate(colours) if each.grey], lambda part, _: grey(part), [])
    blurs = [k for k, each in enumerate(colours) if each.blur > 0]
    _apply(x, blurs, blur, [colours[k].blur for k in blurs])
    return x


def _apply(x: Tensor, chosen: list[int], change: Callable[[Tensor, Tensor], Tensor], values: Sequence[float]) -> None:
    """Write `change(pictures, values)` over the chosen pictures of x; values come as B 1 1 1."""
    if not chosen:
        return
    which = torch.tensor(chosen, device=x.device)
    x[which] = change(x[which], torch.tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1, 1))


def _blend(from_: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """Pillow's blend: towards `from_` (factor 0) or away from it; cut down to whole levels."""
    return (from_ + factor * (x - from_)).clamp(0, 255).floor()


def luminance(x: Tensor) -> Tensor:
    """B 1 H W: Pillow's "L" of a picture, in its fixed-point arithmetic."""
    if x.shape[1] == 1:
        return x
    r, g, b = x.to(torch.int32).unbind(1)
    return ((19595 * r + 38470 * g + 7471 * b + 0x8000) >> 16).to(x.dtype)[:, None]


def brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from black."""
    return _blend(torch.zeros_like(x), x, factor)


def contrast(x: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from the mean grey of each picture."""
    mean = (luminance(x).double().mean((1, 2, 3), keepdim=True) + 0.5).floor().to(x.dtype)
    return _blend(mean.expand_as(x), x, factor)


def saturation(x: Tensor, factor: Tensor) -> Tensor:
    """Towards or away from grey."""
    return _blend(luminance(x).expand_as(x), x, factor)


def hue(x: Tensor, factor: Tensor) -> Tensor:
    """Colours turned by `factor` of the circle, through Pillow's HSV of bytes. Grey pictures stay as they are."""
    if x.shape[1] == 1:
        return x
    turned, saturated, value = _to_hsv(x)
    turned = (turned + (factor[:, 0] * 255).trunc()) % 256
    return _to_rgb(turned, saturated, value)


def _to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r, g, b = x.unbind(1)
    largest, smallest = x.amax(1), x.amin(1)
    span = largest - smallest
    divisor = span.clamp(min=1)
    rc, gc, bc = ((largest - channel) / divisor for channel in (r, g, b))
    sixths = torch.where(r == largest, bc - gc, torch.where(g == largest, 2 + rc - bc, 4 + gc - rc))
    turned = ((sixths / 6 + 1) % 1 * 255).floor()
    saturated = (span / largest.clamp(min=1) * 255).floor()
    is_grey = span == 0
    return turned.masked_fill(is_grey, 0), saturated.masked_fill(is_grey, 0), largest


def _to_rgb(turned: Tensor, saturated: Tensor, value: Tensor) -> Tensor:
    sixths, share = turned * 6 / 255, saturated / 255
    whole = sixths.floor()
    part = sixths - whole
    p, q, t = ((value * (1 - share * s) + 0.5).floor().clamp(0, 255) for s in (1, part, 1 - part))
    k = whole.long() % 6
    r, g, b = ([value, q, p, p, t, value], [t, value, value, q, p, p], [p, p, t, value, value, q])
    return torch.stack([torch.stack(c).gather(0, k[None])[0] for c in (r, g, b)], 1)


def grey(x: Tensor) -> Tensor:
    """Without colour, with as many channels."""
    return luminance(x).expand_as(x).clone()


def blur(x: Tensor, radius: Tensor) -> Tensor:
    """Pillow's Gaussian blur: three box blurs along rows, then three along columns, each rounded to levels.

    Radii differ by picture: a box of fractional radius has weight 1 inside and a smaller one at both ends.
    """
    boxes = [_box_radius(float(r)) for r in radius.flatten().tolist()]
    reach = max(int(box) for box in boxes) + 1
    weights = x.new_tensor([_box_weights(box, reach) for box in boxes])  # B 2 reach + 1
    for axis in (-1, -2):
        for _ in range(PASSES):
            x = _box_blurred(x, weights, reach, axis)
    return x


def _box_radius(sigma: float) -> float:
    """The box of which three make a Gaussian of `sigma`, as Pillow computes it (libImaging/BoxBlur.c)."""
    variance = sigma * sigma / PASSES
    length = math.sqrt(12 * variance + 1)
    whole = math.floor((length - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    return whole + part


def _box_weights(radius: float, reach: int) -> list[float]:
    whole, width = int(radius), 2 * radius + 1
    ends = (width - (2 * whole + 1)) / 2
    return [
        (1.0 if abs(k) <= whole else ends if abs(k) == whole + 1 else 0.0) / width for k in range(-reach, reach + 1)
    ]


def _box_blurred(x: Tensor, weights: Tensor, reach: int, axis: int) -> Tensor:
    pad = (reach, reach, 0, 0) if axis == -1 else (0, 0, reach, reach)
    padded, length = F.pad(x, pad, mode="replicate"), x.shape[axis]
    total = torch.zeros_like(x)
    for k in range(2 * reach + 1):
        total += weights[:, k, None, None, None] * padded.narrow(axis, k, length)
    return (total + 0.5).floor()


JITTERS = (brightness, contrast, saturation, hue)
"""In the order of `views.strong`."""
