"""A user's own images and masks, once `ssbench import` has brought them into the prepared form.

Beside the files that its ledger lists an import leaves `.labels.json`: which labels each mask holds, so that a split
can be drawn and checked without reading every mask again. It is a cache: where it is missing the masks are read.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, Self

import yaml
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ssbench.data.dataset import Dataset, find_image, read_grey, read_ids, read_image, read_mask
from ssbench.data.decode import DecodeRules
from ssbench.data.ledger import Ledger
from ssbench.errors import DataError
from ssbench.files import as_model, read_model, read_yaml, write_bytes
from ssbench.splits.groups import Grouping

CARD = "dataset.yaml"
UNMASKED = "unlabeled.txt"
"""Ids of the images that came without a mask; the file is there only where there are any."""
LABELS = ".labels.json"
Byte = Annotated[int, Field(ge=0, le=255)]


class Card(BaseModel):
    """`dataset.yaml`: what the ids and label values of an imported folder mean.

    `classes` and `palette` in order of the label value; `channels`: 1 for grey images; `subsets`: ids in each.
    `group`: pattern of what belongs together (`ssbench.splits.groups`); `bands` and `depth16`: how pictures of more
    than three bands or 8 bits were read, and `ssbench predict` reads them. What was not used is left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    classes: Annotated[tuple[str, ...], Field(min_length=1, max_length=255)]
    palette: tuple[tuple[Byte, Byte, Byte], ...]
    channels: Literal[1, 3] = 3
    ignore: Literal[255] = 255
    subsets: dict[str, int]
    group: str | None = None
    bands: tuple[int, ...] = ()
    depth16: Literal["full", "percentile"] | None = None

    @model_validator(mode="after")
    def _has_a_colour_for_each_class(self) -> Self:
        if len(self.palette) != len(self.classes):
            raise ValueError(f"{len(self.palette)} colours for {len(self.classes)} classes")
        return self

    def dump(self) -> str:
        """The file's text."""
        unused = {name for name in ("group", "bands", "depth16") if not getattr(self, name)}
        content = self.model_dump(mode="json", exclude=unused)
        return str(yaml.safe_dump(content, default_flow_style=None, allow_unicode=True, sort_keys=False))


class LabelIndex(BaseModel):
    """`.labels.json`: the labels in the mask of each id, and the digest of the ledger it was made with."""

    model_config = ConfigDict(frozen=True)

    ledger: str
    labels: dict[str, frozenset[Byte]]


class Folder(Dataset):
    """Made by `ssbench import`: images/<id>.jpg or .png, masks/<id>.png, <subset>.txt and dataset.yaml.

    An id is the path of the user's file in its folder of images, without the ending. An image that came without a mask
    has one of 255 everywhere.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        card = read_card(root)
        self.name, self.classes, self.palette, self.channels = card.name, card.classes, card.palette, card.channels
        self.subsets = tuple(card.subsets)
        self.rules = DecodeRules(card.channels, card.bands, card.depth16)
        self._group = Grouping(card.group) if card.group else None
        self._labels: dict[str, frozenset[int]] | None = None

    def image(self, id: str) -> Image.Image:
        """The image, RGB, or L when the card says one channel."""
        path = find_image(self.root / "images", id, self.name)
        return read_image(path) if self.channels == 3 else read_grey(path)

    def mask(self, id: str) -> Image.Image:
        """Mode L: values of `classes`, or 255."""
        return read_mask(self.root / "masks" / f"{id}.png")

    def unit(self, id: str) -> str:
        """The group of an image, where the import was given a pattern, else the image itself."""
        return self._group.of(id) if self._group else id

    def unmasked(self) -> frozenset[str]:
        """Ids of images that came without a mask."""
        path = self.root / UNMASKED
        return frozenset(read_ids(path, self.name)) if path.is_file() else frozenset()

    def labels_in(self, id: str) -> frozenset[int]:
        """Label values that occur in the mask of an image, without 255; from the import's own count where it holds."""
        if self._labels is None:
            self._labels = read_labels(self.root)
        return self._labels[id] if id in self._labels else super().labels_in(id)


def read_labels(root: Path) -> dict[str, frozenset[int]]:
    """The labels in each mask as the import counted them; {} where that is missing, damaged, or of other files."""
    path = root / LABELS
    try:
        index = read_model(path, LabelIndex, "count of labels", "") if path.is_file() else None
        ledger = Ledger.read(root) if index else None
    except DataError:
        return {}
    return dict(index.labels) if index and ledger and index.ledger == ledger.digest() else {}


def write_labels(root: Path, labels: dict[str, frozenset[int]]) -> None:
    """Keep which labels each mask holds; `root` has its ledger."""
    ledger = Ledger.read(root)
    assert ledger is not None  # noqa: S101  the import has written it
    content = {"ledger": ledger.digest(), "labels": {id: sorted(values) for id, values in labels.items()}}
    write_bytes(root / LABELS, json.dumps(content, separators=(",", ":")).encode())


def read_card(root: Path) -> Card:
    """The card of an imported folder; DataError when it is missing or damaged."""
    path = root / CARD
    return _read_card(path, path.stat().st_mtime_ns if path.is_file() else 0)


@lru_cache(maxsize=8)
def _read_card(path: Path, stamp: int) -> Card:
    """The card as it was at the time `stamp`: a folder imported again is read again."""
    fix = f"bring the folder again: ssbench import FOLDER --name {path.parent.name} --replace"
    return as_model(read_yaml(path, CARD, fix), Card, str(path), CARD, fix)
