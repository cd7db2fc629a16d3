"""Pictures computed on the device against the exact pipelines: how far each operation may differ, in levels of 255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter
from torch import Tensor

from ssbench import keyed
from ssbench.data.batch import Batch
from ssbench.data.dataset import Dataset
from ssbench.data.loader import make_steps, views_on_device
from ssbench.data.plan import Needs, Plan
from ssbench.errors import RecipeError
from ssbench.views import device, strong
from ssbench.views.pipelines import read_views

CPU = torch.device("cpu")
FACTORS = [0.5, 0.9, 1.0, 1.3]


def photographs(count: int = 4, side: int = 48) -> list[Image.Image]:
    """Smooth colours with edges and noise, extremes included."""
    pictures = []
    for k in range(count):
        rng = keyed.rng("photograph", k)
        coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)).resize((side, side))
        array = np.asarray(coarse).astype(int) + rng.integers(-40, 41, (side, side, 3))
        pictures.append(Image.fromarray(array.clip(0, 255).astype(np.uint8)))
    return pictures


def stack(pictures: list[Image.Image]) -> Tensor:
    return torch.stack([torch.from_numpy(np.array(p)).movedim(-1, 0).float() for p in pictures])


def column(values: list[float]) -> Tensor:
    return torch.tensor(values).view(-1, 1, 1, 1)


def differences(ours: Tensor, pictures: list[Image.Image]) -> Tensor:
    assert torch.equal(ours, ours.round())
    return (ours - stack(pictures)).abs()


@pytest.mark.parametrize(
    ("operation", "enhance"),
    [
        (device.brightness, ImageEnhance.Brightness),
        (device.contrast, ImageEnhance.Contrast),
        (device.saturation, ImageEnhance.Color),
    ],
)
def test_enhancements_are_those_of_pillow(operation: Any, enhance: Any) -> None:
    pictures = photographs()
    expected = [enhance(p).enhance(f) for p, f in zip(pictures, FACTORS, strict=True)]
    assert differences(operation(stack(pictures), column(FACTORS)), expected).max() == 0


def test_grey_is_that_of_pillow() -> None:
    pictures = photographs()
    assert differences(device.grey(stack(pictures)), [p.convert("L").convert("RGB") for p in pictures]).max() == 0


def test_hue_is_that_of_pillow_but_for_a_few_pixels() -> None:
    pictures, factors = photographs(), [-0.25, -0.03, 0.1, 0.25]
    expected = [strong.hue(p, f) for p, f in zip(pictures, factors, strict=True)]
    off = differences(device.hue(stack(pictures), column(factors)), expected)
    assert off.max() <= 6, "one step of 255 in the hue, which moves a channel by six of its span at most"
    assert (off > 0).float().mean() < 0.002


def test_blur_is_that_of_pillow_but_for_rounding() -> None:
    pictures, radii = photographs(), [0.1, 0.7, 1.4, 2.0]
    expected = [p.filter(ImageFilter.GaussianBlur(r)) for p, r in zip(pictures, radii, strict=True)]
    off = differences(device.blur(stack(pictures), column(radii)), expected)
    assert off.max() <= 1
    assert (off > 0).float().mean() < 0.05


class Photographs(Dataset):
    """Sixteen of them, of one size where the views are not cut."""

    name = "photographs"
    classes = ("a", "b", "c")
    palette = ((0, 0, 0),) * 3

    def image(self, id: str) -> Image.Image:
        return photographs(int(id) + 1, 72)[int(id)].resize((72 + 4 * int(id), 80))

    def mask(self, id: str) -> Image.Image:
        return Image.fromarray(keyed.rng("labels", id).integers(0, 3, (80, 72 + 4 * int(id))).astype(np.uint8))


def batches(views: dict[str, Any], strong: int = 2) -> tuple[Batch, Batch]:
    """The first batch, exact and from the device."""
    cfg = read_views({"crop": 64, **views})
    plan = Plan(("0", "1", "2"), ("3", "4", "5", "6"), Needs(strong=strong, partner="same"), 3, 4)
    exact, raw = (make_steps(plan, Photographs(Path()), cfg, None, 0, 1, on_device=way)[0] for way in (False, True))
    return exact, raw.to(CPU).computed(cfg)


VIEWS: list[dict[str, Any]] = [
    {"weak": "unimatch", "strong": "unimatch", "box": "unimatch", "base": 96},
    {"weak": "augseg", "base": 96},
    {"weak": "u2pl", "box": "half"},
    {"weak": "cps", "normalise": "none"},
    {"weak": "cutmix_seg", "strong": "cutmix_seg", "box": "cutmix_seg"},
]


@pytest.mark.parametrize("views", VIEWS, ids=lambda views: views["weak"])
def test_batches_differ_from_exact_ones_by_rounding_alone(views: dict[str, Any]) -> None:
    """Labels, padding, regions and ids are equal; pictures nearly (a level of 255 is 0.018 after normalising)."""
    exact, ours = batches(views)
    assert torch.equal(exact.labeled.y, ours.labeled.y)
    assert exact.labeled.ids == ours.labeled.ids
    for a, b in ((exact.unlabeled, ours.unlabeled), (exact.partner, ours.partner)):
        assert a is not None
        assert b is not None
        assert torch.equal(a.valid, b.valid)
        assert torch.equal(a.truth, b.truth)
        assert all(torch.equal(x, y) for x, y in zip(a.boxes, b.boxes, strict=True))
        level = 1 / 255 if views.get("normalise") == "none" else 1 / 255 / 0.224
        assert (a.weak - b.weak).abs().max() <= 1.05 * level
        assert (a.weak - b.weak).abs().mean() < 0.1 * level
        for x, y in zip(a.strong, b.strong, strict=True):
            off = (x - y).abs()
            assert off.mean() < 0.3 * level, "a level before contrast and hue may be some after them"
            assert off.quantile(0.999) <= 6 * level


def test_draws_decide_the_colours_picture_by_picture() -> None:
    """A batch of pictures is what each picture alone is."""
    x = stack(photographs())
    colours = [
        device.Colours((1.2, 0.7, 1.1, 0.1), (2, 0, 3, 1), grey=False, blur=0.0),
        device.Colours(grey=True, blur=1.5),
        device.Colours(),
        device.Colours((0.6, 1.4, 0.5, -0.2), (3, 1, 0, 2), grey=True, blur=0.4),
    ]
    together = device.coloured(x, colours)
    for k, each in enumerate(colours):
        assert torch.equal(together[k], device.coloured(x[k : k + 1], [each])[0])
    assert torch.equal(together[2], x[2])


def test_who_computes_the_pictures() -> None:
    plan = Plan(("a",) * 4, ("b",) * 4, Needs(strong=2), 2, 2)
    gpu, auto = torch.device("cuda"), read_views({"weak": "none", "strong": "unimatch", "crop": 8})
    assert views_on_device(plan, auto, gpu, is_fast=True)
    assert not views_on_device(plan, auto, CPU, is_fast=True)
    assert not views_on_device(plan, auto, gpu, is_fast=False)
    assert not views_on_device(plan, auto.model_copy(update={"device": "host"}), gpu, is_fast=True)
    forced = auto.model_copy(update={"device": "device"})
    assert views_on_device(plan, forced, CPU, is_fast=True)
    with pytest.raises(RecipeError, match="precision: exact"):
        views_on_device(plan, forced, CPU, is_fast=False)
    pool = read_views({"weak": "none", "strong": "augseg", "crop": 8, "device": "device"})
    with pytest.raises(RecipeError, match="'augseg' have no form for batches"):
        views_on_device(plan, pool, CPU, is_fast=True)


def test_only_a_chosen_device_is_in_the_key() -> None:
    assert "device" not in read_views({"weak": "none", "crop": 8}).facts()
    assert read_views({"weak": "none", "crop": 8, "device": "device"}).facts()["device"] == "device"
