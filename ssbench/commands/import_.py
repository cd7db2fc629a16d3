"""`import`: a user's own images and masks, a released training log, a released checkpoint."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssbench import paths
from ssbench.commands.common import (
    Bands,
    DataRoot,
    Depth16,
    Json,
    Results,
    Workers,
    finite,
    print_json,
    print_rows,
    progress_bars,
    read_bands,
)
from ssbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssbench.prepare.own import ImportReport
    from ssbench.prepare.own_folder import FolderCheck, ImportOptions


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
ExifOption = Annotated[
    Literal["apply", "ignore"] | None,
    typer.Option("--exif", help="Pictures that EXIF turns and whose masks fit both ways: turn them, or not."),
]
PagesOption = Annotated[
    Literal["all", "first"] | None, typer.Option("--pages", help="Files of several pages: each page an image, or one.")
]
PaletteOption = Annotated[
    Literal["colour", "index"] | None, typer.Option("--palette", help="Palette masks: read by colour, or by index.")
]
Group = Annotated[
    str | None,
    typer.Option(
        "--group", help=r"Keep images of one group on one side: a pattern whose match names it: '(.+)_slice\d+'."
    ),
]


def import_(
    path: Annotated[
        Path, typer.Argument(help="A folder (or archive) of images and masks, or a released log or checkpoint.")
    ],
    name: Annotated[str | None, typer.Option("--name", help="What the dataset is to be called.")] = None,
    classes: Classes = None,
    changes: Changes = None,
    images: Annotated[str | None, typer.Option("--images", help="Name of the folder of images.")] = None,
    masks: Annotated[str | None, typer.Option("--masks", help="Name of the folder of masks.")] = None,
    mask_suffix: MaskSuffix = "",
    image_suffix: ImageSuffix = "",
    layers: Annotated[
        bool, typer.Option("--layers", help="Merge masks that are one picture for each image and label.")
    ] = False,
    nearest: Annotated[
        bool, typer.Option("--nearest", help="Values and colours between the classes' become the nearest (soft edges).")
    ] = False,
    palette: PaletteOption = None,
    exif: ExifOption = None,
    bands: Bands = None,
    depth16: Depth16 = None,
    pages: PagesOption = None,
    grey: Annotated[bool, typer.Option("--grey", help="Keep grey images in one channel.")] = False,
    unlabeled: Annotated[
        bool, typer.Option("--unlabeled", help="Keep training images without a mask, unlabelled.")
    ] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out pairs with something wrong; the ledger lists them.")
    ] = False,
    val: ValShare = 0.2,
    labeled: Labeled = None,
    stratify: Annotated[bool, typer.Option("--stratify", help="Draw val and splits with each class in them.")] = False,
    group: Group = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws of val and of splits.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an import of this name.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only look: all findings, nothing written.")] = False,
    workers: Workers = None,
    split: Annotated[str | None, typer.Option("--split", help="Log or checkpoint: what it was trained on.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Checkpoint: the recipe that is its network.")] = None,
    data_root: DataRoot = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Bring your own images and masks, from then on a dataset like the others; or what a paper's authors released.

    A training log of UniMatch or AugSeg becomes a claim with its curve (`ssbench table --claims`, `ssbench report`); a
    checkpoint is scored under its recipe's protocol, and its score kept as a claim.
    """
    from ssbench.prepare.unpack import is_archive

    if path.is_file() and not is_archive(path):
        _import_released(path, split, recipe, paths.data_root(data_root), paths.results_root(results), json)
        return
    from ssbench.data.decode import DecodeRules
    from ssbench.prepare.own import check_folder, import_folder
    from ssbench.prepare.own_classes import read_classmap
    from ssbench.prepare.own_folder import ImportOptions
    from ssbench.prepare.own_layout import FolderLayout
    from ssbench.prepare.own_masks import ConvertRules
    from ssbench.prepare.own_splits import DrawRules

    if not path.exists():
        raise DataError(f"no folder '{path}'", str(path.absolute()), "check the path")
    if name is None:
        raise UsageError("the dataset needs a name", "--name", f"ssbench import {path} --name mine --classes ...")
    decode = DecodeRules(1 if grey else 3, read_bands(bands), depth16)
    options = ImportOptions(
        path,
        name,
        ConvertRules(read_classmap(classes, path, changes or ()), decode, exif, nearest, palette),
        FolderLayout(images, masks, mask_suffix, image_suffix, layers),
        DrawRules(val, tuple(labeled or ()), seed, stratify, group),
        unlabeled,
        pages,
        skip_bad,
        replace,
        tuple(changes or ()),
        shlex.join(["ssbench", *(word for word in sys.argv[1:] if word not in ("--check", "--json"))]),
    )
    root = paths.data_root(data_root)
    with progress_bars() as bars:
        if check:
            _show_check(options, check_folder(options, root, workers, bars), json)
            return
        report = import_folder(options, root, workers, bars)
    _show_report(report, root, json)


def _import_released(path: Path, split: str | None, recipe: str | None, data: Path, results: Path, json: bool) -> None:
    """Keep what a released log or checkpoint says as a claim, and print the claim and its file."""
    from ssbench.tables.claims import write_claim
    from ssbench.tables.logs import claim_of, read_log

    if recipe is None and path.suffix in (".pth", ".pt", ".pkl"):
        fix = f"ssbench import {path} --recipe unimatch/unimatch_cityscapes_r50 --split cityscapes/cps/1_16"
        raise UsageError(f"'{path.name}' looks like a checkpoint: which network is it?", "--recipe", fix)
    if recipe is None:
        claim = claim_of(read_log(path), path.name, split)
    else:
        from ssbench.inspect.score import scored_claim

        claim = scored_claim(path, recipe, split, data)
    file = write_claim(results, claim)
    if json:
        print_json({**vars(claim), "value": str(claim.value), "file": str(file)})
        return
    print(f"{claim.method} on {claim.split}, {claim.backbone}, crop {claim.crop}: {claim.metric} {claim.value}")
    print(f"  {claim.kind}: {claim.source}; {claim.note}")
    print(f"  kept: {file}")


def _show_check(options: ImportOptions, check: FolderCheck, json: bool) -> None:
    """Print what `--check` found on stdout; DataError when something is wrong."""
    from ssbench.prepare.own import findings_error
    from ssbench.prepare.own_findings import group_findings

    if json:
        print_json(check.json())
    else:
        _show_summary(check)
        for group in group_findings(check.findings):
            print(group.line(check.folder))
    if check.findings:
        raise findings_error(options, check)


def _show_report(report: ImportReport, root: Path, json: bool) -> None:
    if json:
        print_json(report.json())
        return
    _show_summary(report.check)
    counts = ", ".join(f"{n} {subset}" for subset, n in report.counts.items())
    print(f"{report.name}: {report.state} in {report.seconds:.0f} s: {counts} ({report.bytes / 2**20:.1f} MiB)")
    print(f"  ledger: {report.ledger}")
    splits = report.splits or (f"{report.name}/custom/1_8",)
    for split in report.splits:
        print(f"  split: {split}")
    place = shlex.quote(str(root))
    if not report.splits:
        print(f"  next: ssbench splits make {splits[0]} --fraction 1/8 --data-root {place}")
    run = f"ssbench run RECIPE --set data.dataset={report.name} --split {splits[0]} --data-root {place}"
    print(f"  {'then' if not report.splits else 'next'}: {run}")


def _show_summary(check: FolderCheck) -> None:
    kinds = ", ".join(f"{n} {kind}" for kind, n in check.masks.items()) or "none"
    print(f"{len(check.pairs)} images; masks: {kinds}")
    total = sum(row["pixels"] for row in check.classes) or 1
    rows: list[list[Any]] = [
        [row["label"], row["class"], row["pixels"], f"{100 * row['pixels'] / total:.2f}", row["images"]]
        for row in check.classes
    ]
    print_rows("labels", ["label", "class", "pixels", "%", "images"], rows)
    for note in check.notes:
        print(f"note: {note}")
