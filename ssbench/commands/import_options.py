"""The options of `import`, and what an import of a folder is asked for by them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssbench.commands.common import finite, read_bands
from ssbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssbench.prepare.own_folder import ImportOptions

Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        help="Names with commas, or a label tool's file (default: FOLDER/classes.txt, _classes.csv, ...).",
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--map", help="Value to change: 11=255; also nan=, other= and transparent=255. Repeatable, or with commas."
    ),
]
ValShare = Annotated[
    float,
    typer.Option("--val", callback=finite, help="Share of the labelled images for val, where there is no val folder."),
]
Labeled = Annotated[list[str] | None, typer.Option("--labeled", help="Draw a split: 1_8, or a count; may be repeated.")]
MaskSuffix = Annotated[str, typer.Option("--mask-suffix", help="What masks have behind the image's stem: _mask.")]
ImageSuffix = Annotated[str, typer.Option("--image-suffix", help="What images have behind the id: _leftImg8bit.")]
Exif = Annotated[
    Literal["apply", "ignore"] | None,
    typer.Option("--exif", help="Pictures that EXIF turns and whose masks fit both ways: turn them, or not."),
]
PageRule = Annotated[
    Literal["all", "first"] | None, typer.Option("--pages", help="Files of several pages: each page an image, or one.")
]
PaletteRule = Annotated[
    Literal["colour", "index"] | None, typer.Option("--palette", help="Palette masks: read by colour, or by index.")
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group", help=r"Keep images of one group on one side: a pattern whose match names it: '(.+)_slice\d+'."
    ),
]
DatasetName = Annotated[str | None, typer.Option("--name", help="What the dataset is to be called.")]
ImagesName = Annotated[str | None, typer.Option("--images", help="Name of the folder of images.")]
MasksName = Annotated[str | None, typer.Option("--masks", help="Name of the folder of masks.")]
Layers = Annotated[bool, typer.Option("--layers", help="Merge masks that are one picture for each image and label.")]
Nearest = Annotated[
    bool, typer.Option("--nearest", help="Values and colours between the classes' become the nearest (soft edges).")
]
Grey = Annotated[bool, typer.Option("--grey", help="Keep grey images in one channel.")]
Unlabeled = Annotated[bool, typer.Option("--unlabeled", help="Keep training images without a mask, unlabelled.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out pairs with something wrong (the ledger lists them).")
]
Stratify = Annotated[bool, typer.Option("--stratify", help="Draw val and splits with each class in them.")]
Seed = Annotated[int, typer.Option("--seed", help="Of the draws of val and of splits.")]
Replace = Annotated[bool, typer.Option("--replace", help="Replace an import of this name.")]
Check = Annotated[bool, typer.Option("--check", help="Only look: all findings, nothing written.")]
TrainedOn = Annotated[str | None, typer.Option("--split", help="Log or checkpoint: what it was trained on.")]
ItsRecipe = Annotated[str | None, typer.Option("--recipe", help="Checkpoint: the recipe that is its network.")]


def import_options(path: Path, given: Mapping[str, Any]) -> ImportOptions:
    """The options of an import of the folder or archive `path`; `given`: the parameters of the command by name.

    Raises:
        DataError: there is no such path. UsageError: no name, or classes and changes that make no sense.
    """
    from ssbench.data.decode import DecodeRules
    from ssbench.prepare.own_classes import read_classmap
    from ssbench.prepare.own_folder import ImportOptions
    from ssbench.prepare.own_layout import FolderLayout
    from ssbench.prepare.own_masks import ConvertRules
    from ssbench.prepare.own_splits import DrawRules

    if not path.exists():
        raise DataError(f"no folder '{path}'", str(path.absolute()), "check the path")
    if given["name"] is None:
        fix = f"ssbench import {shlex.quote(str(path))} --name mine --classes ..."
        raise UsageError("the dataset needs a name", "--name", fix)
    changes = tuple(given["changes"] or ())
    classes = read_classmap(given["classes"], path, changes)
    decode = DecodeRules(1 if given["grey"] else 3, read_bands(given["bands"]), given["depth16"])
    return ImportOptions(
        folder=path,
        name=given["name"],
        rules=ConvertRules(classes, decode, given["exif"], given["nearest"], given["palette"]),
        layout=FolderLayout(
            given["images"], given["masks"], given["mask_suffix"], given["image_suffix"], given["layers"]
        ),
        draws=DrawRules(given["val"], tuple(given["labeled"] or ()), given["seed"], given["stratify"], given["group"]),
        unlabeled=given["unlabeled"],
        pages=given["pages"],
        skip_bad=given["skip_bad"],
        replace=given["replace"],
        changes=changes,
        command=shlex.join(["ssbench", *(word for word in sys.argv[1:] if word not in ("--check", "--json"))]),
    )
