"""Scores of confidence and the quantile."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssbench.ops import confidence


def pixel(*probs: float) -> torch.Tensor:
    return torch.tensor(probs).view(1, -1, 1, 1)


@pytest.mark.parametrize(
    ("probs", "best", "entropy", "margin"),
    [((0.6, 0.3, 0.1), 0.6000, -0.8979, 0.3000), ((0.9, 0.05, 0.05), 0.9000, -0.3944, 0.8500)],
)
def test_scores_of_the_specification(probs: tuple[float, ...], best: float, entropy: float, margin: float) -> None:
    """By hand."""
    result = [f(pixel(*probs)).item() for f in (confidence.max_score, confidence.negative_entropy, confidence.margin)]
    assert result == pytest.approx([best, entropy, margin], abs=5e-5)


def test_scores_are_per_pixel_and_take_sums_other_than_one() -> None:
    probs = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    for b in range(2):
        for i in range(4):
            for j in range(5):
                values = sorted(probs[b, :, i, j].tolist())
                assert confidence.max_score(probs)[b, i, j] == values[-1]
                assert confidence.margin(probs)[b, i, j] == pytest.approx(values[-1] - values[-2])
                entropy = sum(v * float(np.log(v + 1e-10)) for v in values)
                assert confidence.negative_entropy(probs)[b, i, j].item() == pytest.approx(entropy, rel=1e-5)


def test_entropy_of_a_certain_pixel_is_zero_and_finite() -> None:
    assert confidence.negative_entropy(pixel(1.0, 0.0, 0.0)).item() == pytest.approx(0.0, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-5, 5, width=32), st.booleans()), min_size=1, max_size=40),
    st.floats(0, 1),
)
def test_quantile_equals_numpys_linear_one(pixels: list[tuple[float, bool]], level: float) -> None:
    values, inside = torch.tensor([v for v, _ in pixels]), torch.tensor([i for _, i in pixels])
    result = confidence.quantile(values, inside, level).item()
    if not inside.any():
        assert result == -np.inf
        return
    expected = np.quantile(values[inside].double().numpy(), level, method="linear")
    assert result == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_quantile_ends_are_the_smallest_and_the_largest() -> None:
    values, inside = torch.tensor([[3.0, 1.0], [2.0, 9.0]]), torch.tensor([[True, True], [True, False]])
    assert [confidence.quantile(values, inside, level).item() for level in (0.0, 0.5, 1.0)] == [1.0, 2.0, 3.0]


def test_percentiles_are_taken_by_group() -> None:
    g = torch.Generator().manual_seed(0)
    values, inside = torch.rand(4, 6, 7, generator=g), torch.rand(4, 6, 7, generator=g) < 0.7
    got = confidence.group_quantiles(values, inside, 0.83, groups=2)
    for k in range(2):
        some = values[2 * k : 2 * k + 2][inside[2 * k : 2 * k + 2]].numpy()
        assert got[2 * k : 2 * k + 2].flatten().tolist() == pytest.approx([np.percentile(some, 83)] * 2, abs=1e-6)


def test_probabilities_restricted_to_some_classes() -> None:
    """Worked example: (.5, .3, .2) without class 1 is (0.7143, 0, 0.2857)."""
    probs = torch.tensor([0.5, 0.3, 0.2])[None, :, None, None]
    assert confidence.restricted(probs, {0, 2}).flatten().tolist() == pytest.approx([0.7143, 0, 0.2857], abs=1e-4)
    assert torch.equal(confidence.restricted(probs, {0, 1, 2}), probs)
    assert confidence.restricted(probs, {1}).flatten().tolist() == pytest.approx([0, 1, 0])
    nothing_left = torch.tensor([0.0, 1.0, 0.0])[None, :, None, None]
    assert torch.equal(confidence.restricted(nothing_left, {0, 2}), nothing_left)
    assert torch.equal(confidence.restricted(probs, ()), probs)
