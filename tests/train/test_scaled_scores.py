"""Scores of images that are scaled first (SemiVL on VOC), and windows at steps of their own (card: semivl 9)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ValidationError
from running import ALONE
from torch import Tensor

from ssbench.data.open import open_dataset
from ssbench.recipe.recipe import PROTOCOLS, EvalConfig
from ssbench.train.evaluate import evaluate, label_image
from ssbench.train.windows import window_step, windows
from ssbench.views.pipelines import eval_view, read_views, scaled_size, weaken
from ssbench.views.sample import Draw, Sample

VIEWS = read_views({"weak": "unimatch", "crop": 64})


def scores(x: Tensor) -> Tensor:
    """Three classes' scores that depend on the place in the window, as a network's do at a border."""
    rows = torch.linspace(-1, 1, x.shape[-2])[:, None].expand(x.shape[-2:])
    return torch.stack([x[:, 0] + rows, x[:, 1], x[:, 2] - rows], 1)


@pytest.mark.parametrize(
    ("size", "scaled"),
    [((500, 375), (683, 512)), ((375, 500), (512, 683)), ((96, 96), (512, 512)), ((4000, 400), (2048, 205))],
)
def test_an_image_fits_into_a_long_and_a_short_side(size: tuple[int, int], scaled: tuple[int, int]) -> None:
    """mmcv: the smaller of both factors, sides rounded half up."""
    assert scaled_size(size, (2048, 512)) == scaled


def test_pixels_are_scaled_as_opencv_does() -> None:
    """Between the four nearest, half-pixel centres, rounded to 8 bits; the same arithmetic as torch's."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    x = eval_view(Image.fromarray(pixels), read_views({"weak": "unimatch", "crop": 64, "normalise": "none"}), (60, 45))
    plain = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    expected = F.interpolate(plain, (45, 60), mode="bilinear", align_corners=False).round()[0]
    assert x.shape == (3, 45, 60)
    assert (x * 255 - expected).abs().max() <= 1.001  # a tie may round either way


def test_windows_of_voc_by_hand() -> None:
    """683 x 512 at crop 512, step 426: two windows, the second moved back to end at the border."""
    cfg = EvalConfig(**PROTOCOLS["semivl/voc"])
    assert window_step(cfg) == 426
    places = list(windows(512, 683, 512, cfg.border, window_step(cfg)))
    assert [(w.columns.start, w.columns.stop) for w in places] == [(0, 512), (171, 683)]
    assert {(w.rows.start, w.rows.stop) for w in places} == {(0, 512)}
    narrow = list(windows(400, 1400, 512, cfg.border, window_step(cfg)))
    assert [(w.columns.start, w.rows.stop) for w in narrow] == [(0, 400), (426, 400), (852, 400), (888, 400)]


def test_labels_are_those_of_averaged_windows_brought_back(toy: Path) -> None:
    """Naive: scale, sum logits of windows, divide by their number, resize with aligned corners, argmax."""
    cfg = EvalConfig(protocol="sliding", crop=72, step=60, border="shift", summed="logits", resize=(400, 100), few=2)
    image = open_dataset("toy", toy).image(open_dataset("toy", toy).ids("val")[0])
    x = eval_view(image, VIEWS, (400, 100))[None]
    height, width = x.shape[-2:]
    total, count = torch.zeros(1, 3, height, width), torch.zeros(height, width)
    for top in (0, height - 72):
        for left in (0, width - 72):
            total[..., top : top + 72, left : left + 72] += scores(x[..., top : top + 72, left : left + 72])
            count[top : top + 72, left : left + 72] += 1
    expected = F.interpolate(total / count, (image.height, image.width), mode="bilinear", align_corners=True)
    labels = label_image(scores, image, cfg, VIEWS, ALONE)
    assert labels.shape == (image.height, image.width)
    assert (labels == expected.argmax(1)[0].numpy()).mean() > 0.999  # sums in another order may break a tie


def test_every_pixel_of_every_label_counts_once(toy: Path) -> None:
    """At the labels' own size, whatever the images were scaled to."""
    dataset = open_dataset("toy", toy)
    cfg = EvalConfig(protocol="sliding", crop=72, step=60, border="shift", summed="logits", resize=(400, 100), few=3)
    score = evaluate(scores, dataset, "val", cfg, VIEWS, ALONE)
    pixels = sum(int((np.asarray(dataset.mask(id)) != 255).sum()) for id in dataset.ids("val")[:3])
    assert score.matrix is not None
    assert sum(map(sum, score.matrix)) == pixels


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"protocol": "whole", "step": 5}, "windows"), ({"protocol": "center", "crop": 8, "resize": [9, 9]}, "own size")],
)
def test_settings_that_mean_nothing_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EvalConfig(**fields)


def test_training_views_are_resized_within_a_scaled_target() -> None:
    """A factor of (2048, 512) from 0.5 to 2: the short side of a VOC image lies between 256 and 1,024 pixels."""
    views = read_views({"weak": "semivl", "crop": 1024})
    image = Image.new("RGB", (500, 375))
    seen = set()
    for k in range(30):
        sample = weaken(Sample.of("x", image, Image.new("L", (500, 375))), views, Draw(0, k, "x", "labeled"))
        width, height = sample.geometry[0].size
        seen.add(height)
        factor = height / 512
        assert abs(width - 500 * height / 375) <= 1
        assert 0.49 <= factor <= 2.01
    assert max(seen) > 700
    assert min(seen) < 400
