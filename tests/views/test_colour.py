"""Strong pieces: the authors' libraries, naive loops, and the printed ranges over many draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torchvision.transforms.functional as F
from made_samples import config
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from ssbench.views import strong as colour
from ssbench.views.pipelines import strengthen
from ssbench.views.sample import Draw, Sample
from ssbench.views.strong import STRONG

CFG = config("none", strong="stpp")
POOL = config("none", strong="augseg")
MANY = 400


def photo(side: int = 32, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """Smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-9, 9, (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).convert(mode)


def draw(k: int, view: str = "u/strong0") -> Draw:
    return Draw(3, k, "an id", view)


def same(a: Image.Image, b: Image.Image) -> bool:
    return a.mode == b.mode and np.array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("factor", [0.0, 0.5, 0.93, 1.0, 1.2, 1.5])
def test_jitter_operations_are_torchvisions(mode: str, factor: float) -> None:
    image = photo(mode=mode)
    assert same(colour.JITTERS[0](image).enhance(factor), F.adjust_brightness(image, factor))
    assert same(colour.JITTERS[1](image).enhance(factor), F.adjust_contrast(image, factor))
    assert same(colour.JITTERS[2](image).enhance(factor), F.adjust_saturation(image, factor))


@pytest.mark.parametrize("factor", [-0.5, -0.25, -0.1001, -0.003, 0.0, 0.002, 0.07, 0.25, 0.4999])
def test_hue_is_torchvisions_and_wraps_round(factor: float) -> None:
    image = photo(12)
    assert same(colour.hue(image, factor), F.adjust_hue(image, factor))
    h, s, v = image.convert("HSV").split()
    turned = np.array([[(int(b) + int(factor * 255)) % 256 for b in line] for line in np.asarray(h)], np.uint8)
    assert same(colour.hue(image, factor), Image.merge("HSV", (Image.fromarray(turned), s, v)).convert("RGB"))
    grey = photo(12, "L")
    assert colour.hue(grey, factor) is grey


def test_jitter_is_torchvisions_color_jitter_given_its_draws() -> None:
    orders: Counter[tuple[int, ...]] = Counter()
    untouched = 0
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for k in range(MANY):
        image = photo(8, seed=k)
        got = colour.jitter(Sample.of("a", image), draw(k), CFG).image
        rng = draw(k)("jitter")
        if rng.random() >= 0.8:
            untouched += 1
            assert got is image
            continue
        factors = [rng.uniform(0.5, 1.5) for _ in range(3)] + [rng.uniform(-0.25, 0.25)]
        order = rng.permutation(4)
        orders[tuple(order.tolist())] += 1
        for op in order:
            image = adjust[op](image, factors[op])
        assert isinstance(got, Image.Image)
        assert same(got, image)
    assert 0.12 < untouched / MANY < 0.28
    assert len(orders) == 24


def test_factors_stay_in_range() -> None:
    """On a flat grey picture only brightness shows, so the factor can be read off."""
    only = CFG.model_copy(update={"jitter": (0.5, 0.0, 0.0, 0.0), "jitter_share": 1.0})
    flat = Sample.of("a", Image.new("L", (1, 1), 200))
    seen = [np.asarray(colour.jitter(flat, draw(k), only).image)[0, 0] for k in range(MANY)]
    assert 99 <= min(seen) < 105
    assert max(seen) == 255
    strong = only.model_copy(update={"jitter": (3.0, 0.0, 0.0, 0.0)})  # max(0, 1 - 3) = 0: black, never negative
    assert min(np.asarray(colour.jitter(flat, draw(k), strong).image)[0, 0] for k in range(MANY)) < 10


def test_grey_keeps_the_channels() -> None:
    image = photo()
    greyed = [colour.grey(Sample.of("a", image), draw(k), CFG).image for k in range(MANY)]
    changed = [g for g in greyed if g is not image]
    assert 0.13 < len(changed) / MANY < 0.27
    assert isinstance(changed[0], Image.Image)
    assert same(changed[0], F.rgb_to_grayscale(image, num_output_channels=3))


def test_blur_is_pils_with_a_radius_in_range() -> None:
    image, blurred, radii = photo(), 0, []
    for k in range(MANY):
        got = colour.blur(Sample.of("a", image), draw(k), CFG).image
        rng = draw(k)("blur")
        if rng.random() >= 0.5:
            assert got is image
            continue
        blurred += 1
        radii.append(rng.uniform(0.1, 2.0))
        assert isinstance(got, Image.Image)
        assert same(got, image.filter(ImageFilter.GaussianBlur(radii[-1])))
    assert 0.42 < blurred / MANY < 0.58
    assert 0.1 <= min(radii) < 0.2
    assert 1.9 < max(radii) <= 2.0


def naive_pool(image: Image.Image, rng: np.random.Generator) -> tuple[Image.Image, list[int]]:
    """AugSeg's operations spelled out; returns the picture and the numbers of the operations used."""
    numbers = rng.integers(11, size=int(rng.integers(1, 4))).tolist()
    enhancers = {4: ImageEnhance.Contrast, 5: ImageEnhance.Brightness, 6: ImageEnhance.Color, 7: ImageEnhance.Sharpness}
    for number in numbers:
        if number == 1:
            image = ImageOps.autocontrast(image)
        elif number == 2:
            image = ImageOps.equalize(image)
        elif number == 3:
            image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))
        elif number in enhancers:
            factor = 0.95 - 0.9 * rng.random()
            assert 0.05 < factor <= 0.95
            image = enhancers[number](image).enhance(factor)
        elif number == 8:
            bits = int(rng.integers(4, 8))
            image = Image.fromarray(np.asarray(image) & np.uint8(256 - 2 ** (8 - bits)))
        elif number == 9:
            threshold, values = int(rng.integers(1, 256)), np.asarray(image)
            image = Image.fromarray(np.where(values < threshold, values, 255 - values))
        elif number == 10:
            size = 0.5 * rng.random()
            image = F.adjust_hue(image, -size if rng.random() < 0.5 else size)
    return image, numbers


def test_pool_is_one_to_three_of_eleven_with_replacement() -> None:
    counts: Counter[int] = Counter()
    used: Counter[int] = Counter()
    twice = 0
    for k in range(MANY):
        image = photo(8, seed=k)
        wanted, numbers = naive_pool(image, draw(k)("pool"))
        got = colour.pool(Sample.of("a", image), draw(k), POOL).image
        assert isinstance(got, Image.Image)
        assert same(got, wanted)
        counts[len(numbers)] += 1
        used.update(numbers)
        twice += len(set(numbers)) < len(numbers)
    assert set(counts) == {1, 2, 3}
    assert min(counts.values()) > MANY / 5
    assert set(used) == set(range(11)) == set(range(len(colour.POOL)))
    assert min(used.values()) > 0.5 * sum(used.values()) / 11
    assert twice


def test_pool_reaches_its_bounds() -> None:
    bits, thresholds, factors, shifts = set(), set(), [], []
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    for k in range(4 * MANY):
        bits.add(len(np.unique(colour.POOL[8](ramp, draw(k)("a"), POOL))))
        unturned = np.asarray(colour.POOL[9](ramp, draw(k)("b"), POOL))[0] == np.arange(256)
        thresholds.add(int(unturned.sum()))
        factors.append(np.asarray(colour.POOL[5](ramp, draw(k)("c"), POOL))[0, 200] / 200)
        rng = draw(k)("d")
        shifts.append(0.5 * rng.random() * (-1 if rng.random() < 0.5 else 1))
    assert bits == {16, 32, 64, 128}
    assert min(thresholds) <= 3
    assert max(thresholds) >= 253
    assert 256 not in thresholds
    assert 0.045 <= min(factors) < 0.06
    assert 0.94 < max(factors) <= 0.95
    assert min(shifts) < -0.49
    assert max(shifts) > 0.49


def test_cutout_area_ratio_noise_and_labels() -> None:
    cut, areas, ratios, values = 0, [], [], set()
    sample = Sample.of("a", Image.new("RGB", (100, 100), (255, 255, 255)), Image.new("L", (100, 100), 7))
    for k in range(MANY):
        got = colour.cutout(sample, draw(k), CFG)
        if got is sample:
            continue
        cut += 1
        assert got.erased
        gone, mask = np.asarray(got.erased).astype(bool), np.asarray(got.mask)
        image = np.asarray(got.image)
        assert (mask == np.where(gone, 255, 7)).all()
        assert (image[~gone] == 255).all()
        values |= set(image[gone].ravel().tolist())
        h, w = gone.any(1).sum(), gone.any(0).sum()
        assert gone.sum() == h * w
        areas.append(h * w / 1e4)
        ratios.append(h / w)
    assert 0.42 < cut / MANY < 0.58
    assert values == set(range(255))
    assert 0.015 <= min(areas) < 0.05
    assert 0.3 < max(areas) <= 0.4
    assert 0.25 < min(ratios) < 0.4
    assert 2.5 < max(ratios) < 3.7


@pytest.mark.parametrize("name", list(STRONG))
def test_strong_pipelines_touch_nothing_but_colour(name: str) -> None:
    cfg = config("none", strong=name, cutout_share=0.0)
    sample = Sample.of("a", photo(), Image.new("L", (32, 32), 3), {"m": Image.new("L", (32, 32), 1)})
    for k in range(20):
        got = strengthen(sample, cfg, draw(k))
        assert (got.mask, got.valid, got.maps, got.geometry) == (sample.mask, sample.valid, sample.maps, ())
        assert isinstance(got.image, Image.Image)
        assert (got.image.mode, got.image.size) == ("RGB", (32, 32))
        assert name != "none" or got is sample


def test_grey_slices_only_change_in_brightness_contrast_and_blur() -> None:
    """Card: views 9: on a one-channel picture ColorJitter's saturation and hue do nothing."""
    image = photo(16, "L")
    cfg = config("acdc", 16, strong="acdc", jitter=(0.0, 0.0, 0.5, 0.25), blur_share=0.0)
    for k in range(20):
        got = strengthen(Sample.of("a", image), cfg, draw(k)).image
        assert isinstance(got, Image.Image)
        assert same(got, image)
