"""`data show`: pictures of what a run reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench import paths
from ssbench.commands.common import DataRoot, Json, Overrides, print_json
from ssbench.errors import UsageError

if TYPE_CHECKING:
    from ssbench.data.dataset import Dataset
    from ssbench.views.settings import ViewsConfig

app = typer.Typer(help="Look at data as a run reads them.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at data as a run reads them."""


@app.command()
def show(
    split: Annotated[str, typer.Argument(help="dataset/family/part, or a folder of lists.")],
    index: Annotated[
        list[int] | None,
        typer.Option("--index", min=0, help="Position in the unlabelled list (a full split: the labelled one)."),
    ] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Whose views to show.")] = None,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("views.png"),
    seed: Annotated[int, typer.Option("--seed")] = 0,
    epoch: Annotated[int, typer.Option("--epoch", min=0)] = 0,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """A contact sheet of weak, strong and mixed views with masks."""
    from ssbench.data.open import open_dataset
    from ssbench.splits.manifest import Partition
    from ssbench.views.sample import Sample
    from ssbench.views.sheet import write_sheet

    root = paths.data_root(data_root)
    partition = Partition.read(split, root)
    dataset = open_dataset(partition.dataset, root)
    ids = partition.unlabeled or partition.labeled
    positions = index or list(range(min(3, len(ids))))
    if max(positions) >= len(ids):
        raise UsageError(f"no image {max(positions)} in a list of {len(ids)}", "--index", f"0 to {len(ids) - 1}")
    chosen = [ids[i] for i in positions]
    samples = [Sample.of(id, dataset.image(id), dataset.mask(id)) for id in chosen]
    legend = list(zip(dataset.classes, dataset.palette, strict=True))
    path = write_sheet(out, dataset.name, samples, legend, _views(recipe, overrides or (), dataset, root), seed, epoch)
    if json:
        print_json({"picture": str(path), "split": partition.name, "ids": chosen, "seed": seed, "epoch": epoch})
        return
    print(path)


def _views(recipe: str | None, overrides: Sequence[str], dataset: Dataset, root: Path) -> ViewsConfig:
    """A recipe's views; without a recipe UniMatch's, or its ACDC ones for grey images."""
    if recipe is None and overrides:
        raise UsageError("--set changes a recipe", "--set", "--recipe own/unimatch, or another")
    if recipe is None:
        from ssbench.views.pipelines import read_views

        grey = dataset.channels == 1
        name = "acdc" if grey else "unimatch"
        return read_views({"weak": name, "strong": name, "box": "unimatch", "crop": 256 if grey else 321})
    from ssbench.recipe.recipe import load

    loaded = load(recipe, overrides, data_root=root, dataset=dataset.name)
    if loaded.data.dataset != dataset.name:
        what = f"recipe '{recipe}' is for {loaded.data.dataset}, the split for {dataset.name}"
        raise UsageError(what, "--recipe", f"--set data.dataset={dataset.name}, or a recipe for it: own/unimatch")
    views: ViewsConfig = loaded.views
    return views
