"""`splits show|diff|make`: split lists with their passports."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

import typer

from ssbench import paths
from ssbench.commands.common import DataRoot, Json, print_json
from ssbench.errors import UsageError

SHOWN_IDS = 5
"""Ids of a list that `splits diff` prints before it shortens the list."""

app = typer.Typer(help="Split lists: passports, differences, lists of your own.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Split lists: passports, differences, lists of your own."""


@app.command()
def show(
    split: Annotated[str, typer.Argument(help="dataset/family/part, or a folder of lists.")],
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """A split's passport: digest, counts, share of fine masks, class histogram, overlaps, leak check."""
    from ssbench.data.open import open_dataset
    from ssbench.splits.manifest import Partition
    from ssbench.splits.passport import passport

    root = paths.data_root(data_root)
    name = Partition.read(split, root).dataset
    # Without the data a passport still has digests and counts; only its class histogram is missing.
    dataset = open_dataset(name, root) if (root / name / "ledger.json").is_file() else None
    page = passport(split, root, dataset)
    if json:
        print_json(page)
        return
    for line in _passport_lines(page):
        print(line)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="dataset/family/part, or a folder of lists.")],
    second: Annotated[str, typer.Argument(help="Another one of the same dataset.")],
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """What two splits' lists share and do not."""
    from ssbench.splits.passport import diff as compare

    difference = compare(first, second, paths.data_root(data_root))
    if json:
        print_json(difference)
        return
    print(f"{difference['a']} and {difference['b']} ({difference['dataset']})")
    for role in ("labeled", "unlabeled"):
        ids = difference[role]
        print(f"{role}: {ids['a']} and {ids['b']} ids, {ids['common']} in common")
        for name in ("a", "b"):
            only = ids[f"only_{name}"]
            first_ids = f": {', '.join(only[:SHOWN_IDS])}{' ...' if len(only) > SHOWN_IDS else ''}" if only else ""
            print(f"  only in {difference[name]}: {len(only)}{first_ids}")


@app.command()
def make(
    name: Annotated[
        str, typer.Argument(help="dataset/custom/NAME, kept under the data root; or a dataset with --out.")
    ],
    count: Annotated[int | None, typer.Option("--count", help="Labelled images (acdc: patients).")] = None,
    fraction: Annotated[str | None, typer.Option("--fraction", help="Labelled share, such as 1/16.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws of one seed are nested.")] = 0,
    stratify: Annotated[bool, typer.Option("--stratify", help="Keep the share of images with each class.")] = False,
    group: Annotated[
        str | None,
        typer.Option("--group", help=r"Keep images of a group together: a pattern that names it, '(.+)_slice\d+'."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to.")] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Draw a split of your own: labeled.txt, unlabeled.txt and split.yaml, to be used as --split."""
    from ssbench.data.open import open_dataset
    from ssbench.splits.draw import DrawRequest, draw_split, refuse_used

    root, parts = paths.data_root(data_root), name.split("/")
    if out is None and (len(parts) != 3 or parts[1] != "custom" or not all(parts)):
        raise UsageError(
            f"'{name}' is no name for a split of yours", "arguments", "ssbench splits make toy/custom/mine"
        )
    folder, share = out or root / "splits" / name, _share(fraction)
    dataset = open_dataset(parts[0], root)
    unmasked = dataset.unmasked()
    pool = [id for id in dataset.ids("train") if id not in unmasked] if unmasked else None
    refuse_used(folder)
    drawn = draw_split(dataset, DrawRequest(count, share, seed, stratify, pool, group))
    drawn.write(folder)
    summary = {**drawn.content, "notes": drawn.notes(dataset)}
    usable = name if out is None else str(out)
    if json:
        print_json({"split": usable, "folder": str(folder), **summary})
        return
    print(f"{summary['labeled']['count']} labelled, {summary['unlabeled']['count']} unlabelled: {folder}")
    for note in summary["notes"]:
        print(f"note: {note}")
    print(f"use it as --split {shlex.quote(usable)}")


def _share(text: str | None) -> Fraction | None:
    if text is None:
        return None
    try:
        if len(text) > 20 or "e" in text.lower():  # 1e-999999999 would be computed exactly, for hours
            raise ValueError
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"'{text}' is no fraction", "--fraction", "--fraction 1/16") from None


def _passport_lines(page: dict[str, Any]) -> Iterator[str]:
    """A passport for people."""
    yield f"{page['name']}  ({page['dataset']}{', a list of your own' if page['custom'] else ''})"
    for role in ("labeled", "unlabeled"):
        yield f"  {role:10} {page[role]['count']} ids, fingerprint {page[role]['fingerprint'][:16]}"
    yield f"  digest     {page['sha256']}"
    yield "  origin     " + ", ".join(f"{k}: {v}" for k, v in page["origin"].items() if v is not None and k != "paths")
    for name in ("also", "note"):
        if page[name]:
            yield f"  {name:10} {'; '.join(page[name]) if isinstance(page[name], list) else page[name]}"
    if (fine := page["fine"]) is not None:
        share = fine.get("why") or f"{fine['count']} of {page['labeled']['count']} ({fine['share']:.1%})"
        yield f"  fine masks {share}"
    for other in page["namesakes"]:
        common = other.get("why") or f"{other['common']} of {page['labeled']['count']} ids in common"
        yield f"  namesake   {other['name']}: {common}"
    for subset, leak in page["leaks"].items():
        shared = leak.get("why") or f"{len(leak['shared'])} of its ids are also in {subset} ({leak['count']} ids)"
        yield f"  leaks      {shared}"
    yield from _histogram_lines(page["classes"], page["dataset"])


def _histogram_lines(classes: dict[str, dict[str, int]] | None, dataset: str) -> Iterator[str]:
    if classes is None:
        yield f"  classes    counted once the data are there: ssbench prepare {dataset}"
        return
    total = sum(counts["pixels"] for counts in classes.values()) or 1
    yield f"  {'class':24} {'pixels':>8} {'images':>7}"
    for name, counts in classes.items():
        yield f"  {name:24} {counts['pixels'] / total:8.2%} {counts['images']:7}"
