"""Pictures of label maps: in a dataset's colours, and a sheet of images, truth and predictions side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ssbench.data.dataset import IGNORE
from ssbench.files import write_bytes
from ssbench.inspect.networks import load_predictor
from ssbench.ops.confusion import confusion, mean_iou
from ssbench.recipe.recipe import Recipe
from ssbench.train.build import dataset_of
from ssbench.train.distributed import join
from ssbench.train.evaluate import label_image

TILE, GAP, TOP = 144, 6, 22
"""Pixels: side of a tile, space between two, height of the headings."""
INK, PAPER = (30, 30, 34), (255, 255, 255)


@dataclass(frozen=True)
class SheetColumn:
    """A column of predictions: its heading, the recipe, the checkpoint."""

    heading: str
    recipe: Recipe
    checkpoint: Path


def write_sheet(columns: Sequence[SheetColumn], subset: str, count: int, data_root: Path, out: Path) -> None:
    """Write a PNG of `count` images spread over `subset`: image, truth, and the labels of each column's networks.

    A number on each prediction is its mIoU on that image, in percent.
    """
    team = join("cpu")
    dataset = dataset_of(columns[0].recipe, data_root)
    ids = dataset.ids(subset)
    chosen = [ids[(2 * k + 1) * len(ids) // (2 * count)] for k in range(count)]
    truths = [np.array(dataset.mask(id)) for id in chosen]
    rows = [
        [(dataset.image(id).convert("RGB"), ""), (coloured(truth, dataset.palette), "")]
        for id, truth in zip(chosen, truths, strict=True)
    ]
    for column in columns:
        predict = load_predictor(column.recipe, column.checkpoint, dataset, team.device)
        for id, truth, row in zip(chosen, truths, rows, strict=True):
            labels = label_image(predict, dataset.image(id), column.recipe.eval, column.recipe.views, team)
            matrix = confusion(torch.from_numpy(labels), torch.from_numpy(truth), len(dataset.classes))
            row.append((coloured(labels, dataset.palette), f"{mean_iou(matrix):.0f}"))
    write_png(out, _sheet(["image", "truth", *(column.heading for column in columns)], rows), optimize=True)


def paletted(labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """H W uint8 label values as a palette picture: the value of a pixel is its label, its colour the dataset's.

    255 (ignore) and values that are no class are light grey.
    """
    colours = np.full((256, 3), 224, dtype=np.uint8)
    colours[: len(palette)] = palette
    colours[IGNORE] = 224
    image = Image.fromarray(labels).convert("P")
    image.putpalette(colours.tobytes())
    return image


def coloured(labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """`paletted` as an RGB picture."""
    return paletted(labels, palette).convert("RGB")


def write_png(path: Path, image: Image.Image, optimize: bool = False) -> None:
    """Write a PNG atomically. `optimize` takes longer, for smaller files."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=optimize)
    write_bytes(path, buffer.getvalue())


def _sheet(headings: Sequence[str], rows: Sequence[Sequence[tuple[Image.Image, str]]]) -> Image.Image:
    """A page of tiles (picture, note in its corner), one column under each heading."""
    width = len(headings) * (TILE + GAP) + GAP
    page = Image.new("RGB", (width, TOP + len(rows) * (TILE + GAP) + GAP), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for at, heading in enumerate(headings):
        pen.text((GAP + at * (TILE + GAP), 4), heading, INK, font=font)
    for down, row in enumerate(rows):
        for at, (image, note) in enumerate(row):
            left, top = GAP + at * (TILE + GAP), TOP + GAP + down * (TILE + GAP)
            # Label maps must not be smoothed: a mean of two labels' colours is the colour of none.
            smoothing = Image.Resampling.BILINEAR if at == 0 else Image.Resampling.NEAREST
            page.paste(image.resize((TILE, TILE), smoothing), (left, top))
            if note:
                box = pen.textbbox((left + 4, top + 3), note, font=font)
                pen.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), fill=PAPER)
                pen.text((left + 4, top + 3), note, INK, font=font)
    return page
