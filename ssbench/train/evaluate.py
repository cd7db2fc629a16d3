"""Scores: every pixel of every image is counted exactly once, on any number of processes, in an int64 confusion matrix.

The protocols are settings (`recipe.sections.EvalConfig`); those of the methods' authors have names (`PROTOCOLS`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ssbench.data.dataset import IGNORE, Dataset
from ssbench.data.workers import stream, useful_workers
from ssbench.errors import DataError, RecipeError
from ssbench.nets.segnet import resize
from ssbench.ops.confusion import confusion, dice_score, iou, mean_iou
from ssbench.recipe.recipe import EvalConfig
from ssbench.train.batched import BatchedPredictor, Predict, best_class, grouped
from ssbench.train.distributed import Team
from ssbench.train.short_side import short_scores
from ssbench.train.windows import SlidingWindow, window_step, windows
from ssbench.views.pipelines import eval_view
from ssbench.views.settings import ViewsConfig

Watch = Callable[[Iterable[Any], str, int], Iterable[Any]]
"""`console.Bars.watch`: items, label, total -> the items."""
Observe = Callable[[Tensor, Tensor, Tensor], None]
"""Called with each image as it was scored: x 1 C H W, mask 1 H W, labels 1 H W."""
PENDING = 16
"""Times the pixels of a full batch that images wait for others of their size, at most."""


@dataclass(frozen=True)
class Score:
    """A finite score in percent, and that of each class (None: a class that occurs nowhere).

    matrix: C C int64 counts, rows true, columns predicted. volumes: name -> Dice in percent by class.
    """

    value: float
    per_class: list[float | None]
    matrix: list[list[int]] | None = None
    volumes: dict[str, list[float | None]] = field(default_factory=dict)


def evaluate(
    predict: Predict,
    dataset: Dataset,
    subset: str,
    cfg: EvalConfig,
    views: ViewsConfig,
    team: Team,
    workers: int = 0,
    watch: Watch | None = None,
    observe: Observe | None = None,
) -> Score:
    """Score `predict` on a subset under the protocol `cfg`.

    The caller puts the networks in eval mode. With several processes each takes every n-th image. The releases'
    distributed samplers repeat a few images to make the counts even; here none is counted twice. Images of equal size
    go through the networks together; the labels are those of one image at a time (`train.batched`).

    Args:
        predict: a `BatchedPredictor` keeps what it has measured of batches from one score to the next.
        observe: for more to be counted than the score. Not called for volumes.
    Raises:
        RecipeError: the protocol is for volumes and the data are images, or the other way round.
        DataError: no pixel of the subset has a known label, so there is no score.
    """
    volumes = dataset.volumes(subset)
    if (cfg.protocol == "volume") != (volumes is not None):
        what = f"protocol '{cfg.protocol}' does not fit {dataset.name}"
        raise RecipeError(what, "eval", "volume is for acdc; whole, sliding and center are for the others")
    batched = predict if isinstance(predict, BatchedPredictor) else BatchedPredictor(predict, team.device)
    evaluation = _Evaluation(batched, dataset, cfg, views, team, watch or (lambda items, label, total: items))
    with torch.no_grad():
        if volumes is not None:
            score = evaluation.of_volumes(dict(list(volumes.items())[: cfg.few]), workers)
        else:
            score = evaluation.of_images(dataset.ids(subset)[: cfg.few], workers, observe)
    if not math.isfinite(score.value):
        what = f"no pixel of subset '{subset}' of {dataset.name} has a known label, so there is no score"
        raise DataError(what, str(dataset.root), "another subset with --on or eval.report, or masks with labels")
    return score


def image_labels(
    predict: Predict, x: Tensor, cfg: EvalConfig, views: ViewsConfig | None = None, size: Sequence[int] = ()
) -> Tensor:
    """B H W labels of images B C H W of one size: whole, resized, or by windows.

    Args:
        views: how x was normalised; only protocol "short" has to know.
        size: height and width of the labels, where the images were scaled before (`cfg.resize`).
    """
    if cfg.protocol == "short":
        assert views is not None  # noqa: S101  whoever scores by this protocol has them
        return best_class(short_scores(predict, x, _crop(cfg), views))
    if cfg.resize is not None:
        return best_class(resize(sliding(predict, x, cfg) if cfg.protocol == "sliding" else predict(x), size))
    if cfg.protocol == "sliding":
        return best_class(sliding(predict, x, cfg))
    return predict.labels(x) if isinstance(predict, BatchedPredictor) else best_class(predict(x))


def sliding(predict: Predict, x: Tensor, cfg: EvalConfig) -> Tensor:
    """B K H W sums over windows of logits or probabilities. Only their order within a pixel has a meaning.

    Most releases divide by the number of windows over each pixel. That changes no argmax, so it is left out, except
    where scores are resized afterwards, which mixes pixels.
    Windows of equal size are predicted together, and summed in their own order, which decides the last bits.
    """
    height, width = x.shape[-2:]
    top, left = 0, 0
    if cfg.padding != "none":
        x, (top, left) = pad_around(x, _crop(cfg), 0)
    places = list(windows(x.shape[-2], x.shape[-1], _crop(cfg), cfg.border, window_step(cfg)))
    total: Tensor | None = None
    count = x.new_zeros(1, 1, *x.shape[-2:])
    for window, part in zip(places, _window_scores(predict, x, places), strict=True):
        if cfg.summed == "probabilities":
            part = part.softmax(1)
        if total is None:
            total = part.new_zeros(len(x), part.shape[1], *x.shape[-2:])
        total[..., window.rows, window.columns] += part
        count[..., window.rows, window.columns] += 1
    assert total is not None  # noqa: S101  an image has a pixel
    if cfg.resize is not None:
        total = total / count
    return total[..., top : top + height, left : left + width]


def _window_scores(predict: Predict, x: Tensor, places: Sequence[SlidingWindow]) -> Iterator[Tensor]:
    """The scores B K h w of every window, in order; no more are computed ahead than go through the network at once."""

    def at_once(height: int, width: int) -> int:
        return max(1, predict.limit(height, width) // len(x)) if isinstance(predict, BatchedPredictor) else 1

    groups = grouped([window.size for window in places], at_once)
    ahead: dict[int, Tensor] = {}
    for at in range(len(places)):
        if at not in ahead:
            group = next(groups)
            parts = torch.cat([x[..., places[k].rows, places[k].columns] for k in group])
            ahead |= dict(zip(group, torch.split(predict(parts), len(x)), strict=True))
        yield ahead.pop(at)


def centre_crop(x: Tensor, mask: Tensor, cfg: EvalConfig) -> tuple[Tensor, Tensor]:
    """The central part of an image 1 C H W and its mask 1 H W, `crop` pixels high and wide.

    A smaller side is kept as it is, or padded. U2PL and AEL pad with the mean colour, which is 0 after normalisation,
    and count the padding as class 0: on VOC about 29 % of their scored pixels (card: u2pl 11).
    """
    crop = _crop(cfg)
    if cfg.padding != "none":
        x, _ = pad_around(x, crop, 0)
        mask, _ = pad_around(mask, crop, 0 if cfg.padding == "class_0" else IGNORE)
    height, width = mask.shape[-2:]
    rows, columns = min(crop, height), min(crop, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    here = (..., slice(top, top + rows), slice(left, left + columns))
    return x[here], mask[here]


def pad_around(values: Tensor, crop: int, fill: int) -> tuple[Tensor, tuple[int, int]]:
    """`values` ... H W in the middle of at least `crop` x `crop`, and (rows above, columns left) that were added.

    Of an odd number the larger half is below or to the right, as in the releases.
    """
    missing = [max(crop - side, 0) for side in values.shape[-2:]]
    top, left = (side // 2 for side in missing)
    padded = F.pad(values, (left, missing[1] - left, top, missing[0] - top), value=fill)
    return padded, (top, left)


class _Images(TorchDataset[tuple[Tensor, Tensor]]):
    """Normalised image (C H W) and mask (H W) by position."""

    def __init__(
        self, dataset: Dataset, ids: Sequence[str], views: ViewsConfig, resize: tuple[int, int] | None = None
    ) -> None:
        self.dataset, self.ids, self.views, self.resize = dataset, ids, views, resize

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        return self.read(self.ids[at])

    def read(self, id: str) -> tuple[Tensor, Tensor]:
        """The normalised image and the mask of an id."""
        x = eval_view(self.dataset.image(id), self.views, self.resize)
        return x, torch.from_numpy(np.array(self.dataset.mask(id)))


class _Volumes(TorchDataset[tuple[Tensor, Tensor]]):
    """All normalised slices (D C H W) and masks (D H W) of a volume, by position."""

    def __init__(self, images: _Images, volumes: Sequence[Sequence[str]]) -> None:
        self.images, self.volumes = images, volumes

    def __len__(self) -> int:
        return len(self.volumes)

    def __getitem__(self, at: int) -> tuple[Tensor, Tensor]:
        pairs = [self.images.read(id) for id in self.volumes[at]]
        return torch.stack([x for x, _ in pairs]), torch.stack([mask for _, mask in pairs])


@dataclass(frozen=True)
class _Evaluation:
    """What `evaluate` is given, whatever the protocol."""

    predict: BatchedPredictor
    dataset: Dataset
    cfg: EvalConfig
    views: ViewsConfig
    team: Team
    watch: Watch

    def of_images(self, ids: Sequence[str], workers: int, observe: Observe | None) -> Score:
        """The score from the confusion matrix of all pixels of all images."""
        cfg, classes = self.cfg, len(self.dataset.classes)
        mine = ids[self.team.rank :: self.team.world]
        matrix = torch.zeros(classes, classes, dtype=torch.int64, device=self.team.device)
        # Images that were scaled to one size may have labels of several.
        one_by_one = observe is not None or cfg.resize is not None
        limit = (lambda height, width: 1) if one_by_one else self.predict.limit
        images = _Images(self.dataset, mine, self.views, cfg.resize)
        with closing(self._loaded(images, len(mine), len(mine), workers)) as loaded:
            for x, mask in _of_equal_size(self._cut(loaded), limit):
                labels = image_labels(self.predict, x, cfg, self.views, mask.shape[-2:])
                matrix += confusion(labels, mask, classes)
                if observe is not None:
                    observe(x, mask, labels)
        matrix = self.team.sum(matrix).cpu()
        return Score(mean_iou(matrix, cfg.absent), _known((100 * iou(matrix)).tolist()), matrix.tolist())

    def of_volumes(self, volumes: dict[str, tuple[str, ...]], workers: int) -> Score:
        """3-D Dice by volume and class (the background apart); mean over volumes, then over classes.

        As UniMatch on ACDC (card: unimatch 10).
        """
        names, classes = list(volumes), len(self.dataset.classes)
        mine = range(self.team.rank, len(names), self.team.world)
        dice = torch.zeros(len(names), classes - 1, dtype=torch.float64, device=self.team.device)
        stacks = _Volumes(_Images(self.dataset, (), self.views), [volumes[names[at]] for at in mine])
        with closing(self._loaded(stacks, len(mine), len(names), workers)) as loaded:
            for at, (x, mask) in zip(mine, loaded, strict=True):
                dice[at] = dice_score(volume_labels(self.predict, x, _crop(self.cfg)), mask, classes)
        dice = 100 * self.team.sum(dice).cpu()
        per_class = dice.nanmean(0)
        by_volume = {name: _known(row.tolist()) for name, row in zip(names, dice, strict=True)}
        return Score(float(per_class.nanmean()), _known(per_class.tolist()), volumes=by_volume)

    def _loaded(
        self, images: TorchDataset[Any], count: int, total: int, workers: int
    ) -> Generator[tuple[Tensor, Tensor]]:
        """`count` images, or volumes, and their masks on the device, under a bar, read ahead by workers."""
        device = self.team.device
        # Few workers: each holds decoded images of full size.
        loaded = stream(images, range(count), useful_workers(min(workers, 4)), device.type == "cuda")
        with closing(loaded):
            for x, mask in self.watch(loaded, "evaluate", total):
                yield x.to(device, non_blocking=True), mask.to(device, non_blocking=True)

    def _cut(self, loaded: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """Single images (1 C H W) and masks (1 H W), cut as the protocol says."""
        for image, truth in loaded:
            x, mask = image[None], truth[None]
            yield centre_crop(x, mask, self.cfg) if self.cfg.protocol == "center" else (x, mask)


def _of_equal_size(
    pairs: Iterable[tuple[Tensor, Tensor]], limit: Callable[[int, int], int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """The images and masks in batches of one size, a batch when it is full; what is left over at the end.

    Datasets such as VOC have images of some hundred sizes. So that not all of them wait in memory, the largest batch
    goes before it is full when `PENDING` full batches wait.
    """
    waiting: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
    pending = 0.0  # in full batches
    for x, mask in pairs:
        size = (x.shape[-2], x.shape[-1])
        waiting.setdefault(size, []).append((x, mask))
        pending += 1 / limit(*size)
        if len(waiting[size]) < limit(*size):
            if pending < PENDING:
                continue
            size = max(waiting, key=lambda each: len(waiting[each]) / limit(*each))
        pending -= len(waiting[size]) / limit(*size)
        yield _joined(waiting.pop(size))
    yield from (_joined(group) for group in waiting.values())


def _joined(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([x for x, _ in pairs]), torch.cat([mask for _, mask in pairs])


def volume_labels(predict: Predict, x: Tensor, crop: int) -> Tensor:
    """D H W labels of a stack D 1 H W: slices resized to `crop`, logits resized back, both bilinear (UniMatch)."""
    small = F.interpolate(x, (crop, crop), mode="bilinear", align_corners=False)
    if isinstance(predict, BatchedPredictor):
        return predict.labels(small, x.shape[-2:])
    return best_class(F.interpolate(predict(small), x.shape[-2:], mode="bilinear", align_corners=False))


def mean_dice(volumes: dict[str, list[float | None]], names: Iterable[str]) -> float:
    """Mean over the named volumes, then over classes, of per-volume Dice in percent; NaN where nothing is known."""
    rows = [[float("nan") if v is None else v for v in volumes[name]] for name in names]
    return float(torch.tensor(rows, dtype=torch.float64).nanmean(0).nanmean())


def label_image(predict: Predict, image: Image.Image, cfg: EvalConfig, views: ViewsConfig, team: Team) -> np.ndarray:
    """H W uint8 labels of one picture under the protocol. `center` counts as `whole`: every pixel gets a label."""
    x = eval_view(image, views, cfg.resize)[None].to(team.device)
    with torch.no_grad():
        is_volume = cfg.protocol == "volume"
        size = (image.height, image.width)
        labels = volume_labels(predict, x, _crop(cfg)) if is_volume else image_labels(predict, x, cfg, views, size)
    return labels[0].to(torch.uint8).cpu().numpy()


def _crop(cfg: EvalConfig) -> int:
    if cfg.crop is None:
        raise RecipeError(f"protocol '{cfg.protocol}' needs a crop", "eval", "eval: {crop: 801}")
    return cfg.crop


def _known(values: Iterable[float]) -> list[float | None]:
    """NaN (a class that occurs nowhere) as None: NaN is no JSON."""
    return [None if math.isnan(value) else value for value in values]
