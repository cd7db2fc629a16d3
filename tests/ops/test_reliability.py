"""The ranking of ST++ on maps small enough to count."""

from __future__ import annotations

import pytest
import torch

from ssbench.ops.reliability import halves, reliability

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
    assert halves(scores) == (("b", "e"), ("a", "c", "d"))
    assert halves({"a": 0.5, "b": 0.5}) == (("a",), ("b",))
    assert halves({"a": 1.0}) == ((), ("a",))
