"""Rank statistics against sets, the worked example of the specification (13.1), and the rival measures."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ssbench.ops import prototypes
from ssbench.ops.class_memory import Memory

LABELED = [[[0, 3, 0, 1, 0, 0], [0, 1, 0, 3.3, 0, 1]], [[2, 0, 0, 0, 1, 0], [9, 9, 9, 9, 9, 9]]]
UNLABELED = [[[0, 2, 0, 0, 0, 3]], [[0, 0, 0, 0, 0, 0]]]
FIRST = [[0.1, 2.0, 0, 1.5, 0.2, 0.3], [1.9, 0.1, 0.2, 0, 1.0, 0.3]]
PIXELS = [*FIRST, [0.2, 1.1, 0, 0.4, 0.3, 0.9], [0, 0.1, 2.2, 0.3, 1.7, 0.2]]
CLASS = [[0, 1, 0, 1]]


def filled() -> Memory:
    memory = Memory(2, 2, 4)
    memory.insert(0, torch.tensor(LABELED), torch.tensor([2, 1]))
    memory.insert(1, torch.tensor(UNLABELED), torch.tensor([1, 0]))
    return memory


def as_map(pixels: list[list[float]]) -> Tensor:
    """1 D 1 n."""
    return torch.tensor(pixels).T[None, :, None]


def test_the_worked_example() -> None:
    means, known = filled().means()
    assert means[0].tolist() == pytest.approx([0, 2.0, 0, 1.4333, 0, 1.3333], abs=5e-5)
    member = prototypes.prototype_channels(means, known, 2)
    assert [row.nonzero().flatten().tolist() for row in member] == [[1, 3], [0, 4]]
    shared = prototypes.count_shared(prototypes.top_channels(as_map(PIXELS), 2), torch.tensor([CLASS]), member)
    assert shared.flatten().tolist() == [2, 2, 1, 1]


def test_a_class_without_a_prototype_shares_nothing() -> None:
    means, _ = filled().means()
    member = prototypes.prototype_channels(means, torch.tensor([True, False]), 2)
    shared = prototypes.count_shared(prototypes.top_channels(as_map(PIXELS), 2), torch.tensor([CLASS]), member)
    assert shared.flatten().tolist() == [2, 0, 1, 0]


def naive_top(values: list[float], k: int) -> set[int]:
    """The k largest, of equal ones those that come first."""
    return set(sorted(range(len(values)), key=lambda i: (-values[i], i))[:k])


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 12), k=st.integers(1, 9), tied=st.booleans())
def test_against_sets(seed: int, width: int, k: int, tied: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    feats, protos = torch.randn(2, width, 3, 4, generator=g), torch.randn(3, width, generator=g)
    if tied:  # as after a ReLU
        feats, protos = feats.clamp(min=0).round(), protos.clamp(min=0).round()
    label = torch.randint(3, (2, 3, 4), generator=g)
    known = torch.rand(3, generator=g) < 0.8
    shared = prototypes.count_shared(
        prototypes.top_channels(feats, k), label, prototypes.prototype_channels(protos, known, k)
    )
    for b, y, x in torch.ones_like(label).nonzero().tolist():
        c = int(label[b, y, x])
        both = naive_top(feats[b, :, y, x].tolist(), k) & naive_top(protos[c].tolist(), k)
        assert int(shared[b, y, x]) == (len(both) if known[c] else 0)


def test_signed_features_are_ranked_by_value() -> None:
    assert prototypes.top_channels(as_map([[-3.0, -1.0, -2.0]]), 2).flatten().tolist() == [1, 2]


def test_cosine_and_distance_pixel_by_pixel() -> None:
    g = torch.Generator().manual_seed(0)
    feats, protos = torch.randn(2, 5, 3, 4, generator=g), torch.randn(3, 5, generator=g)
    label, known = torch.randint(3, (2, 3, 4), generator=g), torch.tensor([True, True, False])
    near = prototypes.cosine(feats, label, protos, known)
    close = prototypes.euclidean(feats, label, protos, known)
    for b, y, x in torch.ones_like(label).nonzero().tolist():
        c, f = int(label[b, y, x]), feats[b, :, y, x]
        angle = F.cosine_similarity(f, protos[c], dim=0).clamp(min=0)
        assert near[b, y, x].item() == pytest.approx(angle.item() if known[c] else 0, abs=1e-5)
        distance = (f - protos[c]).square().sum().sqrt()
        assert close[b, y, x].item() == pytest.approx((-distance).exp().item() if known[c] else 0, abs=1e-5)
