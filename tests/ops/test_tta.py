"""Summed predictions against a loop over scales, sides and pixels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.ops import tta

SCALES = (0.5, 0.75, 1.0, 1.5, 2.0)


def predict(x: Tensor) -> Tensor:
    """Four classes from a pixel, its left neighbour and the row above: neither a mirror nor a size leaves it alone."""
    g = torch.Generator().manual_seed(3)
    return F.conv2d(x, torch.randn(4, 3, 2, 2, generator=g), padding=1)[..., : x.shape[-2], : x.shape[-1]]


def resized(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear with aligned corners, pixel by pixel: x is D H W."""
    out = torch.empty(x.shape[0], height, width)
    for i in range(height):
        for j in range(width):
            v = i * (x.shape[1] - 1) / (height - 1) if height > 1 else 0.0
            u = j * (x.shape[2] - 1) / (width - 1) if width > 1 else 0.0
            top, left = min(int(v), x.shape[1] - 1), min(int(u), x.shape[2] - 1)
            below, right = min(top + 1, x.shape[1] - 1), min(left + 1, x.shape[2] - 1)
            a, b = v - top, u - left
            upper = (1 - b) * x[:, top, left] + b * x[:, top, right]
            lower = (1 - b) * x[:, below, left] + b * x[:, below, right]
            out[:, i, j] = (1 - a) * upper + a * lower
    return out


def test_equals_a_naive_loop() -> None:
    x = torch.randn(1, 3, 9, 7, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(4, 9, 7)
    for scale in SCALES:
        small = resized(x[0], math.floor(9 * scale), math.floor(7 * scale))
        for mirrored in (False, True):
            seen = small[..., list(range(small.shape[-1]))[::-1]] if mirrored else small
            probs = predict(seen[None])[0].exp()
            probs = probs / probs.sum(0)
            expected += resized(probs.flip(-1) if mirrored else probs, 9, 7)
    found = tta.summed(predict, x, SCALES)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.full((1, 9, 7), 10.0))


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 2.0)])
def test_the_mirror_image_has_the_mirrored_sum(scales: tuple[float, ...]) -> None:
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(tta.summed(predict, x.flip(-1), scales), tta.summed(predict, x, scales).flip(-1))


def test_one_scale_without_mirror_is_the_prediction() -> None:
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(tta.summed(predict, x, (1.0,), flip=False), predict(x).softmax(1))
