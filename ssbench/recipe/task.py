"""What the rules of `automatic` know: a dataset's pictures and labels, this machine's device, and the task file.

The task file `<data root>/recipes/<dataset>/task.yaml` keeps what the rules gave when the dataset was imported, so that
its runs stay the same runs on another machine and after another draw. It is the user's to edit.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ssbench.errors import DataError, RecipeError
from ssbench.recipe.marks import Marked, read

LOOKED_AT = 9
"""Pictures, evenly spaced in the list, whose median size is taken for the dataset's."""
TOY = (96, 320, 20, 300)  # short side, training images, fewest labelled and unlabelled images of a split


@dataclass(frozen=True)
class TaskFacts:
    """What the rules read of a dataset.

    short_side: of its pictures, the median in pixels. train: images. labeled, unlabeled: of its smallest such list.
    """

    dataset: str
    short_side: int
    train: int
    labeled: int
    unlabeled: int
    classes: int
    channels: int
    subsets: tuple[str, ...]


def task_facts(dataset: str, data_root: Path) -> TaskFacts:
    """The facts of a prepared or imported dataset.

    Raises:
        RecipeError: no such dataset. DataError: it is not prepared.
    """
    ledger = data_root / dataset / "ledger.json"
    drawn = data_root / "splits" / dataset / "custom"
    stamps = tuple(path.stat().st_mtime_ns if path.exists() else 0 for path in (ledger, drawn))
    return _task_facts(dataset, data_root, stamps)


@lru_cache(maxsize=16)
def _task_facts(dataset: str, data_root: Path, stamps: tuple[int, ...]) -> TaskFacts:
    from ssbench.data.open import class_of, open_dataset

    cls = class_of(dataset, data_root)
    if dataset == "toy" and not stamps[0]:  # a quick run of a recipe may be read before the toy data are made
        return TaskFacts("toy", *TOY, len(cls.classes), 3, ("train", "val", "test"))
    opened = open_dataset(dataset, data_root)
    ids = opened.ids("train")
    if not ids:
        raise DataError(f"{dataset} has no training images", str(data_root / dataset), "import it again")
    shown = [ids[len(ids) * k // LOOKED_AT] for k in range(min(LOOKED_AT, len(ids)))]
    short_side = int(statistics.median(min(opened.image(id).size) for id in shown))
    labeled, unlabeled = _smallest_lists(dataset, data_root, len(ids))
    sizes = (short_side, len(ids), labeled, unlabeled)
    return TaskFacts(dataset, *sizes, len(opened.classes), opened.channels, tuple(opened.subsets))


def _smallest_lists(dataset: str, data_root: Path, train: int) -> tuple[int, int]:
    """Fewest labelled, and fewest unlabelled images (of splits that have some) of any split of the dataset."""
    from ssbench.splits.manifest import custom_splits, manifest

    published = [entry for name, entry in manifest().splits.items() if name.partition("/")[0] == dataset]
    pairs = [(entry.labeled.count, entry.unlabeled.count) for entry in published]
    pairs += [(len(split.labeled), len(split.unlabeled)) for split in custom_splits(dataset, data_root)]
    labeled = min((pair[0] for pair in pairs), default=train)
    return labeled, min((pair[1] for pair in pairs if pair[1]), default=train)


def recipes_folder(dataset: str, data_root: Path) -> Path:
    """Where the task file and the tables of a dataset of one's own stand."""
    return data_root / "recipes" / dataset


def read_task(dataset: str, data_root: Path) -> Marked:
    """The task file of a dataset; nothing where there is none. RecipeError for a damaged one."""
    path = recipes_folder(dataset, data_root) / "task.yaml"
    if not path.is_file():
        return Marked({})
    task = read(path)
    if not isinstance(task.data, dict) or not all(isinstance(block, dict) for block in task.data.values()):
        fix = f"mend it, or write it anew: ssbench new table {dataset} --replace"
        raise RecipeError("a task file has sections of name: value lines", str(path), fix)
    return task
