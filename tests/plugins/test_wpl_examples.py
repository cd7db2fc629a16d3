"""Training examples of a detector: views and boxes that belong together, keyed draws, any kind of image."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ssbench.ops.components import component_boxes
from ssbench.plugins.wpl_boxes import DetectorAugment, DetectorExamples, rgb, tensor

PLAIN = DetectorAugment(None, None, 0.0, 0.0)


def scene(id: str) -> np.ndarray:
    """Two bright rectangles, red of class 3 and green of class 5, on black."""
    g = np.random.default_rng(sum(map(ord, id)))
    mask = np.zeros((40, 60), np.uint8)
    for c, x in ((3, 2), (5, 32)):
        left, top = x + int(g.integers(8)), int(g.integers(10))
        mask[top : top + 12 + int(g.integers(15)), left : left + 8 + int(g.integers(12))] = c
    return mask


def picture(id: str) -> Image.Image:
    mask = scene(id)
    return Image.fromarray(np.stack([255 * (mask == 3), 255 * (mask == 5), 0 * mask], -1).astype(np.uint8))


def examples(
    augment: DetectorAugment, ids: tuple[str, ...] = ("a", "b", "c"), batch: int = 2, seed: int = 0
) -> DetectorExamples:
    boxes = {id: component_boxes(scene(id), (3, 5)) for id in ids}
    return DetectorExamples(ids, boxes, (3, 5), picture, augment, batch, seed)


def test_plain_views_are_the_images_with_their_boxes() -> None:
    views = [view for step in range(3) for view in examples(PLAIN)(step)]
    assert len(views) == 6
    for x, boxes, labels in views:
        assert x.shape == (3, 40, 60)
        assert labels.tolist() == [1, 2]
        for (x0, y0, x1, y1), channel in zip(boxes.int().tolist(), (0, 1), strict=True):
            assert x[channel, y0:y1, x0:x1].sum() == x[channel].sum() == (y1 - y0) * (x1 - x0)


def test_every_turn_shows_every_image_once_in_an_order_of_its_own() -> None:
    made = examples(PLAIN, tuple("abcdefgh"), 1)
    turns = [[made._place(turn * 8 + k)[0] for k in range(8)] for turn in range(3)]
    assert all(sorted(turn) == list("abcdefgh") for turn in turns)
    assert turns[0] != turns[1]


@settings(deadline=None, max_examples=40)
@given(step=st.integers(0, 500), crop=st.one_of(st.none(), st.integers(10, 70)), resize=st.booleans())
def test_boxes_follow_crops_flips_and_resizes(step: int, crop: int | None, resize: bool) -> None:
    """Inside a box there is its colour, outside all boxes none, but for a pixel of a resized border."""
    for x, boxes, labels in examples(DetectorAugment((80, 120) if resize else None, crop, 0.5, 0.0))(step):
        assert x.shape[1:] == (min(crop or 999, 80 if resize else 40), min(crop or 999, 120 if resize else 60))
        for channel in (0, 1):
            covered, core = torch.zeros(x.shape[1:], dtype=torch.bool), torch.zeros(x.shape[1:], dtype=torch.bool)
            margin = 1 if resize else 0
            for x0, y0, x1, y1 in boxes[labels == channel + 1].int().tolist():
                covered[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = True
                core[y0 + margin : y1 - margin, x0 + margin : x1 - margin] = True
            assert (x[channel][core] > 0.6).all()
            assert (x[channel][~covered] < 0.4).all()


def test_a_view_that_shows_no_box_is_left_out() -> None:
    made = [len(examples(DetectorAugment(None, 10, 0.5, 0.0), batch=4)(step)) for step in range(20)]
    assert min(made) < 4
    assert sum(made) > 0


def test_draws_are_keyed() -> None:
    augment = DetectorAugment(None, 30, 0.5, 1.0)
    first, again, other = (examples(augment, seed=s)(5) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for one, two in zip(first, again, strict=True) for a, b in zip(one, two, strict=True))
    assert not torch.equal(first[0][0], other[0][0])
    assert 0 <= min(x.min().item() for x, _, _ in first) <= max(x.max().item() for x, _, _ in first) <= 1


def test_grey_and_float_images_become_three_channels() -> None:
    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4) * 20)
    exact = Image.fromarray((np.arange(12, dtype=np.float32).reshape(3, 4)) * np.float32(20 / 255))
    for image in (grey, exact):
        x = tensor(rgb(image))
        assert x.shape == (3, 3, 4)
        assert torch.equal(x[0], x[2])
        assert torch.equal(x[0] * 255, torch.arange(12.0).view(3, 4) * 20)
