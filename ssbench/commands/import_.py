"""`import`: a user's own images and masks, a released training log, a released checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ssbench import paths
from ssbench.commands import common
from ssbench.commands import import_options as opt
from ssbench.commands.new import show_own_table
from ssbench.errors import UsageError
from ssbench.paths import quoted

if TYPE_CHECKING:
    from ssbench.prepare.own import ImportReport
    from ssbench.prepare.own_folder import FolderCheck, ImportOptions
    from ssbench.tables.own import OwnTable


def import_(
    ctx: typer.Context,
    path: Annotated[
        Path, typer.Argument(help="A folder (or archive) of images and masks, or a released log or checkpoint.")
    ],
    name: opt.DatasetName = None,
    classes: opt.Classes = None,
    changes: opt.Changes = None,
    images: opt.ImagesName = None,
    masks: opt.MasksName = None,
    mask_suffix: opt.MaskSuffix = "",
    image_suffix: opt.ImageSuffix = "",
    layers: opt.Layers = False,
    nearest: opt.Nearest = False,
    palette: opt.PaletteRule = None,
    exif: opt.Exif = None,
    bands: common.Bands = None,
    depth16: common.Depth16 = None,
    pages: opt.PageRule = None,
    grey: opt.Grey = False,
    unlabeled: opt.Unlabeled = False,
    skip_bad: opt.SkipBad = False,
    val: opt.ValShare = 0.2,
    labeled: opt.Labeled = None,
    stratify: opt.Stratify = False,
    group: opt.Group = None,
    seed: opt.Seed = 0,
    replace: opt.Replace = False,
    check: opt.Check = False,
    workers: common.Workers = None,
    split: opt.TrainedOn = None,
    recipe: opt.ItsRecipe = None,
    entry: common.Entry = None,
    classes_as_saved: common.ClassesAsSaved = False,
    data_root: common.DataRoot = None,
    results: common.Results = None,
    json: common.Json = False,
) -> None:
    """Bring your own images and masks, from then on a dataset like the others; or what a paper's authors released.

    A training log of UniMatch's, UniMatch V2's, AugSeg's or PrevMatch's code becomes a claim with its curve (`ssbench
    table --claims`, `ssbench report`); one that another method's code wrote, or that contradicts `--split`, is refused.
    Such logs of one run make its convergence band, which `ssbench status` holds it against. A checkpoint is
    scored under its recipe's protocol, and its score kept as a claim.
    """
    from ssbench.prepare.unpack import is_archive

    root = paths.data_root(data_root)
    if path.is_file() and not is_archive(path):
        use = _CheckpointOptions(recipe, entry, classes_as_saved)
        _import_released(path, split, use, root, paths.results_root(results), json)
        return
    _import_folder(opt.import_options(path, ctx.params), data_root, workers, check, json)


def _import_folder(
    options: ImportOptions, data_root: Path | None, workers: int | None, check: bool, json: bool
) -> None:
    """Import a folder or an archive and write its table, or only check it, and print what came of it."""
    from ssbench.prepare.own import check_folder, import_folder
    from ssbench.tables.own import write_own_table

    root = paths.data_root(data_root)

    with common.progress_bars() as bars:
        if check:
            _show_check(options, check_folder(options, root, workers, bars), json)
            return
        report = import_folder(options, root, workers, bars)
    table = write_own_table(options.name, root, replace=options.replace)
    if json:
        common.print_json(report.json() | {"table": table.json()})
        return
    _show_report(report, table, data_root)


class _CheckpointOptions(NamedTuple):
    """The options that are about a checkpoint."""

    recipe: str | None
    entry: str | None
    as_saved: bool


def _import_released(
    path: Path, split: str | None, use: _CheckpointOptions, data: Path, results: Path, json: bool
) -> None:
    """Keep what a released log or checkpoint says as a claim, and print the claim and its file."""
    from ssbench.tables.claims import write_claim
    from ssbench.tables.logs import claim_of, read_log

    is_checkpoint = path.suffix in (".pth", ".pt", ".pkl", ".safetensors") or use.recipe is not None
    if use.recipe is None and is_checkpoint and not _knows_its_recipe(path):
        fix = f"ssbench import {quoted(path)} --recipe unimatch/unimatch_cityscapes_r50 --split cityscapes/cps/1_16"
        raise UsageError(f"'{path.name}' looks like a checkpoint: which network is it?", "--recipe", fix)
    if not is_checkpoint:
        claim = claim_of(read_log(path, split), path.name, split)
    else:
        from ssbench.inspect.score import scored_claim

        claim = scored_claim(path, use.recipe, split, data, use.entry, use.as_saved)
    file = write_claim(results, claim)
    if json:
        common.print_json({**vars(claim), "value": str(claim.value), "file": str(file)})
        return
    print(f"{claim.method} on {claim.split}, {claim.backbone}, crop {claim.crop}: {claim.metric} {claim.value}")
    print(f"  {claim.kind}: {claim.source}; {claim.note}")
    print(f"  kept: {file}")


def _knows_its_recipe(path: Path) -> bool:
    """Whether it is a checkpoint of ours that says what it is."""
    from ssbench.train.checkpoint import read_facts

    return read_facts(path) is not None


def _show_check(options: ImportOptions, check: FolderCheck, json: bool) -> None:
    """Print what `--check` found on stdout; DataError when something is wrong."""
    from ssbench.prepare.own import findings_error
    from ssbench.prepare.own_findings import group_findings

    if json:
        common.print_json(check.json())
    else:
        _show_summary(check)
        for group in group_findings(check.findings):
            print(group.line(check.folder))
    if check.findings:
        raise findings_error(options, check, listed=json)


def _show_report(report: ImportReport, table: OwnTable, data_root: Path | None) -> None:
    _show_summary(report.check)
    counts = ", ".join(f"{n} {subset}" for subset, n in report.counts.items())
    print(f"{report.name}: {report.state} in {report.seconds:.0f} s: {counts} ({report.bytes / 2**20:.1f} MiB)")
    print(f"  ledger: {report.ledger}")
    for split in report.splits:
        print(f"  split: {split}")
    show_own_table(table, data_root)


def _show_summary(check: FolderCheck) -> None:
    kinds = ", ".join(f"{n} {kind}" for kind, n in check.masks.items()) or "none"
    print(f"{len(check.pairs)} images; masks: {kinds}")
    total = sum(row["pixels"] for row in check.classes) or 1
    rows: list[list[Any]] = [
        [row["label"], row["class"], row["pixels"], f"{100 * row['pixels'] / total:.2f}", row["images"]]
        for row in check.classes
    ]
    common.print_rows("labels", ["label", "class", "pixels", "%", "images"], rows, is_prose=True)
    for note in check.notes:
        print(f"note: {note}")
