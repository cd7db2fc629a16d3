"""Which ImageNet encoder can be had here: in an installed package, in timm's cache, or by download. Loads no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Literal

from ssbench.nets.pretrained import PACKAGED, address, missing_weights, unreachable

FOR_GPU = ("resnet50s", "resnet18")
FOR_CPU = ("tf_efficientnet_lite0", "resnet18", "resnet50s")
"""In order of preference, ours. EfficientNet-Lite0 is the stronger of the two that a CPU trains in minutes."""

Source = Literal["package", "cache", "download"]


@dataclass(frozen=True)
class PretrainedEncoder:
    """An encoder and where its ImageNet weights come from; source None: from nowhere that can be reached now.

    weights: what `net.weights` is for it.
    """

    encoder: str
    source: Source | None
    weights: Literal["imagenet", "package"] = "imagenet"

    def __str__(self) -> str:
        where = {"package": "of an installed package", "cache": "from timm's cache", "download": "by timm's download"}
        return f"{self.encoder}, {where[self.source] if self.source else 'whose weights are not at hand'}"


def best_encoder(on_gpu: bool, ask_network: bool = False, channels: int = 3) -> PretrainedEncoder:
    """The preferred encoder whose ImageNet weights can be had here, else the preferred one of timm's with no source.

    Args:
        ask_network: whether to ask timm's hub, for some seconds, where nothing is here already.
        channels: of the pictures. Those of one channel are not normalised, which weights of packages do not allow.
    """
    preferred = [e for e in (FOR_GPU if on_gpu else FOR_CPU) if channels == 3 or e not in PACKAGED]
    for encoder in preferred:
        if source := source_here(encoder):
            return PretrainedEncoder(encoder, source, "package" if source == "package" else "imagenet")
    first = next(encoder for encoder in preferred if encoder not in PACKAGED)
    if ask_network and _answers(first):
        return PretrainedEncoder(first, "download")
    packaged = next((e for e in PACKAGED if ask_network and channels == 3 and source_here(e)), None)
    return PretrainedEncoder(packaged, "package", "package") if packaged else PretrainedEncoder(first, None)


def source_here(encoder: str) -> Source | None:
    """Where on this machine the ImageNet weights of an encoder are, None for nowhere."""
    if encoder in PACKAGED:
        return None if missing_weights(encoder, "package") else "package"
    return None if missing_weights(encoder, "imagenet") else "cache"


@cache
def _answers(encoder: str) -> bool:
    """Whether timm's hub would serve the file now. One question a process."""
    url = address(encoder)
    return url is not None and not unreachable(url)
