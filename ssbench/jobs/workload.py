"""The arithmetic of a run before it is run: steps, images, FLOPs, bytes of its checkpoints. Needs no data."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from ssbench import find
from ssbench.data.dataset import Dataset
from ssbench.data.open import class_of
from ssbench.data.plan import Needs, Plan, plan_partition
from ssbench.data.toy_stacks import ToyStacks
from ssbench.errors import RecipeError
from ssbench.files import sha256
from ssbench.jobs.code_cache import Remembered
from ssbench.jobs.cost import BACKWARD, Work
from ssbench.jobs.dry_fit import Rehearsal
from ssbench.jobs.forward_counts import Count, count, small_method
from ssbench.methods.base import Method
from ssbench.paths import PACKAGE
from ssbench.prepare.prepare import known, plan_of
from ssbench.recipe.recipe import EvalConfig, Recipe
from ssbench.splits.manifest import Partition
from ssbench.train.evaluate import windows

SIDES = {"voc": (375, 500), "cityscapes": (1024, 2048), "coco": (480, 640), "camvid": (360, 480), "toy": (96, 96)}
"""Height and width of a usual image, for the cost of scoring; of other datasets the crop stands for it."""
SLOTS = {"sgd": 1, "adam": 2, "adamw": 2}
"""Numbers an optimiser keeps for each weight."""
COPIES = 2
"""The newest checkpoint and the one before it, of the state and of the best networks."""


@dataclass(frozen=True)
class Net:
    """A network at its crop: FLOPs of one image forward, with the decoder also on perturbed maps, and weights."""

    clean: float
    perturbed: float
    weights: int

    def flops(self, passes: Mapping[tuple[bool, bool], float], share: float = 1.0) -> float:
        """FLOPs of passes of images that have `share` of the crop's pixels."""
        each = [
            images * (self.perturbed if perturbed else self.clean) * (1 + BACKWARD * trained)
            for (trained, perturbed), images in passes.items()
        ]
        return share * sum(each)


class Workloads:
    """Workloads of recipes; what takes a while (a small step, a network) is remembered.

    data_root: where imported datasets are.
    """

    def __init__(self, data_root: Path) -> None:
        self.data_root, self._remembered = data_root, Remembered("workloads")
        self._broken: dict[str, str] = {}

    def of(self, recipe: Recipe, labeled: int, unlabeled: int) -> Work:
        """The work of a run on a split of so many images. RecipeError where there could be no run."""
        dataset, fit = self.dataset(recipe), recipe.schedule
        made, note = self._count(recipe, dataset)
        net, plan = self.net(recipe), self._plan(recipe, made.needs, labeled, unlabeled)
        loop = self._rehearsed(recipe, dataset, plan)
        steps, between = sum(loop.trainings), _native(recipe, dataset) / recipe.views.crop**2
        scored = self._scored(recipe.eval, dataset, loop.epochs, len(loop.trainings))
        score_flops = scored * net.flops(made.score, seen_share(recipe, dataset)) + net.flops(loop.between, between)
        kept = made.nets + (made.nets + made.students * SLOTS[recipe.optim.name])
        return Work(
            steps=steps,
            images=steps * (fit.labeled_batch + fit.unlabeled_batch * made.needs.unlabeled),
            train_flops=steps * net.flops(made.step),
            score_flops=score_flops,
            checkpoint_bytes=4 * COPIES * net.weights * kept,
            note=note,
        )

    def _count(self, recipe: Recipe, dataset: Dataset) -> tuple[Count, str]:
        """Passes of a step; of the host alone where the plug-in needs more than noise."""
        sizes = (len(dataset.classes), dataset.channels)
        parts = (recipe.method, recipe.plugins, recipe.loss, recipe.net, sizes, written_by(recipe))
        key = repr((parts, recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch))

        def counted() -> Any:
            return count(small_method(recipe, *sizes), recipe, dataset.channels).as_json()

        try:
            if key not in self._broken:
                return Count.read(self._remembered.get(key, counted)), ""
        except Exception as error:  # another's code, on data it does not expect
            self._broken[key] = str(error) or type(error).__name__
        if not recipe.plugins:
            raise RecipeError(f"no step on noise: {self._broken[key]}", recipe.name)
        return self._count(replace(recipe, plugins=()), dataset)[0], "without what its plug-in passes"

    def _rehearsed(self, recipe: Recipe, dataset: Dataset, plan: Plan) -> Rehearsal:
        """What the method's `fit` asks for on this plan."""
        loop = Rehearsal(plan, recipe.schedule.epochs_of(plan.steps_per_epoch), dataset.channels)
        if find.load("method", recipe.method.name).fit is Method.fit:
            loop.train()
        else:
            loop.rehearse(small_method(recipe, len(dataset.classes), dataset.channels).eval())
        return loop

    def net(self, recipe: Recipe) -> Net:
        """The recipe's network."""
        dataset = self.dataset(recipe)
        parts = (recipe.net, recipe.views.crop, len(dataset.classes), dataset.channels)
        return Net(*self._remembered.get(repr(parts), lambda: _net(*parts)))

    def dataset(self, recipe: Recipe) -> Dataset:
        """What the recipe reads; its files need not be there."""
        name = recipe.data.dataset
        root = self.data_root / name
        found: Dataset = class_of(name, self.data_root)(root)
        return ToyStacks(root) if recipe.data.form == "grey_stacks" else found

    def _plan(self, recipe: Recipe, needs: Needs, labeled: int, unlabeled: int) -> Plan:
        ids, few, fit = _ids(labeled, unlabeled), recipe.data.few, recipe.schedule
        lists = Partition("", recipe.data.dataset, ids[0][:few], ids[1][:few], "", custom=False)
        return plan_partition(lists, needs, fit.labeled_batch, fit.unlabeled_batch, fit.devices, 0)

    def _scored(self, cfg: EvalConfig, dataset: Dataset, epochs: int, trainings: int) -> int:
        """Images scored: by the choosing subset as often as asked, twice (best, last) by the reported one."""
        chosen, reported = (self._images(dataset, subset, cfg.few) for subset in (cfg.select, cfg.report))
        return trainings * -(-epochs // cfg.every) * chosen + 2 * reported

    def _images(self, dataset: Dataset, subset: str, few: int | None) -> int:
        """Images (slices) of a subset: as published, else as imported; none where neither is known."""
        counts = plan_of(dataset.name).counts if dataset.name in known() else {}
        names = subset.split("+")
        if all(name in counts for name in names):
            return sum(min(counts[name], few or counts[name]) for name in names)
        there = (self.data_root / dataset.name / "ledger.json").is_file()
        return len(dataset.ids(subset)[:few]) if there else 0


def written_by(recipe: Recipe) -> tuple[str, ...]:
    """Digests of the files outside the package that the recipe's method, plug-ins and network are written in."""
    files = (inspect.getsourcefile(type(cfg)) for cfg in (recipe.method, *recipe.plugins, recipe.net))
    return tuple(sha256(Path(file)) for file in files if file and not Path(file).is_relative_to(PACKAGE))


@lru_cache(maxsize=4)
def _ids(labeled: int, unlabeled: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Stand-ins for the images of a split: what a run costs depends on their number."""
    return tuple(f"l{k:06}" for k in range(labeled)), tuple(f"u{k:06}" for k in range(unlabeled))


def _net(cfg: Any, crop: int, classes: int, channels: int) -> tuple[float, float, int]:
    """The fields of a `Net`, counted on tensors without values, so nothing is computed."""
    change = {"weights": "random"} if "weights" in type(cfg).model_fields else {}
    with torch.device("meta"), torch.no_grad():
        net = find.load("net", cfg.name)(cfg.model_copy(update=change), classes, channels).train()
        x = torch.empty(2, channels, crop, crop)  # batch norm wants two
        with FlopCounterMode(display=False) as clean:
            net(x)
        with FlopCounterMode(display=False) as perturbed:
            net(x, [torch.empty(2, wide) for wide in net.perturb_channels])
    weights = sum(p.numel() for p in net.parameters())
    return clean.get_total_flops() / 2, perturbed.get_total_flops() / 2, weights


def _native(recipe: Recipe, dataset: Dataset) -> float:
    """Pixels of a usual image."""
    crop: int = recipe.views.crop
    return float(prod(SIDES.get(dataset.name, (crop, crop))))


def seen_share(recipe: Recipe, dataset: Dataset) -> float:
    """Pixels a network sees to score one image, by those of a training crop."""
    cfg, crop = recipe.eval, recipe.views.crop
    side = cfg.crop or crop
    height, width = SIDES.get(dataset.name, (side, side))
    if cfg.protocol == "whole":
        seen = height * width
    elif cfg.protocol == "sliding":
        seen = sum((bottom - top) * (right - left) for top, bottom, left, right in windows(height, width, side))
    else:
        seen = min(side, height) * min(side, width) if cfg.protocol == "center" else side * side
    return float(seen / crop**2)
