"""Boxes as layers of bits: they stay with the pixels they cover through every view and mix (card: wpl 2)."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from ssbench.errors import DataError
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.wpl_boxes import BoxMaps, ImageBoxes, in_own_box, layer_names
from ssbench.views.geometry import Crop, Flip, Resize, move_boxes, rasterise
from ssbench.views.pipelines import read_views, weaken
from ssbench.views.sample import Draw, Sample
from ssbench.views.tensors import layer
from ssbench.views.warp import settle

SCALED: dict[str, Any] = {"scale": [0.6, 1.7], "base": 60}
OWN: dict[str, dict[str, Any]] = {
    "cps": {"scales": [0.75, 1.0, 1.5]},
    "acdc": {},
    "none": {},
    **dict.fromkeys(("u2pl", "cutmix_seg"), {"scale": [0.6, 1.7]}),
}
CLASSES = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11)  # two layers


def maps_of(size: tuple[int, int], rows: list[list[float]], score: float = 0.0, **settings: Any) -> BoxMaps:
    boxes = ImageBoxes.model_validate({"size": size, "rows": rows})
    return BoxMaps({"a": boxes}, settings.pop("classes", CLASSES), score, **settings)


def bits(maps: dict[str, Image.Image], c: int) -> NDArray[np.bool_]:
    place = CLASSES.index(c)
    return (np.asarray(maps[f"boxes{place // 8}"]) >> place % 8 & 1).astype(bool)


def test_each_class_has_its_bit_and_boxes_may_lie_on_each_other() -> None:
    maps = maps_of((6, 4), [[0, 0, 3, 2, 1, 0.9], [2, 1, 6, 4, 11, 0.9], [4, 0, 5, 1, 1, 0.9]])("a")
    assert sorted(maps) == layer_names(CLASSES) == ["boxes0", "boxes1"]
    assert bits(maps, 1).astype(int).tolist() == [[1, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0], [0] * 6, [0] * 6]
    assert bits(maps, 11)[1:, 2:].all()
    assert bits(maps, 11).sum() == 12
    assert not any(bits(maps, c).any() for c in CLASSES if c not in (1, 11))


def test_boxes_below_the_score_count_for_nothing() -> None:
    rows = [[0, 0, 2, 2, 1, 0.85], [2, 0, 4, 2, 1, 0.8499]]
    assert bits(maps_of((4, 2), rows, 0.85)("a"), 1).astype(int).tolist() == [[1, 1, 0, 0]] * 2


@pytest.mark.parametrize(
    ("box", "centres", "inclusive"),
    [
        ((1.0, 0.0, 3.0, 1.0), (2, 1), (3, 2)),
        ((1.4, 0.4, 2.4, 1.4), (1, 1), (2, 2)),
        ((0.6, 0.0, 1.4, 0.9), (0, 0), (2, 1)),
        ((3.0, 2.0, 5.0, 4.0), (2, 2), (2, 2)),
    ],
)
def test_which_pixels_a_box_covers(box: Any, centres: tuple[int, int], inclusive: tuple[int, int]) -> None:
    """Width and height in pixels, by centres and as the release counts: whole corners, both of them in the box."""
    for edges, (wide, high) in (("centres", centres), ("inclusive", inclusive)):
        covered = bits(maps_of((5, 4), [[*box, 1, 0.9]], edges=edges)("a"), 1)
        assert (covered.any(0).sum(), covered.any(1).sum()) == ((wide, high) if wide * high else (0, 0)), edges
        naive = np.zeros((4, 5), np.bool_)
        for y in range(4):
            for x in range(5):
                x0, y0, x1, y1 = box
                inside = x0 <= x + 0.5 < x1 and y0 <= y + 0.5 < y1
                naive[y, x] = inside if edges == "centres" else int(x0) <= x <= int(x1) and int(y0) <= y <= int(y1)
        assert np.array_equal(covered, naive), edges


def test_an_image_without_boxes_and_one_nobody_looked_at() -> None:
    assert not any(np.asarray(m).any() for m in maps_of((3, 3), [])("a").values())
    assert BoxMaps({}, CLASSES, 0.5, frozenset("b"))("b") == {}
    with pytest.raises(DataError, match="no boxes for image 'z'"):
        maps_of((3, 3), [])("z")


def test_they_reach_loader_workers() -> None:
    maps = pickle.loads(pickle.dumps(maps_of((4, 4), [[0, 0, 2, 2, 5, 0.9]])))  # noqa: S301  our own
    assert bits(maps("a"), 5).sum() == 4


def test_agreement_of_the_worked_example() -> None:
    label = torch.tensor([[[0, 1, 1], [0, 1, 2], [2, 2, 2]]])
    rows = [[1.0, 0, 3, 2, 1, 1], [0.0, 1, 2, 3, 2, 1]]
    maps = maps_of((3, 3), rows, 0.5, classes=(1, 2))("a")
    found = in_own_box({name: layer(m)[None] for name, m in maps.items()}, label, (1, 2))
    assert found[0].int().tolist() == [[0, 1, 1], [0, 1, 0], [1, 1, 0]]
    conf = torch.tensor([[[0.99, 0.97, 0.96], [0.99, 0.80, 0.99], [0.95, 0.99, 0.94]]])
    assert (found & (conf >= 0.95))[0].int().tolist() == [[0, 1, 1], [0, 0, 0], [1, 1, 0]]


def test_a_box_goes_where_the_worked_example_says() -> None:
    rows = [[20.0, 10, 60, 50, 1, 1.0]]
    steps = (Resize((100, 80), (150, 120), "pil"), Crop((150, 120), 10, 5, (80, 80)), Flip((80, 80)))
    moved, _ = move_boxes(np.array(rows)[:, :4], steps)
    assert moved.tolist() == [[0, 10, 60, 70]]
    sample = Sample.of("a", Image.new("RGB", (100, 80)), maps=maps_of((100, 80), rows)("a")).then(*steps)
    assert np.array_equal(bits(dict(settle(sample).maps), 1), rasterise(moved, (80, 80)))


def box(width: int, height: int, g: np.random.Generator) -> list[float]:
    x, y = sorted(g.uniform(0, width, 2)), sorted(g.uniform(0, height, 2))
    return [x[0], y[0], x[1], y[1], int(g.choice(CLASSES)), float(g.random())]


def journey(weak: str, side: int, size: tuple[int, int], seed: int) -> tuple[Sample, BoxMaps]:
    """A sample after a weak pipeline, with layers that say which pixel of the original each one is (0: none)."""
    (width, height), g = size, np.random.default_rng(seed)
    maps = maps_of(size, [box(width, height, g) for _ in range(6)], 0.3)
    rows, columns = np.mgrid[1 : height + 1, 1 : width + 1].astype(np.uint8)
    whence = {"row": Image.fromarray(rows), "column": Image.fromarray(columns)}
    mask = Image.fromarray(g.integers(0, 12, (height, width), np.uint8))
    sample = Sample.of("a", Image.new("RGB", size), mask, {**maps("a"), **whence})
    cfg = read_views({"weak": weak, "strong": "none", "crop": side, **OWN.get(weak, SCALED)})
    return weaken(sample, cfg, Draw(seed, 0, "a", "unlabeled")), maps


weaks = st.sampled_from(["none", "unimatch", "augseg", "u2pl", "cps", "cutmix_seg", "acdc", "stpp"])
sizes = st.tuples(st.integers(8, 90), st.integers(8, 90))


@settings(deadline=None, max_examples=60)
@given(weak=weaks, side=st.integers(9, 70), size=sizes, seed=st.integers(0, 10_000))
def test_a_pixel_keeps_the_boxes_of_the_pixel_it_was_copied_from(
    weak: str, side: int, size: tuple[int, int], seed: int
) -> None:
    view, maps = journey(weak, side, size, seed)
    row, column = (np.asarray(view.maps[name]).astype(int) - 1 for name in ("row", "column"))
    inside = row >= 0
    assert not np.asarray(view.maps["boxes0"])[~inside].any()
    for x0, y0, x1, y1, c, score in maps.boxes["a"].rows:
        if score >= maps.score:
            covered = (column + 0.5 > x0) & (column + 0.5 < x1) & (row + 0.5 > y0) & (row + 0.5 < y1) & inside
            assert bits(dict(view.maps), c)[covered].all()
    for c in CLASSES:
        corners = np.array([r[:4] for r in maps.boxes["a"].rows if r[4] == c and r[5] >= maps.score]).reshape(-1, 4)
        at_home = rasterise(corners, size)
        assert np.array_equal(bits(dict(view.maps), c), at_home[row.clip(0), column.clip(0)] & inside)


@settings(deadline=None, max_examples=30)
@given(side=st.integers(9, 40), seed=st.integers(0, 10_000))
def test_agreement_is_mixed_like_labels(side: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    region, two = torch.rand(1, side, side, generator=g) < 0.5, []
    for k in range(2):
        view, _ = journey("unimatch", side, (50, 40), seed + k)
        carry = {name: layer(view.maps[name])[None] for name in layer_names(CLASSES)}
        label = torch.randint(12, (1, side, side), generator=g)
        conf = torch.rand(1, side, side, generator=g)
        two.append(Pseudo(label, conf, conf > 0.5, conf > 0.1).with_carry(**carry))
    both = two[0].pasted(two[1], region)
    apart = [in_own_box(p.carry, p.label, CLASSES) for p in two]
    assert torch.equal(in_own_box(both.carry, both.label, CLASSES), torch.where(region, apart[1], apart[0]))
