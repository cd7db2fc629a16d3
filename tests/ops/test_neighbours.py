"""Neighbours against the worked examples of specs s4mc 11 (4 decimals) and against loops over pixels."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from ssbench.ops import neighbours, select

P0 = [[0.60, 0.55, 0.20], [0.50, 0.42, 0.25], [0.45, 0.30, 0.10]]
P1 = [[0.25, 0.30, 0.65], [0.35, 0.40, 0.60], [0.22, 0.36, 0.75]]
P = torch.tensor([P0, P1, [[1 - a - b for a, b in zip(x, y, strict=True)] for x, y in zip(P0, P1, strict=True)]])[None]
E = torch.tensor([0.99, 0.95, 0.90])


def close(values: list[float]) -> object:
    return pytest.approx(values, abs=6e-5)  # the printed digits, and float32


def refined(how: neighbours.Choice = "max", connectivity: int = 4, agreement: Tensor | None = None) -> Tensor:
    out = P
    for n, beta in neighbours.chosen(P, 3, connectivity, how):
        out = neighbours.union(out, n, beta, agreement)
    return out


def margins(probs: Tensor) -> list[float]:
    return select.margin(probs).flatten().tolist()


def centre(probs: Tensor) -> list[float]:
    return probs[0, :, 1, 1].tolist()


def test_raw_margins() -> None:
    assert margins(P) == close([0.35, 0.25, 0.45, 0.15, 0.02, 0.35, 0.12, 0.02, 0.60])


def test_independent_refinement() -> None:
    found = refined()
    assert centre(found) == close([0.6135, 0.6184, 0.3491])
    assert margins(found) == close([0.3242, 0.1378, 0.3105, 0.1743, 0.0049, 0.3409, 0.1486, 0.1601, 0.5157])
    class0 = [0.7334, 0.7138, 0.4669, 0.6820, 0.6135, 0.4411, 0.6168, 0.4911, 0.2638]
    assert found[0, 0].flatten().tolist() == close(class0)


def test_the_best_neighbours_of_the_centre() -> None:
    [(n, beta)] = neighbours.chosen(P, 3, 4, "max")
    assert centre(n) == close([0.55, 0.60, 0.34])
    assert beta.unique().tolist() == close([0.6065])


def test_refinement_with_the_bound() -> None:
    found = refined(agreement=E)
    class0 = [0.5733, 0.5837, 0.4135, 0.5637, 0.5014, 0.3546, 0.4831, 0.3928, 0.2219]
    assert found[0, 0].flatten().tolist() == close(class0)
    assert margins(found) == close([0.2551, 0.0623, 0.2259, 0.1727, 0.0320, 0.3545, 0.1270, 0.2147, 0.4074])


def test_with_eight_neighbours_the_largest_gain_wins_not_the_largest_probability() -> None:
    assert centre(refined(connectivity=8)) == close([0.6135, 0.6184, 0.3491])
    [(n, beta)] = neighbours.chosen(P, 3, 8, "max")
    assert n[0, 0, 1, 1].item() == pytest.approx(0.55)  # the corner has 0.60, further away
    assert beta[0, 0, 1, 1].item() == pytest.approx(math.exp(-0.5))
    corner = neighbours.union(P, torch.tensor([0.60, 0.75, 0.0]).view(1, 3, 1, 1), math.exp(-1))
    assert centre(corner)[:2] == close([0.5480, 0.5655])


def test_smallest_neighbour_and_the_two_largest() -> None:
    assert centre(refined("min")) == close([0.5079, 0.5092, 0.2546])
    found = refined("two_max")
    assert centre(found) == close([0.7307, 0.7017, 0.4083])
    assert margins(found)[4] == pytest.approx(0.0290, abs=6e-5)


def test_the_papers_illustration() -> None:
    p, n = (torch.tensor(v).view(1, 2, 1, 1) for v in ([0.5, 0.5], [0.7, 0.3]))
    found = neighbours.union(p, n, 1.0)
    assert found.flatten().tolist() == close([0.85, 0.65])
    assert select.margin(found).item() == pytest.approx(0.20, abs=1e-6)


def test_a_uniform_region() -> None:
    probs = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1]).view(1, 5, 1, 1).expand(1, 5, 5, 5)
    [(n, beta)] = neighbours.chosen(probs, 3, 4, "max")
    found = neighbours.union(probs, n, beta)
    assert found[0, :, 2, 2].tolist() == close([0.7456, 0.1546, 0.1546, 0.1546, 0.1546])
    assert select.margin(found)[0, 2, 2].item() == pytest.approx(0.5910, abs=6e-5)


def test_label_agreement_of_the_example() -> None:
    equal, pairs = neighbours.label_agreement(torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 1]]), 2)
    assert (int(pairs.sum()), int(equal.sum())) == (24, 16)
    assert (equal.sum() / pairs.sum()).item() == pytest.approx(0.6667, abs=5e-5)
    assert (equal / pairs).tolist() == close([0.6000, 0.7143])


def test_label_agreement_equals_a_loop_and_ignores_both_ends_of_255() -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice([0, 1, 2, 255], (9, 7)).astype(np.uint8)
    equal, pairs = [0, 0, 0], [0, 0, 0]
    for i, j in product(range(9), range(7)):
        for y, x in ((i - 1, j), (i + 1, j), (i, j - 1), (i, j + 1)):
            if 0 <= y < 9 and 0 <= x < 7 and mask[i, j] != 255 and mask[y, x] != 255:
                pairs[mask[i, j]] += 1
                equal[mask[i, j]] += int(mask[i, j] == mask[y, x])
    found = neighbours.label_agreement(torch.from_numpy(mask), 3)
    assert (found[0].tolist(), found[1].tolist()) == (equal, pairs)


@pytest.mark.parametrize(("size", "connectivity", "count"), [(3, 4, 4), (3, 8, 8), (5, 8, 24), (7, 8, 48)])
def test_windows_leave_their_centre_out(size: int, connectivity: int, count: int) -> None:
    window = neighbours.offsets(size, connectivity)
    assert len(window) == len(set(window)) == count
    assert (0, 0) not in window
    assert {(-dy, -dx) for dy, dx in window} == set(window)


@pytest.mark.parametrize(("dy", "dx", "beta"), [(0, 1, 0.6065), (1, 1, 0.3679), (-2, 0, 0.3679), (3, -3, 0.0498)])
def test_distance_weights(dy: int, dx: int, beta: float) -> None:
    assert neighbours.distance_weight(dy, dx) == pytest.approx(beta, abs=5e-5)


@pytest.mark.parametrize(("dy", "dx"), [(0, 0), (1, 0), (0, -1), (-2, 3), (4, 4)])
def test_shift_equals_a_loop(dy: int, dx: int) -> None:
    x = torch.arange(2 * 2 * 4 * 5).float().view(2, 2, 4, 5) + 1
    found = neighbours.shift(x, dy, dx)
    for i, j in product(range(4), range(5)):
        y, z = i + dy, j + dx
        inside = 0 <= y < 4 and 0 <= z < 5
        assert torch.equal(found[..., i, j], x[..., y, z] if inside else torch.zeros(2, 2))


def around(probs: Tensor, size: int, connectivity: int, c: int, i: int, j: int) -> list[tuple[float, float]]:
    """(value, weight) of every neighbour of a pixel, zero outside."""
    found = []
    for dy, dx in neighbours.offsets(size, connectivity):
        y, x = i + dy, j + dx
        inside = 0 <= y < probs.shape[2] and 0 <= x < probs.shape[3]
        found.append((float(probs[0, c, y, x]) if inside else 0.0, math.exp(-(abs(dy) + abs(dx)) / 2)))
    return found


@pytest.mark.parametrize(("size", "connectivity"), [(3, 4), (3, 8), (5, 8), (7, 8)])
@pytest.mark.parametrize("how", ["max", "min", "two_max"])
def test_choices_equal_a_loop(size: int, connectivity: int, how: neighbours.Choice) -> None:
    probs = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(size)).softmax(1)
    found = neighbours.chosen(probs, size, connectivity, how)
    for c, i, j in product(range(3), range(6), range(7)):
        each = around(probs, size, connectivity, c, i, j)
        if how == "min":
            assert found[0][0][0, c, i, j].item() == pytest.approx(min(v for v, _ in each))
            continue
        ranked = sorted(each, key=lambda pair: pair[0] * pair[1], reverse=True)[: len(found)]
        for (n, beta), (value, weight) in zip(found, ranked, strict=True):
            assert n[0, c, i, j].item() == pytest.approx(value)
            assert beta[0, c, i, j].item() == pytest.approx(weight)
    assert len(found) == (2 if how == "two_max" else 1)


def test_the_smallest_neighbour_of_a_border_pixel_is_the_zero_outside() -> None:
    [(n, _)] = neighbours.chosen(P, 3, 4, "min")
    assert (n[0, :, 0] == 0).all()
    assert (n[0, :, 1, 1] > 0).all()


@pytest.mark.parametrize(("size", "connectivity"), [(3, 4), (3, 8), (5, 8)])
def test_a_random_neighbour_is_never_the_pixel_itself_and_is_shared_by_the_classes(
    size: int, connectivity: int
) -> None:
    side = 12
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    where = torch.stack([y, x])[None].float() + 1  # "probabilities" that tell which pixel was taken; 0 = outside
    seen: set[tuple[int, int]] = set()
    for k in range(5):
        [(n, beta)] = neighbours.chosen(where, size, connectivity, "random", torch.Generator().manual_seed(k))
        for i, j in product(range(side), range(side)):
            taken_y, taken_x = (int(v) - 1 for v in n[0, :, i, j])
            if (taken_y, taken_x) == (-1, -1):
                continue  # outside, in both channels at once: one offset for all classes
            step = (taken_y - i, taken_x - j)
            assert step in neighbours.offsets(size, connectivity)
            assert beta[0, :, i, j].tolist() == pytest.approx([neighbours.distance_weight(*step)] * 2)
            seen.add(step)
    assert seen == set(neighbours.offsets(size, connectivity))


def test_a_random_choice_is_repeated_by_its_generator() -> None:
    first, second = (neighbours.chosen(P, 3, 8, "random", torch.Generator().manual_seed(5))[0] for _ in range(2))
    assert torch.equal(first[0], second[0])


def test_the_independent_union_never_lowers_and_never_exceeds_one() -> None:
    p, n = torch.rand(2, 3, 9, 9), torch.rand(2, 3, 9, 9)
    found = neighbours.union(p, n, 0.6065)
    assert (found >= p).all()
    assert (found <= 1).all()


def test_the_bound_lowers_a_pixel_whose_neighbour_is_below_it() -> None:
    p, n = torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1), 0.5)
    assert neighbours.union(p, n, 0.6, torch.tensor([0.9])).item() == pytest.approx(0.8 + 0.6 * (0.5 - 0.72))
