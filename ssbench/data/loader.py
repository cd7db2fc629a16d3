"""From a plan to batches: images are read, augmented and stacked, in loader workers or in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ssbench.data.batch import Batch, Labeled, Unlabeled, map_tensors
from ssbench.data.colour import Colour
from ssbench.data.dataset import Dataset
from ssbench.data.plan import Mixture, Plan, Reading
from ssbench.data.workers import stream
from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.views import tensors
from ssbench.views.device import RawPicture, RawViews, draw_colours, is_possible, raw_view
from ssbench.views.pipelines import LabeledView, as_unlabeled, labeled_view, region, unlabeled_view
from ssbench.views.sample import Draw, Maps, Sample
from ssbench.views.settings import Padded, ViewsConfig

T = TypeVar("T")


class Steps(TorchDataset[Batch]):
    """Batches of a plan by step number, of each this process's share. Pickles to loader workers."""

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
        readings = self._share(plan.labeled_at(step))
        labeled = self._load_labeled(readings, epoch)
        donor = self._load_donors(readings, labeled, epoch) if needs.donor else None
        if not needs.unlabeled:
            return Batch(labeled, donor=donor)
        readings = self._share(plan.unlabeled_at(step))
        unlabeled = self._load_unlabeled(readings, epoch, "unlabeled")
        if needs.partner in (None, "asked"):
            return Batch(labeled, unlabeled, donor=donor)
        others = readings if needs.partner == "same" else self._share(plan.unlabeled_at(step, "partner"))
        return Batch(labeled, unlabeled, self._load_unlabeled(others, epoch, "partner"), donor)

    def with_partner(self, batch: Batch, ids: Sequence[str], step: int) -> Batch:
        """The step's batch with the unlabelled images `ids` as its partner, loaded now; without ids the batch itself.

        They are augmented afresh at every step: the draw is keyed by the step and the place in the whole batch.
        """
        if not ids:
            return batch
        first = self.rank * len(ids)
        readings = [(id, first + k) for k, id in enumerate(ids)]
        partner = self._load_unlabeled(readings, step // self.plan.steps_per_epoch, f"asked {step} ")
        return dataclasses.replace(batch, partner=partner)

    def _share(self, readings: list[Reading]) -> list[Reading]:
        each = len(readings) // self.world
        return readings[self.rank * each : (self.rank + 1) * each]

    def _sample(self, id: str) -> Sample:
        image, mask = self.dataset.image(id), self.dataset.mask(id)
        return Sample.of(id, image, mask, dict(self.maps(id)) if self.maps else {})

    def _load_donors(self, readings: list[Reading], labeled: Labeled, epoch: int) -> Labeled:
        """For each image, with probability `donor`, any labelled image (itself too) augmented in another way."""
        donors = [self._load_donor(id, repetition, epoch) for id, repetition in readings]
        x = [torch.zeros_like(labeled.x[k]) if d is None else d[1].x for k, d in enumerate(donors)]
        y = [torch.full_like(labeled.y[k], 255) if d is None else d[1].y for k, d in enumerate(donors)]
        return Labeled(torch.stack(x), torch.stack(y), tuple("" if d is None else d[0] for d in donors))

    def _load_donor(self, id: str, repetition: int, epoch: int) -> tuple[str, LabeledView] | None:
        plan, scale = self.plan, self.plan.needs.donor_scale
        dice = rng(plan.seed, epoch, id, f"donor{repetition}", "pick")
        if dice.random() >= plan.needs.donor:
            return None
        other = plan.labeled[int(dice.integers(len(plan.labeled)))]
        views = self.views if scale is None else self.views.model_copy(update={"scale": scale})
        draw = Draw(plan.seed, epoch, other, f"donor {id} {repetition}")
        return other, labeled_view(self._sample(other), views, draw)

    def _load_labeled(self, readings: list[Reading], epoch: int) -> Labeled:
        draws = [Draw(self.plan.seed, epoch, id, f"labeled{repetition}") for id, repetition in readings]
        items = [labeled_view(self._sample(draw.id), self.views, draw) for draw in draws]
        return Labeled(
            torch.stack([i.x for i in items]),
            torch.stack([i.y for i in items]),
            tuple(id for id, _ in readings),
            _stack_maps([i.maps for i in items]),
        )

    def _load_unlabeled(self, readings: list[Reading], epoch: int, stream: str) -> Unlabeled:
        strong = self.plan.needs.strong
        draws = [Draw(self.plan.seed, epoch, id, f"{stream}{repetition}") for id, repetition in readings]
        items = [unlabeled_view(self._sample(draw.id), self.views, draw, strong) for draw in draws]
        return Unlabeled(
            weak=torch.stack([i.weak for i in items]),
            strong=tuple(torch.stack([i.strong[k] for i in items]) for k in range(strong)),
            valid=torch.stack([i.valid for i in items]),
            boxes=tuple(torch.stack([i.boxes[k] for i in items]) for k in range(len(items[0].boxes))),
            truth=torch.stack([i.truth for i in items]),
            ids=tuple(id for id, _ in readings),
            maps=_stack_maps([i.maps for i in items]),
        )


class MixtureSteps(Steps):
    """Batches of a `Mixture`; a process takes its share of each kind, as even as can be.

    A labelled image is seen weakly with its labels. An unlabelled one is seen strongly with its maps: "pseudo" (uint8
    labels), and "entropy" (nats) where the method stored that.

    `Batch.labeled` may be empty. `Batch.unlabeled` is None where the batch has none; with several processes, who must
    all do the same, it may be empty instead. Its `valid` is false on padding and where cutout put noise. With
    `Needs.mixture` "plain" there is no strong view: `Unlabeled.colour` makes it, after something was pasted into the
    weak one. With `Needs.donor` there is a labelled image to paste from for every unlabelled one.
    """

    plan: Mixture

    def __getitem__(self, step: int) -> Batch:
        plan, epoch = self.plan, step // self.plan.steps_per_epoch
        known, unknown = plan.labeled_at(step), plan.unlabeled_at(step)
        unknown = unknown[(self.rank - len(known)) % self.world :: self.world]  # goes on where the labelled ones end
        known = known[self.rank :: self.world]
        # An empty stack has no shapes, so a process without images of a kind loads one and drops it.
        labeled = self._load_labeled(known or [(plan.labeled[0], 0)], epoch)
        labeled = labeled if known else map_tensors(dataclasses.replace(labeled, ids=()), lambda t: t[:0])
        if unknown:
            return self._with_unlabeled(labeled, unknown, epoch)
        if self.world == 1 or not plan.unlabeled:
            return Batch(labeled)
        example = self._with_unlabeled(labeled, [(plan.unlabeled[0], 0)], epoch).unlabeled
        assert example is not None  # noqa: S101  just loaded
        empty = dataclasses.replace(map_tensors(example, lambda t: t[:0]), ids=())
        return Batch(labeled, empty)

    def _with_unlabeled(self, labeled: Labeled, readings: list[Reading], epoch: int) -> Batch:
        images = self._load_unlabeled(readings, epoch, "unlabeled")
        draws = [Draw(self.plan.seed, epoch, id, f"unlabeled{repetition}") for id, repetition in readings]
        colour = Colour(self.views, draws)
        if self.plan.needs.mixture == "plain":
            images = dataclasses.replace(images, colour=colour)
        else:
            strong, erased = colour(images.weak)
            images = dataclasses.replace(images, strong=(strong,), valid=images.valid & ~erased)
        donor = self._load_donors(readings, labeled, epoch) if self.plan.needs.donor else None
        return Batch(labeled, images, donor=donor)


class RawSteps(Steps):
    """Batches whose pictures the device computes (`Batch.computed`). Labels, maps and regions are there already."""

    def _load_labeled(self, readings: list[Reading], epoch: int) -> Labeled:
        draws = [Draw(self.plan.seed, epoch, id, f"labeled{repetition}") for id, repetition in readings]
        pictures, settled = self._raw(draws)
        padding = self.views.label_padding if isinstance(self.views, Padded) else 255
        raw = RawViews(pictures, _inside(settled))
        return Labeled(
            torch.empty(0),
            torch.stack([tensors.labels(sample, padding) for sample in settled]),
            tuple(id for id, _ in readings),
            _maps_of(settled),
            raw,
        )

    def _load_unlabeled(self, readings: list[Reading], epoch: int, stream: str) -> Unlabeled:
        draws = [Draw(self.plan.seed, epoch, id, f"{stream}{repetition}") for id, repetition in readings]
        pictures, settled = self._raw(draws, as_unlabeled)
        parts = [[draw.of(f"strong{k}") for draw in draws] for k in range(self.plan.needs.strong)]
        colours = tuple(tuple(draw_colours(self.views, part) for part in view) for view in parts)
        shape = settled[0].size[::-1]
        regions = ([torch.from_numpy(region(self.views, part, shape)) for part in view] for view in parts)
        return Unlabeled(
            weak=torch.empty(0),
            strong=(),
            valid=torch.stack([tensors.layer(sample.valid) for sample in settled]).bool(),
            boxes=tuple(torch.stack(each) for each in regions),
            truth=torch.stack([tensors.labels(sample, 255) for sample in settled]),
            ids=tuple(id for id, _ in readings),
            maps=_maps_of(settled),
            raw=RawViews(pictures, _inside(settled), colours),
        )

    def _raw(
        self, draws: Sequence[Draw], finish: Callable[[Sample], Sample] | None = None
    ) -> tuple[tuple[RawPicture, ...], list[Sample]]:
        pairs = [raw_view(self._sample(draw.id), self.views, draw, finish) for draw in draws]
        return tuple(picture for picture, _ in pairs), [sample for _, sample in pairs]


def _inside(samples: Sequence[Sample]) -> Tensor:
    return torch.stack([tensors.layer(sample.alpha or sample.valid).float() for sample in samples])


def _maps_of(samples: Sequence[Sample]) -> dict[str, Tensor]:
    return _stack_maps([{name: tensors.layer(image) for name, image in sample.maps.items()} for sample in samples])


def make_steps(
    plan: Plan, dataset: Dataset, views: ViewsConfig, maps: Maps | None, rank: int, world: int, on_device: bool = False
) -> Steps:
    """The batches of `plan` for process `rank` of `world`.

    Args:
        on_device: whether the device computes the pictures; then batches come as `RawSteps` makes them.
    """
    kind = MixtureSteps if isinstance(plan, Mixture) else RawSteps if on_device else Steps
    return kind(dataset, plan, views, maps, rank, world)


def views_on_device(plan: Plan, views: ViewsConfig, device: torch.device, is_fast: bool) -> bool:
    """Whether the device computes the pictures of this plan, as `views.device` says.

    "auto": on a GPU in `precision: fast`. A mixture, a donor, and strong pipelines without a form for batches stay
    with the workers.

    Raises:
        RecipeError: "device" where that cannot be, or in `precision: exact`.
    """
    reason = ""
    if isinstance(plan, Mixture) or plan.needs.donor:
        reason = "the method mixes its images in the loader"
    elif not is_possible(views):
        reason = f"pipelines '{views.weak}' and '{views.strong}' have no form for batches"
    elif not is_fast:
        reason = "precision: exact computes pictures as the releases do"
    if views.device == "device" and reason:
        raise RecipeError(f"views.device: device, but {reason}", "views.device", "device: auto")
    return not reason and (views.device == "device" or (views.device == "auto" and device.type == "cuda"))


def loader(steps: Steps, start: int, stop: int, workers: int, pin: bool = False) -> Generator[Batch]:
    """Batches of steps start..stop-1 in order; the number of workers changes nothing but the speed. See `stream`."""
    return stream(steps, range(start, stop), workers, pin)


def _stack_maps(maps: list[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([m[name] for m in maps]) for name in maps[0]}
