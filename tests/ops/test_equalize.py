"""AEL's pure functions against loops over pixels and hand-made cases (card: ael 4 to 8)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ssbench.ops import equalize

C = 4


def labels(seed: int = 0, images: int = 4, side: int = 6) -> Tensor:
    """Class 3 only in the last two images; some pixels 255."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (images, side, side), generator=g)
    y[2:, 0] = 3
    y[torch.rand(y.shape, generator=g) < 0.2] = 255
    return y


def scores(seed: int = 1, images: int = 4, side: int = 6) -> Tensor:
    return torch.randn(images, C, side, side, generator=torch.Generator().manual_seed(seed))


def test_paste_chances_are_a_softmax_of_square_roots() -> None:
    """exp(sqrt(1 - b)): 1 -> e^0, 0.75 -> e^0.5, 0 -> e^1, 0.36 -> e^0.8."""
    bank = np.array([1.0, 0.75, 0.0, 0.36], np.float32)
    expected = np.exp([0.0, 0.5, 1.0, 0.8])
    assert equalize.class_probabilities(bank, 0.5) == pytest.approx(expected / expected.sum(), abs=1e-6)


def test_partner_chances_have_no_root_and_differ_by_e_at_most() -> None:
    result = equalize.class_probabilities(np.array([1.0, 0.75, 0.0], np.float32), 1.0)
    assert result == pytest.approx(np.exp([0, 0.25, 1]) / np.exp([0, 0.25, 1]).sum())
    assert result.max() / result.min() == pytest.approx(np.e)


def test_excluded_classes_have_no_chance_and_the_others_share_it() -> None:
    bank = np.full(19, 0.5, np.float32)
    result = equalize.class_probabilities(bank, 0.5, (0, 1, 2, 8, 10))
    assert result[[0, 1, 2, 8, 10]].sum() == 0
    assert result.sum() == pytest.approx(1)
    assert result[3] == pytest.approx(1 / 14)


def test_excluding_more_classes_than_there_are_is_fine_but_not_all() -> None:
    assert equalize.class_probabilities(np.zeros(3, np.float32), 1.0, (0, 1, 8, 10)).tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match="no class is left"):
        equalize.class_probabilities(np.zeros(2, np.float32), 1.0, (0, 1))


def test_class_region_pixel_by_pixel() -> None:
    y = labels()
    chosen = torch.tensor([[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 1], [1, 1, 1, 1]]).bool()
    result = equalize.class_region(y, chosen)
    for b in range(len(y)):
        for i in range(6):
            for j in range(6):
                c = int(y[b, i, j])
                assert result[b, i, j].item() is (c != 255 and bool(chosen[b, c]))


def test_class_confidence_pixel_by_pixel() -> None:
    x, y = scores(), labels()
    result, present = equalize.class_confidence(x, y, group=2)
    probs = x.softmax(1)
    for g in range(2):
        for c in range(C):
            seen = [
                probs[b, c, i, j].item()
                for b in (2 * g, 2 * g + 1) for i in range(6) for j in range(6) if y[b, i, j] == c
            ]  # fmt: skip
            assert present[g, c].item() is bool(seen)
            assert result[g, c].item() == pytest.approx(np.mean(seen) if seen else 0.0, abs=1e-6)
    assert not present[0, 3]


def test_a_smaller_last_group_is_a_group() -> None:
    x, y = scores(images=3), labels(images=3)
    result, _ = equalize.class_confidence(x, y, group=2)
    alone, _ = equalize.class_confidence(x[2:], y[2:], group=2)
    assert torch.equal(result[1:], alone)


def test_an_absent_class_counts_as_zero_confidence() -> None:
    bank = torch.tensor([0.2, 0.4, 0.6, 0.8])
    x, y = scores(), labels()
    result, present = equalize.class_confidence(x, y, group=2)
    moved = equalize.update_bank(bank, result, present, 0.9, "zero")
    assert torch.allclose(moved, 0.9 * bank + 0.1 * result.mean(0))
    assert moved[3] < 0.9 * 0.8 + 0.1 * result[1, 3]
    never = equalize.update_bank(bank, torch.zeros(2, C), torch.zeros(2, C).bool(), 0.9, "zero")
    assert torch.allclose(never, 0.9 * bank)


def test_an_absent_class_can_be_skipped() -> None:
    bank = torch.tensor([0.2, 0.4, 0.6, 0.8])
    result, present = equalize.class_confidence(scores(), labels(), group=2)
    moved = equalize.update_bank(bank, result, present, 0.9, "skip")
    assert moved[3].item() == pytest.approx(0.9 * 0.8 + 0.1 * result[1, 3].item())
    assert torch.equal(equalize.update_bank(bank, result * 0, present & False, 0.9, "skip"), bank)


def test_keep_map_pixel_by_pixel() -> None:
    bank, predicted = torch.tensor([0.9, 0.5, 0.1, 0.3]), scores().argmax(1)
    field = torch.rand(C, 6, 6, generator=torch.Generator().manual_seed(2))
    for power in (1.0, 0.5):
        result = equalize.keep_map(predicted, bank, power, field)
        for b in range(4):
            for i in range(6):
                for j in range(6):
                    c = int(predicted[b, i, j])
                    share = ((1 - bank[c].item()) / 0.9) ** power
                    assert result[b, i, j].item() is bool(field[c, i, j].item() > 1 - share)


def test_the_worst_class_is_always_kept_and_a_perfect_one_never() -> None:
    predicted = torch.tensor([[[0, 1]]]).expand(1, 50, 2)
    field = torch.rand(2, 50, 2).clamp(min=1e-6)
    assert equalize.keep_map(predicted, torch.tensor([0.25, 1.0]), 1.0, field)[0].tolist() == [[True, False]] * 50


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("over", ["all", "counted"])
def test_weighted_mean_by_groups(group: int, over: str) -> None:
    g = torch.Generator().manual_seed(0)
    ce, weight = torch.rand(4, 6, 6, generator=g), torch.rand(4, 6, 6, generator=g)
    counted = torch.rand(4, 6, 6, generator=g) < 0.5
    each = []
    for first in range(0, 4, group):
        above = below = 0.0
        for b in range(first, first + group):
            for i in range(6):
                for j in range(6):
                    w, inside = weight[b, i, j].item(), counted[b, i, j].item()
                    above += w * ce[b, i, j].item() * inside
                    below += w if over == "all" or inside else 0.0
        each.append(above / below)
    result = equalize.weighted_mean(ce, weight, counted, group, over)  # type: ignore[arg-type]
    assert result.item() == pytest.approx(np.mean(each), rel=1e-5)


def test_weighted_mean_of_nothing_is_zero_and_scale_changes_nothing() -> None:
    ce, weight = torch.rand(2, 4, 4), torch.rand(2, 4, 4)
    everything = torch.ones(2, 4, 4).bool()
    assert equalize.weighted_mean(ce, weight * 0, everything, 1, "all").item() == 0
    one, three = (equalize.weighted_mean(ce, k * weight, everything, 2, "all") for k in (1, 3))
    assert one.item() == pytest.approx(three.item())


def test_presence_needs_its_share_of_the_pixels() -> None:
    label = torch.zeros(2, 10, 10, dtype=torch.int64)
    label[0, 0, :3] = 1  # exactly 0.03
    label[1, 0, :2] = 1
    assert equalize.presence(label, 3, 0.03).tolist() == [[True, True, False], [True, False, False]]


def picture(*rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows])


MASK = picture(
    "##......",
    "##......",
    "..#.....",  # touches the square at a corner: one part of five pixels
    "........",
    ".....###",
    ".....#.#",
    ".......#",  # a hook of six pixels
    "#.......",
)


def boxes(mask: np.ndarray, area: float, draws: int = 40) -> set[tuple[int, int, int, int]]:
    result = set()
    for seed in range(draws):
        box = equalize.component_box(mask, area, np.random.default_rng(seed))
        assert box is not None
        result.add((box[0].start, box[0].stop, box[1].start, box[1].stop))
    return result


SQUARE, HOOK, DOT = (0, 3, 0, 3), (4, 7, 5, 8), (7, 8, 0, 1)


def test_parts_join_at_corners_and_any_large_one_may_be_taken() -> None:
    assert boxes(MASK, 0.0) == {SQUARE, HOOK, DOT}
    assert boxes(MASK, 1 / 64) == {SQUARE, HOOK}  # larger, not as large


def test_the_area_is_that_of_the_part_and_not_of_its_box() -> None:
    assert boxes(MASK, 5 / 64) == {HOOK}


@pytest.mark.parametrize(
    ("mask", "area"), [(MASK, 6 / 64), (np.zeros((8, 8), bool), 0.0), (np.ones((8, 8), bool), 0.0)]
)
def test_no_box_where_no_part_is_large_enough_or_all_is_one_class(mask: np.ndarray, area: float) -> None:
    assert equalize.component_box(mask, area, np.random.default_rng(0)) is None
