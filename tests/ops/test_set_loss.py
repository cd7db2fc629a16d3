"""Mask2Former's set loss against plain numpy, all permutations, and the library's own criterion."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ssbench.nets.mask2former import Mask2FormerNet
from ssbench.ops.set_loss import (
    QueryOutput,
    SetLossConfig,
    draw_points,
    mask_targets,
    match,
    matching_costs,
    pad_labels,
    set_loss,
)

CLASSES, QUERIES = 4, 6
SMALL = SetLossConfig(points=64)


def blocks(images: int = 2, side: int = 32, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (images, 2, 2), generator=g).repeat_interleave(side // 2, 1)
    y = y.repeat_interleave(side // 2, 2).clone()
    y[:, :3] = 255
    return y


def outputs(count: int = 3, images: int = 2, side: int = 8, seed: int = 1, queries: int = QUERIES) -> list[QueryOutput]:
    g = torch.Generator().manual_seed(seed)
    return [
        QueryOutput(
            torch.randn(images, queries, CLASSES + 1, generator=g).requires_grad_(),
            torch.randn(images, queries, side, side, generator=g).mul(3).requires_grad_(),
        )
        for _ in range(count)
    ]


def sampled(plane: Tensor, points: Tensor) -> np.ndarray:
    """Bilinear samples of h w at P 2 points (x, y in [0, 1]), zeros outside, pixel centres at half integers."""
    values, height, width = plane.detach().double().numpy(), *plane.shape
    found = []
    for px, py in points.double().numpy():
        x, y = px * width - 0.5, py * height - 0.5
        total = 0.0
        for row, column in itertools.product((np.floor(y), np.floor(y) + 1), (np.floor(x), np.floor(x) + 1)):
            if 0 <= row < height and 0 <= column < width:
                total += values[int(row), int(column)] * (1 - abs(x - column)) * (1 - abs(y - row))
        found.append(total)
    return np.array(found)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def bce(logits: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return np.maximum(logits, 0) - logits * truth + np.log1p(np.exp(-np.abs(logits)))


def dice(logits: np.ndarray, truth: np.ndarray) -> float:
    probs = sigmoid(logits)
    return float(1 - (2 * (probs * truth).sum() + 1) / (probs.sum() + truth.sum() + 1))


def test_a_mask_for_each_class_present_and_none_for_ignored_pixels() -> None:
    y = torch.tensor([[[0, 0, 255], [2, 2, 255]], [[255, 255, 255]] * 2, [[3, 1, 1], [1, 1, 255]]])
    targets = mask_targets(y, CLASSES)
    assert targets.counts == targets.whole_counts == (2, 0, 2)
    assert targets.classes.tolist() == [0, 2, 1, 3]
    assert targets.images.tolist() == [0, 0, 2, 2]
    assert torch.equal(targets.masks.sum(0), torch.tensor([[2.0, 2, 1], [2, 2, 0]]))
    assert targets.masks.dtype == torch.float32
    assert targets.total == 4


def test_costs_are_those_of_plain_numpy() -> None:
    output, targets = outputs(1)[0], mask_targets(blocks(), CLASSES)
    points = torch.rand(2, SMALL.points, 2, generator=torch.Generator().manual_seed(3))
    costs, first = matching_costs(output, targets, points, SMALL), 0
    probs = output.classes.detach().softmax(-1)
    for image, count in enumerate(targets.counts):
        for query, mask in itertools.product(range(QUERIES), range(count)):
            logits = sampled(output.masks[image, query], points[image])
            truth = sampled(targets.masks[first + mask], points[image])
            named = float(probs[image, query, targets.classes[first + mask]])
            expected = 5 * bce(logits, truth).mean() - 2 * named + 5 * dice(logits, truth)
            assert costs[image, query, mask].item() == pytest.approx(expected, rel=1e-4), (image, query, mask)
        first += count


@pytest.mark.parametrize("masks", [1, 2, 3, 4])
def test_no_permutation_is_cheaper_than_the_matching(masks: int) -> None:
    g = torch.Generator().manual_seed(masks)
    for _ in range(20):
        costs = torch.randn(1, 5, masks, generator=g)
        ((queries, chosen),) = match([costs], [masks])[0]
        found = float(costs[0, queries, chosen].sum())
        plan = itertools.permutations(range(5), masks)
        best = min(float(sum(costs[0, q, m] for m, q in enumerate(order))) for order in plan)
        assert found == pytest.approx(best, abs=1e-5)
        assert list(queries) == sorted(queries)


def test_a_cost_that_is_no_number_does_not_stop_the_run() -> None:
    costs = torch.tensor([[[float("nan")], [float("inf")], [-1.0]]])
    ((queries, _),) = match([costs], [1])[0]
    assert queries.tolist() == [2]


def test_points_come_in_the_order_of_the_authors_draws() -> None:
    targets = mask_targets(blocks(3), CLASSES)
    torch.manual_seed(5)
    draws = draw_points(targets, 2, QUERIES, SMALL)
    torch.manual_seed(5)
    for draw in draws:  # the final output, then the auxiliary ones
        for image in range(3):
            assert torch.equal(draw.matching[image], torch.rand(1, 64, 2)[0])
        assert torch.equal(draw.candidates, torch.rand(targets.total, 192, 2))
        assert torch.equal(draw.uniform, torch.rand(targets.total, 16, 2))
    seeded = torch.Generator().manual_seed(5)
    assert torch.equal(draw_points(targets, 2, QUERIES, SMALL, seeded)[1].uniform, draws[1].uniform)


def test_the_loss_is_that_of_plain_numpy() -> None:
    found, targets = outputs(1), mask_targets(blocks(), CLASSES)
    cfg = SetLossConfig(points=64, uncertain=0.0)  # every point is one of the uniform ones
    terms = set_loss(found, targets, cfg, torch.Generator().manual_seed(9))
    draw = draw_points(targets, 1, QUERIES, cfg, torch.Generator().manual_seed(9))[0]
    pairs = match([matching_costs(found[0], targets, draw.matching, cfg)], targets.counts)[0]
    wanted = np.full((2, QUERIES), CLASSES)
    mask_sum, dice_sum, row, first = 0.0, 0.0, 0, 0
    for image, (queries, masks) in enumerate(pairs):
        for query, mask in zip(queries, masks, strict=True):
            wanted[image, query] = int(targets.classes[first + mask])
            logits = sampled(found[0].masks[image, query], draw.uniform[row])
            truth = sampled(targets.masks[first + mask], draw.uniform[row])
            mask_sum, dice_sum, row = mask_sum + bce(logits, truth).mean(), dice_sum + dice(logits, truth), row + 1
        first += targets.counts[image]
    logs = found[0].classes.detach().double().log_softmax(-1).numpy()
    weights = np.where(wanted == CLASSES, 0.1, 1.0)
    picked = -np.take_along_axis(logs, wanted[..., None], -1)[..., 0]
    assert terms["class"].item() == pytest.approx(2 * (weights * picked).sum() / weights.sum(), rel=1e-5)
    assert terms["mask"].item() == pytest.approx(5 * mask_sum / targets.total, rel=1e-4)
    assert terms["dice"].item() == pytest.approx(5 * dice_sum / targets.total, rel=1e-4)


def criterion() -> Any:
    net = Mask2FormerNet(Mask2FormerNet.Config(**Mask2FormerNet.quick), CLASSES)
    net.model.criterion.num_points = net.model.criterion.matcher.num_points = SMALL.points
    return net.model


@pytest.mark.parametrize("case", ["usual", "an image without masks", "more masks than queries", "no mask at all"])
def test_terms_and_gradients_are_the_librarys(case: str) -> None:
    y = blocks(3)
    if case == "an image without masks":
        y[1] = 255
    if case == "no mask at all":
        y[:] = 255
    if case == "more masks than queries":
        y[:, 4:8, 4:8], y[:, 4:8, 8:12], y[:, 8:12, 4:8], y[:, 8:12, 8:12] = 0, 1, 2, 3
    queries = 3 if case == "more masks than queries" else QUERIES
    found, theirs = (outputs(3, 3, queries=queries) for _ in range(2))
    targets, model = mask_targets(y, CLASSES), criterion()
    torch.manual_seed(7)
    terms = set_loss(found, targets, SMALL)
    masks = [targets.masks[targets.images == k] for k in range(3)]
    classes = [targets.classes[targets.images == k] for k in range(3)]
    auxiliary = [{"masks_queries_logits": o.masks, "class_queries_logits": o.classes} for o in theirs[1:]]
    torch.manual_seed(7)
    losses = model.get_loss_dict(theirs[0].masks, theirs[0].classes, masks, classes, auxiliary)
    for ours, name in (("class", "cross_entropy"), ("mask", "loss_mask"), ("dice", "dice")):
        expected = sum(value.item() for key, value in losses.items() if name in key)
        assert terms[ours].item() == pytest.approx(expected, rel=1e-5, abs=1e-7)
    sum(terms.values()).backward()
    sum(losses.values()).backward()
    for a, b in zip(found, theirs, strict=True):
        torch.testing.assert_close(a.classes.grad, b.classes.grad, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(a.masks.grad, b.masks.grad, rtol=1e-4, atol=1e-7)


def test_padded_labels_are_ignored_on_the_right_and_below() -> None:
    padded = pad_labels(torch.zeros(1, 2, 3, dtype=torch.int64), 4, 5)
    assert padded.shape == (1, 4, 5)
    assert int((padded == 255).sum()) == 20 - 6
    assert not padded[0, :2, :3].any()
