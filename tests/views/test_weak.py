"""The weak pipelines, number by number."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from made_samples import MANY, MEAN, STD, config, draw, sample
from PIL import Image
from torchvision.transforms import functional as F

from ssbench.views.geometry import Crop, Flip, Resize, Rotate, Step, Turn
from ssbench.views.pipelines import (
    labeled_view,
    unlabeled_view,
    weaken,
)
from ssbench.views.sample import Sample


def step(settled: Sample, kind: type[Step]) -> Step | None:
    return next((s for s in settled.geometry if isinstance(s, kind)), None)


def test_unimatch_long_side_is_a_whole_number_with_both_ends() -> None:
    longs, xs, flips = Counter(), set(), 0
    for k in range(1200):
        settled = weaken(sample((20, 15)), config("unimatch", crop=12), draw(k))
        resize, crop = step(settled, Resize), step(settled, Crop)
        assert isinstance(resize, Resize)
        assert isinstance(crop, Crop)
        w, h = resize.size
        assert h == int(15 * w / 20 + 0.5)
        assert 0 <= crop.x <= max(w - 12, 0)
        assert 0 <= crop.y <= max(h - 12, 0)
        longs[w] += 1
        xs |= {crop.x} if w == 40 else set()
        flips += step(settled, Flip) is not None
    assert set(longs) == set(range(10, 41))
    assert min(xs) <= 3
    assert max(xs) >= 25
    assert 0.45 < flips / 1200 < 0.55


def test_tall_images_scale_by_their_height() -> None:
    sizes = [weaken(sample((15, 20)), config("unimatch", crop=12), draw(k)).geometry[0].size for k in range(MANY)]
    assert all(w == int(15 * h / 20 + 0.5) for w, h in sizes)
    assert (min(h for _, h in sizes), max(h for _, h in sizes)) == (10, 40)


def test_base_replaces_the_images_own_side() -> None:
    for weak, low, high in (("stpp", 25, 100), ("augseg", 30, 120)):
        sizes = {weaken(sample(), config(weak), draw(k)).geometry[0].size[0] for k in range(1500)}
        assert (min(sizes), max(sizes)) == (low, high)


def test_augseg_scales_both_sides_by_one_factor() -> None:
    cfg = config("augseg", both_sides=True, base=None)
    sizes = [weaken(sample(), cfg, draw(k)).geometry[0].size for k in range(MANY)]
    assert all(abs(w / 50 - h / 40) < 1 / 40 for w, h in sizes)
    assert min(w for w, _ in sizes) < 29
    assert max(w for w, _ in sizes) > 95
    assert len({w for w, _ in sizes}) > 50


def test_u2pl_scales_down_as_often_as_up_and_cuts_sizes() -> None:
    sizes = [weaken(sample((200, 100)), config("u2pl"), draw(k)).geometry[0].size for k in range(MANY)]
    assert 0.4 < sum(w < 200 for w, _ in sizes) / MANY < 0.6
    assert min(w for w, _ in sizes) < 110
    assert max(w for w, _ in sizes) > 390
    assert all(h in (w // 2, (w - 1) // 2) for w, h in sizes)


def test_u2pl_and_cps_pad_on_both_sides() -> None:
    """A 40 x 40 image in a crop of 64: 12 before, 12 after; an odd pixel goes right and below."""
    for weak, size, before in (("u2pl", (40, 39), (12, 12)), ("cps", (41, 40), (11, 12))):
        cfg = config(weak, crop=64, scale=(1.0, 1.0), scales=[1.0], flip=0.0)
        got = labeled_view(sample(size), cfg, draw())
        x0, y0 = before
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[y0 : y0 + size[1], x0 : x0 + size[0]] = True
        assert torch.equal(got.valid, inside)
        assert not got.x[:, ~inside].any()
        assert torch.equal(got.y[~inside], torch.full_like(got.y[~inside], 255))


def test_unimatch_stpp_and_augseg_pad_right_and_below() -> None:
    for weak, colour in (("unimatch", (0, 0, 0)), ("stpp", (0, 0, 0)), ("augseg", (123, 116, 103))):
        got = labeled_view(sample((10, 8)), config(weak, base=10, scale=(1.0, 1.0), flip=0.0), draw())
        inside = torch.zeros(32, 32, dtype=torch.bool)
        inside[:8, :10] = True
        assert torch.equal(got.valid, inside)
        padding = F.normalize(torch.tensor(colour).view(3, 1, 1) / 255, MEAN, STD)
        assert torch.equal(got.x[:, ~inside], padding.view(3, 1).expand(3, int((~inside).sum())))
        assert (got.y[~inside] == 255).all()


def test_label_padding_of_the_release_is_an_option() -> None:
    """Card: views 5: 0 in labelled views; the hidden labels keep 255."""
    cfg = config("u2pl", crop=64, scale=(0.5, 1.0), label_padding=0)
    got = labeled_view(sample(), cfg, draw())
    assert (got.y[~got.valid] == 0).all()
    hidden = unlabeled_view(sample(), cfg, draw(view="labeled0"), 0)
    assert (hidden.truth[~hidden.valid] == 255).all()


def test_cps_scales_come_from_the_list() -> None:
    sizes = [weaken(sample((40, 22)), config("cps", flip=0.0), draw(k)).geometry[0].size for k in range(MANY)]
    seen = Counter(w / 40 for w, _ in sizes)
    assert set(seen) == {0.5, 0.75, 1.0, 1.5, 1.75, 2.0}
    assert min(seen.values()) > MANY / 6 / 2
    assert all(h == int(22 * w / 40) for w, h in sizes)


def test_cps_crop_overruns_by_one_pixel_now_and_then() -> None:
    """Card: views 7: the start is drawn from 0 .. size - crop + 1, so 1 in size - crop + 2 is a pixel short."""
    short = 0
    for k in range(MANY):
        settled = weaken(sample((36, 36)), config("cps", scales=[1.0], flip=0.0), draw(k))
        crop = step(settled, Crop)
        assert isinstance(crop, Crop)
        assert 0 <= crop.x <= 5
        short += crop.x == 5
        valid = np.asarray(settled.valid)
        assert valid[:-1, :-1].all()
        assert valid[0, -1] == (crop.x < 5)
    assert 0.1 < short / MANY < 0.24
    exact = [weaken(sample((36, 36)), config("cps", scales=[1.0], overrun=False), draw(k)) for k in range(60)]
    assert all(np.asarray(s.valid).all() for s in exact)


def test_cutmix_seg_takes_a_scaled_square() -> None:
    """Card: views 8: sides round(crop / s) for the eleven s, centred padding, then resized to the crop."""
    sides, padded = Counter(), 0
    for k in range(MANY):
        settled = weaken(sample((50, 40)), config("cutmix_seg"), draw(k))
        crop, resize = settled.geometry[:2]
        assert isinstance(crop, Crop)
        assert isinstance(resize, Resize)
        side = crop.size[0]
        sides[side] += 1
        assert (crop.size, resize.size) == ((side, side), (32, 32))
        if side > 50:
            assert (crop.x, crop.y) == (-((side - 50) // 2), -((side - 40) // 2))
        padded += settled.alpha is not None
    assert set(sides) == {round(32 / (0.5 + n / 10)) for n in range(11)}
    assert padded == sum(n for side, n in sides.items() if side > 40)


def test_cutmix_seg_fades_to_zero_between_image_and_padding() -> None:
    """A white image on padding: (v - mean a) / std with v = a, so a (1 - mean) / std: never below 0."""
    white = Sample.of("a", Image.new("RGB", (20, 20), (255, 255, 255)))
    for k in range(40):
        got = labeled_view(white, config("cutmix_seg", scale=(0.5, 0.5)), draw(k))
        top = ((1 - torch.tensor(MEAN)) / torch.tensor(STD)).view(3, 1, 1)
        assert (got.x >= -1e-2).all()
        assert (got.x <= top + 1e-5).all()
        assert not got.x[:, 0].any()
        assert torch.allclose(got.x[:, 16, 16], top.view(3))


@pytest.mark.parametrize("size", [(154, 224), (200, 154), (33, 40)])
@pytest.mark.parametrize("mode", ["L", "F"])
def test_acdc_geometry_is_numpys_and_scipys(size: tuple[int, int], mode: str) -> None:
    from scipy import ndimage

    kinds: Counter[str] = Counter()
    for k in range(40):
        original = sample(size, mode)
        settled = weaken(original, config("acdc", crop=64), draw(k))
        for before, after in ((original.image, settled.image), (original.mask, settled.mask)):
            array = np.asarray(before)
            for s in settled.geometry:
                if isinstance(s, Turn):
                    array = np.rot90(array, s.quarters)
                elif isinstance(s, Flip):
                    array = np.flip(array, 0 if s.vertical else 1)
                elif isinstance(s, Rotate):
                    array = ndimage.rotate(array, s.degrees, order=0, reshape=False)
                else:
                    array = ndimage.zoom(array, (64 / array.shape[0], 64 / array.shape[1]), order=0)
            assert np.array_equal(np.asarray(after), array)
        assert np.asarray(settled.valid).all()
        kinds["+".join(type(s).__name__ for s in settled.geometry)] += 1
    assert set(kinds) == {"Turn+Flip+Resize", "Rotate+Resize", "Resize"}


def test_acdc_turns_flips_and_angles() -> None:
    steps = [s for k in range(1500) for s in weaken(sample((9, 8), "L"), config("acdc", crop=8), draw(k)).geometry]
    quarters = Counter(s.quarters for s in steps if isinstance(s, Turn))
    angles = Counter(s.degrees for s in steps if isinstance(s, Rotate))
    assert set(quarters) == {0, 1, 2, 3}
    assert {s.vertical for s in steps if isinstance(s, Flip)} == {True, False}
    assert (min(angles), max(angles)) == (-20, 19)
    assert 0.45 < sum(quarters.values()) / 1500 < 0.55
    assert 0.2 < sum(angles.values()) / 1500 < 0.3


def test_acdc_unlabelled_slices_are_cut_to_8_bits_and_labelled_ones_are_not() -> None:
    original = sample((40, 48), "F")
    cfg = config("acdc", crop=64, strong="acdc", jitter_share=0.0, blur_share=0.0)
    labeled, unlabeled = labeled_view(original, cfg, draw()), unlabeled_view(original, cfg, draw(), 1)
    assert labeled.x.shape == (1, 64, 64)
    floats = np.asarray(weaken(original, cfg, draw()).image)
    assert np.array_equal(labeled.x[0].numpy(), floats)
    cut = torch.from_numpy((floats * 255).astype(np.uint8)).float() / 255
    assert torch.equal(unlabeled.weak[0], cut)
    assert torch.equal(unlabeled.strong[0][0], cut)
