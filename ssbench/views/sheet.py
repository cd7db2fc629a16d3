"""Contact sheets: what the views of a recipe do to real samples, as one PNG to look at.

The pictures are made from the very tensors the loader hands to a method, put back on the 0-255 scale.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ssbench.errors import UsageError
from ssbench.files import write_bytes
from ssbench.views.geometry import Crop, Flip, Resize, Rotate, Step, Turn
from ssbench.views.pipelines import UnlabeledView, unlabeled_view
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import ViewsConfig
from ssbench.views.tensors import pixels
from ssbench.views.warp import eight_bit, trace

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

Colour: TypeAlias = tuple[int, int, int]
Legend: TypeAlias = Sequence[tuple[str, Colour]]
"""Name and colour of each class, in order of the label value."""

SIDE = 240  # pixels a panel is high
COLUMNS = 8  # classes in a line of the legend
EDGE = (255, 225, 0)  # outlines of the crop and of the pasted region
HATCH, PADDING = (165, 165, 165), (45, 45, 55)
IGNORE = 255


@dataclass(frozen=True)
class Panel:
    """One picture of a row, SIDE pixels high, with a title and a line of detail."""

    image: Image.Image
    title: str
    detail: str = ""


def write_sheet(
    out: Path, name: str, samples: Sequence[Sample], legend: Legend, cfg: ViewsConfig, seed: int, epoch: int = 0
) -> Path:
    """Write a contact sheet of `samples` of the dataset `name` to `out` (PNG) and return `out`.

    A row: the original with the crop outlined, its mask, the weak view and its labels, two strong views, then a strong
    view with the next sample's pasted into the mixing region (outlined), and the labels of that mix. The draws are
    those of the loader at `epoch`. UsageError when there is nothing to show.
    """
    if not samples:
        raise UsageError("no samples to show", str(out), "give a split with samples, and a count of at least 1")
    pairs = zip(samples, [*samples[1:], samples[0]], strict=True)
    rows = [(sample.id, draw_row(sample, partner, legend, cfg, seed, epoch)) for sample, partner in pairs]
    title = f"{name}    weak {cfg.weak}, strong {cfg.strong}, box {cfg.box}, crop {cfg.crop}"
    picture = io.BytesIO()
    page = draw_page(f"{title}    seed {seed}, epoch {epoch}", rows, legend)
    page.savefig(picture, format="png", metadata={"Software": None})  # without matplotlib's version: same bytes
    write_bytes(out, picture.getvalue())
    return out


def draw_row(sample: Sample, partner: Sample, legend: Legend, cfg: ViewsConfig, seed: int, epoch: int) -> list[Panel]:
    """The pictures of one sample; `partner` is the one whose view is pasted."""
    view = unlabeled_view(sample, cfg, Draw(seed, epoch, sample.id, "unlabeled0"), 2)
    pasted = unlabeled_view(partner, cfg, Draw(seed, epoch, partner.id, "partner0"), 2)
    valid, truth = Image.fromarray(view.valid.numpy()), Image.fromarray(view.truth.numpy().astype(np.uint8))
    ignored = "hatched: ignored" if IGNORE in np.asarray(sample.mask) else ""
    return [
        Panel(_framed(eight_bit(sample.image), view.geometry), "original", "{} x {}".format(*sample.size)),
        Panel(paint_mask(sample.mask, legend), "its mask", ignored),
        Panel(draw_view(view.weak, cfg), "weak", describe(view.geometry)),
        Panel(paint_mask(truth, legend, valid), "its labels", "" if view.valid.all() else "dark: padding"),
        *(
            Panel(draw_view(x, cfg), f"strong {k + 1}", "as it is" if cfg.strong == "none" else cfg.strong)
            for k, x in enumerate(view.strong)
        ),
        *_mixed(view, pasted, cfg, legend, partner.id),
    ]


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


def visible_part(geometry: Sequence[Step]) -> tuple[int, int, int, int] | None:
    """The part (x0, y0, x1, y1) of the original that a view shows; None when it is turned, or shows all."""
    path = trace(geometry)
    if len(path) != 1 or not isinstance(path[0], tuple):
        return None
    (y0, y1), (x0, x1) = ((int(i[i >= 0].min()), int(i.max()) + 1) for i in path[0])
    w, h = geometry[0].before
    whole = max(x0, y0, w - x1, h - y1) <= 2  # a shrunk image may not look at its last pixels
    return None if whole else (x0, y0, x1, y1)


def draw_view(x: Tensor, cfg: ViewsConfig) -> Image.Image:
    """A view's tensor [C,H,W] as an RGB panel; with zero padding, padding has the mean colour."""
    return _fit(pixels(x, cfg).convert("RGB"))


def paint_mask(mask: Image.Image, legend: Legend, valid: Image.Image | None = None) -> Image.Image:
    """An RGB panel of a mask of train ids (mode "L"): ignored pixels hatched, padding (`valid` is 0) dark."""
    colours = np.full((256, 3), 255, np.uint8)
    colours[: len(legend)] = [colour for _, colour in legend]
    ids = np.asarray(_fit(mask, Image.Resampling.NEAREST))
    out = colours[ids]
    y, x = np.indices(ids.shape)
    out[(ids == IGNORE) & ((x + y) // 3 % 3 == 0)] = HATCH
    if valid is not None:
        out[~np.asarray(_fit(valid, Image.Resampling.NEAREST)).astype(bool)] = PADDING
    return Image.fromarray(out)


def draw_page(title: str, rows: Sequence[tuple[str, Sequence[Panel]]], legend: Legend) -> Figure:
    """All rows (id, panels) under one title, the classes and their colours below."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    columns = max(len(panels) for _, panels in rows)
    lines = -(-len(legend) // COLUMNS)
    figure = Figure(figsize=(2.6 * columns, 3 * len(rows) + 0.25 * lines + 0.5), layout="constrained")
    figure.suptitle(title, fontsize=11)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (id, panels) in zip(grid, rows, strict=True):
        axes[0].set_ylabel(id, fontsize=9)
        for axis, panel in zip(axes, panels, strict=False):
            axis.imshow(panel.image)
            axis.set_title(panel.title, fontsize=9)
            axis.set_xlabel(panel.detail, fontsize=8)
            axis.set(xticks=(), yticks=())
        for axis in axes[len(panels) :]:
            axis.axis("off")
    patches = [Patch(facecolor="#{:02x}{:02x}{:02x}".format(*c), edgecolor="grey", label=name) for name, c in legend]
    figure.legend(handles=patches, loc="outside lower center", ncols=COLUMNS, fontsize=8, frameon=False)
    return figure


def _mixed(view: UnlabeledView, pasted: UnlabeledView, cfg: ViewsConfig, legend: Legend, partner: str) -> list[Panel]:
    """The first strong view that has a region, pasted, and its labels; nothing when no region is configured."""
    if cfg.box == "none":
        return []
    k = next((k for k, region in enumerate(view.boxes) if region.any()), None)
    if k is None:
        return [Panel(Image.new("RGB", (SIDE, SIDE), (235, 235, 235)), "mixed", "no region in these draws")]
    region = view.boxes[k]
    image = pasted.strong[k].where(region, view.strong[k])
    labels = Image.fromarray(pasted.truth.where(region, view.truth).numpy().astype(np.uint8))
    valid = Image.fromarray(pasted.valid.where(region, view.valid).numpy())
    edge = region.numpy()
    return [
        Panel(_edged(draw_view(image, cfg), edge), f"mixed, strong {k + 1}", f"{edge.mean():.0%} from {partner}"),
        Panel(_edged(paint_mask(labels, legend, valid), edge), "mixed labels", cfg.box),
    ]


def _fit(image: Image.Image, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    """Scaled to the height of a panel."""
    return image.resize((max(round(image.width * SIDE / image.height), 1), SIDE), how)


def _framed(image: Image.Image, geometry: Sequence[Step]) -> Image.Image:
    """The original with the part that the view shows outlined."""
    if image.mode == "F":
        image = Image.fromarray(np.rint(np.asarray(image) * 255).astype(np.uint8))
    out = _fit(image.convert("RGB"))
    part = visible_part(geometry)
    if part:
        x0, y0, x1, y1 = (v * SIDE / image.height for v in part)
        box = (x0, y0, min(x1, out.width) - 1, min(y1, out.height) - 1)
        ImageDraw.Draw(out).rectangle(box, outline=EDGE, width=2)
    return out


def _edged(image: Image.Image, region: NDArray[np.bool_]) -> Image.Image:
    """The border of a region [H, W] drawn on a panel."""
    around = ((-1, 0), (1, 0), (0, -1), (0, 1))
    inside = np.pad(np.asarray(Image.fromarray(region).resize(image.size, Image.Resampling.NEAREST)), 1, mode="edge")
    core = inside[1:-1, 1:-1]
    near = [inside[1 + dy : 1 + dy + core.shape[0], 1 + dx : 1 + dx + core.shape[1]] for dy, dx in around]
    out = np.array(image)
    out[np.any([n != core for n in near], axis=0)] = EDGE
    return Image.fromarray(out)
