"""Scores against counts made pixel by pixel in Python, and windows against the published ones."""

from __future__ import annotations

import math
from collections.abc import Iterable
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

from ssbench import keyed
from ssbench.data.dataset import Dataset
from ssbench.errors import DataError, RecipeError
from ssbench.recipe.recipe import PROTOCOLS, EvalConfig
from ssbench.train.distributed import Team
from ssbench.train.evaluate import (
    Score,
    centre_crop,
    evaluate,
    label_image,
    mean_dice,
    sliding,
    volume_labels,
)
from ssbench.train.windows import SlidingWindow, window_step, windows
from ssbench.views.pipelines import read_views
from ssbench.views.tensors import layer

VIEWS = read_views({"weak": "none", "crop": 8, "normalise": "none"})
CLASSES = 5


class Drawn(Dataset):
    """Pictures whose red channel says what will be predicted, and masks of noise with ignored pixels.

    Class 3 is predicted and never true, class 4 is neither.
    """

    name = "drawn"
    classes = ("a", "b", "c", "d", "e")
    palette = ((0, 0, 0),) * CLASSES
    sizes = ((11, 7), (8, 8), (5, 13), (9, 6), (7, 7))

    def ids(self, subset: str) -> tuple[str, ...]:
        return tuple(f"{subset}{k}" for k in range(len(self.sizes)))

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(np.repeat(self.predicted(id)[..., None] * 10, 3, axis=2))

    def mask(self, id: str) -> Image.Image:
        drawn = keyed.rng("true", id).integers(0, 4, self._size(id)).astype(np.uint8)
        return Image.fromarray(np.where(drawn == 3, 255, drawn).astype(np.uint8))

    def predicted(self, id: str) -> Any:
        return keyed.rng("predicted", id).integers(0, 4, self._size(id)).astype(np.uint8)

    def _size(self, id: str) -> tuple[int, int]:
        return self.sizes[int(id[-1]) % len(self.sizes)]


class Stacks(Drawn):
    """The same as volumes of two and three slices, of equal size; every class but 3 may occur."""

    sizes = ((6, 8),)

    def ids(self, subset: str) -> tuple[str, ...]:
        return tuple(f"{subset}{k}" for k in range(5))

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]]:
        ids = self.ids(subset)
        return {"first": ids[:2], "second": ids[2:]}


def read(x: Tensor) -> Tensor:
    """Logits that say what the red channel says."""
    return F.one_hot((x[:, 0] * 255 / 10).round().long(), CLASSES).movedim(-1, 1).float()


def score(dataset: Dataset, cfg: EvalConfig, team: Team = ALONE) -> Score:
    return evaluate(read, dataset, "val", cfg, VIEWS, team)


def counted(pairs: list[tuple[Any, Any]]) -> list[list[int]]:
    """The confusion matrix, one pixel after another."""
    matrix = [[0] * CLASSES for _ in range(CLASSES)]
    for true, predicted in pairs:
        for t, p in zip(np.asarray(true).flat, np.asarray(predicted).flat, strict=True):
            if t != 255:
                matrix[t][p] += 1
    return matrix


def naive_iou(matrix: list[list[int]]) -> list[float | None]:
    values: list[float | None] = []
    for c in range(CLASSES):
        union = sum(matrix[c]) + sum(row[c] for row in matrix) - matrix[c][c]
        values.append(100 * matrix[c][c] / union if union else None)
    return values


@pytest.fixture
def dataset() -> Drawn:
    return Drawn(Path())


def everything(dataset: Drawn) -> list[tuple[Any, Any]]:
    return [(dataset.mask(id), dataset.predicted(id)) for id in dataset.ids("val")]


def test_whole_images(dataset: Drawn) -> None:
    result, matrix = score(dataset, EvalConfig(absent="left_out")), counted(everything(dataset))
    assert result.matrix == matrix
    assert result.per_class == pytest.approx(naive_iou(matrix))
    assert result.per_class[3:] == [0, None], "predicted only: a zero; nowhere at all: no score"
    known = [value for value in naive_iou(matrix) if value is not None]
    assert result.value == pytest.approx(sum(known) / 4)


def test_an_absent_class_may_count_as_zero(dataset: Drawn) -> None:
    left_out, zero = score(dataset, EvalConfig(absent="left_out")), score(dataset, EvalConfig(absent="zero"))
    assert zero.value == pytest.approx(left_out.value * 4 / 5)
    assert zero.matrix == left_out.matrix


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_together_count_every_pixel_once(dataset: Drawn, world: int) -> None:
    class Part(Team):
        def sum(self, value: Tensor) -> Tensor:
            return value

    parts = [score(dataset, EvalConfig(), Part(rank, world, torch.device("cpu"))).matrix for rank in range(world)]
    assert np.sum(parts, axis=0).tolist() == counted(everything(dataset))


def test_the_first_images_only(dataset: Drawn) -> None:
    assert score(dataset, EvalConfig(few=2)).matrix == counted(everything(dataset)[:2])


def test_loader_workers_change_nothing(dataset: Drawn) -> None:
    cfg = EvalConfig()
    alone = evaluate(read, dataset, "val", cfg, VIEWS, ALONE, workers=0)
    assert evaluate(read, dataset, "val", cfg, VIEWS, ALONE, workers=1) == alone


def test_central_crop(dataset: Drawn) -> None:
    """Of a smaller image all there is."""
    pairs = []
    for true, predicted in everything(dataset):
        array = np.asarray(true)
        top, left = max(array.shape[0] - 8, 0) // 2, max(array.shape[1] - 8, 0) // 2
        where = (slice(top, top + 8), slice(left, left + 8))
        pairs.append((array[where], predicted[where]))
    assert score(dataset, EvalConfig(protocol="center", crop=8)).matrix == counted(pairs)


def test_central_part() -> None:
    x, mask = torch.arange(42.0).view(1, 1, 7, 6), torch.arange(42).view(1, 7, 6)
    part, cut_mask = centre_crop(x, mask, EvalConfig(protocol="center", crop=3))
    assert part.tolist() == x[..., 2:5, 1:4].tolist()
    assert cut_mask.tolist() == mask[:, 2:5, 1:4].tolist()
    assert centre_crop(x, mask, EvalConfig(protocol="center", crop=9))[0].shape == (1, 1, 7, 6)


@pytest.mark.parametrize(("padding", "fill"), [("class_0", 0), ("ignored", 255)])
@pytest.mark.parametrize(("height", "width"), [(5, 8), (4, 11), (9, 3), (6, 6)])
def test_padded_central_crop(padding: Any, fill: int, height: int, width: int) -> None:
    """U2PL and AEL on VOC: the image stands in the middle of a crop of mean colour, or the crop in its middle."""
    x, mask = torch.randn(1, 2, height, width), torch.randint(1, 9, (1, height, width))
    part, cut_mask = centre_crop(x, mask, EvalConfig(protocol="center", crop=6, padding=padding))
    tall, wide = max(height, 6), max(width, 6)
    for row in range(6):
        for column in range(6):
            at = row + (tall - 6) // 2 - (tall - height) // 2, column + (wide - 6) // 2 - (wide - width) // 2
            is_image = 0 <= at[0] < height and 0 <= at[1] < width
            assert cut_mask[0, row, column] == (mask[(0, *at)] if is_image else fill)
            for channel in range(2):
                assert part[0, channel, row, column] == (x[(0, channel, *at)] if is_image else 0)
    assert part.shape == (1, 2, 6, 6)


def test_padding_counts_as_class_0_where_the_authors_count_it(dataset: Drawn) -> None:
    """Every pixel of an image that the crop reaches once, and the padding as background predicted on black."""
    pairs = []
    for maps in everything(dataset):
        padded = []
        for values in map(np.asarray, maps):
            canvas = np.zeros((16, 16), dtype=int)
            top, left = ((16 - side) // 2 for side in values.shape)
            canvas[top : top + values.shape[0], left : left + values.shape[1]] = values
            padded.append(canvas)
        pairs.append((padded[0], padded[1]))
    assert score(dataset, EvalConfig(protocol="center", crop=16, padding="class_0")).matrix == counted(pairs)
    ignored = score(dataset, EvalConfig(protocol="center", crop=16, padding="ignored"))
    assert ignored.matrix == counted(everything(dataset))


def edges(visited: Iterable[SlidingWindow]) -> list[tuple[int, int, int, int]]:
    return [(w.rows.start, w.rows.stop, w.columns.start, w.columns.stop) for w in visited]


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("cityscapes/sliding-801", ((0, 801), (534, 1024)), ((0, 801), (534, 1335), (1068, 1869), (1602, 2048))),
        ("augseg/cityscapes", ((0, 800), (533, 1024)), ((0, 800), (533, 1333), (1066, 1866), (1599, 2048))),
        ("u2pl/cityscapes", ((0, 769), (255, 1024)), ((0, 769), (513, 1282), (1026, 1795), (1279, 2048))),
        ("ael/cityscapes", ((0, 769), (255, 1024)), ((0, 769), (513, 1282), (1026, 1795), (1279, 2048))),
        ("cps/cityscapes", ((0, 800), (224, 1024)), ((0, 800), (534, 1334), (1068, 1868), (1248, 2048))),
    ],
)
def test_windows_of_cityscapes(name: str, rows: Any, columns: Any) -> None:
    """Eight windows in every release; only UniMatch's and AugSeg's are cut at the border."""
    cfg = EvalConfig(**PROTOCOLS[name])
    assert cfg.crop is not None
    assert edges(windows(1024, 2048, cfg.crop, cfg.border, window_step(cfg))) == [
        (*r, *c) for r in rows for c in columns
    ]


@pytest.mark.parametrize("border", ["cut", "shift"])
@pytest.mark.parametrize("stride", ["floor", "ceil"])
@pytest.mark.parametrize(("height", "width", "crop"), [(10, 10, 4), (3, 17, 5), (8, 8, 8), (9, 4, 2), (5, 5, 20)])
def test_windows_cover_every_pixel(border: Any, stride: Any, height: int, width: int, crop: int) -> None:
    seen = torch.zeros(height, width, dtype=torch.int64)
    step = window_step(EvalConfig(protocol="sliding", crop=crop, stride=stride))
    for top, bottom, left, right in edges(windows(height, width, crop, border, step)):
        assert 0 < bottom - top <= crop
        assert 0 < right - left <= crop
        if border == "shift":
            assert (bottom - top, right - left) == (min(crop, height), min(crop, width)), "windows are whole"
        seen[top:bottom, left:right] += 1
    assert int(seen.min()) >= 1


def looking(x: Tensor) -> Tensor:
    """Three logits that depend on the whole window, as a real network's do."""
    return torch.cat([x, x.mean((2, 3), keepdim=True).expand_as(x), -x], 1)


@pytest.mark.parametrize("border", ["cut", "shift"])
@pytest.mark.parametrize("summed", ["probabilities", "logits"])
@pytest.mark.parametrize(("stride", "step"), [("floor", 2), ("ceil", 3)])
def test_scores_of_windows_are_summed(border: Any, summed: Any, stride: Any, step: int) -> None:
    """Against a loop over pixels, for windows of 4 at steps of 8/3."""
    x = torch.randn(1, 1, 7, 9, generator=torch.Generator().manual_seed(0))
    expected = torch.zeros(1, 3, 7, 9)
    for top in starts(7, 4, step, border):
        for left in starts(9, 4, step, border):
            part = looking(x[..., top : top + 4, left : left + 4])
            part = part.softmax(1) if summed == "probabilities" else part
            for row in range(part.shape[2]):
                for column in range(part.shape[3]):
                    expected[0, :, top + row, left + column] += part[0, :, row, column]
    cfg = EvalConfig(protocol="sliding", crop=4, border=border, summed=summed, stride=stride)
    assert torch.allclose(sliding(looking, x, cfg), expected)


def starts(side: int, crop: int, step: int, border: str) -> list[int]:
    """Where windows begin, listed by walking: on until the image ends, or until a window reaches its border."""
    listed, at = [], 0
    while at < side:
        if border == "shift" and at + crop >= side:
            listed.append(side - crop)
            break
        listed.append(at)
        at += step
    return listed


def test_a_small_image_is_padded_for_cps() -> None:
    """One forward of the image in the middle of a window of mean colour; the padding is cut off again."""
    x = torch.randn(1, 1, 5, 8, generator=torch.Generator().manual_seed(0))
    cfg = EvalConfig(**{**PROTOCOLS["cps/voc"], "crop": 8})
    padded = torch.zeros(1, 1, 8, 8)
    padded[..., 1:6, :] = x
    assert torch.equal(sliding(looking, x, cfg), looking(padded)[..., 1:6, :])


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"protocol": "whole", "border": "shift"}, "'border' is a setting of windows"),
        ({"protocol": "center", "crop": 8, "summed": "logits"}, "'summed' is a setting of windows"),
        ({"protocol": "volume", "crop": 8, "stride": "ceil"}, "'stride' is a setting of windows"),
        ({"protocol": "whole", "padding": "ignored"}, "pads nothing"),
        ({"protocol": "sliding", "crop": 8, "padding": "class_0"}, "is for center"),
    ],
)
def test_settings_that_would_mean_nothing_are_refused(settings: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        EvalConfig(**settings)


def test_younger_settings_stay_out_of_keys_and_records() -> None:
    assert not set(EvalConfig.added) & (set(EvalConfig().facts()) | set(EvalConfig().stated()))
    cfg = EvalConfig(**PROTOCOLS["u2pl/cityscapes"])
    assert {name: cfg.facts().get(name) for name in EvalConfig.added} == {
        "border": "shift", "summed": "logits", "stride": "ceil", "padding": None,
        "step": None, "resize": None, "scored": None,
    }  # fmt: skip


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_named_protocol_is_one(name: str) -> None:
    EvalConfig(**PROTOCOLS[name])


def test_sliding_scores_every_pixel(dataset: Drawn) -> None:
    assert score(dataset, EvalConfig(protocol="sliding", crop=4)).matrix == counted(everything(dataset))


def test_volumes() -> None:
    """Dice of each class over all slices of a volume, then over volumes, then over classes."""
    dataset = Stacks(Path())
    result = score(dataset, EvalConfig(protocol="volume", crop=8))
    expected: dict[str, list[float | None]] = {}
    for name, ids in dataset.volumes("val").items():
        x = torch.stack([layer(dataset.image(id).convert("L"))[None].float() / 255 for id in ids])
        predicted = volume_labels(read_smooth, x, 8)
        both, size = [0] * CLASSES, [0] * CLASSES
        for k, id in enumerate(ids):
            for t, p in zip(np.asarray(dataset.mask(id)).flat, predicted[k].flatten().tolist(), strict=True):
                if t == 255:
                    continue
                size[t] += 1
                size[p] += 1
                both[p] += int(t == p)
        expected[name] = [100 * 2 * b / s if s else None for b, s in zip(both[1:], size[1:], strict=True)]
    got = evaluate(read_smooth, dataset, "val", EvalConfig(protocol="volume", crop=8), VIEWS, ALONE)
    assert list(got.volumes) == ["first", "second"]
    for name in expected:
        assert got.volumes[name] == pytest.approx(expected[name])
    assert got.matrix is None
    assert result.per_class[3] is None, "class 4 is nowhere"
    each = [[v[c] for v in expected.values() if v[c] is not None] for c in range(4)]
    means = [sum(v) / len(v) for v in each if v]  # type: ignore[arg-type]
    assert got.value == pytest.approx(sum(means) / len(means))
    assert mean_dice(got.volumes, ["second"]) == pytest.approx(
        np.mean([v for v in expected["second"] if v is not None])
    )


def read_smooth(x: Tensor) -> Tensor:
    """Logits of class = brightness, from resized slices too: nearness of the brightness to each class's."""
    brightness = x[:, :1] * 255 / 10
    return -(brightness - torch.arange(CLASSES).view(1, -1, 1, 1)).abs()


def test_volumes_are_resized_there_and_back() -> None:
    sizes = []

    def predict(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        return torch.cat([x, 1 - x], 1)

    x = torch.rand(3, 1, 6, 10, generator=torch.Generator().manual_seed(0))
    labels = volume_labels(predict, x, 16)
    assert sizes == [(3, 1, 16, 16)]
    small = F.interpolate(x, (16, 16), mode="bilinear")
    assert torch.equal(labels, F.interpolate(torch.cat([small, 1 - small], 1), (6, 10), mode="bilinear").argmax(1))


@pytest.mark.parametrize(
    ("kind", "protocol"), [(Drawn, "volume"), (Stacks, "whole"), (Stacks, "sliding"), (Stacks, "center")]
)
def test_a_protocol_for_other_data_is_refused(kind: type[Drawn], protocol: Any) -> None:
    with pytest.raises(RecipeError, match=f"protocol '{protocol}' does not fit drawn"):
        score(kind(Path()), EvalConfig(protocol=protocol, crop=8))


def test_a_picture_of_labels(dataset: Drawn) -> None:
    id = dataset.ids("val")[0]
    for cfg in (EvalConfig(), EvalConfig(protocol="sliding", crop=4), EvalConfig(protocol="center", crop=4)):
        labels = label_image(read, dataset.image(id), cfg, VIEWS, ALONE)
        assert labels.dtype == np.uint8
        assert np.array_equal(labels, dataset.predicted(id))


def test_scores_of_nothing_are_no_number() -> None:
    assert math.isnan(mean_dice({"a": [None, None]}, ["a"]))


def test_a_subset_without_a_known_label_has_no_score(dataset: Drawn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither NaN nor zero: an error, so that no such number reaches a record."""
    unknown = Image.fromarray(np.full((4, 4), 255, dtype=np.uint8))
    monkeypatch.setattr(Drawn, "mask", lambda self, id: unknown)
    monkeypatch.setattr(Drawn, "sizes", ((4, 4),))
    with pytest.raises(DataError, match="no pixel of subset 'val' of drawn has a known label"):
        score(dataset, EvalConfig(absent="left_out"))
