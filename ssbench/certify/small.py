"""Small live objects: a net of 0.4 M parameters, batches of seeded noise, what a trainer does with them.

What the contract is tried on, by `ssbench certify` and by the tests. Letters as in `ssbench.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssbench import find
from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.data.loader import Colour
from ssbench.data.plan import Needs, Plan
from ssbench.methods.base import LossConfig, MakeNet, Method, Step
from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.nets.segnet import SegNet
from ssbench.ops.progress import Progress
from ssbench.plugins.base import Plugin, PrepareInputs
from ssbench.views import tensors
from ssbench.views.pipelines import read_views
from ssbench.views.sample import Draw

CLASSES, SIDE, IMAGES, UNLABELED = 4, 65, 2, 8
Maps = Callable[[str], Mapping[str, Image.Image]]


def progress(step: int = 0, steps: int = 40, steps_per_epoch: int = 10, seed: int = 0) -> Progress:
    """A step of a run on one CPU."""
    return Progress(step, steps, steps_per_epoch, seed, torch.device("cpu"))


def tiny_net(seed: int = 0, classes: int = CLASSES, **settings: Any) -> DeepLabV3Plus:
    """DeepLabV3+ over timm's smallest ResNet, random weights."""
    wide = {"wide": 32} if settings.get("layout", "unimatch") == "unimatch" else {}
    torch.manual_seed(seed)
    chosen = {"encoder": "test_resnet", "weights": "random"} | wide | settings
    return DeepLabV3Plus(DeepLabV3Plus.Config(**chosen), classes)


def maker(seed: int = 0, net: Callable[..., SegNet] = tiny_net, **settings: Any) -> MakeNet:
    """What a method is given to build its networks: the random start depends on `seed` and on the role."""
    return lambda role: net(seed * 1000 + sum(map(ord, role)), **settings)


def build(
    method: str, plugin: Plugin | None = None, net: MakeNet | None = None, seed: int = 0,
    loss: LossConfig | None = None, **settings: Any,
) -> Method:  # fmt: skip
    """A method in train mode, by name; `settings` are its Config's.

    Raises:
        RecipeError: what the method's constructor refuses.
    """
    cls = find.load("method", method)
    plugin = plugin or Plugin(Plugin.Config(), CLASSES)
    torch.manual_seed(seed)
    made: Method = cls(cls.Config(**settings), net or maker(seed), plugin, loss or LossConfig())
    made.attach(Plan(_ids("l", IMAGES), _ids("u", UNLABELED), made.needs, IMAGES, IMAGES * made.needs.pick))
    return made.train()


def prepared(folder: Path, side: int = SIDE) -> PrepareInputs:
    """What `Plugin.prepare` is given: two labelled and eight unlabelled images of noise."""
    return PrepareInputs(
        classes=CLASSES,
        labeled=_ids("l", IMAGES),
        unlabeled=_ids("u", UNLABELED),
        image=lambda id: _picture(id, side),
        mask=lambda id: _mask(id, side),
        folder=folder,
        seed=0,
        progress=lambda items, _: items,
    )


def optimizer(method: Method, lr: float = 0.01) -> torch.optim.Optimizer:
    """SGD with momentum over everything the method trains."""
    return torch.optim.SGD([p for group in method.parameter_groups() for p in group], lr=lr, momentum=0.9)


def updates(
    method: Method, steps: int, start: int = 0, lr: float = 0.01, steps_per_epoch: int = 3,
    maps: tuple[Maps, ...] = (), side: int = SIDE,
) -> Iterator[Step]:  # fmt: skip
    """What the trainer does, without the trainer: what every step returned, once its update is made."""
    optim = optimizer(method, lr)
    for step in range(start, start + steps):
        t = progress(step, 40, steps_per_epoch)
        torch.manual_seed(step)
        made = method(batch_for(method, t, step, maps, side=side), t)
        optim.zero_grad()
        made.loss.backward()
        optim.step()
        method.after_step(t)
        yield made


def train(method: Method, steps: int, start: int = 0, **how: Any) -> list[dict[str, float]]:
    """`updates` as numbers: the terms of every step, "loss" among them."""
    return [
        {"loss": made.loss.item(), **{name: value.item() for name, value in made.terms.items()}}
        for made in updates(method, steps, start, **how)
    ]


def make_batch(
    needs: Needs, seed: int = 0, side: int = SIDE, images: int = IMAGES, channels: int = 3, maps: tuple[Maps, ...] = ()
) -> Batch:
    """Noise with labels: some pixels ignored, a strip of padding, one box an image and strong view."""
    g = torch.Generator().manual_seed(seed)
    shape, ids, more = (images, channels, side, side), _ids("l", images), _ids("u", images)
    labeled = Labeled(torch.randn(shape, generator=g), _labels(g, images, side), ids, _maps(maps, ids))
    if needs.mixture:
        return _mixture(g, needs, labeled, more, maps)
    donor = None
    if needs.donor:
        donor = Labeled(torch.randn(shape, generator=g), _labels(g, images, side), ids, labeled.maps)
    if not needs.unlabeled:
        return Batch(labeled, donor=donor)
    here = _unlabeled(g, needs, shape, more, maps)
    if needs.partner in (None, "asked"):
        return Batch(labeled, here, donor=donor)
    return Batch(labeled, here, _unlabeled(g, needs, shape, more, maps), donor)


def batch_for(
    method: Method, t: Progress, seed: int = 0, maps: tuple[Maps, ...] = (), channels: int = 3, side: int = SIDE
) -> Batch:
    """A batch with everything the method needs, and the partners it asks for at this step."""
    batch = make_batch(method.needs, seed, side, channels=channels, maps=maps)
    if not (ids := tuple(method.wants(batch, t))):
        return batch
    g, shape = torch.Generator().manual_seed(seed + 7919), (len(ids), *batch.labeled.x.shape[1:])
    return replace(batch, partner=_unlabeled(g, method.needs, shape, ids, maps))


def _labels(g: torch.Generator, images: int, side: int) -> Tensor:
    """Blocks of 8 x 8 pixels of one class, every tenth pixel 255."""
    blocks = torch.randint(CLASSES, (images, -(-side // 8), -(-side // 8)), generator=g)
    y = blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :side, :side].clone()
    y[torch.rand(y.shape, generator=g) < 0.1] = 255
    return y


def _unlabeled(
    g: torch.Generator, needs: Needs, shape: tuple[int, ...], ids: tuple[str, ...], maps: tuple[Maps, ...]
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
    truth = _labels(g, images, side)
    return Unlabeled(weak, strong, valid, tuple(boxes), truth, ids, _maps(maps, ids))


def _mixture(g: torch.Generator, needs: Needs, labeled: Labeled, ids: tuple[str, ...], maps: tuple[Maps, ...]) -> Batch:
    """Pseudo-labelled images with their stored maps, coloured as a loader does, or left to the method with donors."""
    here = _unlabeled(g, needs, tuple(labeled.x.shape), ids, maps)
    label = torch.where(here.truth == 255, 0, here.truth).byte()
    here = replace(here, maps={**here.maps, "pseudo": label, "entropy": torch.rand(label.shape, generator=g)})
    views = read_views({"weak": "none", "strong": "stpp", "crop": label.shape[-1]})
    colour = Colour(views, [Draw(0, 0, id, "unlabeled0") for id in ids])
    if needs.mixture == "plain":
        donor = Labeled(torch.randn(labeled.x.shape, generator=g), labeled.y.flip(0), labeled.ids)
        return Batch(labeled, replace(here, colour=colour), donor=donor)
    strong, erased = colour(here.weak)
    return Batch(labeled, replace(here, strong=(strong,), valid=here.valid & ~erased))


def _ids(prefix: str, images: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(images))


def _maps(sources: tuple[Maps, ...], ids: tuple[str, ...]) -> dict[str, Tensor]:
    each = [{name: tensors.layer(m) for source in sources for name, m in source(id).items()} for id in ids]
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


def _picture(id: str, side: int) -> Image.Image:
    noise = np.random.default_rng(sum(map(ord, id))).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(noise)


def _mask(id: str, side: int) -> Image.Image:
    g = torch.Generator().manual_seed(sum(map(ord, id)))
    return Image.fromarray(_labels(g, 1, side)[0].numpy().astype(np.uint8))
