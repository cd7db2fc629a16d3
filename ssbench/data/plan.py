"""Which images each training step reads, computed from the step's number alone.

No step depends on the steps before it, so a resumed run, and any number of loader workers, read the same images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.splits.manifest import Partition

Reading: TypeAlias = tuple[str, int]
"""An image id and which repetition of the image it is. Each repetition is augmented by draws of its own."""


@dataclass(frozen=True)
class Needs:
    """What a method reads each step.

    unlabeled: whether it reads unlabelled images. strong: strong views of each of them.
    partner: a second set of unlabelled images to paste from. "same": the same images augmented afresh (what UniMatch's
    two iterators over one sampler give). "other": an order of its own. "asked": the images that `Method.wants` names
    for the step, loaded when the step begins.
    epoch_of: the list that an epoch passes over once. pool: "all" counts the labelled images among the unlabelled ones.
    pick: one of so many unlabelled images in a row is used, drawn at random.
    donor: probability that a labelled image comes with another one to paste from, which is seen at `donor_scale` (null:
    at the views' own scale).
    mixture: labelled and pseudo-labelled images come from one list (`Mixture`). The strong view of the latter is made
    by the loader ("coloured") or by the method ("plain").
    composition: how many of each kind a batch of a mixture has: as the shuffle gives ("drawn"), or `labeled_batch` and
    `unlabeled_batch` at every step ("fixed").
    repeats: how a repeated labelled list gets the length of the epoch's list: its end is "cut" (UniMatch), or its
    entries are "drawn" without replacement, once for the whole run (AugSeg, U2PL). "whole": cut, too, but a list that
    is longer from the start is shuffled whole every epoch (UniMatch V2).
    at_least: the epoch's list counts as so many images, by repetition, where it has fewer (UniMatch V2, Supervised).
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
    composition: Literal["drawn", "fixed"] = "drawn"
    repeats: Literal["cut", "drawn", "whole"] = "cut"
    at_least: int = 0


@dataclass(frozen=True)
class Plan:
    """The images of every step. Batches are totals over all processes; `devices` is the authors' process count.

    Steps per epoch = floor(ceil(N / devices) / (batch / devices)), however many processes really run: the authors'
    distributed sampler pads N to a multiple of `devices`, and their loader drops the last incomplete batch (card:
    views 1). With `last` "fill" that batch is filled with the epoch's first images.
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
        """Refuse lists too short for one batch, and batches that the authors' processes could not have shared."""
        listed, batch, pick = self._length, self._batch, self.needs.pick
        if self.needs.unlabeled and not self.unlabeled:
            raise RecipeError("the split has no unlabelled images, which the method reads", "--split",
                              "method: {name: supervised}, or a split that labels less")  # fmt: skip
        if min(self.labeled_batch, batch, self.unlabeled_batch if self.needs.unlabeled else 1) < 1:
            what = f"batches of {self.labeled_batch} labelled and {self.unlabeled_batch} unlabelled images"
            raise RecipeError(what, "schedule", "give both batches at least one image")
        if self.needs.unlabeled and self.unlabeled_batch % pick:
            what = f"one of every {pick} unlabelled images is used, of a batch of {self.unlabeled_batch}"
            raise RecipeError(what, "schedule.unlabeled_batch", f"a multiple of {pick}")
        over = "unlabeled" if self._over_unlabeled else "labeled"
        refuse_batch(batch, listed, self.devices, self.steps_per_epoch, f"{over}_batch")

    @property
    def _over_unlabeled(self) -> bool:
        return self.needs.epoch_of == "unlabeled" and bool(self.unlabeled)

    @property
    def _epoch_list(self) -> tuple[str, ...]:
        return self.unlabeled if self._over_unlabeled else self.labeled

    @property
    def _length(self) -> int:
        """Entries that an epoch passes over."""
        return max(len(self._epoch_list), self.needs.at_least)

    @property
    def _batch(self) -> int:
        return self.unlabeled_batch if self._over_unlabeled else self.labeled_batch

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        return count_steps(self._length, self._batch, self.devices, self.last)

    def labeled_at(self, step: int) -> list[Reading]:
        """The step's labelled images.

        In an epoch over the unlabelled list, the labelled list is repeated, brought to its length (`Needs.repeats`),
        and shuffled. A labelled list that is longer than the unlabelled one loses an end or a draw for the whole run
        (Cityscapes 1/2: 1488 > 1487; card: views 1).
        """
        read = self._read_paired if self.labeled_batch == self._batch else self._read_endless
        return read("labeled", self.labeled, step)

    def unlabeled_at(self, step: int, stream: str = "unlabeled") -> list[Reading]:
        """The step's unlabelled images; `stream` "partner" is an independent order."""
        read = self._read_paired if self._over_unlabeled else self._read_endless
        return self._pick(read(stream, self.unlabeled, step), step)

    def ids_at(self, step: int) -> tuple[str, ...]:
        """Ids of all images of the step."""
        unlabeled = self.unlabeled_at(step) if self.needs.unlabeled else []
        return tuple(id for id, _ in (*self.labeled_at(step), *unlabeled))

    def _pick(self, readings: list[Reading], step: int) -> list[Reading]:
        """One of each `pick` in a row: AEL's release loads two images and uses one (card: views 6)."""
        pick = self.needs.pick
        if pick == 1:
            return readings
        which = rng(self.seed, step, "pick").integers(pick, size=len(readings) // pick)
        return [readings[pick * k + int(i)] for k, i in enumerate(which)]

    def _read_paired(self, stream: str, ids: tuple[str, ...], step: int) -> list[Reading]:
        """`ids` repeated to the length of the epoch's list, shuffled every epoch; a short end wraps to the start.

        Images that come again because of the wrap are repetitions of their own: the releases augment them afresh.
        """
        epoch, at = divmod(step, self.steps_per_epoch)
        length = max(self._length, len(ids) if self.needs.repeats == "whole" else 0)
        passes = -(-length // len(ids))
        order = shuffled(self.seed, epoch, stream, length)
        entries = drawn_once(self.seed, len(ids) * passes, length) if self.needs.repeats == "drawn" else range(length)
        readings = []
        for k in range(at * self._batch, (at + 1) * self._batch):
            wraps, place = divmod(k, length)
            repetition, which = divmod(int(entries[order[place]]), len(ids))
            readings.append((ids[which], repetition + wraps * passes))
        return readings

    def _read_endless(self, stream: str, ids: tuple[str, ...], step: int) -> list[Reading]:
        """Pass after pass over `ids`, each shuffled.

        No release defines an order for a batch of another size than the epoch's own. This one leaves no image out,
        however short an epoch is.
        """
        batch = self.labeled_batch if stream == "labeled" else self.unlabeled_batch
        places = (divmod(k, len(ids)) for k in range(step * batch, (step + 1) * batch))
        return [(ids[shuffled(self.seed, turn, stream, len(ids))[i]], turn) for turn, i in places]


@dataclass(frozen=True)
class Mixture(Plan):
    """One shuffled list of labelled images and of unlabelled ones whose pseudo-labels are stored (card: views 3).

    An epoch is one pass over the labelled list `repeats` times and the unlabelled list once, without a short last
    batch. A batch has `labeled_batch` + `unlabeled_batch` images; the shuffle decides how many are of which kind.
    With `Needs.composition` "fixed" there are two lists, as soon as there are unlabelled images: an epoch is one pass
    over these, and labelled ones come pass after pass.
    """

    repeats: int = 1

    def __post_init__(self) -> None:
        """Refuse batches that the lists cannot fill."""
        if self._is_fixed:
            batch, listed = self.unlabeled_batch, len(self.unlabeled)
            refuse_batch(batch, listed, self.devices, self.steps_per_epoch, "unlabeled_batch")
            return
        refuse_batch(self.batch, self.length, self.devices, self.steps_per_epoch, "labeled_batch + unlabeled_batch")

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.labeled_batch + self.unlabeled_batch

    @property
    def length(self) -> int:
        """Entries of the list."""
        return len(self.labeled) * self.repeats + len(self.unlabeled)

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps in an epoch."""
        if self._is_fixed:
            return count_steps(len(self.unlabeled), self.unlabeled_batch, self.devices)
        return count_steps(self.length, self.batch, self.devices)

    @property
    def _is_fixed(self) -> bool:
        return self.needs.composition == "fixed" and bool(self.unlabeled)

    def mixture_at(self, step: int) -> list[tuple[str, int, bool]]:
        """(id, repetition, whether it is labelled) of the step's images, in the order of the shuffle."""
        if self._is_fixed:
            known = self._read_endless("labeled", self.labeled, step)
            unknown = self._read_paired("unlabeled", self.unlabeled, step)
            return [(*reading, True) for reading in known] + [(*reading, False) for reading in unknown]
        epoch, at = divmod(step, self.steps_per_epoch)
        order, listed = shuffled(self.seed, epoch, "mixture", self.length), len(self.labeled)
        readings = []
        for k in range(at * self.batch, (at + 1) * self.batch):
            wraps, place = divmod(k, self.length)  # as in `Plan`, what comes again is a repetition of its own
            repetition, which = divmod(int(order[place]), listed)
            if repetition < self.repeats:
                readings.append((self.labeled[which], repetition + wraps * self.repeats, True))
            else:
                readings.append((self.unlabeled[int(order[place]) - listed * self.repeats], wraps, False))
        return readings

    def labeled_at(self, step: int) -> list[Reading]:
        """The step's labelled images."""
        return [(id, repetition) for id, repetition, labeled in self.mixture_at(step) if labeled]

    def unlabeled_at(self, step: int, stream: str = "unlabeled") -> list[Reading]:
        """The step's unlabelled images."""
        return [(id, repetition) for id, repetition, labeled in self.mixture_at(step) if not labeled]

    def ids_at(self, step: int) -> tuple[str, ...]:
        """Ids of all images of the step."""
        return tuple(id for id, *_ in self.mixture_at(step))


def count_steps(listed: int, batch: int, devices: int, last: Literal["drop", "fill"] = "drop") -> int:
    """Steps of an epoch over `listed` images, as the authors' sampler and loader count them; see `Plan`."""
    share, images = batch // devices if devices > 0 else 0, -(-listed // max(devices, 1))
    return (images + (share - 1 if last == "fill" else 0)) // share if share else 0


def refuse_batch(batch: int, listed: int, devices: int, steps: int, what_to_divide: str) -> None:
    """RecipeError where `devices` processes cannot share the batch, or where no step fits into an epoch."""
    if devices < 1 or batch < 1 or batch % devices:
        what = f"a batch of {batch} cannot come from {devices} processes"
        raise RecipeError(what, "schedule", f"devices must divide {what_to_divide}")
    if steps < 1:
        kind = {"labeled_batch": "labelled ", "unlabeled_batch": "unlabelled "}.get(what_to_divide, "")
        what = f"a batch of {batch} {kind}images from a list of {listed}: no step fits into an epoch"
        setting = f"schedule.{what_to_divide}"
        most, longer = max(listed // devices * devices, devices), f"a split with a longer {kind}list"
        # Most networks cannot be trained on a single image, so that this is no way to go on.
        raise RecipeError(what, setting, longer if most == 1 else f"--set {setting}={most}, or {longer}")


@lru_cache(maxsize=8)
def shuffled(seed: int, epoch: int, stream: str, length: int) -> np.ndarray:
    """The numbers below `length` in the order of that epoch and stream."""
    return rng(seed, epoch, "order", stream).permutation(length)


@lru_cache(maxsize=8)
def drawn_once(seed: int, entries: int, length: int) -> np.ndarray:
    """`length` of the numbers below `entries`, drawn without replacement once for a run, in ascending order."""
    return np.sort(rng(seed, "drawn once").permutation(entries)[:length])


def plan_partition(
    partition: Partition, needs: Needs, labeled_batch: int, unlabeled_batch: int, devices: int, seed: int,
    last: Literal["drop", "fill"] = "drop",
) -> Plan:  # fmt: skip
    """The plan of a whole split. A mixture has all unlabelled images and about as many repeated labelled ones."""
    labeled, unlabeled = partition.labeled, partition.unlabeled
    if needs.mixture:
        repeats = max(-(-len(unlabeled) // len(labeled)), 1)
        return Mixture(labeled, unlabeled, needs, labeled_batch, unlabeled_batch, devices, seed, last, repeats)
    if needs.pool == "all":
        unlabeled = tuple(sorted({*labeled, *unlabeled}))
    return Plan(labeled, unlabeled, needs, labeled_batch, unlabeled_batch, devices, seed, last)


def count_groups(group: int, unlabeled: int, labeled: int = 0) -> int:
    """How many groups of `group` unlabelled images, and as many of labelled ones, a process holds.

    A group stands for one process of a release. Fewer images than a group are one group.

    Raises:
        RecipeError: the groups would not have one size.
    """
    count = max(unlabeled // group, 1)
    if unlabeled % min(unlabeled, group) or labeled % count:
        what = f"{unlabeled} unlabelled and {labeled} labelled images a process do not form groups of {group}"
        raise RecipeError(what, "method.group", f"--set method.group={unlabeled} (one group)")
    return count
