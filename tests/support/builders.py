"""Small live objects for tests: those the contract is tried on, and a few more."""

from __future__ import annotations

from typing import Any

import torch

from ssbench import find
from ssbench.certify.small import build, maker, optimizer, prepared, progress, tiny_net, train
from ssbench.data.noise import CLASSES, IMAGES, SIDE, Maps, batch_for, make_batch
from ssbench.nets.unet import UNet
from ssbench.plugins.base import Plugin

__all__ = [
    "CLASSES",
    "IMAGES",
    "SIDE",
    "Maps",
    "batch_for",
    "build",
    "make_batch",
    "maker",
    "optimizer",
    "plugin",
    "prepared",
    "progress",
    "tiny_net",
    "train",
    "unet",
]

torch.set_num_threads(1)  # nets this small only lose by threads, and sums keep one order


def unet(seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(UNet.Config(), CLASSES)


def plugin(name: str, **settings: Any) -> Plugin:
    cls = find.load("plugin", name)
    torch.manual_seed(0)
    built: Plugin = cls(cls.Config(**settings), CLASSES)
    return built
