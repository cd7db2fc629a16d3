"""Mixtures: batches from one shuffled list of labelled images and of unlabelled ones whose pseudo-labels are stored.

What offline self-training reads (specs: stpp 2, 3). A labelled image is seen weakly with its labels, an unlabelled one
strongly with its maps: "pseudo" (uint8 labels), and "entropy" (nats) where the method stored that. How many of a batch
are of which kind is left to the shuffle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssbench.data.batch import Batch, Labeled, Plan, Steps, Unlabeled, shuffled
from ssbench.data.dataset import Dataset
from ssbench.errors import RecipeError
from ssbench.views import tensors
from ssbench.views.maps import Maps
from ssbench.views.pipelines import ViewsConfig, strengthen
from ssbench.views.sample import Draw, Sample


@dataclass(frozen=True)
class Mixture(Plan):
    """An epoch is one pass over the labelled list `repeats` times and the unlabelled one, without a short last batch.

    A batch has `labeled_batch` + `unlabeled_batch` images, of whichever kind.
    """

    repeats: int = 1

    def __post_init__(self) -> None:
        """Refuse batches the list cannot fill."""
        if self.devices < 1 or self.batch < 1 or self.batch % self.devices:
            what = f"a batch of {self.batch} cannot come from {self.devices} processes"
            raise RecipeError(what, "schedule", "devices must divide labeled_batch + unlabeled_batch")
        if self.steps_per_epoch < 1:
            what = f"a batch of {self.batch} images from a list of {self.length}: no step fits into an epoch"
            raise RecipeError(what, "schedule", f"use a batch of at most {self.length}, or a larger split")

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
        return -(-self.length // self.devices) // (self.batch // self.devices)

    def mixture_at(self, step: int) -> list[tuple[str, int, bool]]:
        """(id, repetition, labelled) of the step's images, in the order of the shuffle."""
        epoch, at = divmod(step, self.steps_per_epoch)
        order, known = shuffled(self.seed, epoch, "mixture", self.length), len(self.labeled)
        drawn = (int(order[k % self.length]) for k in range(at * self.batch, (at + 1) * self.batch))
        return [
            (self.labeled[i % known], i // known, True)
            if i < known * self.repeats
            else (self.unlabeled[i - known * self.repeats], 0, False)
            for i in drawn
        ]

    def labeled_at(self, step: int) -> list[tuple[str, int]]:
        """(id, repetition) of the step's labelled images."""
        return [(id, rep) for id, rep, labeled in self.mixture_at(step) if labeled]

    def unlabeled_at(self, step: int, stream: str = "unlabeled") -> list[tuple[str, int]]:
        """(id, 0) of the step's unlabelled images."""
        return [(id, rep) for id, rep, labeled in self.mixture_at(step) if not labeled]

    def ids_at(self, step: int) -> tuple[str, ...]:
        """All images of the step."""
        return tuple(id for id, *_ in self.mixture_at(step))

    def steps(self, dataset: Dataset, views: ViewsConfig, maps: Maps | None, rank: int, world: int) -> Steps:
        """The batches of this plan."""
        return MixtureSteps(dataset, self, views, maps, rank, world)


class MixtureSteps(Steps):
    """Batches of a `Mixture`; a process takes its share of each kind, as even as can be.

    `Batch.labeled` may be empty. `Batch.unlabeled` is None where the batch has none; with several processes, who must
    all do the same, it may be empty instead. Its `valid` is false on padding and where cutout put noise. With
    `Needs.mixture` "plain" there is no strong view: `Unlabeled.colour` makes it, after something was pasted into the
    weak one. With `Needs.donor` there is a labelled image to paste from for every unlabelled one.
    """

    plan: Mixture

    def __getitem__(self, step: int) -> Batch:
        plan, epoch = self.plan, step // self.plan.steps_per_epoch
        known, told = plan.labeled_at(step), plan.unlabeled_at(step)
        told = told[(self.rank - len(known)) % self.world :: self.world]  # goes on where the labelled ones end
        known = known[self.rank :: self.world]
        labeled = self._labeled(known or [(plan.labeled[0], 0)], epoch)
        labeled = labeled if known else _none_labeled(labeled)
        if told:
            return self._with_told(labeled, told, epoch)
        if self.world == 1 or not plan.unlabeled:
            return Batch(labeled)
        one = self._with_told(labeled, [(plan.unlabeled[0], 0)], epoch)
        assert one.unlabeled is not None  # noqa: S101  just made
        return replace(one, unlabeled=_none_unlabeled(one.unlabeled))

    def _with_told(self, labeled: Labeled, told: list[tuple[str, int]], epoch: int) -> Batch:
        here = self._unlabeled(told, epoch, "unlabeled")
        colour = Colour(self.views, [Draw(self.plan.seed, epoch, id, f"unlabeled{rep}") for id, rep in told])
        if self.plan.needs.mixture == "plain":
            here = replace(here, colour=colour)
        else:
            strong, erased = colour(here.weak)
            here = replace(here, strong=(strong,), valid=here.valid & ~erased)
        donor = self._donors(told, labeled, epoch) if self.plan.needs.donor else None
        return Batch(labeled, here, donor=donor)


class Colour:
    """The strong pipeline for the weak pictures of one batch, each by the draws of its own unlabelled image.

    It works on 8-bit pictures, which weak ones are before they are normalised, and pasted ones of weak ones; so a
    picture coloured here is bit for bit the one `views.strong_view` makes. Padding must be black (`padding: zero` is
    not undone).
    """

    def __init__(self, views: ViewsConfig, draws: Sequence[Draw]) -> None:
        self.views, self.draws = views, tuple(draws)

    def __call__(self, images: Tensor, copy: int = 0) -> tuple[Tensor, Tensor]:
        """Images B C H W, coloured, and B H W bool: where cutout put noise. Copies of a batch differ in their draws."""
        if not len(images):
            return images, images.new_zeros(images.shape[:1] + images.shape[2:], dtype=torch.bool)
        made = [self._one(x, draw.of(f"strong{copy}")) for x, draw in zip(images.cpu(), self.draws, strict=True)]
        coloured, erased = (torch.stack(each).to(images.device) for each in zip(*made, strict=True))
        return coloured, erased

    def _one(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        sample = strengthen(Sample.of(draw.id, tensors.pixels(x, self.views)), self.views, draw)
        return tensors.view(sample, self.views), tensors.erased(sample)


def _none_labeled(one: Labeled) -> Labeled:
    """No image, in the shapes of one."""
    return Labeled(one.x[:0], one.y[:0], (), {name: layer[:0] for name, layer in one.maps.items()})


def _none_unlabeled(one: Unlabeled) -> Unlabeled:
    """No image, in the shapes of one."""
    return replace(
        one,
        weak=one.weak[:0],
        strong=tuple(view[:0] for view in one.strong),
        valid=one.valid[:0],
        truth=one.truth[:0],
        ids=(),
        maps={name: layer[:0] for name, layer in one.maps.items()},
    )
