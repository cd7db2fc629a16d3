"""Folders of images and masks as a user would bring them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ssbench import keyed
from ssbench.data.decode import DecodeRules
from ssbench.prepare.own_classes import read_classmap
from ssbench.prepare.own_folder import ImportOptions
from ssbench.prepare.own_masks import ConvertRules
from ssbench.prepare.own_splits import DrawRules

NAMES = "floor,wall,door"


def picture(id: str, size: tuple[int, int] = (40, 32), grey: bool = False) -> Image.Image:
    shape = size[::-1] if grey else (*size[::-1], 3)
    return Image.fromarray(keyed.rng("own", id).integers(0, 256, shape, np.uint8))


def labels(id: str, size: tuple[int, int] = (40, 32), classes: int = 3) -> Image.Image:
    """Blocks of 8 pixels, each of one class, every class somewhere."""
    blocks = keyed.rng("own mask", id).integers(0, classes, (size[1] // 8, size[0] // 8), np.uint8)
    blocks.flat[:classes] = np.arange(classes)
    return Image.fromarray(blocks.repeat(8, 0).repeat(8, 1))


def own_folder(home: Path, count: int = 10, images: str = "images", masks: str = "masks", stem: str = "room") -> Path:
    """`count` pairs below `home`, room_00 and on."""
    for folder in (images, masks):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for k in range(count):
        picture(f"{stem}{k}").save(home / images / f"{stem}_{k:02d}.jpg")
        labels(f"{stem}{k}").save(home / masks / f"{stem}_{k:02d}.png")
    return home


def divided_folder(home: Path, how: str = "images/{}") -> Path:
    """8 pairs for train and 4 for val; `how` is "images/{}" or "{}/images"."""
    for subset, count in (("train", 8), ("val", 4)):
        images = how.format(subset)
        own_folder(home, count, images, images.replace("images", "masks"), subset)
    return home


def import_options(
    home: Path,
    classes: str | None = NAMES,
    changes: tuple[str, ...] = (),
    **settings: Any,
) -> ImportOptions:
    """Options for the dataset "rooms"; `settings` are fields of the option classes, each of which is of one class."""

    def of(cls: Any) -> dict[str, Any]:
        return {field.name: settings.pop(field.name) for field in fields(cls) if field.name in settings}

    decode, draws = DecodeRules(**of(DecodeRules)), DrawRules(**of(DrawRules))
    rules = ConvertRules(read_classmap(classes, home, changes), decode, **of(ConvertRules))
    return ImportOptions(home, "rooms", rules, draws=draws, changes=changes, **settings)


def paletted(mask: Image.Image) -> Image.Image:
    """The mask as a palette image whose colours say nothing of the labels."""
    page = mask.copy()
    page.putpalette([255 - k for k in range(256) for _ in range(3)])
    return page
