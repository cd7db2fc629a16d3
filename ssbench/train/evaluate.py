"""Scores: every pixel of every image exactly once, on any number of processes, in one int64 confusion matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssbench.data.dataset import Dataset
from ssbench.data.loader import quiet_worker, useful_workers
from ssbench.errors import RecipeError
from ssbench.ops.confusion import confusion, dice_score, iou, mean_iou
from ssbench.recipe.recipe import EvalConfig
from ssbench.train.distributed import Team
from ssbench.views.pipelines import eval_view
from ssbench.views.settings import ViewsConfig

Predict = Callable[[Tensor], Tensor]
Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]
Each = Callable[[Tensor, Tensor, Tensor], None]
"""Told of an image as it was scored: x 1 3 H W, mask 1 H W, labels 1 H W."""


@dataclass(frozen=True)
class Score:
    """A score in percent, per class too. matrix: C C int64 counts; volumes: per-volume Dice in percent by class."""

    value: float
    per_class: list[float | None]
    matrix: list[list[int]] | None = None
    volumes: dict[str, list[float | None]] = field(default_factory=dict)


class _Images(TorchDataset[tuple[Tensor, Tensor]]):
    """Normalised image (C H W) and mask (H W) by position."""

    def __init__(self, dataset: Dataset, ids: Sequence[str], views: ViewsConfig) -> None:
        self.dataset, self.ids, self.views = dataset, ids, views

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        id = self.ids[at]
        x = eval_view(self.dataset.image(id), self.views)
        return x, torch.from_numpy(np.array(self.dataset.mask(id)))


def evaluate(
    predict: Predict,
    dataset: Dataset,
    subset: str,
    cfg: EvalConfig,
    views: ViewsConfig,
    team: Team,
    workers: int = 0,
    watch: Watch | None = None,
    each: Each | None = None,
) -> Score:
    """Score `predict` (B C H W images -> logits) on a subset under the protocol `cfg`.

    The caller puts the networks in eval mode. With several processes each takes every n-th image, none twice.
    each: for more to be counted than the score; not called for volumes.
    """
    watch = watch or (lambda items, label, total: items)
    volumes, ids = dataset.volumes(subset), dataset.ids(subset)[: cfg.few]
    if (cfg.protocol == "volume") != (volumes is not None):
        raise RecipeError(
            f"protocol '{cfg.protocol}' does not fit {dataset.name}",
            "eval",
            "volume is for acdc; whole, sliding and center are for the others",
        )
    with torch.no_grad():
        if volumes is not None:
            return _volumes(predict, dataset, dict(list(volumes.items())[: cfg.few]), cfg, views, team, watch)
        return _images(predict, dataset, ids, cfg, views, team, workers, watch, each)


def scores(predict: Predict, x: Tensor, cfg: EvalConfig) -> Tensor:
    """1 C H W class scores of one image 1 3 H W, whole or by windows."""
    return sliding(predict, x, _crop(cfg)) if cfg.protocol == "sliding" else predict(x)


def sliding(predict: Predict, x: Tensor, crop: int) -> Tensor:
    """Summed softmax over windows at steps of int(crop x 2/3), cut at the border, not shifted back (UniMatch)."""
    height, width = x.shape[-2:]
    total: Tensor | None = None
    for top, bottom, left, right in windows(height, width, crop):
        probs = predict(x[..., top:bottom, left:right]).softmax(1)
        if total is None:
            total = probs.new_zeros(1, probs.shape[1], height, width)
        total[..., top:bottom, left:right] += probs
    assert total is not None  # noqa: S101  an image has a pixel
    return total


def central(crop: int, *maps: Tensor) -> tuple[Tensor, ...]:
    """The central `crop` x `crop` part of each map (..., H, W), or all of a smaller side."""
    height, width = maps[0].shape[-2:]
    rows, columns = min(crop, height), min(crop, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    return tuple(m[..., top : top + rows, left : left + columns] for m in maps)


def _images(
    predict: Predict,
    dataset: Dataset,
    ids: Sequence[str],
    cfg: EvalConfig,
    views: ViewsConfig,
    team: Team,
    workers: int,
    watch: Watch,
    each: Each | None,
) -> Score:
    classes = len(dataset.classes)
    mine = ids[team.rank :: team.world]
    pin = team.device.type == "cuda"
    source, workers = _Images(dataset, mine, views), useful_workers(min(workers, 4))
    images = DataLoader(source, batch_size=1, num_workers=workers, pin_memory=pin, worker_init_fn=quiet_worker)
    matrix = torch.zeros(classes, classes, dtype=torch.int64, device=team.device)
    for x, mask in watch(images, "evaluate", len(mine)):
        x, mask = x.to(team.device, non_blocking=True), mask.to(team.device, non_blocking=True)
        if cfg.protocol == "center":
            x, mask = central(_crop(cfg), x, mask)
        labels = scores(predict, x, cfg).argmax(1)
        matrix += confusion(labels, mask, classes)
        if each is not None:
            each(x, mask, labels)
    matrix = team.sum(matrix).cpu()
    return Score(mean_iou(matrix, cfg.absent), _percent(iou(matrix)), matrix.tolist())


def _volumes(
    predict: Predict,
    dataset: Dataset,
    volumes: dict[str, tuple[str, ...]],
    cfg: EvalConfig,
    views: ViewsConfig,
    team: Team,
    watch: Watch,
) -> Score:
    classes, names = len(dataset.classes), list(volumes)
    found = torch.zeros(len(names), classes - 1, dtype=torch.float64, device=team.device)
    for at in watch(range(team.rank, len(names), team.world), "evaluate", len(names)):
        ids = volumes[names[at]]
        x = torch.stack([eval_view(dataset.image(id), views) for id in ids]).to(team.device, non_blocking=True)
        mask = torch.stack([torch.from_numpy(np.array(dataset.mask(id))) for id in ids])
        predicted = volume_labels(predict, x, _crop(cfg))
        found[at] = dice_score(predicted, mask.to(team.device, non_blocking=True), classes)
    found = 100 * team.sum(found).cpu()
    per_class = found.nanmean(0)
    by_volume = {name: [_plain(v) for v in row.tolist()] for name, row in zip(names, found, strict=True)}
    return Score(float(per_class.nanmean()), [_plain(v) for v in per_class.tolist()], volumes=by_volume)


def volume_labels(predict: Predict, x: Tensor, crop: int) -> Tensor:
    """D H W labels of a stack D 1 H W: slices resized to `crop`, logits resized back, both bilinear (unimatch 4)."""
    small = F.interpolate(x, (crop, crop), mode="bilinear", align_corners=False)
    logits = predict(small)
    return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=False).argmax(1)


def mean_dice(volumes: dict[str, list[float | None]], names: Iterable[str]) -> float:
    """Mean over the named volumes, then over classes, of per-volume Dice in percent."""
    rows = [[float("nan") if v is None else v for v in volumes[name]] for name in names]
    return float(torch.tensor(rows, dtype=torch.float64).nanmean(0).nanmean())


def label_image(predict: Predict, image: Image.Image, cfg: EvalConfig, views: ViewsConfig, team: Team) -> np.ndarray:
    """H W uint8 labels of one picture under the protocol (center counts as whole: a picture wants every pixel)."""
    x = eval_view(image, views)[None].to(team.device)
    with torch.no_grad():
        volume = cfg.protocol == "volume"
        labels = volume_labels(predict, x, _crop(cfg)) if volume else scores(predict, x, cfg).argmax(1)
    return labels[0].to(torch.uint8).cpu().numpy()


def windows(height: int, width: int, crop: int) -> Iterator[tuple[int, int, int, int]]:
    """(top, bottom, left, right) of each window `sliding` visits."""
    step = int(crop * 2 / 3)
    for top in range(0, height, step):
        for left in range(0, width, step):
            yield top, min(top + crop, height), left, min(left + crop, width)


def _crop(cfg: EvalConfig) -> int:
    if cfg.crop is None:
        raise RecipeError(f"protocol '{cfg.protocol}' needs a crop", "eval", "eval: {crop: 801}")
    return cfg.crop


def _percent(values: Tensor) -> list[float | None]:
    return [_plain(v) for v in (100 * values).tolist()]


def _plain(value: float) -> float | None:
    return None if value != value else value
