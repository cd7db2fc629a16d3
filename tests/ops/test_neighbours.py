"""Neighbours against worked examples (4 decimals) and against loops over pixels."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from ssbench.ops import confidence, neighbours

P0 = [[0.60, 0.55, 0.20], [0.50, 0.42, 0.25], [0.45, 0.30, 0.10]]
P1 = [[0.25, 0.30, 0.65], [0.35, 0.40, 0.60], [0.22, 0.36, 0.75]]
P = torch.tensor([P0, P1, [[1 - a - b for a, b in zip(x, y, strict=True)] for x, y in zip(P0, P1, strict=True)]])[None]
E = torch.tensor([0.99, 0.95, 0.90])


def close(values: list[float]) -> object:
    return pytest.approx(values, abs=6e-5)  # the printed digits, and float32


def independent(p: Tensor, n: Tensor) -> Tensor:
    return p * n


def bounded(p: Tensor, n: Tensor) -> Tensor:
    """The release's class-conditional bound, with E of the worked example."""
    return torch.maximum(p * n, p * E.view(1, -1, 1, 1))


def everywhere(probs: Tensor) -> Tensor:
    return torch.ones_like(probs[:, 0], dtype=torch.bool)


def refined(
    choice: neighbours.Choice = "max", connectivity: int = 4, joint: neighbours.Joint = independent, probs: Tensor = P
) -> Tensor:
    return neighbours.united(probs, everywhere(probs), joint, 3, connectivity, choice)


def margins(probs: Tensor) -> list[float]:
    return confidence.margin(probs).flatten().tolist()


def centre(probs: Tensor) -> list[float]:
    return probs[0, :, 1, 1].tolist()


def test_raw_margins() -> None:
    assert margins(P) == close([0.35, 0.25, 0.45, 0.15, 0.02, 0.35, 0.12, 0.02, 0.60])


def test_independent_refinement() -> None:
    result = refined()
    assert centre(result) == close([0.6135, 0.6184, 0.3491])
    assert margins(result) == close([0.3242, 0.1378, 0.3105, 0.1743, 0.0049, 0.3409, 0.1486, 0.1601, 0.5157])
    class0 = [0.7334, 0.7138, 0.4669, 0.6820, 0.6135, 0.4411, 0.6168, 0.4911, 0.2638]
    assert result[0, 0].flatten().tolist() == close(class0)


def test_refinement_with_the_bound() -> None:
    result = refined(joint=bounded)
    class0 = [0.5733, 0.5837, 0.4135, 0.5637, 0.5014, 0.3546, 0.4831, 0.3928, 0.2219]
    assert result[0, 0].flatten().tolist() == close(class0)
    assert margins(result) == close([0.2551, 0.0623, 0.2259, 0.1727, 0.0320, 0.3545, 0.1270, 0.2147, 0.4074])


def test_with_eight_neighbours_the_largest_gain_wins_not_the_largest_probability() -> None:
    """Class 0 of the centre: a side has 0.55, a corner 0.60 but is further away."""
    assert centre(refined(connectivity=8)) == close([0.6135, 0.6184, 0.3491])
    corner = neighbours.union(P, torch.tensor([0.60, 0.75, 0.0]).view(1, 3, 1, 1), math.exp(-1), independent)
    assert centre(corner)[:2] == close([0.5480, 0.5655])


def test_smallest_neighbour_and_the_two_largest() -> None:
    assert centre(refined("min")) == close([0.5079, 0.5092, 0.2546])
    result = refined("two_max")
    assert centre(result) == close([0.7307, 0.7017, 0.4083])
    assert margins(result)[4] == pytest.approx(0.0290, abs=6e-5)


def test_the_papers_illustration() -> None:
    p, n = (torch.tensor(v).view(1, 2, 1, 1) for v in ([0.5, 0.5], [0.7, 0.3]))
    result = neighbours.union(p, n, 1.0, independent)
    assert result.flatten().tolist() == close([0.85, 0.65])
    assert confidence.margin(result).item() == pytest.approx(0.20, abs=1e-6)


def test_a_uniform_region() -> None:
    probs = torch.tensor([0.6, 0.1, 0.1, 0.1, 0.1]).view(1, 5, 1, 1).expand(1, 5, 5, 5)
    result = refined(probs=probs)
    assert result[0, :, 2, 2].tolist() == close([0.7456, 0.1546, 0.1546, 0.1546, 0.1546])
    assert confidence.margin(result)[0, 2, 2].item() == pytest.approx(0.5910, abs=6e-5)


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
    result = neighbours.label_agreement(torch.from_numpy(mask), 3)
    assert (result[0].tolist(), result[1].tolist()) == (equal, pairs)


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
    result = neighbours.shift(x, dy, dx)
    for i, j in product(range(4), range(5)):
        y, z = i + dy, j + dx
        inside = 0 <= y < 4 and 0 <= z < 5
        assert torch.equal(result[..., i, j], x[..., y, z] if inside else torch.zeros(2, 2))


def unions(
    p: float,
    probs: Tensor,
    valid: Tensor,
    size: int,
    connectivity: int,
    place: tuple[int, int, int],
    agreement: float | None,
) -> dict[tuple[int, int], float]:
    """By offset, the union of `p` with each neighbour of a pixel and class that is valid (Eq. 10)."""
    c, i, j = place
    result = {}
    for dy, dx in neighbours.offsets(size, connectivity):
        y, x = i + dy, j + dx
        if 0 <= y < probs.shape[2] and 0 <= x < probs.shape[3] and valid[0, y, x]:
            n, beta = float(probs[0, c, y, x]), math.exp(-(abs(dy) + abs(dx)) / 2)
            result[dy, dx] = p + beta * (n - (p * n if agreement is None else max(p * n, p * agreement)))
    return result


@pytest.mark.parametrize(("size", "connectivity"), [(3, 4), (3, 8), (5, 8), (7, 8)])
@pytest.mark.parametrize("choice", ["max", "min", "two_max"])
@pytest.mark.parametrize("joint", [independent, bounded])
def test_the_neighbour_is_the_one_of_eq_9(
    size: int, connectivity: int, choice: neighbours.Choice, joint: neighbours.Joint
) -> None:
    """Of the largest union (or the smallest), not of the largest beta x n; twice in turn; none on padding."""
    probs = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(size)).softmax(1)
    valid = everywhere(probs)
    valid[0, :, 5:] = False
    result = neighbours.united(probs, valid, joint, size, connectivity, choice)
    for c, i, j in product(range(3), range(6), range(7)):
        p, agreement = float(probs[0, c, i, j]), float(E[c]) if joint is bounded else None
        each = unions(p, probs, valid, size, connectivity, (c, i, j), agreement)
        if each:
            best = min(each, key=lambda o: each[o]) if choice == "min" else max(each, key=lambda o: each[o])
            p = each.pop(best)
        if choice == "two_max" and each:
            again = unions(p, probs, valid, size, connectivity, (c, i, j), agreement)
            p = max(again[offset] for offset in each)
        assert result[0, c, i, j].item() == pytest.approx(p, abs=1e-6), (c, i, j)


def test_under_a_bound_the_largest_union_is_not_that_of_the_largest_beta_times_n() -> None:
    """p 0.9, E 0.9: a side of 0.5 loses 0.31 x 0.6065; a corner of 0.4 loses 0.41 x 0.3679, which is less."""
    probs = torch.zeros(1, 1, 3, 3)
    probs[0, 0, 1, 1], probs[0, 0, 0, 1], probs[0, 0, 0, 0] = 0.9, 0.5, 0.4
    valid = probs[:, 0] > 0
    joint = lambda p, n: torch.maximum(p * n, p * 0.9)  # noqa: E731
    result = neighbours.united(probs, valid, joint, 3, 8, "max")
    assert result[0, 0, 1, 1].item() == pytest.approx(0.9 + math.exp(-1) * (0.4 - 0.81))


def test_the_smallest_neighbour_of_a_border_pixel_lies_inside() -> None:
    result = refined("min")
    expected = 0.60 + math.exp(-0.5) * (0.50 - 0.60 * 0.50)  # the corner of class 0 sees 0.55 and 0.50
    assert result[0, 0, 0, 0].item() == pytest.approx(expected)


def test_a_pixel_without_neighbours_stays_as_it_is() -> None:
    alone = torch.zeros(1, 3, 3, dtype=torch.bool)
    alone[0, 1, 1] = True
    for choice in ("max", "min", "two_max", "random"):
        result = neighbours.united(P, alone, bounded, 3, 4, choice)  # type: ignore[arg-type]
        assert torch.equal(result[0, :, 1, 1], P[0, :, 1, 1])


@pytest.mark.parametrize(("size", "connectivity"), [(3, 4), (3, 8), (5, 8)])
def test_a_random_neighbour_is_never_the_pixel_itself_and_is_shared_by_the_classes(
    size: int, connectivity: int
) -> None:
    """With J = 0 the union is p + beta n, and n names the pixel that was taken."""
    side, window = 12, neighbours.offsets(size, connectivity)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    where = torch.stack([y, x])[None].double() + 1  # "probabilities" that say which pixel was taken
    seen: set[tuple[int, int]] = set()
    for k in range(5):
        generator = torch.Generator().manual_seed(k)
        result = neighbours.united(
            where, everywhere(where), lambda p, n: p * 0, size, connectivity, "random", generator
        )
        for i, j in product(range(side), range(side)):
            gain = (result - where)[0, :, i, j].tolist()
            if gain == [0, 0]:
                continue  # outside the image
            (step,) = [
                (dy, dx)
                for dy, dx in window
                if gain == pytest.approx([math.exp(-(abs(dy) + abs(dx)) / 2) * (v + 1) for v in (i + dy, j + dx)])
            ]
            seen.add(step)
    assert seen == set(window)


def test_a_random_choice_is_repeated_by_its_generator() -> None:
    first, second = (
        neighbours.united(P, everywhere(P), independent, 3, 8, "random", torch.Generator().manual_seed(5))
        for _ in range(2)
    )
    assert torch.equal(first, second)


def test_the_independent_union_never_lowers_and_never_exceeds_one() -> None:
    p, n = torch.rand(2, 3, 9, 9), torch.rand(2, 3, 9, 9)
    result = neighbours.union(p, n, 0.6065, independent)
    assert (result >= p).all()
    assert (result <= 1).all()


def test_the_bound_lowers_a_pixel_whose_neighbour_is_below_it() -> None:
    p, n = torch.full((1, 1, 1, 1), 0.8), torch.full((1, 1, 1, 1), 0.5)
    assert neighbours.union(p, n, 0.6, lambda p, n: torch.maximum(p * n, p * 0.9)).item() == pytest.approx(
        0.8 + 0.6 * (0.5 - 0.72)
    )
