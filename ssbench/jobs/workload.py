"""The arithmetic of a run before it is run: steps, images, FLOPs, bytes of its checkpoints. Needs no data.

Training FLOPs = steps x sum over passes of images x forward FLOPs x (3 if gradients come back, else 1): the backward
pass takes twice the forward one. A pass is one image through one network; forward FLOPs are those of the recipe's
network at its crop. Passes are counted, not typed in, so they hold for methods of other people and for every setting:
the method is built as its recipe says but around the smallest network there is, and makes one step on noise. Not
counted: losses, modules of a plug-in, what is computed before the first training and between trainings.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import gcd, prod
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ssbench.data.batch import Batch
from ssbench.data.dataset import Dataset
from ssbench.data.noise import batch_for
from ssbench.data.open import class_of
from ssbench.data.plan import Mixture, Plan, plan_partition
from ssbench.data.toy_stacks import ToyStacks
from ssbench.errors import RecipeError
from ssbench.jobs.cost import Work
from ssbench.methods.base import Method
from ssbench.nets.segnet import SegNet
from ssbench.ops.progress import Progress
from ssbench.plugins.promises import PluginFault, missing_map
from ssbench.prepare.prepare import known, source_spec
from ssbench.recipe.quick import CROP, small_settings
from ssbench.recipe.recipe import Recipe
from ssbench.splits.manifest import Partition
from ssbench.train.build import method_of
from ssbench.train.windows import window_step, windows
from ssbench.views.pipelines import scaled_size
from ssbench.views.sample import Maps
from ssbench.views.weak import short_side_size

SIDES = {
    **{"voc": (375, 500), "cityscapes": (1024, 2048), "coco": (480, 640), "ade20k": (512, 683)},
    **{"camvid": (360, 480), "toy": (96, 96)},
}
"""Height and width of a usual image, for the cost of scoring; of other datasets the crop stands for it."""
SLOTS = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers an optimiser keeps for each weight."""
COPIES = 2
"""The newest checkpoint and the one before it, of the state and of the best networks."""
FEW = 4
"""A batch is shrunk to so many images where both kinds allow it; passes grow with the batch."""
MAPS = 16
"""More maps than this no plug-in prepares."""
ENDED = 20
"""Epochs that ended before the counted step, each the best so far: a plug-in may keep the networks of some of them."""

Passes = dict[tuple[bool, bool], float]
"""Images through a network, by (gradients come back, the decoder also reads perturbed maps)."""


@dataclass(frozen=True)
class StepCount:
    """One step of a method: its passes at the recipe's batch.

    method: as it was counted, small. nets: networks held, of which the optimiser trains `students`. note: what could
    not be counted, for people.
    """

    method: Method
    passes: Passes
    nets: int
    students: int
    note: str = ""


@dataclass(frozen=True)
class NetCost:
    """A network at its crop: FLOPs of one image forward, with the decoder also on perturbed maps, and weights."""

    clean: float
    perturbed: float
    weights: int

    def flops(self, passes: Passes) -> float:
        """FLOPs of passes of whole crops."""
        return sum(
            images * (self.perturbed if perturbed else self.clean) * (3 if trained else 1)
            for (trained, perturbed), images in passes.items()
        )


class WorkCounter:
    """Counts the work of recipes; counts of equal steps and networks are kept. data_root: of imported datasets."""

    def __init__(self, data_root: Path) -> None:
        self.data_root = data_root
        self._steps: dict[str, StepCount] = {}
        self._nets: dict[str, NetCost] = {}

    def count(self, recipe: Recipe, labeled: int, unlabeled: int) -> Work:
        """The work of a run on a split of so many images. RecipeError where there could be no such run."""
        dataset, schedule = self.dataset(recipe), recipe.schedule
        step, net = self.step(recipe), self.net(recipe)
        fit = _fit(recipe, step.method, labeled, unlabeled)
        steps = sum(fit.trainings)
        kept = step.nets + (step.nets + step.students * SLOTS[recipe.optim.name])
        return Work(
            steps=steps,
            images=steps * (schedule.labeled_batch + schedule.unlabeled_batch * step.method.needs.unlabeled),
            train_flops=steps * net.flops(step.passes),
            score_flops=self._scored(recipe, dataset, fit.lengths) * (seen_share(recipe, dataset) * net.clean),
            checkpoint_bytes=4 * COPIES * net.weights * kept,
            note=step.note,
        )

    def step(self, recipe: Recipe) -> StepCount:
        """One step; of the host alone where the plug-in fails on noise."""
        dataset = self.dataset(recipe)
        sizes = len(dataset.classes), dataset.channels
        batch = recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch
        key = repr((recipe.method, recipe.plugins, recipe.loss, _small(recipe).net, sizes, batch))
        if key not in self._steps:
            try:
                self._steps[key] = _count_step(_small(recipe), *sizes)
            except Exception as error:  # code of others, on data it does not expect
                if not recipe.plugins:
                    raise RecipeError(f"no step on noise: {str(error) or type(error).__name__}", recipe.name) from None
                host = self.step(replace(recipe, plugins=(), classes=recipe.classes[:2]))
                self._steps[key] = replace(host, note="without what its plug-in passes")
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

    def _scored(self, recipe: Recipe, dataset: Dataset, trainings: Sequence[int]) -> int:
        """Images scored in trainings of so many epochs: of the choosing subset as often as the recipe says, of the
        reported one twice (best, last).
        """
        cfg = recipe.eval
        chosen, reported = (self._images(dataset, subset, cfg.few) for subset in (cfg.select, cfg.report))
        scored = sum(cfg.is_scored(epoch, epochs) for epochs in trainings for epoch in range(epochs))
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
        seen = prod(short_side_size((width, height), side, 4 * side))
    elif cfg.protocol == "sliding":
        seen = sum(w.area for w in windows(height, width, side, cfg.border, window_step(cfg)))
    else:
        seen = min(side, height) * min(side, width) if cfg.protocol == "center" else side * side
    return float(seen / crop**2)


# One step on noise


def _small(recipe: Recipe) -> Recipe:
    """The recipe with the smallest sizes of its network there are."""
    return replace(recipe, net=recipe.net.model_copy(update=small_settings(recipe.classes[1])))


def _count_step(recipe: Recipe, classes: int, channels: int) -> StepCount:
    """Passes of one step. Whatever a step on noise raises passes on."""
    batch = recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch
    common = gcd(*batch)
    times = common // FEW if common % FEW == 0 else 1
    labeled, unlabeled = batch[0] // times, batch[1] // times
    method = method_of(recipe, classes, channels, 0).train()
    needs = method.needs
    method.attach(Plan(*stand_ins(labeled, max(unlabeled, 1) * 2), needs, labeled, max(unlabeled, needs.pick)))
    t = Progress(25, 40, 10, 0, torch.device("cpu"))  # past every warm-up of an epoch or two
    sizes: dict[str, Any] = {"images": labeled, "unlabeled": unlabeled // needs.pick, "classes": method.net.classes}
    noise = partial(batch_for, method, t, channels=channels, side=CROP, **sizes)
    end_epochs(method, t.device)
    nets = [module for module in method.modules() if isinstance(module, SegNet)]
    passes: Passes = {}

    def note(net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x, drop = args[0], args[1] if len(args) > 1 else kwargs.get("drop")
        way = torch.is_grad_enabled() and any(p.requires_grad for p in net.parameters()), drop is not None
        passes[way] = passes.get(way, 0) + times * x.shape[0] * x.shape[-2] * x.shape[-1] / CROP**2

    def step(batch: Batch) -> None:
        passes.clear()
        torch.manual_seed(0)
        method.step(batch, t)

    for net in nets:
        net.register_forward_pre_hook(note, with_kwargs=True)
    with torch.random.fork_rng(devices=[]):
        batch_with_maps(noise, step, CROP)
    return StepCount(method, dict(passes), len(nets), len(method.students()))


def end_epochs(method: Method, device: torch.device) -> None:
    """Leave the plug-in as it is late in a run: `ENDED` epochs have ended, each the best so far."""
    for epoch in range(ENDED):
        method.end_epoch(is_best=True, t=Progress(epoch, 2 * ENDED, 1, 0, device))


def batch_with_maps(noise: Callable[..., Batch], step: Callable[[Batch], object], side: int) -> Batch:
    """A batch of noise on which a step works, and which it has done.

    A map that the step looks up in vain, because its plug-in would have prepared it for every image, is added, empty.

    Args:
        noise: makes the batch, with `maps` as of `data.noise.make_batch`. side: of the maps, in pixels.
    """
    names: tuple[str, ...] = ()
    while True:
        layers = {name: Image.new("L", (side, side)) for name in names}
        batch = noise(maps=(lambda id, layers=layers: layers,))
        try:
            step(batch)
        except (KeyError, PluginFault) as error:
            name = missing_map(error)
            if name is None or name in names or len(names) == MAPS:
                raise
            names = (*names, name)
        else:
            return batch


def stand_ins(labeled: int, unlabeled: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids for so many images: what a run costs depends on their number."""
    return tuple(f"l{k:06}" for k in range(labeled)), tuple(f"u{k:06}" for k in range(unlabeled))


# A method's `fit`, without training


def count_trainings(recipe: Recipe, method: Method, labeled: int, unlabeled: int) -> tuple[list[int], int]:
    """(steps of each training of a run on so many images, how often the choosing subset is scored in all of them)."""
    fit = _fit(recipe, method, labeled, unlabeled)
    scored = sum(recipe.eval.is_scored(epoch, epochs) for epochs in fit.lengths for epoch in range(epochs))
    return fit.trainings, scored


def _fit(recipe: Recipe, method: Method, labeled: int, unlabeled: int) -> _DryFit:
    """The trainings a method's `fit` asks for on so many images."""
    ids, few, schedule = stand_ins(labeled, unlabeled), recipe.data.few, recipe.schedule
    lists = Partition("", recipe.data.dataset, ids[0][:few], ids[1][:few], "", custom=False)
    batches = schedule.labeled_batch, schedule.unlabeled_batch
    plan = plan_partition(lists, method.needs, *batches, schedule.devices, 0)
    fit = _DryFit(plan, schedule.epochs_of(plan.steps_per_epoch))
    method.fit(fit)
    return fit


class _DryFit:
    """Stands in for the trainer (`methods.base.Loop` and `StagedTraining`): trains and computes nothing.

    trainings, lengths: steps and epochs of each training that was asked for.
    """

    def __init__(self, plan: Plan, epochs: int) -> None:
        self.plan, self.epochs = plan, epochs
        self.labeled, self.unlabeled, self.folder = plan.labeled, plan.unlabeled, Path()
        self.batch = plan.labeled_batch + plan.unlabeled_batch
        self.trainings: list[int] = []
        self.lengths: list[int] = []

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
        return lambda x: x

    scorer = network

    def measure(self, name: str, ids: Sequence[str], value: Callable[[Tensor], float]) -> dict[str, float]:
        return dict.fromkeys(ids, 0.0)

    def image_labels(self, ids: Sequence[str]) -> Callable[[str], frozenset[int]]:
        return lambda id: frozenset()

    def store(
        self, name: str, ids: Sequence[str], maps: Sequence[str],
        draw: Callable[[Tensor, str], Mapping[str, Image.Image]],
    ) -> None:  # fmt: skip
        pass
