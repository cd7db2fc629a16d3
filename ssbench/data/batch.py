"""What a method sees of the data: batches, planned by step so that any step can be made again from its number."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssbench.data.dataset import Dataset
from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.splits.manifest import Partition
from ssbench.views.maps import Maps
from ssbench.views.pipelines import Labeled as LabeledView
from ssbench.views.pipelines import ViewsConfig, labeled_view, unlabeled_view
from ssbench.views.sample import Draw, Sample

T = TypeVar("T")


@dataclass(frozen=True)
class Labeled:
    """x: B 3 H W (ACDC: B 1 H W), y: B H W int64 (255 = ignore), ids of the B images, maps cropped with them."""

    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Unlabeled:
    """weak: B 3 H W; strong: views of the same crop; boxes: B H W bool, one a strong view; valid: false on padding.

    truth: the hidden labels, B H W int64, for analysis and oracle ablations only; no method trains on it.
    colour: where a method pastes before it colours: (weak or pasted images, which copy) -> their strong view, and B H W
    bool, where cutout put noise (`data.mixture.Colour`).
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    valid: Tensor
    boxes: tuple[Tensor, ...]
    truth: Tensor
    ids: tuple[str, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    colour: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None = None


@dataclass(frozen=True)
class Batch:
    """One step's images. partner: a second draw of unlabelled images to paste from, where the method needs one.

    donor: for each labelled image another one to paste from; where none was drawn its labels are all 255. In a mixture
    it is for each unlabelled image a labelled one.
    """

    labeled: Labeled
    unlabeled: Unlabeled | None = None
    partner: Unlabeled | None = None
    donor: Labeled | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on `device`, without waiting for the copy."""
        return _map(self, lambda t: t.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same in page-locked memory (the loader calls this)."""
        return _map(self, lambda t: t.pin_memory())


@dataclass(frozen=True)
class Needs:
    """What a method reads each step.

    partner: "same" = the same unlabelled images augmented afresh (what UniMatch's two iterators over one sampler
    give), "other" = an independent order, "asked" = the images `Method.wants` names for the step, loaded when it
    begins. epoch_of: which list an epoch passes over. pool: "all" counts the labelled images among the unlabelled
    ones. pick: of so many unlabelled images in a row one, drawn at random, is used. donor: probability that a labelled
    image comes with another one to paste from, seen at `donor_scale` (the views' own where null). mixture: labelled
    and pseudo-labelled images come from one list (`data.mixture`), the latter's strong view "coloured" by the loader or
    left "plain" to the method.
    """

    unlabeled: bool = True
    strong: int = 0
    partner: Literal["same", "other", "asked"] | None = None
    epoch_of: Literal["labeled", "unlabeled"] = "unlabeled"
    pool: Literal["unlabeled", "all"] = "unlabeled"
    pick: int = 1
    donor: float = 0.0
    donor_scale: tuple[float, float] | None = None
    mixture: Literal["coloured", "plain"] | None = None


@dataclass(frozen=True)
class Plan:
    """Which images a step reads. Batches are totals over all processes; `devices` is the authors' process count.

    Steps per epoch = floor(ceil(N / devices) / (batch / devices)), whatever runs it: their distributed sampler pads N
    and drops the last incomplete batch (specs: unimatch 1.2), or with `last` "fill" it is filled with the epoch's
    first images (specs: augseg 11, u2pl 10).
    """

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    needs: Needs
    labeled_batch: int
    unlabeled_batch: int
    devices: int = 1
    seed: int = 0
    last: Literal["drop", "fill"] = "drop"

    def __post_init__(self) -> None:
        """Refuse lists too short for one batch, and batches the authors' processes could not have shared."""
        listed, batch = len(self._epoch_list), self._batch
        if self.needs.unlabeled and not self.unlabeled:
            raise RecipeError("the split has no unlabelled images, which the method reads", "--split",
                              "method: {name: supervised}, or a split that labels less")  # fmt: skip
        if min(self.labeled_batch, batch, self.unlabeled_batch if self.needs.unlabeled else 1) < 1:
            what = f"batches of {self.labeled_batch} labelled and {self.unlabeled_batch} unlabelled images"
            raise RecipeError(what, "schedule", "give both batches at least one image")
        if self.needs.unlabeled and self.unlabeled_batch % (pick := self.needs.pick):
            what = f"one of every {pick} unlabelled images is used, of a batch of {self.unlabeled_batch}"
            raise RecipeError(what, "schedule.unlabeled_batch", f"a multiple of {pick}")
        if self.devices < 1 or batch % self.devices:
            what = f"a batch of {batch} cannot come from {self.devices} processes"
            raise RecipeError(what, "schedule", "devices must divide the batch an epoch is counted in")
        if self.steps_per_epoch < 1:
            what = f"a batch of {batch} images from a list of {listed}: no step fits into an epoch"
            raise RecipeError(what, "schedule", f"use a batch of at most {listed}, or a larger split")

    @property
    def _over_unlabeled(self) -> bool:
        return self.needs.epoch_of == "unlabeled" and bool(self.unlabeled)

    @property
    def _epoch_list(self) -> tuple[str, ...]:
        return self.unlabeled if self._over_unlabeled else self.labeled

    @property
    def _batch(self) -> int:
        return self.unlabeled_batch if self._over_unlabeled else self.labeled_batch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        per_device, listed = self._batch // self.devices, -(-len(self._epoch_list) // self.devices)
        longer = per_device - 1 if self.last == "fill" else 0
        return (listed + longer) // per_device if per_device else 0

    def labeled_at(self, step: int) -> list[tuple[str, int]]:
        """(id, repetition) of the step's labelled images.

        In an epoch over the unlabelled list the labelled one is repeated to its length and cut to it, then shuffled;
        so a list longer than the unlabelled one loses its tail (Cityscapes 1/2: 1488 > 1487).
        """
        paired = self.labeled_batch == self._batch
        return self._paired("labeled", self.labeled, step) if paired else self._endless("labeled", self.labeled, step)

    def unlabeled_at(self, step: int, stream: str = "unlabeled") -> list[tuple[str, int]]:
        """(id, repetition) of the step's unlabelled images; `stream` "partner" is an independent order."""
        made = self._paired if self._over_unlabeled else self._endless
        return self._picked(made(stream, self.unlabeled, step), step)

    def ids_at(self, step: int) -> tuple[str, ...]:
        """All images of the step."""
        unlabeled = self.unlabeled_at(step) if self.needs.unlabeled else []
        return tuple(id for id, _ in (*self.labeled_at(step), *unlabeled))

    def steps(self, dataset: Dataset, views: ViewsConfig, maps: Maps | None, rank: int, world: int) -> Steps:
        """The batches of this plan."""
        return Steps(dataset, self, views, maps, rank, world)

    def _picked(self, drawn: list[tuple[str, int]], step: int) -> list[tuple[str, int]]:
        """One of each `pick` in a row: the release of AEL loads two and uses one (specs: ael 6)."""
        pick = self.needs.pick
        if pick == 1:
            return drawn
        which = rng(self.seed, step, "pick").integers(pick, size=len(drawn) // pick)
        return [drawn[pick * k + int(i)] for k, i in enumerate(which)]

    def _paired(self, stream: str, ids: tuple[str, ...], step: int) -> list[tuple[str, int]]:
        """`ids` repeated and cut to the epoch's list, shuffled every epoch; a short end wraps to the start."""
        epoch, at = divmod(step, self.steps_per_epoch)
        order = shuffled(self.seed, epoch, stream, len(self._epoch_list))
        drawn = (int(order[k % len(order)]) for k in range(at * self._batch, (at + 1) * self._batch))
        return [(ids[i % len(ids)], i // len(ids)) for i in drawn]

    def _endless(self, stream: str, ids: tuple[str, ...], step: int) -> list[tuple[str, int]]:
        """Pass after pass over `ids`, each shuffled: for a batch of its own size no authors' scheme exists, and this
        one leaves no image out however short an epoch is."""
        batch = self.labeled_batch if stream == "labeled" else self.unlabeled_batch
        drawn = (divmod(k, len(ids)) for k in range(step * batch, (step + 1) * batch))
        return [(ids[shuffled(self.seed, turn, stream, len(ids))[i]], turn) for turn, i in drawn]


@lru_cache(maxsize=8)
def shuffled(seed: int, epoch: int, stream: str, length: int) -> np.ndarray:
    """The numbers below `length` in the order of that epoch and stream."""
    return rng(seed, epoch, "order", stream).permutation(length)


class Steps(TorchDataset[Batch]):
    """Batches by step number, this process's share of each. Pickles to loader workers."""

    def __init__(
        self, dataset: Dataset, plan: Plan, views: ViewsConfig, maps: Maps | None = None, rank: int = 0, world: int = 1
    ) -> None:
        for batch in (plan.labeled_batch, plan.unlabeled_batch // plan.needs.pick if plan.needs.unlabeled else 0):
            if batch % world:
                raise RecipeError(f"a batch of {batch} cannot be shared by {world} processes", "schedule",
                                  "choose a process count that divides both batches")  # fmt: skip
        self.dataset, self.plan, self.views, self.maps = dataset, plan, views, maps
        self.rank, self.world = rank, world

    def __getitem__(self, step: int) -> Batch:
        plan, needs = self.plan, self.plan.needs
        epoch = step // plan.steps_per_epoch
        known = self._mine(plan.labeled_at(step))
        labeled = self._labeled(known, epoch)
        donor = self._donors(known, labeled, epoch) if needs.donor else None
        if not needs.unlabeled:
            return Batch(labeled, donor=donor)
        drawn = self._mine(plan.unlabeled_at(step))
        unlabeled = self._unlabeled(drawn, epoch, "unlabeled")
        if needs.partner in (None, "asked"):
            return Batch(labeled, unlabeled, donor=donor)
        others = drawn if needs.partner == "same" else self._mine(plan.unlabeled_at(step, "partner"))
        return Batch(labeled, unlabeled, self._unlabeled(others, epoch, "partner"), donor)

    def completed(self, batch: Batch, ids: Sequence[str], step: int) -> Batch:
        """The step's batch with the unlabelled images `ids` as its partner, loaded now; itself where none are asked.

        They are augmented afresh at every step; the draw is keyed by the step and the place in the whole batch.
        """
        if not ids:
            return batch
        first = self.rank * len(ids)
        drawn = [(id, first + k) for k, id in enumerate(ids)]
        partner = self._unlabeled(drawn, step // self.plan.steps_per_epoch, f"asked {step} ")
        return dataclasses.replace(batch, partner=partner)

    def _mine(self, drawn: list[T]) -> list[T]:
        return drawn[self.rank * (share := len(drawn) // self.world) : (self.rank + 1) * share]

    def _sample(self, id: str) -> Sample:
        image, mask = self.dataset.image(id), self.dataset.mask(id)
        return Sample.of(id, image, mask, dict(self.maps(id)) if self.maps else {})

    def _donors(self, drawn: list[tuple[str, int]], labeled: Labeled, epoch: int) -> Labeled:
        """For each labelled image, with probability `donor`, any labelled image (itself too) seen in another way."""
        made = [self._donor(id, rep, epoch) for id, rep in drawn]
        x = [torch.zeros_like(labeled.x[k]) if d is None else d[1].x for k, d in enumerate(made)]
        y = [torch.full_like(labeled.y[k], 255) if d is None else d[1].y for k, d in enumerate(made)]
        return Labeled(torch.stack(x), torch.stack(y), tuple("" if d is None else d[0] for d in made))

    def _donor(self, id: str, rep: int, epoch: int) -> tuple[str, LabeledView] | None:
        plan, scale = self.plan, self.plan.needs.donor_scale
        dice = rng(plan.seed, epoch, id, f"donor{rep}", "pick")
        if dice.random() >= plan.needs.donor:
            return None
        other = plan.labeled[int(dice.integers(len(plan.labeled)))]
        views = self.views if scale is None else self.views.model_copy(update={"scale": scale})
        return other, labeled_view(self._sample(other), views, Draw(plan.seed, epoch, other, f"donor {id} {rep}"))

    def _labeled(self, drawn: list[tuple[str, int]], epoch: int) -> Labeled:
        draws = [Draw(self.plan.seed, epoch, id, f"labeled{rep}") for id, rep in drawn]
        items = [labeled_view(self._sample(draw.id), self.views, draw) for draw in draws]
        return Labeled(
            torch.stack([i.x for i in items]),
            torch.stack([i.y for i in items]),
            tuple(id for id, _ in drawn),
            _stack_maps([i.maps for i in items]),
        )

    def _unlabeled(self, drawn: list[tuple[str, int]], epoch: int, stream: str) -> Unlabeled:
        seed, strong = self.plan.seed, self.plan.needs.strong
        items = [
            unlabeled_view(self._sample(id), self.views, Draw(seed, epoch, id, f"{stream}{rep}"), strong)
            for id, rep in drawn
        ]
        return Unlabeled(
            weak=torch.stack([i.weak for i in items]),
            strong=tuple(torch.stack([i.strong[k] for i in items]) for k in range(strong)),
            valid=torch.stack([i.valid for i in items]),
            boxes=tuple(torch.stack([i.boxes[k] for i in items]) for k in range(len(items[0].boxes))),
            truth=torch.stack([i.truth for i in items]),
            ids=tuple(id for id, _ in drawn),
            maps=_stack_maps([i.maps for i in items]),
        )


def loader(steps: Steps, start: int, stop: int, workers: int, pin: bool = False) -> Iterator[Batch]:
    """Batches of steps start..stop-1 in order; the number of workers changes nothing but the speed."""
    made: DataLoader[Batch] = DataLoader(
        steps,
        batch_size=None,
        sampler=range(start, stop),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
        worker_init_fn=quiet_worker,
    )
    return iter(made)


def partition_plan(
    partition: Partition, needs: Needs, labeled_batch: int, unlabeled_batch: int, devices: int, seed: int,
    last: Literal["drop", "fill"] = "drop",
) -> Plan:  # fmt: skip
    """The plan of a whole split; of a mixture, the one of all its unlabelled images and about as many labelled ones."""
    if needs.mixture:
        from ssbench.data.mixture import Mixture  # which is built on this module

        repeats = max(-(-len(partition.unlabeled) // len(partition.labeled)), 1)
        lists, batches = (partition.labeled, partition.unlabeled), (labeled_batch, unlabeled_batch)
        return Mixture(*lists, needs, *batches, devices, seed, last, repeats)
    rest = partition.unlabeled
    unlabeled = tuple(sorted({*partition.labeled, *rest})) if needs.pool == "all" else rest
    return Plan(partition.labeled, unlabeled, needs, labeled_batch, unlabeled_batch, devices, seed, last)


def useful_workers(asked: int) -> int:
    """`asked`, but no more than there are cores: more would only take turns."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(asked, here)


def quiet_worker(_: int) -> None:
    """One thread a worker; signals are the trainer's to handle, or a Ctrl-C would cut batches short.

    A signal to the whole process group (Slurm, `timeout`) reaches workers too: the first SIGTERM leaves them serving
    until the trainer has saved, a second one, such as the loader's own clean-up sends, ends them.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: signal.signal(number, signal.SIG_DFL))


def _stack_maps(maps: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([m[name] for m in maps]) for name in maps[0]}


def _map(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """`function` on every tensor inside nested dataclasses, tuples and mappings."""
    if isinstance(value, Tensor):
        return function(value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(_map(v, function) for v in value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {k: _map(v, function) for k, v in value.items()}  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: _map(getattr(value, f.name), function) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value
