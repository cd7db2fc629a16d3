"""Small objects on which `ssbench certify` and the tests try the contract: a net of 0.4 M parameters, a short training.

Letters of shapes as in `ssbench.ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ssbench import find
from ssbench.data.noise import CLASSES, IMAGES, SIDE, Maps, batch_for, noise_ids, noise_labels
from ssbench.data.plan import Plan
from ssbench.methods.base import LossConfig, MakeNet, Method, Step
from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.nets.segnet import SegNet
from ssbench.ops.progress import Progress
from ssbench.plugins.base import Plugin, PrepareInputs
from ssbench.recipe.quick import small_settings

UNLABELED = 8


def progress(step: int = 0, steps: int = 40, steps_per_epoch: int = 10, seed: int = 0) -> Progress:
    """A step of a run on one CPU."""
    return Progress(step, steps, steps_per_epoch, seed, torch.device("cpu"))


def tiny_net(seed: int = 0, classes: int = CLASSES, **settings: Any) -> DeepLabV3Plus:
    """DeepLabV3+ over timm's smallest ResNet, random weights."""
    wide = {"wide": 32} if settings.get("layout", "unimatch") == "unimatch" else {}
    torch.manual_seed(seed)
    fields = {"encoder": "test_resnet", "weights": "random"} | wide | settings
    return DeepLabV3Plus(DeepLabV3Plus.Config(**fields), classes)


def small_net(name: str, seed: int = 0, classes: int = CLASSES, **settings: Any) -> SegNet:
    """A network by name under its settings for runs of seconds, random weights; "" is `tiny_net`."""
    if not name:
        return tiny_net(seed, classes, **settings)
    cls = find.load("net", name)
    torch.manual_seed(seed)
    net: SegNet = cls(cls.Config(**{**small_settings(cls), **settings}), classes)
    return net


def maker(seed: int = 0, net: Callable[..., SegNet] = tiny_net, **settings: Any) -> MakeNet:
    """The function a method builds its networks with; their random start depends on `seed` and on the role."""
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
    net = net or maker(seed, partial(small_net, cls.network))
    built: Method = cls(cls.Config(**settings), net, plugin, loss or LossConfig())
    ids = noise_ids("l", IMAGES), noise_ids("u", UNLABELED)
    built.attach(Plan(*ids, built.needs, IMAGES, IMAGES * built.needs.pick))
    return built.train()


def prepared(folder: Path, side: int = SIDE) -> PrepareInputs:
    """What `Plugin.prepare` is given: two labelled and eight unlabelled images of noise."""
    return PrepareInputs(
        classes=CLASSES,
        labeled=noise_ids("l", IMAGES),
        unlabeled=noise_ids("u", UNLABELED),
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
    """Training steps without a trainer. Yields what each returned, after its update."""
    optim = optimizer(method, lr)
    for step in range(start, start + steps):
        t = progress(step, 40, steps_per_epoch)
        torch.manual_seed(step)
        result = method(batch_for(method, t, step, maps, side=side), t)
        optim.zero_grad()
        result.loss.backward()
        optim.step()
        method.after_step(t)
        if (step + 1) % steps_per_epoch == 0:
            method.end_epoch(is_best=True, t=t)
        yield result


def train(method: Method, steps: int, start: int = 0, **options: Any) -> list[dict[str, float]]:
    """`updates` as numbers: the terms of every step, "loss" among them."""
    return [
        {"loss": result.loss.item(), **{name: value.item() for name, value in result.terms.items()}}
        for result in updates(method, steps, start, **options)
    ]


def _picture(id: str, side: int) -> Image.Image:
    noise = np.random.default_rng(sum(map(ord, id))).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(noise)


def _mask(id: str, side: int) -> Image.Image:
    g = torch.Generator().manual_seed(sum(map(ord, id)))
    return Image.fromarray(noise_labels(g, 1, side)[0].numpy().astype(np.uint8))
