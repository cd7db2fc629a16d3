"""Pictures of predictions: image, truth, and what each run says of it, side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssbench.data.dataset import IGNORE, Dataset
from ssbench.files import write_bytes
from ssbench.inspect.scoring import predictor
from ssbench.ops.confusion import confusion, mean_iou
from ssbench.recipe.recipe import Recipe
from ssbench.train.build import dataset_of
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import label_image

TILE, GAP, TOP = 144, 6, 22
INK, PAPER = (30, 30, 34), (255, 255, 255)


@dataclass(frozen=True)
class Shown:
    """A column: its heading, the recipe, the checkpoint."""

    label: str
    recipe: Recipe
    checkpoint: Path


def gallery(shown: Sequence[Shown], subset: str, count: int, data_root: Path, out: Path) -> None:
    """Write a PNG with `count` rows spread over `subset`: image, truth, one column a run, each with its image mIoU."""
    team = join("cpu")
    dataset = dataset_of(shown[0].recipe.data.dataset, data_root)
    ids = dataset.ids(subset)
    chosen = [ids[(2 * k + 1) * len(ids) // (2 * count)] for k in range(count)]
    columns = [_column(dataset, chosen, one, team) for one in shown]
    headings = ["image", "truth", *(one.label for one in shown)]
    rows = [_row(dataset, id, [column[k] for column in columns]) for k, id in enumerate(chosen)]
    write_bytes(out, _png(_sheet(headings, rows)))


def coloured(labels: np.ndarray, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """H W labels in the dataset's colours; 255 (ignore) in light grey."""
    return Image.fromarray(colours(palette)[labels])


def colours(palette: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """256 x 3 uint8: the colour of each label value; light grey for 255 and for values that are no class."""
    table = np.full((256, 3), 224, dtype=np.uint8)
    table[: len(palette)] = palette
    table[IGNORE] = 224
    return table


def _column(dataset: Dataset, ids: Sequence[str], shown: Shown, team: Team) -> list[np.ndarray]:
    predict = predictor(shown.recipe, shown.checkpoint, len(dataset.classes), dataset.channels, team.device)
    return [label_image(predict, dataset.image(id), shown.recipe.eval, shown.recipe.views, team) for id in ids]


def _row(dataset: Dataset, id: str, predictions: Sequence[np.ndarray]) -> list[tuple[Image.Image, str]]:
    import torch

    truth = np.array(dataset.mask(id))
    cells = [(dataset.image(id).convert("RGB"), ""), (coloured(truth, dataset.palette), "")]
    for labels in predictions:
        matrix = confusion(torch.from_numpy(labels), torch.from_numpy(truth), len(dataset.classes))
        cells.append((coloured(labels, dataset.palette), f"{mean_iou(matrix):.0f}"))
    return cells


def _sheet(headings: Sequence[str], rows: Sequence[Sequence[tuple[Image.Image, str]]]) -> Image.Image:
    width = len(headings) * (TILE + GAP) + GAP
    page = Image.new("RGB", (width, TOP + len(rows) * (TILE + GAP) + GAP), PAPER)
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for at, heading in enumerate(headings):
        pen.text((GAP + at * (TILE + GAP), 4), heading, INK, font=font)
    for down, row in enumerate(rows):
        for at, (image, note) in enumerate(row):
            place = (GAP + at * (TILE + GAP), TOP + GAP + down * (TILE + GAP))
            smooth = Image.Resampling.BILINEAR if at == 0 else Image.Resampling.NEAREST
            fitted = image.resize((TILE, TILE), smooth)
            page.paste(fitted, place)
            if note:
                box = pen.textbbox((place[0] + 4, place[1] + 3), note, font=font)
                pen.rectangle((box[0] - 3, box[1] - 2, box[2] + 3, box[3] + 2), fill=PAPER)
                pen.text((place[0] + 4, place[1] + 3), note, INK, font=font)
    return page


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
