"""Losses against loops over pixels."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from ssbench.ops import losses

B, C, H, W = 3, 4, 6, 5


def logits(seed: int = 0) -> Tensor:
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(seed), requires_grad=True)


def target(seed: int = 0, ignored: float = 0.2) -> Tensor:
    g = torch.Generator().manual_seed(seed + 100)
    labels = torch.randint(C, (B, H, W), generator=g)
    return labels.masked_fill(torch.rand(B, H, W, generator=g) < ignored, 255)


def mask(share: float, seed: int = 0) -> Tensor:
    return torch.rand(B, H, W, generator=torch.Generator().manual_seed(seed + 200)) < share


def ce_of(scores: Tensor, b: int, i: int, j: int, label: int) -> float:
    row = scores[b, :, i, j].tolist()
    return math.log(sum(math.exp(v) for v in row)) - row[label]


def pixels() -> product[tuple[int, ...]]:
    return product(range(B), range(H), range(W))


def test_cross_entropy_is_a_mean_over_labelled_pixels() -> None:
    x, y = logits(), target()
    each = [ce_of(x, b, i, j, int(y[b, i, j])) for b, i, j in pixels() if y[b, i, j] != 255]
    assert losses.cross_entropy(x, y).item() == pytest.approx(sum(each) / len(each), rel=1e-5)


def test_cross_entropy_of_no_pixel_is_zero_with_zero_gradient() -> None:
    x = logits()
    loss = losses.cross_entropy(x, torch.full((B, H, W), 255))
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def ohem_by_hand(x: Tensor, y: Tensor, threshold: float, min_kept: int) -> list[tuple[int, int, int]]:
    """The kept pixels, one by one (card: unimatch 6)."""
    valid = [p for p in pixels_of(y) if y[p] != 255]
    if min_kept > len(valid):
        return valid
    truth = {p: x[p[0], :, p[1], p[2]].softmax(0)[y[p]].item() for p in valid}
    ranked = sorted([truth.get(p, 1.0) for p in pixels_of(y)])
    limit = max(threshold, ranked[min(y.numel(), min_kept) - 1])
    return [p for p in valid if truth[p] <= limit]


def pixels_of(y: Tensor) -> list[tuple[int, int, int]]:
    return list(product(*(range(n) for n in y.shape)))


@pytest.mark.parametrize("min_kept", [1, 10, 40, 80, 1000])
@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.7])
def test_hard_pixels_equal_a_loop(threshold: float, min_kept: int) -> None:
    x, y = logits(1).detach(), target(1)
    kept = ohem_by_hand(x, y, threshold, min_kept)
    result = losses.hard_pixels(x, y, threshold, min_kept)
    assert [tuple(p) for p in (result != 255).nonzero().tolist()] == kept
    assert all(result[p] == y[p] for p in kept)


def test_few_valid_pixels_are_all_kept_however_easy() -> None:
    easy = torch.zeros(1, C, 2, 2)
    easy[:, 0] = 50
    y = torch.tensor([[[0, 0], [255, 255]]])
    assert torch.equal(losses.hard_pixels(easy, y, 0.7, 3), y)


def test_easy_pixels_beyond_the_quota_go() -> None:
    scores = torch.zeros(1, 2, 1, 4)
    scores[0, 0, 0] = torch.tensor([3.0, 4.0, 5.0, -1.0])
    y = torch.zeros(1, 1, 4, dtype=torch.int64)
    assert losses.hard_pixels(scores, y, 0.7, 1).tolist() == [[[255, 255, 255, 0]]]
    assert losses.hard_pixels(scores, y, 0.7, 2).tolist() == [[[0, 255, 255, 0]]]


def test_ohem_is_the_mean_of_the_means_of_its_groups() -> None:
    """Each process of the releases averages its own kept pixels; processes weigh the same (card: unimatch 6)."""
    x, y = logits(2), target(2)
    means, pooled = [], []
    for part in (slice(0, 2), slice(2, 3)):
        kept = ohem_by_hand(x[part].detach(), y[part], 0.3, 5)
        pooled += [ce_of(x, p[0] + part.start, p[1], p[2], int(y[part][p])) for p in kept]
        means.append(sum(pooled[-len(kept) :]) / len(kept))
    result = losses.ohem(x, y, 0.3, 5, group=2).item()
    assert result == pytest.approx(sum(means) / 2, rel=1e-5)
    assert result != pytest.approx(sum(pooled) / len(pooled), rel=1e-5)  # one mean over all kept pixels
    assert losses.ohem(x, y, 0.3, 5, group=3).item() != pytest.approx(result, rel=1e-5)


def test_a_group_without_labels_counts_with_zero_in_the_mean_of_groups() -> None:
    x, y = logits(2), target(2)
    y[2] = 255
    alone = losses.ohem(x[:2], y[:2], 0.7, 5, 2)
    assert losses.ohem(x, y, 0.7, 5, 2).item() == pytest.approx(alone.item() / 2)


def test_ohem_without_labels_is_zero_not_nan() -> None:
    assert losses.ohem(logits(), torch.full((B, H, W), 255), 0.7, 5, 2).item() == 0


def dice_by_hand(x: Tensor, y: Tensor, kept: Tensor, weight: Tensor | None = None) -> float:
    probs, terms = x.detach().softmax(1), []
    for c in range(C):
        both = squares = ones = 0.0
        for b, i, j in pixels():
            if kept[b, i, j]:
                w = 1.0 if weight is None else float(weight[b, i, j])
                p, t = float(probs[b, c, i, j]), float(y[b, i, j] == c)
                both, squares, ones = both + w * p * t, squares + w * p * p, ones + w * t
        terms.append(1 - (2 * both + 1e-5) / (squares + ones + 1e-5))
    return sum(terms) / C


@pytest.mark.parametrize("weighted", [False, True])
def test_dice_equals_a_loop_over_kept_pixels(weighted: bool) -> None:
    x, y, kept = logits(3), target(3, ignored=0.0), mask(0.6)
    weight = torch.rand(B, H, W, generator=torch.Generator().manual_seed(9)) if weighted else None
    expected = dice_by_hand(x, y, kept, weight)
    assert losses.dice(x, y, kept, weight).item() == pytest.approx(expected, rel=1e-5)


def test_dice_never_reads_labels_that_are_not_kept() -> None:
    x, y = logits(3), target(3)
    kept = y != 255
    assert losses.dice(x, y, kept).item() == pytest.approx(dice_by_hand(x, y.where(kept, 0), kept), rel=1e-5)


def test_dice_of_nothing_is_zero_with_zero_gradient() -> None:
    x = logits()
    loss = losses.dice(x, target(ignored=0.0), torch.zeros(B, H, W, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_dice_of_a_perfect_prediction_is_almost_zero() -> None:
    y = target(ignored=0.0)
    sure = 50 * torch.nn.functional.one_hot(y, C).movedim(-1, 1).float()
    assert losses.dice(sure, y).item() == pytest.approx(0, abs=1e-6)


def test_ce_dice_is_half_the_sum() -> None:
    x, y = logits(4), target(4)
    expected = (losses.cross_entropy(x, y) + losses.dice(x, y, y != 255)) / 2
    assert losses.ce_dice(x, y).item() == pytest.approx(expected.item())


def test_pseudo_cross_entropy_divides_by_valid_pixels_not_by_kept_ones() -> None:
    """The unlabelled terms of card: unimatch 3."""
    x, y, keep, valid = logits(5), target(5, ignored=0.0), mask(0.5, 1), mask(0.7, 2)
    total = sum(ce_of(x, b, i, j, int(y[b, i, j])) for b, i, j in pixels() if keep[b, i, j] and valid[b, i, j])
    result = losses.pseudo_cross_entropy(x, y, keep, valid).item()
    assert result == pytest.approx(total / int(valid.sum()), rel=1e-5)
    over_kept = losses.pseudo_cross_entropy(x, y, keep, valid & keep).item()
    assert over_kept == pytest.approx(total / int((valid & keep).sum()), rel=1e-5)


def test_weighted_pseudo_cross_entropy_is_a_weighted_mean() -> None:
    x, y, keep, valid = logits(6), target(6, ignored=0.0), mask(0.5, 1), mask(0.7, 2)
    weight = torch.rand(B, H, W, generator=torch.Generator().manual_seed(3))
    total = sum(
        float(weight[b, i, j]) * ce_of(x, b, i, j, int(y[b, i, j]))
        for b, i, j in pixels()
        if keep[b, i, j] and valid[b, i, j]
    )
    result = losses.pseudo_cross_entropy(x, y, keep, valid, weight).item()
    assert result == pytest.approx(total / float(weight[valid].sum()), rel=1e-5)
    plain = losses.pseudo_cross_entropy(x, y, keep, valid).item()
    assert losses.pseudo_cross_entropy(x, y, keep, valid, torch.full_like(weight, 3.0)).item() == pytest.approx(plain)


def test_pseudo_cross_entropy_of_nothing_is_zero() -> None:
    nothing = torch.zeros(B, H, W, dtype=torch.bool)
    assert losses.pseudo_cross_entropy(logits(), target(ignored=0.0), mask(0.5), nothing).item() == 0
    assert losses.pseudo_cross_entropy(logits(), target(ignored=0.0), nothing, mask(0.5)).item() == 0


@pytest.mark.parametrize("name", ["cross_entropy", "ce_dice"])
def test_gradients_are_those_of_the_function(name: str) -> None:
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    y = torch.tensor([[[0, 1], [2, 255]]])
    assert torch.autograd.gradcheck(lambda v: getattr(losses, name)(v, y), (x,))
