"""`splits show|diff|make` and `data show`: lists with their passports, and pictures of what a run reads."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssbench.commands.common import DataRoot, Json, print_json
from ssbench.errors import UsageError

if TYPE_CHECKING:
    from ssbench.data.dataset import Dataset

app = typer.Typer(help="Split lists: passports, differences, lists of your own.", no_args_is_help=True)
data_app = typer.Typer(help="Look at data as a run reads them.", no_args_is_help=True)


@app.callback()
def _splits() -> None:
    """Split lists: passports, differences, lists of your own."""


@data_app.callback()
def _data() -> None:
    """Look at data as a run reads them."""


@app.command()
def show(
    split: Annotated[str, typer.Argument(help="dataset/family/part, or a folder of lists.")],
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """A split's passport: digest, counts, share of fine masks, class histogram, overlaps, leak check."""
    from ssbench.paths import data_root as data_of
    from ssbench.splits.manifest import Partition
    from ssbench.splits.passport import passport

    root = data_of(data_root)
    found = passport(split, root, _dataset(Partition.read(split, root).dataset, root))
    if json:
        print_json(found)
        return
    for line in _passport_lines(found):
        print(line)


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="dataset/family/part, or a folder of lists.")],
    second: Annotated[str, typer.Argument(help="Another one of the same dataset.")],
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """What two splits' lists share and do not."""
    from ssbench.paths import data_root as data_of
    from ssbench.splits.passport import diff as compare

    found = compare(first, second, data_of(data_root))
    if json:
        print_json(found)
        return
    print(f"{found['a']} and {found['b']} ({found['dataset']})")
    for role in ("labeled", "unlabeled"):
        part = found[role]
        print(f"{role}: {part['a']} and {part['b']} ids, {part['common']} in common")
        for name, only in (("a", "only_a"), ("b", "only_b")):
            print(f"  only in {found[name]}: {_some(part[only])}")


@app.command()
def make(
    name: Annotated[
        str, typer.Argument(help="dataset/custom/NAME, kept under the data root; or a dataset with --out.")
    ],
    count: Annotated[int | None, typer.Option("--count", help="Labelled images (acdc: patients).")] = None,
    fraction: Annotated[str | None, typer.Option("--fraction", help="Labelled share, such as 1/16.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Draws of one seed are nested.")] = 0,
    stratify: Annotated[bool, typer.Option("--stratify", help="Keep the share of images with each class.")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder to write to.")] = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Draw a split of your own: labeled.txt, unlabeled.txt and split.yaml, to be used as --split."""
    from ssbench.paths import data_root as data_of
    from ssbench.splits.passport import make as draw

    root, parts = data_of(data_root), name.split("/")
    if out is None and (len(parts) != 3 or parts[1] != "custom" or not all(parts)):
        raise UsageError(
            f"'{name}' is no name for a split of yours", "arguments", "ssbench splits make toy/custom/mine"
        )
    folder, share = out or root / "splits" / name, _share(fraction)
    said = draw(_prepared(parts[0], root), folder, count=count, fraction=share, seed=seed, stratify=stratify)
    usable = name if out is None else str(out)
    if json:
        print_json({"split": usable, "folder": str(folder), **said})
        return
    print(f"{said['labeled']['count']} labelled, {said['unlabeled']['count']} unlabelled: {folder}")
    print(f"use it as --split {usable}")


@data_app.command(name="show")
def show_data(
    split: Annotated[str, typer.Argument(help="dataset/family/part, or a folder of lists.")],
    index: Annotated[
        list[int] | None,
        typer.Option("--index", min=0, help="Position in the unlabelled list (a full split: the labelled one)."),
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Whose views to show.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("views.png"),
    seed: Annotated[int, typer.Option("--seed")] = 0,
    epoch: Annotated[int, typer.Option("--epoch", min=0)] = 0,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """A contact sheet of weak, strong and mixed views with masks."""
    from ssbench.paths import data_root as data_of
    from ssbench.splits.manifest import Partition
    from ssbench.views.sheet import sheet

    root = data_of(data_root)
    partition = Partition.read(split, root)
    dataset = _prepared(partition.dataset, root)
    ids = partition.unlabeled or partition.labeled
    wanted = index or list(range(min(3, len(ids))))
    if max(wanted) >= len(ids):
        raise UsageError(f"no image {max(wanted)} in a list of {len(ids)}", "--index", f"0 to {len(ids) - 1}")
    chosen = [ids[i] for i in wanted]
    path = sheet(dataset, chosen, _views(recipe, dataset, root), seed, out, len(chosen), epoch)
    if json:
        print_json({"picture": str(path), "split": partition.name, "ids": chosen, "seed": seed, "epoch": epoch})
        return
    print(path)


def _views(recipe: str | None, dataset: Dataset, root: Path) -> Any:
    """A recipe's views, or UniMatch's where none is named."""
    from ssbench.views.pipelines import ViewsConfig

    if recipe is None:
        grey = dataset.channels == 1
        name = "acdc" if grey else "unimatch"
        return ViewsConfig.model_validate(
            {"weak": name, "strong": name, "box": "unimatch", "crop": 256 if grey else 321}
        )
    from ssbench.recipe.recipe import load

    found = load(recipe, data_root=root)
    if found.data.dataset != dataset.name:
        what = f"recipe '{recipe}' is for {found.data.dataset}, the split for {dataset.name}"
        raise UsageError(what, "--recipe", "ssbench list recipes shows the dataset of each")
    return found.views


def _dataset(name: str, root: Path) -> Dataset | None:
    """The dataset where it is prepared, else None: a passport then has no histogram."""
    return _prepared(name, root) if (root / name / "ledger.json").is_file() else None


def _prepared(name: str, root: Path) -> Dataset:
    from ssbench.data.open import open_dataset

    return open_dataset(name, root)


def _share(text: str | None) -> Fraction | None:
    try:
        return None if text is None else Fraction(text)
    except (ValueError, ZeroDivisionError):
        raise UsageError(f"'{text}' is no fraction", "--fraction", "--fraction 1/16") from None


def _some(ids: list[str], most: int = 5) -> str:
    return f"{len(ids)}" + (f": {', '.join(ids[:most])}{' ...' if len(ids) > most else ''}" if ids else "")


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
        found = leak.get("why") or f"{len(leak['shared'])} of its ids are also in {subset} ({leak['count']} ids)"
        yield f"  leaks      {found}"
    yield from _histogram_lines(page["classes"], page["dataset"])


def _histogram_lines(classes: dict[str, dict[str, int]] | None, dataset: str) -> Iterator[str]:
    if classes is None:
        yield f"  classes    counted once the data are there: ssbench prepare {dataset}"
        return
    total = sum(found["pixels"] for found in classes.values()) or 1
    yield f"  {'class':24} {'pixels':>8} {'images':>7}"
    for name, found in classes.items():
        yield f"  {name:24} {found['pixels'] / total:8.2%} {found['images']:7}"
