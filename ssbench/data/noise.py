"""Batches of seeded noise with everything a method reads, to try a step or to count it without data.

For `ssbench certify`, the cost model and the tests. Letters as in `ssbench.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.colour import Colour
from ssbench.data.plan import Needs
from ssbench.ops.progress import Progress
from ssbench.views import tensors
from ssbench.views.pipelines import read_views
from ssbench.views.sample import Draw

CLASSES, SIDE, IMAGES = 4, 65, 2
Maps = Callable[[str], Mapping[str, Image.Image]]
"""The maps of an image, by its id."""


class AskingMethod(Protocol):
    """The part of a method (`methods.base.Method`) that decides what a batch holds."""

    @property
    def needs(self) -> Needs:
        """What the step reads."""

    def wants(self, batch: Batch, t: Progress) -> Sequence[str]:
        """Unlabelled images that the step asks for besides its batch."""


def make_batch(
    needs: Needs, seed: int = 0, side: int = SIDE, images: int = IMAGES, channels: int = 3,
    maps: tuple[Maps, ...] = (), unlabeled: int | None = None, classes: int = CLASSES,
) -> Batch:  # fmt: skip
    """Noise with labels: some pixels ignored, a strip of padding, one box an image and strong view.

    Args:
        images, unlabeled: labelled and unlabelled images (default: as many).
        maps: further maps of every image, as plug-ins prepare them.
    """
    g = torch.Generator().manual_seed(seed)
    unlabeled_ids = noise_ids("u", images if unlabeled is None else unlabeled)
    shape, ids = (images, channels, side, side), noise_ids("l", images)
    labeled = Labeled(torch.randn(shape, generator=g), noise_labels(g, images, side, classes), ids, _maps(maps, ids))
    if needs.mixture and unlabeled_ids:
        return _mixture(g, needs, labeled, unlabeled_ids, maps, classes)
    donor = None
    if needs.donor:
        donor = Labeled(torch.randn(shape, generator=g), noise_labels(g, images, side, classes), ids, labeled.maps)
    if not needs.unlabeled or not unlabeled_ids:
        return Batch(labeled, donor=donor)
    shape = (len(unlabeled_ids), *shape[1:])
    here = _unlabeled(g, needs, shape, unlabeled_ids, maps, classes)
    if needs.partner in (None, "asked"):
        return Batch(labeled, here, donor=donor)
    return Batch(labeled, here, _unlabeled(g, needs, shape, unlabeled_ids, maps, classes), donor)


def batch_for(
    method: AskingMethod, t: Progress, seed: int = 0, maps: tuple[Maps, ...] = (), channels: int = 3, side: int = SIDE,
    images: int = IMAGES, unlabeled: int | None = None, classes: int = CLASSES,
) -> Batch:  # fmt: skip
    """A batch with everything the method needs, and the partners it asks for at this step; see `make_batch`."""
    batch = make_batch(method.needs, seed, side, images, channels, maps, unlabeled, classes)
    if not (ids := tuple(method.wants(batch, t))):
        return batch
    g, shape = torch.Generator().manual_seed(seed + 7919), (len(ids), *batch.labeled.x.shape[1:])
    return replace(batch, partner=_unlabeled(g, method.needs, shape, ids, maps, classes))


def noise_labels(g: torch.Generator, images: int, side: int, classes: int = CLASSES) -> Tensor:
    """Blocks of 8 x 8 pixels of one class (single pixels would leave no patch of one class), every tenth pixel 255."""
    blocks = torch.randint(classes, (images, -(-side // 8), -(-side // 8)), generator=g)
    y = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :side, :side].clone()
    y[torch.rand(y.shape, generator=g) < 0.1] = 255
    return y


def _unlabeled(
    g: torch.Generator, needs: Needs, shape: tuple[int, ...], ids: tuple[str, ...], maps: tuple[Maps, ...], classes: int
) -> Unlabeled:
    images, _, side, _ = shape
    weak = torch.randn(shape, generator=g)
    valid = torch.ones(images, side, side, dtype=torch.bool)
    valid[0, -7:] = False
    boxes = []
    for k in range(needs.strong):
        box = torch.zeros(images, side, side, dtype=torch.bool)
        for i in range(images):
            top, left = (int(v) for v in torch.randint(side // 2, (2,), generator=g))
            box[i, top : top + 20 + k, left : left + 30 - k] = True
        boxes.append(box)
    strong = tuple(weak + 0.5 * torch.randn(shape, generator=g) for _ in range(needs.strong))
    truth = noise_labels(g, images, side, classes)
    return Unlabeled(weak, strong, valid, tuple(boxes), truth, ids, _maps(maps, ids))


def _mixture(
    g: torch.Generator, needs: Needs, labeled: Labeled, ids: tuple[str, ...], maps: tuple[Maps, ...], classes: int
) -> Batch:
    """Pseudo-labelled images with their stored maps, coloured as a loader does, or left to the method with donors."""
    shape = (len(ids), *labeled.x.shape[1:])
    here = _unlabeled(g, needs, shape, ids, maps, classes)
    label = torch.where(here.truth == 255, 0, here.truth).byte()
    here = replace(here, maps={**here.maps, "pseudo": label, "entropy": torch.rand(label.shape, generator=g)})
    views = read_views({"weak": "none", "strong": "stpp", "crop": label.shape[-1]})
    colour = Colour(views, [Draw(0, 0, id, "unlabeled0") for id in ids])
    if needs.mixture == "plain":
        order = torch.arange(len(ids)).flip(0) % len(labeled.ids)
        donor = Labeled(torch.randn(shape, generator=g), labeled.y[order], noise_ids("l", len(ids)))
        return Batch(labeled, replace(here, colour=colour), donor=donor)
    strong, erased = colour(here.weak)
    return Batch(labeled, replace(here, strong=(strong,), valid=here.valid & ~erased))


def noise_ids(prefix: str, images: int) -> tuple[str, ...]:
    """Names for so many images."""
    return tuple(f"{prefix}{i}" for i in range(images))


def _maps(sources: tuple[Maps, ...], ids: tuple[str, ...]) -> dict[str, Tensor]:
    of_images = [{name: tensors.layer(m) for source in sources for name, m in source(id).items()} for id in ids]
    return {name: torch.stack([layers[name] for layers in of_images]) for name in of_images[0]}
