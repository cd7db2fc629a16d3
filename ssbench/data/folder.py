"""A user's own images and masks, once `ssbench import` has brought them into the prepared form."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssbench.data.dataset import Dataset, find_image, read_grey, read_image, read_mask
from ssbench.errors import DataError

CARD = "dataset.yaml"
Byte = Annotated[int, Field(ge=0, le=255)]


class Card(BaseModel):
    """`dataset.yaml`: what the ids and label values of an imported folder mean.

    `classes` and `palette` in order of the label value; `channels`: 1 for grey images; `subsets`: ids in each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=255)]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    channels: Literal[1, 3] = 3
    ignore: Literal[255] = 255
    subsets: dict[str, int]

    def dump(self) -> str:
        """The file's text."""
        said = self.model_dump(mode="json")
        return str(yaml.safe_dump(said, default_flow_style=None, allow_unicode=True, sort_keys=False))


class Folder(Dataset):
    """Made by `ssbench import`: images/<id>.jpg or .png, masks/<id>.png, <subset>.txt and dataset.yaml.

    An id is the stem of the user's file. An image that came without a mask has one of 255 everywhere.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        card = read_card(root)
        self.name, self.classes, self.palette, self.channels = card.name, card.classes, card.palette, card.channels
        self.subsets = tuple(card.subsets)

    def image(self, id: str) -> Image.Image:
        """The image, RGB, or L when the card says one channel."""
        path = find_image(self.root / "images", id, self.name)
        return read_image(path) if self.channels == 3 else read_grey(path)

    def mask(self, id: str) -> Image.Image:
        """Mode L: values of `classes`, or 255."""
        return read_mask(self.root / "masks" / f"{id}.png")


def read_card(root: Path) -> Card:
    """The card of an imported folder; DataError when it is missing or damaged."""
    path = root / CARD
    try:
        return _read_card(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, yaml.YAMLError) as error:
        what = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        fix = f"bring the folder again: ssbench import FOLDER --name {root.name} --replace"
        raise DataError(f"{CARD} cannot be read: {what}", str(path), fix) from error


@lru_cache(maxsize=8)
def _read_card(path: Path, stamp: int) -> Card:
    card = Card.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    if len(card.palette) != len(card.classes):
        raise ValueError(f"{len(card.palette)} colours for {len(card.classes)} classes")
    return card
