"""Pixel contrast by hand and against loops written from the text (card: u2pl 7, 8)."""

from __future__ import annotations

import itertools
from collections import deque

import numpy as np
import pytest
import torch
from torch import Tensor

from ssbench.ops import class_memory, contrast
from ssbench.ops.class_memory import Bank
from ssbench.ops.contrast import FeatureGrid, Picked, Rule
from ssbench.ops.reduce import gather_rows

RELEASE = Rule(0.3, 1.0, low_rank=3, high_rank=20, release=True)
PAPER = Rule(0.3, 1.0, low_rank=3, high_rank=20, release=False)


def grid(seed: int = 0, images: int = 4, classes: int = 6, side: int = 5, width: int = 3) -> FeatureGrid:
    g = torch.Generator().manual_seed(seed)
    label = torch.randint(classes, (images, side, side), generator=g)
    label[torch.rand(label.shape, generator=g) < 0.2] = 255
    low, high = (torch.rand(label.shape, generator=g) < share for share in (0.5, 0.4))
    rep, key = (torch.randn(images, width, side, side, generator=g) for _ in range(2))
    probs = (2 * torch.randn(images, classes, side, side, generator=g)).softmax(1)
    return FeatureGrid(label, low, high, rep, key, probs)


def test_the_nth_pixel_of_a_mask_and_draws_from_it() -> None:
    mask = torch.tensor([[0, 1, 0, 1, 1, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    assert class_memory.nth(mask, torch.tensor([[0, 1, 2], [0, 1, 2]])).tolist() == [[1, 3, 4], [5, 5, 5]]
    u = torch.tensor([[0.0, 0.33, 0.34, 0.66, 0.67, 0.999999]]).repeat(2, 1)
    assert class_memory.draw_indices(mask, u)[0].tolist() == [1, 1, 3, 3, 4, 4]


def test_draws_are_uniform_over_the_mask() -> None:
    mask = torch.rand(2, 50, generator=torch.Generator().manual_seed(0)) < 0.3
    at = class_memory.draw_indices(mask, torch.rand(2, 20_000, generator=torch.Generator().manual_seed(1)))
    for row, drawn in zip(mask, at, strict=True):
        counts = torch.bincount(drawn, minlength=50)
        assert (counts[~row] == 0).all()
        expected = 20_000 / row.sum()
        assert ((counts[row] - expected).abs() < 5 * expected.sqrt()).all()


def test_ranks_count_the_classes_ahead() -> None:
    probs = torch.tensor([0.2, 0.5, 0.1, 0.2]).view(1, 4, 1, 1)
    assert contrast.ranks(probs).flatten().tolist() == [1, 0, 3, 2]  # a tie goes to the lower class


@pytest.mark.parametrize("sizes", [(4, 4), (7, 3), (1, 12)])
def test_a_bank_is_first_in_first_out(sizes: tuple[int, int]) -> None:
    """Numbered rows, so that what a queue should hold can be read off; none to many times its size at once."""
    bank, queues, g = Bank(sizes, 1), [deque[float](maxlen=s) for s in sizes], torch.Generator().manual_seed(0)
    for step, share in enumerate((0.0, 0.2, 0.5, 1.0, 0.1, 0.1, 0.0, 0.9, 0.3)):
        rows = torch.arange(11, dtype=torch.float)[:, None] + 100 * (step + 1)
        masks = torch.rand(2, 11, generator=g) < share
        bank.insert(rows, masks)
        for queue, mask, keys, count in zip(
            queues, masks, torch.split(bank.keys, list(sizes)), bank.filled(), strict=True
        ):
            queue.extend(rows[mask, 0].tolist())
            assert int(count) == len(queue)
            assert sorted(keys[: len(queue), 0].tolist()) == sorted(queue)
    assert bank.seen.sum() > sum(sizes)


def test_contents_of_a_bank_by_hand() -> None:
    bank, rows = Bank((3, 2), 1), torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    bank.insert(rows, torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]], dtype=torch.bool))
    assert bank.keys[:, 0].tolist() == [1, 3, 0, 0, 0]
    bank.insert(10 * rows, torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool))
    assert bank.keys[:, 0].tolist() == [30, 3, 20, 30, 40]  # 1 is gone; of four keys the last two fit
    assert bank.filled().tolist() == [3, 2]
    assert bank.seen.tolist() == [4, 4]


def test_negatives_come_from_the_class_asked_for_and_are_zero_where_it_has_none() -> None:
    bank = Bank((4, 4, 4), 1)
    rows = torch.arange(1.0, 7.0)[:, None]
    bank.insert(rows, torch.tensor([[1, 1, 0, 0, 0, 0], [0] * 6, [0, 0, 1, 1, 1, 0]], dtype=torch.bool))
    u = torch.rand(3, 5, 40, generator=torch.Generator().manual_seed(0))
    drawn = bank.draw(torch.tensor([2, 0, 1]), u)
    assert drawn.shape == (3, 5, 40, 1)
    assert [sorted(set(part.flatten().tolist())) for part in drawn] == [[3, 4, 5], [1, 2], [0]]


def test_a_bank_on_the_cpu_stays_there_and_the_other_moves() -> None:
    assert Bank((2, 2), 1, on_cpu=True).to("meta").keys.device.type == "cpu"
    assert Bank((2, 2), 1).to("meta").keys.device.type == "meta"


def test_a_bank_resumes() -> None:
    first, second = Bank((3, 3), 2), Bank((3, 3), 2)
    g = torch.Generator().manual_seed(0)
    draws = [(torch.randn(4, 2, generator=g), torch.rand(2, 4, generator=g) < 0.5) for _ in range(4)]
    for rows, masks in draws[:2]:
        first.insert(rows, masks)
    assert set(first.state_dict()) == {"keys", "seen"}
    second.load_state_dict(first.state_dict())
    for rows, masks in draws[2:]:
        first.insert(rows, masks)
        second.insert(rows, masks)
    assert torch.equal(first.keys, second.keys)
    assert torch.equal(first.seen, second.seen)


@pytest.mark.parametrize("rule", [RELEASE, PAPER, Rule(0.1, 0.25, 1, 4, release=False)])
def test_pixels_against_a_loop(rule: Rule) -> None:
    result, sample = contrast.pick(grid(), 2, rule), grid()
    labels = (
        [*labels_of_release(sample.label[:2]), *labels_of_release(sample.label[2:])]
        if rule.release
        else own_labels(sample)
    )
    at = 0
    for b in range(4):
        for y in range(5):
            for x in range(5):
                p, here = sample.probs[b, :, y, x].tolist(), labels[b][y][x]
                for c in range(6):
                    rank = sorted(range(6), key=lambda k: -p[k]).index(c)
                    valid = c in here and bool(sample.low[b, y, x])
                    assert bool(result.valid[c, at]) == valid
                    assert bool(result.anchors[c, at]) == (valid and p[c] > rule.anchor_above)
                    near = rank < rule.low_rank and c not in here if b < 2 else rule.low_rank <= rank < rule.high_rank
                    negative = near and bool(sample.high[b, y, x]) and p[c] < rule.negative_below
                    assert bool(result.negatives[c, at]) == (negative and (c in here or not rule.release))
                at += 1


def test_the_releases_negatives_of_one_pass_come_from_the_labels_of_other_images() -> None:
    """Defects (a) and (c): a pixel's own class is its first guess, never number 3 to 19, and no labelled pixel has
    another label; so with one image a process there are none. With two, the second lends the first its labels.
    """
    sample = grid()
    label = torch.cat([sample.label[:2], sample.probs[2:].argmax(1)])
    sample = sample._replace(label=label, high=label != 255)
    alone = FeatureGrid(*(torch.cat([x[:1], x[2:3]]) for x in sample))
    assert not contrast.pick(alone, 1, RELEASE).negatives.any()
    negatives = contrast.pick(sample, 2, RELEASE).negatives.view(6, 4, 5, 5)  # C B h w
    assert negatives[:, 2].any()
    assert not negatives[:, [0, 1, 3]].any()
    lent = label[3][None] == torch.arange(6)[:, None, None]
    assert not (negatives[:, 2] & ~lent).any()
    assert contrast.pick(sample, 2, PAPER).negatives.any(1).all()


def test_one_hot_labels_as_the_release_scatters_them() -> None:
    """Two images, three classes, and every pairing of a label with 255 (card: u2pl 8c)."""
    label = torch.tensor([[[0, 1, 255, 2, 255]], [[1, 1, 2, 255, 255]]])
    first = [[1, 0, 0, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0]]  # of classes 0, 1 and 2
    assert contrast.release_one_hot(label, 3)[:, :, 0].int().tolist() == [first, [[0] * 5] * 3]
    assert contrast.label_planes(label, 3)[1, :, 0].int().tolist() == [[0] * 5, [1, 1, 0, 0, 0], [0, 0, 1, 0, 0]]
    g = torch.Generator().manual_seed(1)
    label = torch.randint(5, (3, 6, 7), generator=g).masked_fill(torch.rand(3, 6, 7, generator=g) < 0.3, 255)
    expected = labels_of_release(label)
    result = contrast.release_one_hot(label, 5)
    for b, y, x in itertools.product(range(3), range(6), range(7)):
        assert set(result[b, :, y, x].nonzero().flatten().tolist()) == expected[b][y][x]


def test_the_releases_classes_read_the_banks_of_other_classes() -> None:
    """Defect (b): of five classes 1, 3 and 4 are valid; 0, 1, 2 take part and read their banks."""
    valid = torch.tensor([False, True, False, True, True])
    of, active = contrast.choose_banks(valid, by_position=True)
    assert of[:3].tolist() == [1, 3, 4]
    assert active.tolist() == [True, True, True, False, False]
    of, active = contrast.choose_banks(valid, by_position=False)
    assert of.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(active, valid)


def test_info_nce_of_two_dimensions() -> None:
    """cos 1 at the positive, 0 and -1 at the negatives, temperature 0.5: -ln(e^2 / (e^2 + 1 + e^-2))."""
    anchors = torch.tensor([[[3.0, 0.0]]])
    negatives = torch.tensor([[[[0.0, 5.0], [-2.0, 0.0]]]])
    got = contrast.info_nce(anchors, torch.tensor([[0.5, 0.0]]), negatives, 0.5)
    assert got.tolist() == pytest.approx([-np.log(np.exp(2) / (np.exp(2) + 1 + np.exp(-2)))])


def test_info_nce_against_numpy_and_its_gradient() -> None:
    g = torch.Generator().manual_seed(0)
    a, p, n = (torch.randn(s, generator=g) for s in ((2, 4, 3), (2, 3), (2, 4, 5, 3)))
    got = contrast.info_nce(a.requires_grad_(), p.requires_grad_(), n.requires_grad_(), 0.7)
    for c in range(2):
        terms = []
        for q in range(4):
            keys = [p[c], *n[c, q]]
            cos = [_cosine(a[c, q], key) / 0.7 for key in keys]
            terms.append(np.log(np.exp(cos).sum()) - cos[0])
        assert got[c].item() == pytest.approx(np.mean(terms), rel=1e-5)
    torch.autograd.backward(got.sum())
    assert a.grad is not None
    assert p.grad is None
    assert n.grad is None


@pytest.mark.parametrize("by_position", [True, False])
def test_the_loss_of_a_group_against_the_releases_loop(by_position: bool) -> None:
    sample, bank = grid(classes=5), _filled_bank(5)
    label = sample.label.where(sample.label != 1, 255)  # class 1 is not valid: the two readings part
    sample = sample._replace(label=label, rep=sample.rep.requires_grad_())
    picked = contrast.pick(sample, 2, PAPER)
    u = (torch.rand(5, 7, generator=torch.Generator().manual_seed(2)),
         torch.rand(5, 7, 3, generator=torch.Generator().manual_seed(3)))  # fmt: skip
    got = contrast.contrastive_loss(sample, picked, bank, u, 0.5, by_position)
    assert got.item() == pytest.approx(_loop(sample, picked, bank, u, 0.5, by_position), rel=1e-5)
    torch.autograd.backward(got)
    assert sample.rep.grad is not None
    touched = contrast.pixels(sample.rep.grad.abs()).sum(1) > 0
    assert touched.any()
    assert not touched[~picked.anchors.any(0)].any()


def test_classes_without_anchors_or_keys_add_nothing_but_count() -> None:
    sample = grid(classes=3)
    picked = contrast.pick(sample, 2, PAPER)
    u = (torch.rand(3, 4), torch.rand(3, 4, 2))
    full, part = _filled_bank(3), _filled_bank(3)
    part.seen[1] = 0
    whole = [contrast.contrastive_loss(sample, picked, bank, u, 0.5, by_position=False) for bank in (full, part)]
    without = Picked(picked.valid, picked.anchors & torch.tensor([[True], [False], [True]]), picked.negatives)
    assert whole[1] < whole[0]
    assert torch.equal(whole[1], contrast.contrastive_loss(sample, without, full, u, 0.5, by_position=False))


def test_one_valid_class_gives_zero_with_a_finite_gradient() -> None:
    sample = grid(classes=3)
    sample = sample._replace(label=sample.label.where(sample.label == 0, 255), rep=sample.rep.requires_grad_())
    u = (torch.rand(3, 4), torch.rand(3, 4, 2))
    got = contrast.contrastive_loss(sample, contrast.pick(sample, 2, PAPER), _filled_bank(3), u, 0.5, by_position=True)
    torch.autograd.backward(got)
    assert got.item() == 0
    assert sample.rep.grad is not None
    assert (sample.rep.grad == 0).all()


def test_maps_are_taken_down_to_the_grid_by_nearest_neighbour_and_joined_by_group() -> None:
    label = torch.arange(36).view(1, 6, 6).repeat(2, 1, 1) + torch.tensor([0, 100])[:, None, None]
    mask, rep, probs = label % 2 == 0, torch.zeros(2, 1, 3, 3), torch.zeros(2, 4, 3, 3)
    small = FeatureGrid.of(label, mask, ~mask, rep, rep, probs)
    assert torch.equal(small.label, label[:, ::2, ::2])
    assert torch.equal(small.low, mask[:, ::2, ::2])
    other = small._replace(label=small.label + 1000)
    first, second = small.joined_by_group(other, 2)
    assert first.label[:, 0, 0].tolist() == [0, 1000]
    assert second.label[:, 0, 0].tolist() == [100, 1100]


def test_alone_nothing_is_gathered() -> None:
    x = torch.randn(3, 2, requires_grad=True)
    assert torch.equal(gather_rows(x), x)
    assert not gather_rows(x).requires_grad


def own_labels(sample: FeatureGrid) -> list[list[list[set[int]]]]:
    """Image by image and pixel by pixel the set of its labels: one, or none."""
    return [[[{v} - {255} for v in row] for row in image] for image in sample.label.tolist()]


def labels_of_release(label: Tensor) -> list[list[list[set[int]]]]:
    """The same as the release's scatter leaves it: index (image, 0, y, x) writes plane [label, 0] and never another."""
    images, height, width = label.shape
    planes = [[[set[int]() for _ in range(width)] for _ in range(height)] for _ in range(images)]
    for b, y, x in itertools.product(range(images), range(height), range(width)):
        value = int(label[b, y, x])
        planes[0][y][x].add(0 if value == 255 else value)
    for b, y, x in itertools.product(range(images), range(height), range(width)):
        if label[b, y, x] == 255:
            planes[b][y][x].clear()
    return planes


def _filled_bank(classes: int) -> Bank:
    bank, g = Bank([4 + c for c in range(classes)], 3), torch.Generator().manual_seed(5)
    bank.insert(torch.randn(20, 3, generator=g), torch.rand(classes, 20, generator=g) < 0.5)
    return bank


def _cosine(a: Tensor, b: Tensor) -> float:
    return float((a @ b / (a.norm() * b.norm())).detach())


def _loop(
    sample: FeatureGrid, picked: Picked, bank: Bank, u: tuple[Tensor, Tensor], tau: float, by_position: bool
) -> float:
    """The release's loop over valid classes, its index mistake an argument."""
    rep, key = contrast.pixels(sample.rep).detach(), contrast.pixels(sample.key)
    anchors = [rep[mask] for mask in picked.anchors]  # an entry for every class
    means = [key[mask].mean(0) for mask in picked.valid]
    queues = [keys[:n] for keys, n in zip(torch.split(bank.keys, bank.sizes), bank.filled().tolist(), strict=True)]
    valid = [c for c, mask in enumerate(picked.valid) if mask.any()]
    total = 0.0
    for v, c in enumerate(valid):
        at = v if by_position else c
        if len(anchors[at]) == 0 or len(queues[c]) == 0:
            continue
        for q in range(u[0].shape[1]):
            anchor = anchors[at][int(u[0][at, q] * len(anchors[at]))]
            negatives = [queues[c][int(u[1][at, q, m] * len(queues[c]))] for m in range(u[1].shape[2])]
            cos = np.array([_cosine(anchor, k) for k in (means[at], *negatives)]) / tau
            total += float(np.log(np.exp(cos).sum()) - cos[0]) / u[0].shape[1]
    return total / len(valid)
