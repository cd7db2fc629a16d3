"""Mixing regions: naive drawings of each rule, and the printed ranges over many draws."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from made_samples import config as views

from ssbench.views import regions as boxes
from ssbench.views.pipelines import region as region_of
from ssbench.views.sample import Draw
from ssbench.views.settings import ViewsConfig

MANY = 1500


def config(box: str, **numbers: object) -> ViewsConfig:
    return views("none", 100, box=box, **numbers)


def generator(k: int) -> np.random.Generator:
    return Draw(5, k, "an id", "unlabeled/strong0")("box")


def extent(region: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle, which the region must be."""
    rows, cols = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
    height, width = int(rows[-1] - rows[0] + 1), int(cols[-1] - cols[0] + 1)
    assert region.sum() == height * width
    return int(rows[0]), int(cols[0]), height, width


def test_unimatch_is_a_rectangle_by_rejection() -> None:
    """Card: views 2, as a loop over pixels, with the same generator."""
    cfg = config("unimatch")
    empty, areas, ratios = 0, [], []
    for k in range(MANY):
        region, rng = boxes.unimatch(generator(k), (100, 100), cfg), generator(k)
        if rng.random() >= 0.5:
            empty += 1
            assert not region.any()
            continue
        area = rng.uniform(0.02, 0.4) * 100 * 100
        while True:
            ratio = rng.uniform(0.3, 1 / 0.3)
            w, h = int(math.sqrt(area / ratio)), int(math.sqrt(area * ratio))
            x, y = rng.integers(100), rng.integers(100)
            if x + w <= 100 and y + h <= 100:
                break
        assert extent(region) == (y, x, h, w)
        areas.append(h * w / 1e4)
        ratios.append(h / w)
    assert 0.46 < empty / MANY < 0.54
    assert 0.015 < min(areas) < 0.03
    assert 0.37 < max(areas) <= 0.4
    assert 0.25 < min(ratios) < 0.35
    assert 2.9 < max(ratios) < 4


def test_unimatch_box_share_is_a_setting() -> None:
    assert all(boxes.unimatch(generator(k), (40, 40), config("unimatch", box_share=1.0)).any() for k in range(50))
    assert not any(boxes.unimatch(generator(k), (40, 40), config("unimatch", box_share=0.0)).any() for k in range(50))


@pytest.mark.parametrize(("box", "count", "low", "high"), [("cutmix_seg", 1, 0.5, 0.5), ("cps", 3, 0.25, 0.5)])
def test_toggled_boxes_turn_pixels_over(box: str, count: int, low: float, high: float) -> None:
    """Card: views 7, 8, pixel by pixel."""
    cfg = config(box)
    assert (cfg.box_count, cfg.box_area) == (count, (low, high))
    for k in range(60):
        rng = generator(k)
        share = rng.uniform(low, high, count)
        u = rng.random(count)
        sides = []
        for n in range(count):
            y = math.exp(u[n] * math.log(share[n]))
            sides.append((np.round(y * math.sqrt(1 / count) * 30), np.round(share[n] / y * math.sqrt(1 / count) * 41)))
        at = rng.random((count, 2))
        flips = np.zeros((30, 41), int)
        for n, (h, w) in enumerate(sides):
            y, x = np.round((30 - h) * at[n, 0]), np.round((41 - w) * at[n, 1])
            for i in range(30):
                for j in range(41):
                    flips[i, j] += y <= i < y + h and x <= j < x + w
        assert np.array_equal(boxes.toggled(generator(k), (30, 41), cfg), flips % 2 == 1)


def test_cutmix_seg_covers_half_the_picture() -> None:
    regions = [boxes.toggled(generator(k), (200, 200), config("cutmix_seg")) for k in range(200)]
    shares = [r.mean() for r in regions]
    assert min(shares) > 0.49
    assert max(shares) < 0.51
    heights = [extent(r)[2] for r in regions]
    assert min(heights) < 104
    assert max(heights) > 195


def test_cps_boxes_cover_less_than_their_sum() -> None:
    """Card: views 7: each of three boxes has a third of p in area, p in [0.25, 0.5]; overlaps cancel."""
    shares = [boxes.toggled(generator(k), (120, 120), config("cps")).mean() for k in range(400)]
    assert 0.22 < np.mean(shares) < 0.28
    assert max(shares) <= 0.51


def test_half_has_u2pls_sides() -> None:
    """Card: views 5: 513 gives widths 257 .. 512; about half the area; every place inside is used."""
    widths, tops, lefts = set(), set(), set()
    for k in range(MANY):
        y, x, h, w = extent(boxes.half(generator(k), (20, 21)))
        widths.add(w)
        tops.add((y == 0, y + h == 20))
        lefts.add((x == 0, x + w == 21))
        assert h == round(20 * 21 / 2 / w)
    assert widths == set(range(11, 21))
    assert {(True, False), (False, True), (False, False)} <= tops & lefts
    drawn = [extent(boxes.half(generator(k), (513, 513)))[3] for k in range(MANY)]
    assert (min(drawn), max(drawn)) == (257, 512)


def test_ael_half_is_half_with_a_free_shape() -> None:
    regions = [boxes.ael_half(generator(k), (128, 96)) for k in range(300)]
    shares, heights = [r.mean() for r in regions], [extent(r)[2] for r in regions]
    assert min(shares) > 0.48
    assert max(shares) < 0.52
    assert 64 <= min(heights) < 67
    assert 124 < max(heights) <= 128


def test_the_corner_of_ael_half_is_rounded_so_that_border_places_are_half_as_likely() -> None:
    """round((side - size) U): of the widths that leave four columns, five places, the outer two half as often."""
    lefts: list[int] = []
    for k in range(40 * MANY):
        u, down, right = generator(k).random(3)
        height, width = round(9 * 2**-u), round(8 * 2 ** (u - 1))
        top, left = round((9 - height) * down), round((8 - width) * right)
        region = boxes.ael_half(generator(k), (9, 8)) if k < MANY else None
        assert region is None or extent(region) == (top, left, height, width)
        if width == 4:
            lefts.append(left)
    shares = np.bincount(lefts, minlength=5) / len(lefts)
    assert shares == pytest.approx([1 / 8, 1 / 4, 1 / 4, 1 / 4, 1 / 8], abs=0.03)


@pytest.mark.parametrize("box", list(boxes.BOXES))
def test_every_rule_stays_inside_and_is_keyed(box: str) -> None:
    cfg, draw = config(box), Draw(0, 1, "x", "unlabeled/strong1")
    region = region_of(cfg, draw, (24, 37))
    assert (region.shape, region.dtype) == ((24, 37), np.bool_)
    assert np.array_equal(region, region_of(cfg, draw, (24, 37)))
    assert box != "none" or not region.any()
    others = [region_of(cfg, Draw(0, e, "x", "unlabeled/strong1"), (24, 37)) for e in range(2, 12)]
    assert box == "none" or any(not np.array_equal(region, other) for other in others)


def test_rules_cope_with_tiny_pictures() -> None:
    for box in boxes.BOXES:
        for k in range(40):
            for shape in ((2, 2), (3, 2), (5, 9)):
                assert region_of(config(box), Draw(0, k, "x", "v"), shape).shape == shape


def test_ael_half_rounds_its_corner() -> None:
    """AEL's release: `round((side - size) * U)` for each axis, so border places are half as likely as others."""
    tops: Counter[int] = Counter()
    for k in range(4000):
        rng, shape = generator(k), (8, 8)
        u = rng.random()
        height, width = round(8 * 2**-u), round(8 * 2 ** (u - 1))
        y, x = round((8 - height) * rng.random()), round((8 - width) * rng.random())
        assert extent(boxes.ael_half(generator(k), shape)) == (y, x, height, width)
        tops.update([y] if height == 6 else [])
    border, inner = (tops[0] + tops[2]) / 2, tops[1]
    assert 0.4 < border / inner < 0.6
