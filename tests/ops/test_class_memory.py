"""The memory of features by hand, against naive lists, and its random choice of pixels (card: wpl 4)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from builders import progress
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssbench.ops.class_memory import Memory, at_pixels, quota, sample

CLASSES = 3


def column(*values: float) -> Tensor:
    """One class's rows of width 1."""
    return torch.tensor(values)[None, :, None]


def test_newest_first_as_in_the_worked_example() -> None:
    memory = Memory(1, 1, 4)
    memory.insert(0, column(5, 4, 3), torch.tensor([3]))
    memory.insert(0, column(7, 6), torch.tensor([2]))
    assert memory.rows[0, 0, :, 0].tolist() == [7, 6, 5, 4]
    assert memory.count.tolist() == [[4]]


blocks = st.lists(st.lists(st.integers(0, 5), min_size=CLASSES, max_size=CLASSES), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(blocks=blocks, size=st.integers(1, 7))
def test_against_lists(blocks: list[list[int]], size: int) -> None:
    memory, naive, next_one = Memory(1, CLASSES, size), [[] for _ in range(CLASSES)], iter(range(1, 1000))  # type: ignore[var-annotated]
    for arrived in blocks:
        fresh = torch.zeros(CLASSES, 5, 2)
        for c, n in enumerate(arrived):
            new = [float(next(next_one)) for _ in range(n)]
            fresh[c, :n, 0] = torch.tensor(new)
            naive[c] = [*new, *naive[c]][:size]
        memory.insert(0, fresh, torch.tensor(arrived))
        for c in range(CLASSES):
            assert memory.rows[0, c, : len(naive[c]), 0].tolist() == naive[c]
        assert memory.count[0].tolist() == [len(rows) for rows in naive]


def test_means_are_over_both_banks_and_known_where_labelled_rows_are() -> None:
    memory = Memory(2, 3, 4)
    memory.insert(0, torch.tensor([[[2.0, 0.0]], [[5.0, 5.0]], [[9.0, 9.0]]]), torch.tensor([1, 1, 0]))
    memory.insert(1, torch.tensor([[[4.0, 1.0]], [[0.0, 0.0]], [[3.0, 3.0]]]), torch.tensor([1, 0, 1]))
    means, known = memory.means()
    assert means.tolist() == [[3.0, 0.5], [5.0, 5.0], [3.0, 3.0]]
    assert known.tolist() == [True, True, False]


def test_saved_and_loaded_into_a_new_one() -> None:
    memory = Memory(2, CLASSES, 4)
    memory.insert(0, torch.randn(CLASSES, 2, 6), torch.tensor([2, 1, 0]))
    state, other = copy.deepcopy(memory.state_dict()), Memory(2, CLASSES, 4)
    other.load_state_dict(state)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in state.items())
    fresh = torch.randn(CLASSES, 1, 6)
    for one in (memory, other):
        one.insert(1, fresh, torch.tensor([1, 1, 1]))
    assert all(torch.equal(a, b) for a, b in zip(memory.means(), other.means(), strict=True))
    empty = Memory(2, CLASSES, 4)
    empty.load_state_dict(Memory(2, CLASSES, 4).state_dict())
    assert empty.rows.shape[-1] == 0


def test_rows_of_a_class_image_and_step_as_in_the_worked_example() -> None:
    assert [quota(256, n, 1.0) for n in (2789, 186)] == [1, 1]
    assert [quota(256, n, 21 / 3) for n in (10490, 92)] == [1, 21]


def numbered(side: int = 8, images: int = 2) -> tuple[Tensor, Tensor]:
    """Features that say which pixel they are, and labels."""
    feats = torch.arange(float(images * side * side)).view(images, 1, side, side)
    return feats, torch.randint(CLASSES, (images, side, side), generator=torch.Generator().manual_seed(0))


def drawn(purpose: str, inside: Tensor, most: int, step: int = 0) -> list[list[int]]:
    feats, label = numbered()
    rows, held = sample(feats, label, inside, CLASSES, most, purpose, progress(step))
    return [row[:n, 0].int().tolist() for row, n in zip(rows, held.tolist(), strict=True)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_pixels_qualify_are_of_their_class_and_differ(share: float) -> None:
    label, inside = numbered()[1].flatten(), torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(3)) < share
    for c, result in enumerate(drawn("x", inside, 4)):
        able = set(torch.nonzero((label == c) & inside.flatten()).flatten().tolist())
        assert set(result) <= able
        assert len(result) == len(set(result)) == min(len(able), 2 * 4)


def test_draws_are_keyed_by_step_and_purpose() -> None:
    inside = torch.ones(2, 8, 8, dtype=torch.bool)
    assert drawn("x", inside, 2) == drawn("x", inside, 2)
    assert drawn("x", inside, 2) != drawn("y", inside, 2)
    assert drawn("x", inside, 2) != drawn("x", inside, 2, step=1)


def test_every_pixel_is_as_likely() -> None:
    label = torch.zeros(1, 4, 4, dtype=torch.int64)
    feats, inside = torch.arange(16.0).view(1, 1, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool)
    result = [sample(feats, label, inside, 1, 2, "x", progress(s, steps=10_000))[0] for s in range(2000)]
    counts = torch.bincount(torch.stack(result).flatten().long(), minlength=16)
    assert ((counts - 250).abs() < 5 * 250**0.5).all()


@pytest.mark.parametrize(("low", "size"), [((3, 5), (9, 17)), ((4, 4), (4, 4)), ((1, 3), (6, 7)), ((5, 2), (3, 9))])
def test_features_at_pixels_are_those_of_the_upsampled_map(low: Any, size: Any) -> None:
    feats = torch.randn(2, 6, *low, generator=torch.Generator().manual_seed(0))
    wide = F.interpolate(feats, size=size, mode="bilinear", align_corners=True)
    index = torch.arange(2 * size[0] * size[1])
    assert torch.allclose(at_pixels(feats, index, size), wide.movedim(1, -1).flatten(0, 2), atol=1e-5)
