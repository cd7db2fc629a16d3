"""Geometry: steps against the libraries they stand for, and boxes against the masks they follow."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from ssbench.views.geometry import Crop, Flip, Resize, Rotate, Step, Turn, move_boxes, nearest, rasterise
from ssbench.views.sample import Sample
from ssbench.views.warp import IMAGE, MASK, VALID, Window, move_layer, move_picture, point_resize, settle, trace

BILINEAR, NEAREST = Image.Resampling.BILINEAR, Image.Resampling.NEAREST
SIDES = st.integers(2, 60)


def noise(w: int, h: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    rng = np.random.default_rng([seed, w, h])
    if mode == "F":
        return Image.fromarray(rng.random((h, w), dtype=np.float32))
    return Image.fromarray(rng.integers(0, 256, (h, w, 3) if mode == "RGB" else (h, w), dtype=np.uint8))


def test_boxes_follow_the_worked_example() -> None:
    """Resize x 1.5, crop origin (10, 5) side 80, flip."""
    steps = (Resize((100, 80), (150, 120), "pil"), Crop((150, 120), 10, 5, (80, 80)), Flip((80, 80)))
    box = np.array([[20.0, 10, 60, 50]])
    assert move_boxes(box, steps[:1])[0].tolist() == [[30, 15, 90, 75]]
    assert move_boxes(box, steps[:2])[0].tolist() == [[20, 10, 80, 70]]
    assert move_boxes(box, steps)[0].tolist() == [[0, 10, 60, 70]]


def test_boxes_are_clipped_dropped_and_counted() -> None:
    boxes = np.array([[0.0, 0, 5, 5], [8, 8, 14, 14], [5, 2, 7, 4], [10, 0, 11, 20]])
    moved, kept = move_boxes(boxes, (Crop((20, 20), 5, 5, (5, 5)),))
    assert moved.tolist() == [[3, 3, 5, 5]]
    assert kept.tolist() == [1]
    none, nobody = move_boxes(np.zeros((0, 4)), (Flip((4, 4)),))
    assert none.shape == (0, 4)
    assert nobody.shape == (0,)


@settings(deadline=None)
@given(before=st.integers(1, 300), after=st.integers(1, 300))
def test_nearest_is_what_each_library_does(before: int, after: int) -> None:
    ramp = np.arange(before)
    pil = Image.fromarray(ramp[None].astype(np.int32)).resize((after, 1), NEAREST)
    assert (ramp[nearest(before, after, "pil")] == np.asarray(pil)[0]).all()
    for how in ("point", "float"):
        torch_says = F.interpolate(torch.from_numpy(ramp)[None, None].float(), size=after, mode="nearest")[0, 0]
        assert (ramp[nearest(before, after, how)] == torch_says.numpy()).all()  # type: ignore[arg-type]


@pytest.mark.parametrize("after", [17, 256])
def test_zoom_is_scipys_order_0(after: int) -> None:
    for before in range(2, 520, 7):
        ramp = np.arange(before, dtype=np.float64)
        assert (ramp[nearest(before, after, "zoom")] == scipy.ndimage.zoom(ramp, after / before, order=0)).all()


@settings(max_examples=60, deadline=None)
@given(size=st.tuples(SIDES, SIDES), to=st.tuples(SIDES, SIDES), side=st.integers(2, 70), u=st.floats(0, 1))
def test_pil_geometry_is_resize_pad_crop_flip(size: tuple[int, int], to: tuple[int, int], side: int, u: float) -> None:
    """Pixel for pixel what UniMatch's three steps do, with padding on the right and below."""
    (w, h), (to_w, to_h) = size, to
    x, y = int(u * max(to_w - side, 0)), int((1 - u) * max(to_h - side, 0))
    steps = (Resize((w, h), (to_w, to_h), "pil"), Crop((to_w, to_h), x, y, (side, side)), Flip((side, side)))
    for mode, how, fill in (("RGB", BILINEAR, 0), ("L", BILINEAR, 0), ("F", BILINEAR, 0), ("L", NEAREST, 255)):
        image = noise(w, h, mode)
        padded = Image.new(mode, (max(to_w, side), max(to_h, side)), fill)
        padded.paste(image.resize((to_w, to_h), how), (0, 0))
        wanted = padded.crop((x, y, x + side, y + side)).transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        got = move_picture(image, steps) if how == BILINEAR else move_layer(image, trace(steps), MASK)
        assert isinstance(got, Image.Image)
        assert got.mode == mode
        assert np.array_equal(np.asarray(got), np.asarray(wanted))


@settings(max_examples=40, deadline=None)
@given(w=SIDES, h=SIDES, to_w=SIDES, to_h=SIDES)
def test_point_resize_is_torchs_interpolate(w: int, h: int, to_w: int, to_h: int) -> None:
    array = np.asarray(noise(w, h))
    whole = point_resize(array, (to_w, to_h), Window(0, to_w, False, 0, to_w), Window(0, to_h, False, 0, to_h))
    x = torch.from_numpy(array.astype(np.float32)).permute(2, 0, 1)[None]
    wanted = F.interpolate(x, size=(to_h, to_w), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    np.testing.assert_allclose(whole, wanted.numpy(), atol=2e-3)
    part = point_resize(array, (to_w, to_h), Window(1, to_w, False, 0, to_w), Window(0, to_h - 1, False, 0, to_h))
    assert np.array_equal(part, whole[:-1, 1:])


def test_padding_lies_where_the_crop_reaches_out() -> None:
    image, mask = Image.new("RGB", (4, 3), (9, 9, 9)), Image.new("L", (4, 3), 7)
    sample = Sample.of("a", image, mask, {"m": Image.new("L", (4, 3), 1)})
    settled = settle(sample.then(Crop((4, 3), -1, -2, (6, 7))), "mean")
    inside = np.zeros((7, 6), bool)
    inside[2:5, 1:5] = True
    assert (np.asarray(settled.valid) == inside).all()
    assert (np.asarray(settled.mask) == np.where(inside, 7, 255)).all()
    assert (np.asarray(settled.maps["m"]) == inside).all()
    assert (np.asarray(settled.image) == np.where(inside[..., None], 9, (123, 116, 103))).all()
    assert settled.size == (6, 7)


def test_every_layer_moves_alike_whatever_its_mode() -> None:
    ids = np.arange(20 * 30, dtype=np.float32).reshape(20, 30)
    low = Image.fromarray((ids % 251).astype(np.uint8))
    layers = {"bits": Image.fromarray(ids % 7 == 0), "bytes": low, "real": Image.fromarray(ids)}
    sample = Sample.of("a", low, low, layers)
    turned = sample.then(Turn((30, 20), 1), Flip((20, 30), vertical=True), Crop((20, 30), 3, 4, (12, 13)))
    settled = settle(turned)
    real = np.asarray(settled.maps["real"])
    assert np.array_equal(real, np.rot90(ids)[::-1][4:17, 3:15])
    assert np.array_equal(np.asarray(settled.maps["bits"]), real % 7 == 0)
    for layer in (settled.maps["bytes"], settled.mask, settled.image):
        assert np.array_equal(np.asarray(layer), real % 251)
    assert [settled.maps[k].mode for k in layers] == ["1", "L", "F"]


def test_float_maps_are_interpolated_and_zero_in_padding() -> None:
    entropy = noise(10, 8, "F")
    sample = Sample.of("a", noise(10, 8), maps={"entropy": entropy})
    settled = settle(sample.then(Resize((10, 8), (20, 16), "pil"), Crop((20, 16), 0, 0, (24, 24))))
    got = np.asarray(settled.maps["entropy"])
    assert np.array_equal(got[:16, :20], np.asarray(entropy.resize((20, 16), BILINEAR)))
    assert not got[16:].any()
    assert not got[:, 20:].any()


def test_settling_without_pending_steps_changes_nothing() -> None:
    sample = Sample.of("a", noise(5, 5))
    assert settle(sample) is sample
    once = settle(sample.then(Flip((5, 5))))
    assert settle(once) is once
    assert settle(once.then(Flip((5, 5)))).geometry == (Flip((5, 5)), Flip((5, 5)))


@pytest.mark.parametrize("degrees", [-20, -7, 0, 13, 19])
def test_rotation_is_scipys_with_background_turned_in(degrees: int) -> None:
    image = noise(31, 24, "L")
    steps = (Rotate((31, 24), degrees),)
    wanted = scipy.ndimage.rotate(np.asarray(image), degrees, order=0, reshape=False)
    assert np.array_equal(np.asarray(move_layer(image, trace(steps), IMAGE)), wanted)
    assert np.array_equal(np.asarray(move_layer(image, trace(steps), MASK)), wanted)
    assert np.asarray(move_layer(Image.new("L", (31, 24), 1), trace(steps), VALID)).all()


@settings(deadline=None)
@given(degrees=st.integers(-20, 19), corner=st.tuples(*[st.integers(0, 20)] * 2), shape=st.tuples(*[SIDES] * 2))
def test_rotated_boxes_hold_what_they_held(degrees: int, corner: tuple[int, int], shape: tuple[int, int]) -> None:
    (x, y), (w, h) = corner, shape
    mask = np.zeros((30, 40), np.uint8)
    mask[y : y + h, x : x + w] = 1
    step = Rotate((40, 30), degrees)
    moved = np.asarray(move_layer(Image.fromarray(mask), trace((step,)), IMAGE))
    boxes, _ = move_boxes(np.array([[x, y, min(x + w, 40), min(y + h, 30)]]), (step,))
    if moved.any():
        rows, cols = np.nonzero(moved)
        x0, y0, x1, y1 = boxes[0]
        assert x0 - 1 <= cols.min()
        assert cols.max() + 1 <= x1 + 1
        assert y0 - 1 <= rows.min()
        assert rows.max() + 1 <= y1 + 1


@st.composite
def journeys(draw: st.DrawFn, resize: bool) -> tuple[tuple[int, int], tuple[Step, ...]]:
    """An image size and a chain of one to four steps."""
    start = size = (draw(SIDES), draw(SIDES))
    steps: list[Step] = []
    for kind in draw(st.lists(st.sampled_from("cft" + "r" * resize), min_size=1, max_size=4)):
        if kind == "c":
            shape = (draw(st.integers(2, 70)), draw(st.integers(2, 70)))
            x, y = (draw(st.integers(-9, max(side - 2, 0))) for side in size)
            x, y = max(x, 2 - shape[0]), max(y, 2 - shape[1])
            steps.append(Crop(size, x, y, shape))
        elif kind == "r":
            if any(isinstance(s, Resize) for s in steps):
                continue
            steps.append(Resize(size, (draw(SIDES), draw(SIDES)), draw(st.sampled_from(["pil", "point", "zoom"]))))
        else:
            steps.append(Flip(size, draw(st.booleans())) if kind == "f" else Turn(size, draw(st.integers(0, 3))))
        size = steps[-1].size
    return start, tuple(steps)


def boxed(size: tuple[int, int], seed: int) -> tuple[np.ndarray, Image.Image]:
    """A whole-pixel box inside the image, and its mask."""
    rng = np.random.default_rng(seed)
    (x0, x1), (y0, y1) = (np.sort(rng.choice(side + 1, 2, replace=False)) for side in size)
    box = np.array([[x0, y0, x1, y1]])
    return box, Image.fromarray(rasterise(box, size).astype(np.uint8))


@settings(max_examples=200, deadline=None)
@given(journey=journeys(resize=False), seed=st.integers(0, 999))
def test_boxes_equal_moved_masks_without_resize(journey: tuple[tuple[int, int], tuple[Step, ...]], seed: int) -> None:
    size, steps = journey
    box, mask = boxed(size, seed)
    moved = np.asarray(move_layer(mask, trace(steps), IMAGE))
    assert np.array_equal(rasterise(move_boxes(box, steps)[0], steps[-1].size), moved)


@settings(max_examples=200, deadline=None)
@given(journey=journeys(resize=True), seed=st.integers(0, 999))
def test_boxes_are_within_a_pixel_of_resized_masks(
    journey: tuple[tuple[int, int], tuple[Step, ...]], seed: int
) -> None:
    """Nearest neighbour may move an edge by less than one pixel of the coarser grid (of the finer, when enlarging)."""
    size, steps = journey
    box, mask = boxed(size, seed)
    moved = np.asarray(move_layer(mask, trace(steps), IMAGE)).astype(bool)
    boxes = move_boxes(box, steps)[0]
    zoom = [max(a / b for a, b in zip(s.size, s.before, strict=True)) for s in steps if isinstance(s, Resize)]
    reach = int(np.ceil(max([1.0, *zoom])))
    assert not (moved & ~rasterise(boxes + [-reach, -reach, reach, reach], steps[-1].size)).any()
    if moved.any():
        near = scipy.ndimage.binary_dilation(moved, np.ones((2 * reach + 1, 2 * reach + 1), bool))
        assert not (rasterise(boxes, steps[-1].size) & ~near).any()


@settings(deadline=None)
@given(journey=journeys(resize=False))
def test_image_and_mask_agree(journey: tuple[tuple[int, int], tuple[Step, ...]]) -> None:
    size, steps = journey
    layer = noise(*size, "L")
    settled = settle(Sample.of("a", layer, layer).then(*steps))
    inside = np.asarray(settled.valid).astype(bool)
    assert np.array_equal(np.asarray(settled.image)[inside], np.asarray(settled.mask)[inside])
    assert (np.asarray(settled.mask)[~inside] == 255).all()
    assert not np.asarray(settled.image)[~inside].any()


@pytest.mark.parametrize("after", [7, 48, 64, 96, 224, 232, 248, 256, 512])
def test_zoom_copies_the_pixels_that_scipy_copies(after: int) -> None:
    """Also where rounding puts scipy's last place beyond the last pixel: it writes 0 there (card: views 9)."""
    outside = 0
    for before in (*range(2, 130), 154, 208, 216, 236, 242, 250, 255, 256, 257, 428, 512, 600):
        values = np.arange(1, before + 1)
        zoomed = scipy.ndimage.zoom(values, after / before, order=0)
        if len(zoomed) != after:  # scipy rounds the length by itself
            continue
        places = nearest(before, after, "zoom")
        assert np.array_equal(np.where(places < 0, 0, values[places]), zoomed), before
        outside += int(places[-1] < 0)
    assert (outside > 0) == (after in (48, 96, 224, 232, 248)), outside
