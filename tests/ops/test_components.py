"""Boxes of connected parts on hand-made masks, and box accuracy (card: wpl 2)."""

from __future__ import annotations

import numpy as np
import pytest

from ssbench.ops.components import accuracy, component_boxes, iou, right

MASK = np.array([[1, 1, 0, 0, 2], [1, 0, 0, 2, 2], [0, 0, 1, 0, 0], [3, 0, 0, 1, 0], [3, 3, 0, 0, 0]])


def test_the_worked_example() -> None:
    boxes = component_boxes(MASK, (1, 2, 3))
    assert boxes.tolist() == [[0, 0, 2, 2, 1], [2, 2, 4, 4, 1], [3, 0, 5, 2, 2], [0, 3, 2, 5, 3]]


def test_small_parts_and_other_classes_are_left_out() -> None:
    assert component_boxes(MASK, (1, 2, 3), min_area=2).tolist() == [[0, 0, 2, 2, 1], [3, 0, 5, 2, 2], [0, 3, 2, 5, 3]]
    assert component_boxes(MASK, (2,)).tolist() == [[3, 0, 5, 2, 2]]
    assert component_boxes(MASK, (7,)).shape == (0, 5)


def test_exactly_the_smallest_area_is_dropped() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[2:11, 3:13] = 1  # 90 pixels
    assert not len(component_boxes(mask, (1,), 90))
    mask[11, 3] = 1
    assert component_boxes(mask, (1,), 90).tolist() == [[3, 2, 13, 12, 1]]


def test_ignored_pixels_part_what_they_lie_between() -> None:
    mask = np.array([[1, 255, 1], [1, 255, 1]], np.uint8)
    assert component_boxes(mask, (1,)).tolist() == [[0, 0, 1, 2, 1], [2, 0, 3, 2, 1]]


def test_a_box_inside_another() -> None:
    mask = np.ones((7, 7), np.uint8)
    mask[2:5, 2:5] = 2
    assert component_boxes(mask, (1, 2)).tolist() == [[0, 0, 7, 7, 1], [2, 2, 5, 5, 2]]


def test_overlap_and_accuracy_of_the_worked_example() -> None:
    truth = np.array([[0.0, 0, 10, 10, 1]])
    result = np.array([[1.0, 0, 11, 10, 1], [0, 0, 10, 8, 1], [0, 0, 10, 7.9, 1], [0, 0, 10, 10, 2]])
    assert iou(result[:, :4], truth[:, :4])[:, 0].tolist() == pytest.approx([0.8182, 0.8, 0.79, 1], abs=5e-5)
    assert right(result, truth).tolist() == [True, True, False, False]
    assert accuracy([(result, truth), (result[:1], truth[:0])], (1, 2)) == {1: [4, 2], 2: [1, 0]}
    assert right(result[:0], truth).tolist() == []
