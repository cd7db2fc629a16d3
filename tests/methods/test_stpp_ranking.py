"""ST++'s ranking of images on maps small enough to count, and its summed predictions against a loop."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.methods.stpp import reliability, split_in_halves, sum_predictions

LAST = torch.tensor([[0, 0], [1, 1]])


def test_counted_by_hand() -> None:
    """Against the last: class 0 is 1 of 2 pixels, class 1 is 2 of 3; the second map equals the last."""
    first = torch.tensor([[0, 1], [1, 1]])
    assert reliability([first, LAST, LAST], 21) == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


def test_classes_in_neither_map_are_left_out_and_one_in_either_counts() -> None:
    """Class 2 stands in the first map alone: 0 of 1. Classes 3 to 20 stand nowhere."""
    first = torch.tensor([[2, 0], [1, 1]])
    assert reliability([first, LAST], 21) == pytest.approx((1 / 2 + 2 / 2 + 0) / 3)


def test_an_image_without_change_has_one() -> None:
    assert reliability([LAST, LAST, LAST], 2) == 1
    assert reliability([1 - LAST, LAST], 2) == 0


def test_halves_from_the_largest_down_ties_as_given() -> None:
    scores = {"a": 0.5, "b": 0.9, "c": 0.5, "d": 0.1, "e": 0.9}
    assert split_in_halves(scores) == (("b", "e"), ("a", "c", "d"))
    assert split_in_halves({"a": 0.5, "b": 0.5}) == (("a",), ("b",))
    assert split_in_halves({"a": 1.0}) == ((), ("a",))


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
    total = sum_predictions(predict, x, SCALES)
    torch.testing.assert_close(total[0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(total.sum(1), torch.full((1, 9, 7), 10.0))


@pytest.mark.parametrize("scales", [(1.0,), (0.5, 2.0)])
def test_the_mirror_image_has_the_mirrored_sum(scales: tuple[float, ...]) -> None:
    x = torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        sum_predictions(predict, x.flip(-1), scales), sum_predictions(predict, x, scales).flip(-1)
    )


def test_one_scale_without_mirror_is_the_prediction() -> None:
    x = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    assert torch.equal(sum_predictions(predict, x, (1.0,), flip=False), predict(x).softmax(1))
