"""`import`: a user's own images and masks, a released training log, a released checkpoint."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssbench.commands.common import DataRoot, Json, Results, print_json, print_rows
from ssbench.errors import DataError, UsageError

if TYPE_CHECKING:
    from ssbench.prepare.own import Lint, Report, Wish
    from ssbench.prepare.prepare import Progress

Given = Annotated[Path, typer.Argument(help="A folder with images/ and masks/, or a released log or checkpoint.")]
Named = Annotated[str | None, typer.Option("--name", help="What the dataset is to be called.")]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Names with commas, or a .txt or .yaml file (default: FOLDER/classes.txt or .yaml)."
    ),
]
Changes = Annotated[list[str] | None, typer.Option("--map", help="Value to change: 11=255; may be repeated.")]
Images = Annotated[str | None, typer.Option("--images", help="Name of the folder of images.")]
Masks = Annotated[str | None, typer.Option("--masks", help="Name of the folder of masks.")]
Suffix = Annotated[str, typer.Option("--mask-suffix", help="What masks have behind the image's stem: _mask.")]
Grey = Annotated[bool, typer.Option("--grey", help="Keep grey images in one channel.")]
Unlabeled = Annotated[bool, typer.Option("--unlabeled", help="Keep training images without a mask, unlabelled.")]
Val = Annotated[
    float, typer.Option("--val", help="Share of the labelled images for val, where there is no val folder.")
]
Labeled = Annotated[list[str] | None, typer.Option("--labeled", help="Draw a split: 1_8, or a count; may be repeated.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="import")(import_)


def import_(
    path: Given,
    name: Named = None,
    classes: Classes = None,
    changes: Changes = None,
    images: Images = None,
    masks: Masks = None,
    mask_suffix: Suffix = "",
    grey: Grey = False,
    unlabeled: Unlabeled = False,
    val: Val = 0.2,
    labeled: Labeled = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws of val and of splits.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an import of this name.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Only look: all findings, nothing written.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="Processes (default: one a core).")] = None,
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
    if path.is_file():
        _released(path, split, recipe, data_root, results, json)
        return
    from ssbench.paths import data_root as data_of
    from ssbench.prepare.own import Wish, import_folder, lint
    from ssbench.prepare.own_classes import read_classmap
    from ssbench.prepare.own_pairs import Layout

    _a_folder(path)
    wish = Wish(
        path,
        _called(path, name),
        read_classmap(classes, path, changes or ()),
        Layout(images, masks, mask_suffix),
        1 if grey else 3,
        unlabeled,
        val,
        tuple(labeled or ()),
        seed,
        replace,
    )
    if check:
        _show_lint(wish, lint(wish, workers, _progress()), json)
        return
    report = import_folder(wish, data_of(data_root), workers, _progress())
    if json:
        print_json(report.json())
    else:
        _show(report, data_of(data_root))


def _released(
    path: Path, split: str | None, recipe: str | None, data: Path | None, results: Path | None, json: bool
) -> None:
    """A log or checkpoint of the authors': what it says, and the file of the claim it became."""
    from ssbench.paths import data_root, results_root
    from ssbench.tables.claims import write_claim
    from ssbench.tables.logs import claim_of, read_log

    if recipe is None and path.suffix in (".pth", ".pt", ".pkl"):
        fix = f"ssbench import {path} --recipe unimatch/unimatch_cityscapes_r50 --split cityscapes/cps/1_16"
        raise UsageError(f"'{path.name}' looks like a checkpoint: which network is it?", "--recipe", fix)
    if recipe is None:
        claim = claim_of(read_log(path), path.name, split)
    else:
        from ssbench.inspect.released import scored_claim

        claim = scored_claim(path, recipe, split, data_root(data))
    file = write_claim(results_root(results), claim)
    if json:
        print_json({**vars(claim), "value": str(claim.value), "file": str(file)})
        return
    print(f"{claim.method} on {claim.split}, {claim.backbone}, crop {claim.crop}: {claim.metric} {claim.value}")
    print(f"  {claim.kind}: {claim.source}; {claim.note}")
    print(f"  kept: {file}")


def _a_folder(path: Path) -> None:
    if not path.is_dir():
        raise DataError(f"no folder '{path}'", str(path.absolute()), "check the path")


def _called(path: Path, name: str | None) -> str:
    if name is None:
        raise UsageError("the dataset needs a name", "--name", f"ssbench import {path} --name mine --classes ...")
    return name


def _progress() -> Progress:
    """Bars on stderr at a terminal, nothing elsewhere."""
    from ssbench.prepare.job import Bar, Silent

    return Bar() if sys.stderr.isatty() else Silent()


def _show_lint(wish: Wish, seen: Lint, json: bool) -> None:
    """The looking alone: everything found, on stdout; an error when something is wrong."""
    from ssbench.prepare.own import refused

    if json:
        print_json(seen.json())
    else:
        _show_seen(seen)
        for finding in seen.findings:
            print(f"{finding.kind}: {finding.path}: {finding.detail}")
    if seen.findings:
        raise refused(wish, seen)


def _show(report: Report, root: Path) -> None:
    _show_seen(report.lint)
    counts = ", ".join(f"{n} {subset}" for subset, n in report.counts.items())
    print(f"{report.name}: {report.state} in {report.seconds:.0f} s: {counts} ({report.bytes / 2**20:.1f} MiB)")
    print(f"  ledger: {report.ledger}")
    splits = report.splits or (f"{report.name}/custom/1_8",)
    for split in report.splits:
        print(f"  split: {split}")
    if not report.splits:
        print(f"  next: ssbench splits make {splits[0]} --fraction 1/8 --data-root {root}")
    run = f"ssbench run RECIPE --set data.dataset={report.name} --split {splits[0]} --data-root {root}"
    print(f"  {'then' if not report.splits else 'next'}: {run}")


def _show_seen(seen: Lint) -> None:
    kinds = ", ".join(f"{n} {kind}" for kind, n in seen.masks.items()) or "none"
    print(f"{len(seen.owns)} images; masks: {kinds}")
    total = sum(row["pixels"] for row in seen.classes) or 1
    rows: list[list[Any]] = [
        [row["label"], row["class"], row["pixels"], f"{100 * row['pixels'] / total:.2f}", row["images"]]
        for row in seen.classes
    ]
    print_rows("labels", ["label", "class", "pixels", "%", "images"], rows)
    for note in seen.notes:
        print(f"note: {note}")
