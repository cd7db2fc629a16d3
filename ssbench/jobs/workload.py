"""The arithmetic of a run before it is run: steps, images, FLOPs, bytes of its checkpoints. Needs no data.

Training FLOPs = steps x sum over passes of images x forward FLOPs x (3 if gradients come back, else 1): the backward
pass takes twice the forward one. A pass is one image through one network (`step_passes`); forward FLOPs are those of
the recipe's network at its crop. Not counted: losses, modules of a plug-in, what a plug-in prepares before training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssbench.data.dataset import Dataset
from ssbench.data.open import class_of
from ssbench.data.plan import Mixture, Needs, Plan, plan_partition
from ssbench.data.toy_stacks import ToyStacks
from ssbench.errors import RecipeError
from ssbench.jobs.cost import Work
from ssbench.jobs.step_passes import Passes, StepCount, count_step, counting, small_method, small_net, stand_ins
from ssbench.methods.base import Method
from ssbench.prepare.prepare import known, source_spec
from ssbench.recipe.quick import CROP
from ssbench.recipe.recipe import Recipe
from ssbench.splits.manifest import Partition
from ssbench.train.windows import window_step, windows
from ssbench.views.pipelines import scaled_size
from ssbench.views.sample import Maps
from ssbench.views.weak import short_side_size

SIDES = {"voc": (375, 500), "cityscapes": (1024, 2048), "coco": (480, 640), "camvid": (360, 480), "toy": (96, 96)}
"""Height and width of a usual image, for the cost of scoring; of other datasets the crop stands for it."""
SLOTS = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers an optimiser keeps for each weight."""
COPIES = 2
"""The newest checkpoint and the one before it, of the state and of the best networks."""


@dataclass(frozen=True)
class NetCost:
    """A network at its crop: FLOPs of one image forward, with the decoder also on perturbed maps, and weights."""

    clean: float
    perturbed: float
    weights: int

    def flops(self, passes: Mapping[tuple[bool, bool], float], share: float = 1.0) -> float:
        """FLOPs of passes of images that have `share` of the crop's pixels."""
        each = (
            images * (self.perturbed if perturbed else self.clean) * (3 if trained else 1)
            for (trained, perturbed), images in passes.items()
        )
        return share * sum(each)


class WorkCounter:
    """Counts the work of recipes; counts of equal steps and networks are kept. data_root: of imported datasets."""

    def __init__(self, data_root: Path) -> None:
        self.data_root = data_root
        self._steps: dict[str, StepCount] = {}
        self._nets: dict[str, NetCost] = {}

    def count(self, recipe: Recipe, labeled: int, unlabeled: int) -> Work:
        """The work of a run on a split of so many images. RecipeError where there could be no such run."""
        dataset, schedule, crop = self.dataset(recipe), recipe.schedule, recipe.views.crop
        counted, net = self.step(recipe), self.net(recipe)
        fit = _fit(recipe, dataset, _plan(recipe, counted.needs, labeled, unlabeled))
        steps = sum(fit.trainings)
        whole = prod(SIDES.get(dataset.name, (crop, crop))) / crop**2
        if recipe.eval.protocol == "short":  # networks label images between trainings as they are scored
            whole = seen_share(recipe, dataset)
        score_flops = self._scored(recipe, dataset, fit) * net.flops(counted.score, seen_share(recipe, dataset))
        kept = counted.nets + (counted.nets + counted.students * SLOTS[recipe.optim.name])
        return Work(
            steps=steps,
            images=steps * (schedule.labeled_batch + schedule.unlabeled_batch * counted.needs.unlabeled),
            train_flops=steps * net.flops(counted.step),
            score_flops=score_flops + net.flops(fit.between, whole),
            checkpoint_bytes=4 * COPIES * net.weights * kept,
            note=counted.note,
        )

    def step(self, recipe: Recipe) -> StepCount:
        """Passes of a step; of the host alone where the plug-in fails on noise."""
        dataset = self.dataset(recipe)
        sizes = len(dataset.classes), dataset.channels
        batch = recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch
        key = repr((recipe.method, recipe.plugins, recipe.loss, small_net(recipe), sizes, batch))
        if key not in self._steps:
            try:
                self._steps[key] = count_step(recipe, *sizes)
            except Exception as error:  # code of others, on data it does not expect
                if not recipe.plugins:
                    raise RecipeError(f"no step on noise: {str(error) or type(error).__name__}", recipe.name) from None
                self._steps[key] = replace(
                    self.step(replace(recipe, plugins=(), classes=recipe.classes[:2])),
                    note="without what its plug-in passes",
                )
        return self._steps[key]

    def net(self, recipe: Recipe) -> NetCost:
        """The recipe's network, counted on tensors without values, so nothing is computed."""
        cfg, crop, dataset = recipe.net, recipe.views.crop, self.dataset(recipe)
        key = repr((cfg, crop, len(dataset.classes), dataset.channels))
        if key not in self._nets:
            bare = recipe.classes[1].no_files
            change = {name: value for name, value in bare.items() if name in type(cfg).model_fields}
            with torch.device("meta"), torch.no_grad():
                net = recipe.classes[1](cfg.model_copy(update=change), len(dataset.classes), dataset.channels)
                x = torch.empty(2, dataset.channels, crop, crop)  # batch norm wants two
                with FlopCounterMode(display=False) as clean:
                    net.train()(x)
                with FlopCounterMode(display=False) as perturbed:
                    net(x, [torch.empty(2, wide) for wide in net.perturb_channels])
            weights = sum(p.numel() for p in net.parameters())
            self._nets[key] = NetCost(clean.get_total_flops() / 2, perturbed.get_total_flops() / 2, weights)
        return self._nets[key]

    def dataset(self, recipe: Recipe) -> Dataset:
        """What the recipe reads; its files need not be there."""
        root = self.data_root / recipe.data.dataset
        dataset: Dataset = class_of(recipe.data.dataset, self.data_root)(root)
        return ToyStacks(root) if recipe.data.form == "grey_stacks" else dataset

    def _scored(self, recipe: Recipe, dataset: Dataset, fit: _DryFit) -> int:
        """Images scored: of the choosing subset as often as asked, of the reported one twice (best, last)."""
        cfg = recipe.eval
        chosen, reported = (self._images(dataset, subset, cfg.few) for subset in (cfg.select, cfg.report))
        scored = sum(cfg.is_scored(epoch, epochs) for epochs in fit.lengths for epoch in range(epochs))
        return scored * chosen + 2 * reported

    def _images(self, dataset: Dataset, subset: str, few: int | None) -> int:
        """Images (slices) of a subset: as published, else as imported; none where neither is known."""
        counts = source_spec(dataset.name).counts if dataset.name in known() else {}
        names = subset.split("+")
        if all(name in counts for name in names):
            return sum(min(counts[name], few or counts[name]) for name in names)
        is_there = (self.data_root / dataset.name / "ledger.json").is_file()
        return len(dataset.ids(subset)[:few]) if is_there else 0


def seen_share(recipe: Recipe, dataset: Dataset) -> float:
    """Pixels a network sees to score one image, by those of a training crop."""
    cfg, crop = recipe.eval, recipe.views.crop
    side = cfg.crop or crop
    height, width = SIDES.get(dataset.name, (side, side))
    if cfg.resize is not None:
        width, height = scaled_size((width, height), cfg.resize)
    if cfg.protocol == "whole":
        seen = height * width
    elif cfg.protocol == "short":
        wide, high = short_side_size((width, height), side, 4 * side)
        seen = wide * high
    elif cfg.protocol == "sliding":
        seen = sum(w.area for w in windows(height, width, side, cfg.border, window_step(cfg)))
    else:
        seen = min(side, height) * min(side, width) if cfg.protocol == "center" else side * side
    return float(seen / crop**2)


def _plan(recipe: Recipe, needs: Needs, labeled: int, unlabeled: int) -> Plan:
    """The run's plan, with stand-ins for the ids: what a run costs depends on their number."""
    ids, few, schedule = stand_ins(labeled, unlabeled), recipe.data.few, recipe.schedule
    lists = Partition("", recipe.data.dataset, ids[0][:few], ids[1][:few], "", custom=False)
    return plan_partition(lists, needs, schedule.labeled_batch, schedule.unlabeled_batch, schedule.devices, 0)


# A method's `fit`, without training


def _fit(recipe: Recipe, dataset: Dataset, plan: Plan) -> _DryFit:
    """The trainings a method's `fit` asks for on this plan."""
    own = recipe.classes[0].fit is not Method.fit
    method = small_method(recipe, len(dataset.classes), dataset.channels).eval() if own else None
    fit = _DryFit(plan, recipe.schedule.epochs_of(plan.steps_per_epoch), dataset.channels, method)
    if method is None:
        fit.train()
    else:
        method.fit(fit)
    return fit


class _DryFit:
    """Stands in for the trainer (`methods.base.Loop` and `StagedTraining`) and trains nothing.

    trainings, lengths: steps and epochs of each. between: passes outside of trainings, for whole images.
    """

    def __init__(self, plan: Plan, epochs: int, channels: int, method: Method | None) -> None:
        self.plan, self.epochs, self.channels, self.method = plan, epochs, channels, method
        self.labeled, self.unlabeled, self.folder = plan.labeled, plan.unlabeled, Path()
        self.batch = plan.labeled_batch + plan.unlabeled_batch
        self.trainings: list[int] = []
        self.lengths: list[int] = []
        self.between: Passes = defaultdict(float)

    @property
    def stages(self) -> _DryFit:
        return self

    def train(
        self, name: str = "", unlabeled: Sequence[str] = (), repeats: int = 1, maps: Maps | None = None,
        keep: Collection[int] = (), last: bool = False, steps: int | None = None,
    ) -> None:  # fmt: skip
        plan = self.plan
        if name:
            assert isinstance(plan, Mixture)  # noqa: S101  as train.stages demands
            plan = replace(plan, unlabeled=tuple(unlabeled), repeats=repeats)
        epochs = self.epochs if steps is None else max(1, round(steps / plan.steps_per_epoch))
        self.trainings.append(plan.steps_per_epoch * epochs)
        self.lengths.append(epochs)

    def network(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        assert self.method is not None  # noqa: S101  only its `fit` calls this
        return torch.no_grad()(self.method.predict)

    def scorer(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        net = self.network(stage, epoch)
        return lambda x: net(x).exp()

    def measure(self, name: str, ids: Sequence[str], value: Callable[[Tensor], float]) -> dict[str, float]:
        self._note(ids, value)
        return dict.fromkeys(ids, 0.0)

    def store(
        self, name: str, ids: Sequence[str], maps: Sequence[str], draw: Callable[[Tensor], Mapping[str, Image.Image]]
    ) -> None:
        self._note(ids, draw)

    def _note(self, ids: Sequence[str], compute: Callable[[Tensor], Any]) -> None:
        """Add what `compute` sends through networks for one image, for every one of them."""
        assert self.method is not None  # noqa: S101  only its `fit` calls this
        with counting(self.method) as passes:
            compute(torch.zeros(1, self.channels, CROP, CROP))
        for way, images in passes.items():
            self.between[way] += images * len(ids)
