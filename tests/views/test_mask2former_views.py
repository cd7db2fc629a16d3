"""Mask2Former's mapper: sizes, crops, padding, and the colours of SSD against stored values of OpenCV."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from ssbench.train.short_side import short_side
from ssbench.views.pipelines import labeled_view, read_views, unlabeled_view, weaken
from ssbench.views.sample import Draw, Sample
from ssbench.views.ssd import ssd_colour, to_hsv, to_rgb
from ssbench.views.weak import Mask2FormerWeak, short_side_size

# OpenCV 4.11 and 5.0, cvtColor with COLOR_RGB2HSV, and COLOR_HSV2RGB on rows of 64 pixels.
RGB = [
    *([95, 130, 194], [217, 207, 235], [15, 163, 33], [154, 133, 6], [233, 59, 106], [215, 147, 240]),
    *([30, 183, 82], [30, 114, 65], [203, 185, 72], [247, 92, 132], [43, 13, 236], [173, 247, 197]),
]
HSV = [
    *([109, 130, 194], [131, 30, 235], [64, 232, 163], [26, 245, 154], [172, 190, 233], [142, 99, 240]),
    *([70, 213, 183], [73, 188, 114], [26, 165, 203], [172, 160, 247], [124, 241, 236], [70, 76, 247]),
]
TO_RGB = [[95, 130, 194], [37, 207, 235], [15, 163, 33], [35, 217, 130], [68, 189, 16], [69, 184, 232], [25, 78, 169]]
FROM_HSV = [[95, 177, 194], [190, 235, 44], [33, 22, 11], [111, 130, 19], [4, 16, 7], [64, 232, 114], [169, 160, 117]]


def pixels(values: list[list[int]]) -> Any:
    return np.array([values], np.uint8)


def test_hsv_is_opencvs() -> None:
    assert to_hsv(pixels(RGB))[0].tolist() == HSV
    assert to_rgb(pixels(TO_RGB))[0].tolist() == FROM_HSV


def test_greys_have_no_hue_and_come_back() -> None:
    greys = pixels([[v, v, v] for v in range(256)])
    hsv = to_hsv(greys)
    assert not hsv[..., :2].any()
    assert np.array_equal(to_rgb(hsv), greys)


def views(**settings: Any) -> Any:
    return read_views({"weak": "mask2former", "crop": 64, "base": 64, **settings})


def picture(width: int = 80, height: int = 60) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def sample(width: int = 80, height: int = 60) -> Sample:
    mask = np.random.default_rng(1).integers(0, 5, (height, width), np.uint8)
    return Sample.of("a", picture(width, height), Image.fromarray(mask))


@pytest.mark.parametrize(("size", "short", "expected"), [
    ((500, 375), 512, (683, 512)),  # detectron2: 512 / 375 x 500 = 682.67
    ((375, 500), 512, (512, 683)),
    ((2000, 300), 512, (2048, 307)),  # the long side would be 3413: scaled again
    ((512, 512), 512, (512, 512)),
    ((640, 480), 256, (341, 256)),
])  # fmt: skip
def test_short_sides_are_detectron2s(size: tuple[int, int], short: int, expected: tuple[int, int]) -> None:
    assert short_side_size(size, short, 2048) == expected


def test_sixteen_short_sides_as_often_as_one_another() -> None:
    cfg, small, sizes = views(), views(base=8, crop=16, colour_share=0.0), Counter[int]()
    for epoch in range(800):
        moved = weaken(Sample.of("a", picture(8, 8)), small, Draw(0, epoch, "a", "v"))
        sizes[min(moved.geometry[0].size)] += 1
    assert sorted(sizes) == sorted({int(8 * f) for f in cfg.scales})
    assert [int(512 * f) for f in cfg.scales] == [int(x * 0.1 * 512) for x in range(5, 21)]


def test_a_crop_never_leaves_the_image_and_padding_is_grey_and_ignored() -> None:
    for epoch in range(30):
        draw = Draw(0, epoch, "a", "v")
        moved = weaken(sample(), views(), draw)
        valid = np.asarray(moved.valid).astype(bool)
        rows, columns = valid.any(1), valid.any(0)
        assert valid.sum() == rows.sum() * columns.sum()  # a rectangle ...
        assert valid[0, 0]  # ... in the upper left corner, whether it is flipped or not
        height, width = moved.geometry[0].size[::-1]
        assert (rows.sum(), columns.sum()) == (min(height, 64), min(width, 64))
        assert (np.asarray(moved.image)[~valid] == 128).all()
        assert (np.asarray(moved.mask)[~valid] == 255).all()
        view = labeled_view(sample(), views(), draw)
        grey = (torch.tensor(128 / 255) - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
        if not valid.all():
            torch.testing.assert_close(view.x[:, ~view.valid], grey[:, None].expand(-1, int((~view.valid).sum())))


def test_without_colours_and_resize_a_view_is_the_image() -> None:
    cfg = views(scales=[1.0], colour_share=0.0, flip=0.0, base=60)
    moved = weaken(sample(60, 60), cfg, Draw(0, 0, "a", "v"))
    assert np.array_equal(np.asarray(moved.image)[:60, :60], np.asarray(picture(60, 60)))


def coloured(epoch: int, **settings: Any) -> tuple[Any, Any]:
    cfg = views(**settings)
    assert isinstance(cfg, Mask2FormerWeak)
    return np.asarray(picture()), np.asarray(ssd_colour(sample(), Draw(0, epoch, "a", "v"), cfg).image)


def test_each_colour_happens_half_of_the_time() -> None:
    alone = {
        "brightness": {"contrast": [1, 1], "saturation": [1, 1], "hue": 0},
        "contrast": {"brightness": 0, "saturation": [1, 1], "hue": 0},
    }
    for name, others in alone.items():
        changed = sum(bool((before != after).any()) for before, after in (coloured(e, **others) for e in range(120)))
        never = [coloured(e, **others, colour_share=0.0) for e in range(5)]
        assert all((before == after).all() for before, after in never)
        if name == "brightness":  # HSV there and back changes bytes as well, where the other two happen
            assert changed > 60


def test_brightness_adds_one_number_and_cuts_at_the_ends() -> None:
    flat = Image.fromarray(np.full((4, 4, 3), 100, np.uint8))
    cfg = views(contrast=[1, 1], saturation=[1, 1], hue=0)
    shifts = {int(np.asarray(ssd_colour(Sample.of("a", flat), Draw(0, e, "a", "v"), cfg).image)[0, 0, 0]) - 100
              for e in range(200)}  # fmt: skip
    assert min(shifts) >= -32
    assert max(shifts) <= 32
    assert len(shifts) > 20


def test_labelled_and_unlabelled_images_are_coloured_alike() -> None:
    draw = Draw(0, 3, "a", "v")
    labelled, unlabelled = labeled_view(sample(), views(), draw), unlabeled_view(sample(), views(), draw, 0)
    assert torch.equal(labelled.x, unlabelled.weak)
    assert unlabelled.strong == ()


@pytest.mark.parametrize("settings", [{"base": 0}, {"hue": 91}, {"scales": []}, {"colour_share": 1.5}, {"grey": 256}])
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        views(**settings)


def test_the_test_resize_is_pils_on_the_picture_itself() -> None:
    from ssbench.views.tensors import picture as tensor

    cfg, image = views(), picture(50, 40)
    x = tensor(image, cfg)[None]
    expected = tensor(image.resize((80, 64), Image.Resampling.BILINEAR), cfg)
    assert torch.equal(short_side(x, 64, cfg)[0], expected)
    two = torch.cat([x, tensor(image.transpose(Image.Transpose.ROTATE_180), cfg)[None]])
    assert torch.equal(short_side(two, 64, cfg)[:1], short_side(x, 64, cfg))
