"""Confusion matrices, IoU and Dice against counts of single pixels."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssbench.ops.confusion import confusion, dice_score, iou, mean_iou

C = 5


def counted(prediction: list[int], target: list[int]) -> list[list[int]]:
    matrix = [[0] * C for _ in range(C)]
    for p, t in zip(prediction, target, strict=True):
        if t != 255:
            matrix[t][p] += 1
    return matrix


def iou_of(prediction: list[int], target: list[int], c: int) -> float:
    pairs = [(p, t) for p, t in zip(prediction, target, strict=True) if t != 255]
    both = sum(p == c and t == c for p, t in pairs)
    either = sum(p == c or t == c for p, t in pairs)
    return both / either if either else math.nan


PIXELS = st.lists(st.tuples(st.integers(0, C - 1), st.sampled_from([0, 1, 2, 3, 4, 255])), min_size=1, max_size=60)


@settings(max_examples=60, deadline=None)
@given(PIXELS)
def test_equals_a_count_pixel_by_pixel(pixels: list[tuple[int, int]]) -> None:
    prediction, target = [p for p, _ in pixels], [t for _, t in pixels]
    result = confusion(torch.tensor(prediction), torch.tensor(target), C)
    assert result.dtype == torch.int64
    assert result.tolist() == counted(prediction, target)
    expected = [iou_of(prediction, target, c) for c in range(C)]
    assert iou(result).tolist() == pytest.approx(expected, nan_ok=True)
    present = [v for v in expected if not math.isnan(v)]
    if present:
        assert mean_iou(result) == pytest.approx(100 * sum(present) / len(present))
        assert mean_iou(result, absent="zero") == pytest.approx(100 * sum(present) / C)


def test_takes_masks_of_any_integer_type_and_shape() -> None:
    target = torch.tensor([[0, 1], [255, 4]], dtype=torch.uint8)
    result = confusion(torch.tensor([[0, 2], [3, 4]]), target, C)
    assert result.sum() == 3
    assert (result[0, 0], result[1, 2], result[4, 4]) == (1, 1, 1)


def test_matrices_of_parts_add_up_to_the_matrix_of_the_whole() -> None:
    p, t = torch.randint(C, (4, 9, 9)), torch.randint(C, (4, 9, 9))
    parts: list[Tensor] = [confusion(a, b, C) for a, b in zip(p, t, strict=True)]
    assert torch.equal(sum(parts[1:], parts[0]), confusion(p, t, C))


def test_the_two_conventions_for_absent_classes_differ_as_specified() -> None:
    """Five classes, one only predicted (scores 0), one in neither: 0.0973 against 0.1216."""
    matrix = torch.zeros(C, C, dtype=torch.int64)
    matrix[0, 0], matrix[0, 1], matrix[0, 3], matrix[1, 2], matrix[2, 0] = 18, 10, 5, 3, 4  # IoU 18/37, 0, 0, 0
    assert iou(matrix).tolist() == pytest.approx([18 / 37, 0, 0, 0, math.nan], nan_ok=True)
    assert mean_iou(matrix, absent="zero") / 100 == pytest.approx(0.0973, abs=5e-5)
    assert mean_iou(matrix, absent="left_out") / 100 == pytest.approx(0.1216, abs=5e-5)


def test_counts_stay_exact_beyond_the_precision_of_float32() -> None:
    matrix = torch.tensor([[2**40 + 1, 0], [0, 1]])
    assert iou(matrix).tolist() == [1.0, 1.0]
    assert confusion(torch.zeros(3), torch.zeros(3), 2).dtype == torch.int64


def test_dice_is_twice_the_overlap_over_the_sum_of_sizes() -> None:
    g = torch.Generator().manual_seed(0)
    p, t = torch.randint(4, (3, 8, 8), generator=g), torch.randint(4, (3, 8, 8), generator=g)
    expected = []
    for c in range(1, 4):
        both = sum(int(a == c and b == c) for a, b in zip(p.flatten(), t.flatten(), strict=True))
        expected.append(2 * both / (int((p == c).sum()) + int((t == c).sum())))
    assert dice_score(p, t, 4).tolist() == pytest.approx(expected)


def test_dice_of_a_class_in_neither_is_no_number() -> None:
    result = dice_score(torch.tensor([0, 1]), torch.tensor([1, 1]), 3)
    assert result[0] == pytest.approx(2 / 3)
    assert math.isnan(result[1])
