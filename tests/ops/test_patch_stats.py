"""Windows of a feature grid against windows cut out by hand, on random masks of odd and even sizes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssbench.ops.patch_stats import agreement, agreement_bins, patch_iou, patch_labels, patch_shares

CLASSES = 3
SIDES = st.integers(1, 90)
SIGHTS = st.sampled_from([(19, 4), (17, 4), (1, 2), (5, 3), (0, 1), (0, 4)])


def mask(height: int, width: int, seed: int) -> Tensor:
    """2 H W labels in blocks of three pixels, a quarter of the blocks 255."""
    g = torch.Generator().manual_seed(seed)
    blocks = torch.randint(CLASSES + 1, (2, -(-height // 3), -(-width // 3)), generator=g)
    return (
        torch.where(blocks == CLASSES, 255, blocks).repeat_interleave(3, 1).repeat_interleave(3, 2)[:, :height, :width]
    )


def grid(height: int, width: int, stride: int, more: int = 0) -> tuple[int, int]:
    return (height - 1) // stride + 1 + more, (width - 1) // stride + 1 + more


def windows(half: int, stride: int, cells: tuple[int, int]) -> Iterator[tuple[int, int, slice, slice]]:
    """Each cell with the rows and columns it sees; a slice ends at the image by itself."""
    for i in range(cells[0]):
        for j in range(cells[1]):
            rows = slice(max(stride * i - half, 0), stride * i + half + 1)
            yield i, j, rows, slice(max(stride * j - half, 0), stride * j + half + 1)


@settings(max_examples=60, deadline=None)
@given(height=SIDES, width=SIDES, sight=SIGHTS, more=st.integers(0, 1), seed=st.integers(0, 999))
def test_labels_and_shares_are_those_of_explicit_windows(
    height: int, width: int, sight: tuple[int, int], more: int, seed: int
) -> None:
    """`more`: the one row and column a stem with ceil_mode adds, which may see nothing."""
    half, stride = sight
    given_, cells = mask(height, width, seed), grid(height, width, stride, more)
    labels, shares = (f(given_, CLASSES, half, stride, cells) for f in (patch_labels, patch_shares))
    assert labels.shape == shares.shape == (2, CLASSES, *cells)
    for i, j, rows, columns in windows(half, stride, cells):
        seen = given_[:, rows, columns].flatten(1)
        for c in range(CLASSES):
            count = (seen == c).sum(1)
            assert torch.equal(labels[:, c, i, j], (count > 0).float())
            expected = (count / max(seen.shape[1], 1)).tolist()
            assert shares[:, c, i, j].tolist() == pytest.approx(expected, abs=1e-5)


def naive_iou(label: Tensor, truth: Tensor) -> float:
    """Mean IoU over the classes in either, of one window's pixels with a known truth; nan without any."""
    pairs = [(a, b) for a, b in zip(label.flatten().tolist(), truth.flatten().tolist(), strict=True) if b != 255]
    result = []
    for c in {v for pair in pairs for v in pair}:
        union = sum(c in pair for pair in pairs)
        result.append(sum(a == b == c for a, b in pairs) / union)
    return sum(result) / len(result) if result else float("nan")


@settings(max_examples=25, deadline=None)
@given(height=st.integers(1, 50), width=st.integers(1, 50), sight=SIGHTS, seed=st.integers(0, 999))
def test_iou_of_windows_is_that_of_their_pixels(height: int, width: int, sight: tuple[int, int], seed: int) -> None:
    half, stride = sight
    truth, cells = mask(height, width, seed), grid(height, width, stride)
    predicted = mask(height, width, seed + 1000)
    label = torch.where(
        predicted == 255, truth % 255, predicted
    )  # right in a quarter of the picture, by chance elsewhere
    result = patch_iou(label, truth, CLASSES, half, stride, cells)
    for i, j, rows, columns in windows(half, stride, cells):
        expected = [naive_iou(a[rows, columns], b[rows, columns]) for a, b in zip(label, truth, strict=True)]
        assert result[:, i, j].tolist() == pytest.approx(expected, nan_ok=True, abs=1e-6)


@settings(deadline=None)
@given(
    sets=st.tuples(*[st.lists(st.booleans(), min_size=7, max_size=7)] * 2),
    over=st.sampled_from(["union", "all_classes"]),
)
def test_a_bin_is_the_tenth_the_agreement_lies_in(sets: tuple[list[bool], list[bool]], over: str) -> None:
    predicted, so = (torch.tensor([s]) for s in sets)
    same = sum(a and b if over == "union" else a == b for a, b in zip(*sets, strict=True))
    of = sum(map(any, zip(*sets, strict=True))) if over == "union" else 7
    share = 1.0 if of == 0 else same / of
    assert agreement(predicted, so, over).item() == pytest.approx(share)
    assert agreement_bins(predicted, so, 10, over).item() == min(int(share * 10 + 1e-9), 9)


def test_the_borders_of_a_bin() -> None:
    """9 of 10 is 90+, which floats may take for less."""
    so = torch.ones(1, 10, dtype=torch.bool)
    predicted = torch.stack([torch.arange(10) < k for k in range(11)])
    assert agreement_bins(predicted, so.expand(11, 10), 10).tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
