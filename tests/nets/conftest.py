from collections.abc import Callable
from typing import Any

import pytest
import torch

from ssbench.nets.deeplabv3plus import DeepLabV3Plus

Make = Callable[..., DeepLabV3Plus]


@pytest.fixture
def make() -> Make:
    """A seeded, randomly initialised net of 5 classes on resnet18; keywords are its settings."""

    def net(classes: int = 5, seed: int = 0, **settings: Any) -> DeepLabV3Plus:
        torch.manual_seed(seed)
        return DeepLabV3Plus(DeepLabV3Plus.Config(**({"encoder": "resnet18", "weights": "random"} | settings)), classes)

    return net


@pytest.fixture
def shell() -> Make:
    """The same without values (meta device): for names, shapes and counts of large networks, in no time."""

    def net(layout: str, encoder: str, classes: int, **settings: Any) -> DeepLabV3Plus:
        cfg = DeepLabV3Plus.Config(layout=layout, encoder=encoder, weights="random", **settings)  # type: ignore[arg-type]
        with torch.device("meta"):
            return DeepLabV3Plus(cfg, classes)

    return net


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 65, 65, generator=torch.Generator().manual_seed(1))
