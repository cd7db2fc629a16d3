"""Image, labels, padding, maps and boxes say the same of every place, after resize, crop, flip and mix, at random.

Each scene is made of blocks whose colour is their class, so that a label can be read off the image. Images are
interpolated and labels are not: they are compared where a pixel's surroundings are of one class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from made_samples import BASE, config
from PIL import Image
from torch import Tensor

from ssbench.ops.mixing import paste
from ssbench.ops.pseudo import Pseudo
from ssbench.views.geometry import move_boxes, rasterise
from ssbench.views.pipelines import UnlabeledView, unlabeled_view
from ssbench.views.sample import Draw, Sample

CLASSES, OBJECT, BLOCK, REACH = 5, 4, 24, 2
COLOURS = torch.tensor([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]) / 255
PIPELINES = st.sampled_from(["none", "unimatch", "stpp", "augseg", "u2pl", "cps", "cutmix_seg"])
SIDES = st.integers(50, 130)


@dataclass(frozen=True)
class Scene:
    """A sample and the box of its one object, the only thing of class OBJECT."""

    sample: Sample
    box: np.ndarray


def scene(size: tuple[int, int], seed: int) -> Scene:
    rng, (w, h) = np.random.default_rng(seed), size
    blocks = rng.integers(0, OBJECT, (-(-h // BLOCK), -(-w // BLOCK)), dtype=np.uint8)
    mask = np.kron(blocks, np.ones((BLOCK, BLOCK), np.uint8))[:h, :w]
    x, y = int(rng.integers(w - BLOCK)), int(rng.integers(h - BLOCK))
    right, low = int(rng.integers(x + BLOCK, w + 1)), int(rng.integers(y + BLOCK, h + 1))
    mask[y:low, x:right] = OBJECT
    image = Image.fromarray((COLOURS.numpy()[mask] * 255).astype(np.uint8))
    soft = Image.fromarray((mask == 1).astype(np.float32) * 10)
    layers = {"again": Image.fromarray(mask), "bit": Image.fromarray(mask == 2), "soft": soft}
    return Scene(Sample.of(f"s{seed}", image, Image.fromarray(mask), layers), np.array([[x, y, right, low]]))


def seen(made: Scene, weak: str, crop: int, epoch: int) -> UnlabeledView:
    cfg = config(weak, crop, normalise="none", box="unimatch", base=90 if weak in BASE else None)
    return unlabeled_view(made.sample, cfg, Draw(1, epoch, made.sample.id, "unlabeled0"), 1)


def settled(label: Tensor, valid: Tensor) -> Tensor:
    """H W bool: pixels whose surroundings are inside the image and of one class."""
    planes = torch.stack([(label == c) & valid for c in range(CLASSES)]).float()
    side = 2 * REACH + 1
    outside = F.max_pool2d(F.pad(1 - planes[None], [REACH] * 4, value=1.0), side, 1)[0]
    return (outside == 0).any(0)


def agree(x: Tensor, label: Tensor, maps: dict[str, Tensor], at: Tensor) -> None:
    """At these pixels, what the image shows is what the label and every map say."""
    label = label.where(at, 0)
    assert ((x - COLOURS[label].permute(2, 0, 1)).abs().amax(0)[at] < 0.02).all()
    assert torch.equal(maps["again"].long()[at], label[at])
    assert torch.equal(maps["bit"].bool()[at], (label == 2)[at])
    assert torch.allclose(maps["soft"][at], 10.0 * (label == 1)[at], atol=0.01)


@settings(max_examples=150, deadline=None)
@given(size=st.tuples(SIDES, SIDES), weak=PIPELINES, crop=st.integers(33, 100), seed=st.integers(0, 10**6))
def test_a_view(size: tuple[int, int], weak: str, crop: int, seed: int) -> None:
    made = scene(size, seed)
    got = seen(made, weak, crop, seed % 7)
    agree(got.weak, got.truth, got.maps, settled(got.truth, got.valid))
    assert torch.equal(got.maps["again"].long()[got.valid], got.truth[got.valid])
    assert (got.truth[~got.valid] == 255).all()
    near = F.max_pool2d(got.valid[None].float(), 2 * REACH + 1, 1, REACH)[0] > 0  # cutmix_seg resizes its padding too
    assert not got.maps["soft"][~near].any()
    boxes, _ = move_boxes(made.box, got.geometry)
    place, shape = got.truth == OBJECT, (got.truth.shape[1], got.truth.shape[0])
    wide, tight = (rasterise(boxes + by, shape).astype(bool) for by in ([-2, -2, 2, 2], [2, 2, -2, -2]))
    assert not (place.numpy() & ~wide).any()
    assert not (tight & ~place.numpy() & got.valid.numpy()).any()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.tuples(SIDES, SIDES)] * 2), weak=PIPELINES.filter(lambda name: name != "none"),
    crop=st.integers(33, 100), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_a_mix_of_two_views(sizes: tuple[tuple[int, int], tuple[int, int]], weak: str, crop: int, seed: int) -> None:
    """Pasted by the view's own box, as hosts do: no label is left under another image."""
    here, there = (seen(scene(size, seed + k), weak, crop, k) for k, size in enumerate(sizes))
    region = here.boxes[0][None]
    told = [
        Pseudo(
            u.truth[None], u.weak[:1], u.valid[None], u.valid[None],
            carry={**{name: layer[None] for name, layer in u.maps.items()}, "place": settled(u.truth, u.valid)[None]},
        )
        for u in (here, there)
    ]  # fmt: skip
    mixed = told[0].pasted(told[1], region)
    agree(
        paste(here.weak[None], there.weak[None], region)[0],
        mixed.label[0],
        {name: layer[0] for name, layer in mixed.carry.items()},
        mixed.carry["place"][0],
    )
    assert torch.equal(mixed.valid, mixed.label != 255)
    assert torch.equal(mixed.keep, mixed.valid)


def test_the_comparison_finds_labels_that_are_off_by_a_few_pixels() -> None:
    got = seen(scene((120, 120), 3), "none", 64, 0)
    at = settled(got.truth, got.valid)
    assert at.float().mean() > 0.5
    moved = got.truth.roll(4, 1)
    assert (COLOURS[moved].permute(2, 0, 1) - got.weak).abs().amax(0)[at].max() > 0.5
