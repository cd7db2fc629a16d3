"""Batches of images against one image at a time, on real networks and on ones whose rounding is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from running import ALONE
from torch import Tensor

from ssbench import find, keyed
from ssbench.data.dataset import Dataset
from ssbench.recipe.recipe import EvalConfig
from ssbench.train.batched import BatchedPredictor, Predict, best_class, grouped, margin
from ssbench.train.evaluate import PENDING, Score, evaluate, sliding
from ssbench.views.pipelines import read_views

VIEWS = read_views({"weak": "none", "crop": 8, "normalise": "imagenet"})
CPU = torch.device("cpu")
CLASSES = 4


class Noise(Dataset):
    """Images of noise, most of one size, some of another."""

    name = "noise"
    classes = ("a", "b", "c", "d")
    palette = ((0, 0, 0),) * CLASSES

    def __init__(self, sizes: tuple[tuple[int, int], ...], grey: bool = False) -> None:
        super().__init__(Path())
        self.sizes, self.channels = sizes, 1 if grey else 3

    def ids(self, subset: str) -> tuple[str, ...]:
        return tuple(f"{k:03}" for k in range(len(self.sizes)))

    def image(self, id: str) -> Image.Image:
        shape = (*self.sizes[int(id)], 3) if self.channels == 3 else self.sizes[int(id)]
        return Image.fromarray(keyed.rng("noise", id).integers(0, 256, shape).astype(np.uint8))

    def mask(self, id: str) -> Image.Image:
        return Image.fromarray(keyed.rng("labels", id).integers(0, CLASSES, self.sizes[int(id)]).astype(np.uint8))


class Volumes(Noise):
    """The same as volumes of three slices."""

    def volumes(self, subset: str) -> dict[str, tuple[str, ...]]:
        ids = self.ids(subset)
        return {f"v{k}": ids[k : k + 3] for k in range(0, len(ids), 3)}


def network(name: str, **settings: Any) -> Predict:
    """A network of random weights whose batch norm has seen data."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cls = find.load("net", name)
        channels = 1 if name == "unet" else 3
        net = cls(cls.Config(**settings), CLASSES, channels).train()
        with torch.no_grad():
            net(torch.randn(2, channels, 64, 64))
    net.eval()
    return lambda x: net(x).logits


def alone(predict: Predict) -> Predict:
    """One image at a time, whatever comes."""
    return lambda x: torch.cat([predict(part) for part in x.split(1)])


def score(predict: Predict, dataset: Dataset, cfg: EvalConfig, workers: int = 0) -> Score:
    return evaluate(predict, dataset, "val", cfg, VIEWS, ALONE, workers)


SIZES = ((48, 64),) * 9 + ((64, 48),) * 3 + ((33, 57),) + ((48, 64),) * 4


@pytest.mark.parametrize(
    "cfg",
    [EvalConfig(), EvalConfig(protocol="sliding", crop=33), EvalConfig(protocol="center", crop=40)],
    ids=lambda cfg: cfg.protocol,
)
def test_a_real_network_scores_a_batch_as_one_image_after_another(cfg: EvalConfig) -> None:
    """On maps of a few pixels, where the last bits of a batch do differ."""
    predict = network("deeplabv3plus", encoder="resnet18", weights="random", wide=32)
    dataset = Noise(SIZES)
    expected = score(alone(predict), dataset, cfg)
    assert score(predict, dataset, cfg) == expected
    assert score(predict, dataset, cfg, workers=1) == expected


def test_the_unet_scores_stacks_as_one_slice_after_another() -> None:
    predict, dataset = network("unet"), Volumes(((40, 56),) * 6, grey=True)
    views = read_views({"weak": "none", "crop": 8, "normalise": "none"})
    cfg = EvalConfig(protocol="volume", crop=64)
    expected = evaluate(alone(predict), dataset, "val", cfg, views, ALONE)
    assert evaluate(predict, dataset, "val", cfg, views, ALONE) == expected
    assert evaluate(predict, dataset, "val", cfg, views, ALONE, workers=1) == expected


class Counted:
    """A network that is its input, with rounding that depends on the number of images."""

    def __init__(self, rounding: float = 0.0) -> None:
        self.rounding, self.calls = rounding, []

    def __call__(self, x: Tensor) -> Tensor:
        self.calls.append(len(x))
        return x if len(x) == 1 else x + self.rounding * torch.arange(x.shape[1]).view(1, -1, 1, 1)


def scores(count: int, seed: int = 0) -> Tensor:
    """Scores of three classes whose two best are one apart."""
    order = torch.rand(count, 3, 6, 5, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return order.float() - 1


def test_batches_are_used_where_all_bits_agree() -> None:
    net, x = Counted(), scores(7)
    batched = BatchedPredictor(net, CPU)
    assert torch.equal(batched(x), x)
    assert net.calls == [1] * 7 + [7], "both ways the first time"
    net.calls.clear()
    assert torch.equal(batched(x + 1), x + 1)
    assert torch.equal(batched.labels(x), x.argmax(1))
    assert net.calls == [7, 7]


def test_images_that_rounding_could_change_are_computed_alone() -> None:
    net, x = Counted(1e-6), scores(7)
    batched = BatchedPredictor(net, CPU)
    assert torch.equal(batched.labels(x), x.argmax(1))
    x[2, :, 4, 1] = torch.tensor([5, 5, 0])  # the batch says class 1, by rounding alone
    assert net(x).argmax(1)[2, 4, 1] == 1
    net.calls.clear()
    labels = batched.labels(x)
    assert net.calls == [7, 1]
    assert labels[2, 4, 1] == 0
    assert torch.equal(labels, x.argmax(1))
    assert torch.equal(batched(x), x), "scores, of which windows are summed, are those of single images"


def test_scores_that_are_no_numbers_are_computed_alone() -> None:
    net, x = Counted(1e-6), scores(4)
    batched = BatchedPredictor(net, CPU)
    batched.labels(x)
    x[1, 1, 0, 0] = torch.nan
    assert torch.equal(batched.labels(x), x.argmax(1))


def test_a_shape_whose_images_mostly_need_it_is_not_batched() -> None:
    net, x = Counted(1e-6), scores(16)
    x[..., 0, 0] = 0  # three equal classes
    batched = BatchedPredictor(net, CPU)
    for _ in range(5):
        assert torch.equal(batched.labels(x), x.argmax(1))
    net.calls.clear()
    assert torch.equal(batched.labels(x), x.argmax(1))
    assert net.calls == [1] * 16


def test_fast_uses_batches_at_once() -> None:
    net, x = Counted(1e-6), scores(5)
    BatchedPredictor(net, CPU, is_exact=False).labels(x)
    assert net.calls == [5]


def test_no_more_pixels_at_once_than_the_device_takes_well() -> None:
    net = Counted()
    batched = BatchedPredictor(net, CPU, is_exact=False)
    assert [batched.limit(256, 256), batched.limit(801, 801)] == [4, 1]
    batched(torch.zeros(10, 1, 256, 256))
    assert net.calls == [4, 4, 2]


def test_windows_of_one_size_are_predicted_together() -> None:
    """The sum over windows has the bits of one window after another."""
    net = Counted()
    x = torch.rand(2, 3, 20, 31, generator=torch.Generator().manual_seed(0))
    cfg = EvalConfig(protocol="sliding", crop=9)
    expected = torch.cat([sliding(alone(net), part, cfg) for part in x.split(1)])
    net.calls.clear()
    assert torch.equal(sliding(BatchedPredictor(net, CPU, is_exact=False), x, cfg), expected)
    assert sorted(net.calls) == [2, 2, 2, 2, 4, 4, 8, 8, 16], "heights 9, 9, 8, 2; widths 9, 9, 9, 9, 7, 1"


def test_groups_of_equal_sizes() -> None:
    sizes = [(1, 1), (2, 2), (1, 1), (1, 1), (2, 2), (1, 1)]
    assert list(grouped(sizes, lambda h, w: 3 if h == 1 else 1)) == [[0, 2, 3], [1], [4], [5]]


def test_few_images_wait_for_others_of_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 60 sizes, each once, no more wait than `PENDING` says."""
    sizes = tuple((256, 256 - k) for k in range(60))
    waiting: list[int] = []
    net = Counted()

    class Watched(Noise):
        def image(self, id: str) -> Image.Image:
            waiting.append(int(id) - sum(net.calls))
            return super().image(id)

    score(lambda x: net(x)[:, [0, 1, 2, 2]], Watched(sizes), EvalConfig())
    assert max(waiting) <= PENDING * 4 + 1
    assert sum(net.calls) >= 60


def test_best_class_and_its_margin() -> None:
    x = torch.tensor([[3.0, 3.0, 1.0], [torch.nan, 2.0, torch.nan], [1.0, 4.0, 2.0]])[..., None, None]
    assert best_class(x).flatten().tolist() == x.argmax(1).flatten().tolist() == [0, 0, 1]
    assert margin(x, best_class(x)).flatten().tolist()[::2] == [0, 2]
