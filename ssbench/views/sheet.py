"""Contact sheets: what the views of a recipe do to real samples, as one PNG to look at.

The pictures are made from the very tensors the loader hands to a method, put back on the 0-255 scale.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ssbench.data.dataset import Dataset
from ssbench.errors import UsageError
from ssbench.files import write_bytes
from ssbench.views.geometry import Crop, Flip, Resize, Rotate, Step, Turn
from ssbench.views.pipelines import UnlabeledView, ViewsConfig, unlabeled_view
from ssbench.views.sample import Draw, Sample
from ssbench.views.tensors import MEAN, STD
from ssbench.views.warp import trace

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 240  # pixels a panel is high
GAP, LINE, MARGIN = 10, 18, 16
INK, FAINT, PAPER = (25, 25, 25), (115, 115, 115), (255, 255, 255)
EDGE = (255, 225, 0)  # outlines of the crop and of the pasted region
HATCH, PADDING = (165, 165, 165), (45, 45, 55)
IGNORE = 255


@dataclass(frozen=True)
class Panel:
    """One picture of a row, SIDE pixels high, with a title and a line of detail."""

    image: Image.Image
    title: str
    detail: str = ""


@dataclass(frozen=True)
class Row:
    """The panels of one sample."""

    id: str
    panels: tuple[Panel, ...]


def sheet(
    dataset: Dataset, ids: Sequence[str], cfg: ViewsConfig, seed: int, out: Path, count: int, epoch: int = 0
) -> Path:
    """Write a contact sheet of the first `count` of `ids` to `out` (PNG) and return `out`.

    A row: the original with the crop outlined, its mask, the weak view and its labels, two strong views, then a strong
    view with the next id's pasted into the mixing region (outlined), and the labels of that mix. The draws are those
    of the loader at `epoch`. UsageError when there is nothing to show.
    """
    if not ids or count < 1:
        raise UsageError("no samples to show", str(out), "give a split with samples, and a count of at least 1")
    pairs = zip(ids[:count], [*ids[1:], ids[0]], strict=False)
    rows = [row(dataset, id, partner, cfg, Draw(seed, epoch, id, "")) for id, partner in pairs]
    title = f"{dataset.name}    weak {cfg.weak}, strong {cfg.strong}, box {cfg.box}, crop {cfg.crop}"
    picture = io.BytesIO()
    page(f"{title}    seed {seed}, epoch {epoch}", rows, dataset).save(picture, "PNG", optimize=True)
    write_bytes(out, picture.getvalue())
    return out


def row(dataset: Dataset, id: str, partner: str, cfg: ViewsConfig, draw: Draw) -> Row:
    """The pictures of one sample; `partner` is the id whose view is pasted, `draw` gives seed and epoch."""
    image, mask = dataset.image(id), dataset.mask(id)
    here = unlabeled_view(Sample.of(id, image, mask), cfg, Draw(draw.seed, draw.epoch, id, "unlabeled0"), 2)
    other = Sample.of(partner, dataset.image(partner), dataset.mask(partner))
    there = unlabeled_view(other, cfg, Draw(draw.seed, draw.epoch, partner, "partner0"), 2)
    paint = Paint(dataset)
    valid, truth = Image.fromarray(here.valid.numpy()), Image.fromarray(here.truth.numpy().astype(np.uint8))
    used = "as it is" if cfg.strong == "none" else cfg.strong
    panels = (
        Panel(_framed(image, here.geometry), "original", f"{image.width} x {image.height}"),
        Panel(paint.mask(mask), "its mask", "hatched: ignored" if IGNORE in np.asarray(mask) else ""),
        Panel(shown(here.weak, cfg), "weak", describe(here.geometry)),
        Panel(paint.mask(truth, valid), "its labels", "" if here.valid.all() else "dark: padding"),
        *(Panel(shown(x, cfg), f"strong {k + 1}", used) for k, x in enumerate(here.strong)),
        *_mixed(here, there, cfg, paint, partner),
    )
    return Row(id, panels)


def describe(geometry: Sequence[Step]) -> str:
    """A view's geometry in a few words: "x1.24, at (12, 40), flipped"."""
    words = []
    for step in geometry:
        if isinstance(step, Resize):
            plain = step.how != "zoom"
            words.append(f"x{step.size[0] / step.before[0]:.2f}" if plain else "to {} x {}".format(*step.size))
        elif isinstance(step, Crop):
            words.append(f"at ({step.x}, {step.y})")
        elif isinstance(step, Flip):
            words.append("upside down" if step.vertical else "flipped")
        elif isinstance(step, Turn):
            words.append(f"turned {90 * step.quarters}°")
        elif isinstance(step, Rotate):
            words.append(f"rotated {step.degrees}°")
    return ", ".join(words) or "as it is"


def source(geometry: Sequence[Step]) -> tuple[int, int, int, int] | None:
    """The part (x0, y0, x1, y1) of the original that a view shows; None when it is turned, or shows all."""
    path = trace(geometry)
    if len(path) != 1 or not isinstance(path[0], tuple):
        return None
    (y0, y1), (x0, x1) = ((int(i[i >= 0].min()), int(i.max()) + 1) for i in path[0])
    w, h = geometry[0].before
    whole = max(x0, y0, w - x1, h - y1) <= 2  # a shrunk image may not look at its last pixels
    return None if whole else (x0, y0, x1, y1)


def shown(x: Tensor, cfg: ViewsConfig) -> Image.Image:
    """A view's tensor [C,H,W] as an RGB panel; with zero padding, padding has the mean colour."""
    array = x.numpy()
    if cfg.normalise == "imagenet":
        array = array * np.array(STD, np.float32).reshape(3, 1, 1) + np.array(MEAN, np.float32).reshape(3, 1, 1)
    array = np.rint(array * 255).clip(0, 255).astype(np.uint8)
    return _fit(Image.fromarray(array[0] if len(array) == 1 else array.transpose(1, 2, 0)).convert("RGB"))


class Paint:
    """Masks in the colours of a dataset: ignored pixels hatched, padding dark."""

    def __init__(self, dataset: Dataset) -> None:
        self.colours = np.full((256, 3), 255, np.uint8)
        self.colours[: len(dataset.palette)] = dataset.palette

    def mask(self, mask: Image.Image, valid: Image.Image | None = None) -> Image.Image:
        """An RGB panel of a mask of train ids (mode "L"); padding is where `valid` is 0."""
        ids = np.asarray(_fit(mask, Image.Resampling.NEAREST))
        out = self.colours[ids]
        y, x = np.indices(ids.shape)
        out[(ids == IGNORE) & ((x + y) // 3 % 3 == 0)] = HATCH
        if valid is not None:
            out[~np.asarray(_fit(valid, Image.Resampling.NEAREST)).astype(bool)] = PADDING
        return Image.fromarray(out)


def page(title: str, rows: Sequence[Row], dataset: Dataset) -> Image.Image:
    """All rows under one title, the classes and their colours below."""
    strips = [_strip(r) for r in rows]
    width = max(s.width for s in strips) + 2 * MARGIN
    legend = _legend(dataset, width - 2 * MARGIN)
    height = 2 * MARGIN + LINE + sum(s.height + MARGIN for s in strips) + legend.height
    out = Image.new("RGB", (width, height), PAPER)
    ImageDraw.Draw(out).text((MARGIN, MARGIN - 4), title, INK, _font(15))
    y = MARGIN + LINE + GAP
    for part in (*strips, legend):
        out.paste(part, (MARGIN, y))
        y += part.height + MARGIN
    return out


def _mixed(here: UnlabeledView, there: UnlabeledView, cfg: ViewsConfig, paint: Paint, partner: str) -> list[Panel]:
    """The first strong view that has a region, pasted, and its labels; nothing when no region is configured."""
    if cfg.box == "none":
        return []
    k = next((k for k, region in enumerate(here.boxes) if region.any()), None)
    if k is None:
        return [Panel(Image.new("RGB", (SIDE, SIDE), (235, 235, 235)), "mixed", "no region in these draws")]
    region = here.boxes[k]
    image = there.strong[k].where(region, here.strong[k])
    labels = Image.fromarray(there.truth.where(region, here.truth).numpy().astype(np.uint8))
    valid = Image.fromarray(there.valid.where(region, here.valid).numpy())
    edge = region.numpy()
    return [
        Panel(_edged(shown(image, cfg), edge), f"mixed, strong {k + 1}", f"{edge.mean():.0%} from {partner}"),
        Panel(_edged(paint.mask(labels, valid), edge), "mixed labels", cfg.box),
    ]


def _fit(image: Image.Image, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """Scaled to the height of a panel."""
    return image.resize((max(round(image.width * SIDE / image.height), 1), SIDE), how)


def _framed(image: Image.Image, geometry: Sequence[Step]) -> Image.Image:
    """The original with the part that the view shows outlined."""
    out = _fit(image.convert("RGB"))
    part = source(geometry)
    if part:
        x0, y0, x1, y1 = (v * SIDE / image.height for v in part)
        box = (x0, y0, min(x1, out.width) - 1, min(y1, out.height) - 1)
        ImageDraw.Draw(out).rectangle(box, outline=EDGE, width=2)
    return out


def _edged(image: Image.Image, region: NDArray[np.bool_]) -> Image.Image:
    """The border of a region [H, W] drawn on a panel."""
    inside = np.pad(np.asarray(Image.fromarray(region).resize(image.size, Image.Resampling.NEAREST)), 1, mode="edge")
    core = inside[1:-1, 1:-1]
    near = [inside[1 + dy : 1 + dy + core.shape[0], 1 + dx : 1 + dx + core.shape[1]] for dy, dx in _AROUND]
    out = np.array(image)
    out[np.any([n != core for n in near], axis=0)] = EDGE
    return Image.fromarray(out)


_AROUND = ((-1, 0), (1, 0), (0, -1), (0, 1))


def _strip(r: Row) -> Image.Image:
    """A row with its captions."""
    width = sum(p.image.width + GAP for p in r.panels) - GAP
    out = Image.new("RGB", (width, SIDE + 3 * LINE + 2), PAPER)
    draw = ImageDraw.Draw(out)
    draw.text((0, 0), r.id, INK, _font(14))
    x = 0
    for panel in r.panels:
        out.paste(panel.image, (x, LINE + 2))
        draw.text((x, LINE + SIDE + 4), panel.title, INK, _font(13))
        draw.text((x, 2 * LINE + SIDE + 3), _cut(panel.detail, panel.image.width), FAINT, _font(12))
        x += panel.image.width + GAP
    return out


def _legend(dataset: Dataset, width: int) -> Image.Image:
    """Colour and name of each class, in as many lines as needed."""
    entries = [*zip(dataset.classes, dataset.palette, strict=True)]
    places, x, y = [], 0, 0
    for name, colour in entries:
        length = 18 + int(_font(12).getlength(name)) + 16
        x, y = (0, y + LINE) if x and x + length > width else (x, y)
        places.append((x, y, name, colour))
        x += length
    out = Image.new("RGB", (width, y + LINE), PAPER)
    draw = ImageDraw.Draw(out)
    for x, y, name, colour in places:
        draw.rectangle((x, y + 2, x + 12, y + 14), fill=colour, outline=FAINT)
        draw.text((x + 18, y), name, INK, _font(12))
    return out


def _cut(text: str, width: int) -> str:
    """The text, or as much of it as fits a width in pixels."""
    if _font(12).getlength(text) <= width:
        return text
    while text and _font(12).getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
