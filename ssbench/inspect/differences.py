"""The images on which two trained runs differ most. Nothing here trains.

Both runs' best checkpoints label the images on which their recipe reports its score. The images whose labels differ on
the largest share of pixels of known truth come first; of equal ones the first by id.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssbench.data.dataset import IGNORE, Dataset
from ssbench.errors import DataError, RecipeError
from ssbench.inspect.networks import load_predictor
from ssbench.ops.confusion import confusion, mean_iou
from ssbench.recipe.recipe import Recipe, load
from ssbench.results.record import Record
from ssbench.train.batched import Predict
from ssbench.train.build import dataset_of
from ssbench.train.checkpoint import read_key
from ssbench.train.distributed import Team, join
from ssbench.train.evaluate import label_image


@dataclass(frozen=True)
class TrainedRun:
    """A run with its data and the network of its best checkpoint."""

    recipe: Recipe
    dataset: Dataset
    predict: Predict
    team: Team


@dataclass(frozen=True)
class Disagreement:
    """An image with its true labels and those of both runs, H W. share: of pixels of known truth where they differ."""

    share: float
    id: str
    truth: np.ndarray
    base: np.ndarray
    plug: np.ndarray


def load_run(
    record: Record, fields: Mapping[str, Any], settings: Sequence[str], checkpoint: Path, data: Path, device: str | None
) -> TrainedRun:
    """The run of a record with its network from `checkpoint`. settings: its `--set` arguments.

    Raises:
        DataError: recipe, data or checkpoint are not those of the record, or the data are missing.
    """
    # The name may be HOST+PLUGIN; only behind overrides it ends in their hash.
    name, team = record.recipe.rpartition("+")[0] if settings else record.recipe, join(device)
    of_split = record.split.partition("/")[0]
    try:
        recipe = load(name, settings, division=fields["division"], data_root=data, dataset=of_split)
    except RecipeError as error:
        raise DataError(f"its recipe cannot be read here ({error.what})", error.where, error.fix) from None
    dataset = dataset_of(recipe, data)
    dataset.ids(recipe.eval.report)
    if recipe.key(str(fields.get("split_sha256")), record.seed) != record.key:
        raise DataError("its recipe has changed since this run", str(record.path))
    if read_key(checkpoint) != record.key:
        raise DataError("its checkpoint is of another run", str(checkpoint))
    bare = load(name, (*settings, "net.weights=random"), data_root=data, dataset=of_split)  # the checkpoint has them
    return TrainedRun(recipe, dataset, load_predictor(bare, checkpoint, dataset, team.device), team)


def most_different(runs: Sequence[TrainedRun], ids: Iterable[str], count: int) -> list[Disagreement]:
    """At most `count` of the images `ids` that the two runs label differently, the most different first."""
    top = heapq.nsmallest(count, _disagreements(runs, ids), key=lambda d: (-d.share, d.id))
    return [d for d in top if d.share > 0]


def _disagreements(runs: Sequence[TrainedRun], ids: Iterable[str]) -> Iterator[Disagreement]:
    dataset = runs[0].dataset
    for id in ids:
        image, truth = dataset.image(id), np.array(dataset.mask(id))
        base, plug = (label_image(r.predict, image, r.recipe.eval, r.recipe.views, r.team) for r in runs)
        known = truth != IGNORE
        yield Disagreement(float((base != plug)[known].mean()) if known.any() else 0.0, id, truth, base, plug)


def image_miou(labels: np.ndarray, truth: np.ndarray, classes: int) -> float:
    """mIoU of one image in percent, over the classes that occur in it."""
    return mean_iou(confusion(torch.from_numpy(labels), torch.from_numpy(truth), classes))
