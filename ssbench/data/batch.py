"""What a method sees of the data: batches, planned by step so that any step can be made again from its number."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from ssbench.data.dataset import Dataset
from ssbench.data.partition import Partition
from ssbench.data.sample import Draw, Sample
from ssbench.data.views import ViewsConfig, labeled_view, unlabeled_view
from ssbench.errors import RecipeError
from ssbench.keyed import rng

T = TypeVar("T")
Maps = Callable[[str], Mapping[str, Image.Image]]


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
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    valid: Tensor
    boxes: tuple[Tensor, ...]
    truth: Tensor
    ids: tuple[str, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Batch:
    """One step's images. partner: a second draw of unlabelled images to paste from, where the method needs one."""

    labeled: Labeled
    unlabeled: Unlabeled | None = None
    partner: Unlabeled | None = None

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
    give), "other" = an independent order. epoch_of: which list an epoch passes over.
    """

    unlabeled: bool = True
    strong: int = 0
    partner: Literal["same", "other"] | None = None
    epoch_of: Literal["labeled", "unlabeled"] = "unlabeled"


@dataclass(frozen=True)
class Plan:
    """Which images a step reads. Batches are totals over all processes; `devices` is the authors' process count.

    Steps per epoch = floor(ceil(N / devices) / (batch / devices)): their distributed sampler pads N to a multiple of
    the process count and drops the last incomplete batch (specs: unimatch 1.2). It stays fixed whatever runs it.
    """

    labeled: tuple[str, ...]
    unlabeled: tuple[str, ...]
    needs: Needs
    labeled_batch: int
    unlabeled_batch: int
    devices: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse lists too short for one batch."""
        if self.steps_per_epoch < 1:
            what = f"a batch of {self._batch} images from a list of {len(self._epoch_list)}: no step fits into an epoch"
            raise RecipeError(what, "schedule", f"use a batch of at most {len(self._epoch_list)}, or a larger split")

    @property
    def _epoch_list(self) -> tuple[str, ...]:
        return self.unlabeled if self.needs.epoch_of == "unlabeled" and self.unlabeled else self.labeled

    @property
    def _batch(self) -> int:
        return self.unlabeled_batch if self._epoch_list is self.unlabeled else self.labeled_batch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        per_device = self._batch // self.devices
        return -(-len(self._epoch_list) // self.devices) // per_device if per_device else 0

    def labeled_at(self, step: int) -> list[tuple[str, int]]:
        """(id, repetition) of the step's labelled images.

        The list is repeated to the length of the epoch's list and cut to it, then shuffled every epoch; so a list
        longer than the unlabelled one loses its tail (Cityscapes 1/2: 1488 > 1487).
        """
        length = len(self._epoch_list)
        order = self._order("labeled", length, step)
        return [(self.labeled[i % len(self.labeled)], i // len(self.labeled)) for i in order]

    def unlabeled_at(self, step: int, stream: str = "unlabeled") -> list[tuple[str, int]]:
        """(id, repetition) of the step's unlabelled images; `stream` "partner" is an independent order."""
        return [(self.unlabeled[i % len(self.unlabeled)], i // len(self.unlabeled))
                for i in self._order(stream, len(self._epoch_list), step)]

    def _order(self, stream: str, length: int, step: int) -> np.ndarray:
        epoch, at = divmod(step, self.steps_per_epoch)
        batch = self.labeled_batch if stream == "labeled" else self.unlabeled_batch
        if self.needs.epoch_of == "unlabeled" and batch != self._batch:
            length = self.steps_per_epoch * batch
        order = rng(self.seed, epoch, "order", stream).permutation(length)
        return np.resize(order, (at + 1) * batch)[at * batch :]


class Steps(TorchDataset[Batch]):
    """Batches by step number, this process's share of each. Pickles to loader workers."""

    def __init__(
        self, dataset: Dataset, plan: Plan, views: ViewsConfig, maps: Maps | None = None, rank: int = 0, world: int = 1
    ) -> None:
        for batch in (plan.labeled_batch, plan.unlabeled_batch):
            if batch % world:
                raise RecipeError(f"a batch of {batch} cannot be shared by {world} processes", "schedule",
                                  "choose a process count that divides both batches")
        self.dataset, self.plan, self.views, self.maps = dataset, plan, views, maps
        self.rank, self.world = rank, world

    def __getitem__(self, step: int) -> Batch:
        plan, needs = self.plan, self.plan.needs
        epoch = step // plan.steps_per_epoch
        labeled = self._labeled(self._mine(plan.labeled_at(step)), epoch)
        if not needs.unlabeled:
            return Batch(labeled)
        drawn = self._mine(plan.unlabeled_at(step))
        unlabeled = self._unlabeled(drawn, epoch, "unlabeled")
        if needs.partner is None:
            return Batch(labeled, unlabeled)
        others = drawn if needs.partner == "same" else self._mine(plan.unlabeled_at(step, "partner"))
        return Batch(labeled, unlabeled, self._unlabeled(others, epoch, "partner"))

    def _mine(self, drawn: list[T]) -> list[T]:
        share = len(drawn) // self.world
        return drawn[self.rank * share : (self.rank + 1) * share]

    def _sample(self, id: str) -> Sample:
        image, mask = self.dataset.image(id), self.dataset.mask(id)
        return Sample.of(id, image, mask, dict(self.maps(id)) if self.maps else {})

    def _labeled(self, drawn: list[tuple[str, int]], epoch: int) -> Labeled:
        seed = self.plan.seed
        items = [labeled_view(self._sample(id), self.views, Draw(seed, epoch, id, f"labeled{rep}")) for id, rep in drawn]
        return Labeled(
            torch.stack([i.x for i in items]), torch.stack([i.y for i in items]), tuple(id for id, _ in drawn),
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
        worker_init_fn=_quiet_worker,
    )
    return iter(made)


def partition_plan(
    partition: Partition, needs: Needs, labeled_batch: int, unlabeled_batch: int, devices: int, seed: int
) -> Plan:
    """The plan of a whole split."""
    return Plan(partition.labeled, partition.unlabeled, needs, labeled_batch, unlabeled_batch, devices, seed)


def _quiet_worker(_: int) -> None:
    """One thread a worker; signals are the trainer's to handle, or a Ctrl-C would cut batches short."""
    import signal

    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
