"""A user's own images and masks, once `ssbench import` has brought them into the prepared form."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ssbench.data.dataset import Dataset, find_image, read_grey, read_image, read_mask
from ssbench.files import as_model, read_yaml

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

    @model_validator(mode="after")
    def _has_a_colour_for_each_class(self) -> Self:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.palette)} colours for {len(self.classes)} classes")
        return self

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
    return _read_card(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=8)
def _read_card(path: Path, stamp: int) -> Card:
    """The card as it was at the time `stamp`: a folder imported again is read again."""
    fix = f"bring the folder again: ssbench import FOLDER --name {path.parent.name} --replace"
    return as_model(read_yaml(path, CARD, fix), Card, str(path), CARD, fix)
