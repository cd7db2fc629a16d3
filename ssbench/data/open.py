"""From a dataset's name to the dataset: built in or imported, read through its cache where there is one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from ssbench import find
from ssbench.data import cache
from ssbench.data.cache import Cached
from ssbench.data.dataset import Dataset
from ssbench.data.folder import CARD, Folder, read_card
from ssbench.data.ledger import NAME
from ssbench.errors import DataError, RecipeError, nearest
from ssbench.paths import quoted


def open_dataset(name: str, data_root: Path, where: str = "") -> Dataset:
    """The prepared dataset `name` in `<data root>/<name>`: one of `ssbench list datasets`, or an imported folder.

    Raises RecipeError for an unknown name (`where` is where it stands), DataError when it is not prepared, or its
    cache does not fit it; each with the command that mends it.
    """
    cls, root = class_of(name, data_root, where), data_root / name
    if not (root / NAME).is_file():
        raise DataError(f"{name} is not prepared", str(root), f"ssbench prepare {name} --data-root {quoted(data_root)}")
    dataset: Dataset = cls(root)
    store = cache.load(root, dataset)
    return Cached(dataset, store) if store else dataset


def class_of(name: str, data_root: Path, where: str = "") -> type[Any]:
    """The class of a built-in dataset, or of one imported below `data_root`; RecipeError for any other name."""
    built_in = find.names("dataset")
    if name in built_in or name.endswith(".py"):
        return find.load("dataset", name, where)
    if os.path.isfile(data_root / name / CARD):  # noqa: PTH113  Path.is_file raises for a name too long
        return Folder
    fix = (
        f"ssbench list datasets, or bring your own: ssbench import FOLDER --name {name} --data-root {quoted(data_root)}"
    )
    raise RecipeError(f"no dataset '{name}'; {nearest(name, [*built_in, *imported(data_root)])}", where, fix)


def class_names(name: str, data_root: Path, where: str = "") -> tuple[str, ...] | None:
    """The names of a dataset's classes without opening it; None where only opening it tells (a user's own class).

    Raises:
        RecipeError: an unknown name. DataError: the card of an imported folder is damaged.
    """
    cls = class_of(name, data_root, where)
    if cls is Folder:
        return read_card(data_root / name).classes
    names = getattr(cls, "classes", None)
    return tuple(names) if isinstance(names, tuple | list) else None


def imported(data_root: Path) -> tuple[str, ...]:
    """Names of the folders imported below `data_root`, sorted; a name that is no text cannot stand in a recipe."""
    names = (path.parent.name for path in data_root.glob(f"*/{CARD}"))
    return tuple(sorted(name for name in names if name.isprintable()))
