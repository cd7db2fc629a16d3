"""`splits show|diff|make` and `data show`: lists with their passports, and pictures of what a run reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ssbench.commands.common import DataRoot, Json, print_json
from ssbench.errors import DataError

app = typer.Typer(help="Split lists: passports, differences, lists of your own.", no_args_is_help=True)
data_app = typer.Typer(help="Look at data as a run reads them.", no_args_is_help=True)


@app.command()
def show(split: str, data_root: DataRoot = None, json: Json = False) -> None:
    """A split's passport: digest, counts, share of fine masks, class histogram, overlaps, leak check."""
    from ssbench.data.partition import Partition
    from ssbench.data.splits import passport
    from ssbench.paths import data_root as data_of

    root = data_of(data_root)
    found = passport(split, root, _dataset(Partition.read(split, root).dataset, root))
    if json:
        print_json(found)
        return
    for name, value in found.items():
        print(f"{name}: {value}")


@app.command()
def diff(first: str, second: str, data_root: DataRoot = None, json: Json = False) -> None:
    """What two splits' labelled lists share and do not."""
    from ssbench.data.splits import diff as compare
    from ssbench.paths import data_root as data_of

    found = compare(first, second, data_of(data_root))
    if json:
        print_json(found)
        return
    for name, value in found.items():
        shown = f"{len(value)} ids: {', '.join(value[:5])}{' ...' if len(value) > 5 else ''}" if isinstance(value, list | tuple) else value
        print(f"{name}: {shown}")


@data_app.command(name="show")
def show_data(
    split: str,
    index: Annotated[list[int] | None, typer.Option("--index", help="Position in the labelled list; may be repeated.")] = None,
    recipe: Annotated[str | None, typer.Option("--recipe", help="Whose views to show.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")] = Path("views.png"),
    seed: Annotated[int, typer.Option("--seed")] = 0,
    data_root: DataRoot = None,
) -> None:
    """A contact sheet of weak, strong and mixed views with masks."""
    from ssbench.data.partition import Partition
    from ssbench.data.sheet import sheet
    from ssbench.data.views import ViewsConfig
    from ssbench.paths import data_root as data_of

    root = data_of(data_root)
    partition = Partition.read(split, root)
    dataset = _dataset(partition.dataset, root)
    if dataset is None:
        raise DataError(f"{partition.dataset} is not prepared", str(root), f"ssbench prepare {partition.dataset}")
    ids = partition.unlabeled or partition.labeled
    chosen = [ids[i % len(ids)] for i in (index or [0, 1, 2])]
    if recipe:
        from ssbench.recipe import load

        views = load(recipe, ("net.weights=random",)).views
    else:
        gray = dataset.channels == 1
        views = ViewsConfig(weak="acdc" if gray else "unimatch", strong="acdc" if gray else "unimatch", box="unimatch", crop=256 if gray else 321)
    print(sheet(dataset, chosen, views, seed, out, len(chosen)) or out)


def _dataset(name: str, root: Path) -> Any:
    """The dataset where it is prepared, else None: a passport then has no histogram."""
    if not (root / name / "ledger.json").is_file():
        return None
    from ssbench import find

    return find.load("dataset", name)(root / name)
