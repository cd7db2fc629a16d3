"""Images/s of scoring: one image at a time as before, in batches with the same labels, and in bf16.

python tests/bench/bench_scoring.py [--images 20] [--turns 3] [--threads N] [--only acdc,toy,...]

The ways take turns on the same images of noise, so that a busy machine slows all alike; medians over turns. Seconds are
those of the processor (of its threads together) and of the clock. "differ": pixels whose label differs from that of one
image at a time. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from steps import markdown
from torch import Tensor

from ssbench import find
from ssbench.nets.segnet import SegNet
from ssbench.recipe.recipe import EvalConfig, ScheduleConfig
from ssbench.train.allocator import keep_freed_memory
from ssbench.train.batched import BatchedPredictor, Predict
from ssbench.train.evaluate import image_labels, volume_labels
from ssbench.train.machine import hardware
from ssbench.train.precision import choose_computation, set_formats

CPU = torch.device("cpu")
CASES: dict[str, tuple[str, dict[str, Any], int, tuple[int, int], EvalConfig]] = {
    "acdc": ("unet", {}, 4, (216, 256), EvalConfig(protocol="volume", crop=256)),
    "toy": ("deeplabv3plus", {"encoder": "test_resnet", "wide": 32}, 8, (96, 96), EvalConfig()),
    "camvid": ("deeplabv3plus", {"encoder": "resnet18"}, 11, (120, 160), EvalConfig()),
    "windows": ("deeplabv3plus", {"encoder": "resnet18"}, 19, (256, 320), EvalConfig(protocol="sliding", crop=129)),
}
"""Network, its settings, classes, height and width of an image, protocol."""


def network(name: str, settings: dict[str, Any], classes: int) -> SegNet:
    """A network of random weights whose batch norm has seen data."""
    torch.manual_seed(0)
    cls = find.load("net", name)
    channels = 1 if name == "unet" else 3
    net: SegNet = cls(cls.Config(**settings, weights="random"), classes, channels).train()
    with torch.no_grad():
        net(torch.randn(2, channels, 64, 64))
    return net.eval()


def one_by_one(predict: Predict, cfg: EvalConfig) -> Callable[[Tensor], Tensor]:
    """Scoring before there were batches: single images and windows, and the whole stack of a volume at once."""

    def label(x: Tensor) -> Tensor:
        if cfg.protocol == "volume":
            small = F.interpolate(x, (cfg.crop, cfg.crop), mode="bilinear", align_corners=False)
            return F.interpolate(predict(small), x.shape[-2:], mode="bilinear", align_corners=False).argmax(1)
        if cfg.protocol == "sliding":
            return torch.cat([image_labels(predict, part, cfg) for part in torch.split(x, 1)])
        return torch.cat([predict(part).argmax(1) for part in torch.split(x, 1)])

    return label


def batched(predict: BatchedPredictor, cfg: EvalConfig) -> Callable[[Tensor], Tensor]:
    """Scoring as `evaluate` does it."""

    def label(x: Tensor) -> Tensor:
        if cfg.protocol == "volume":
            assert cfg.crop is not None  # noqa: S101  the protocol has one
            return volume_labels(predict, x, cfg.crop)
        parts = torch.split(x, predict.limit(*x.shape[-2:]))
        return torch.cat([image_labels(predict, part, cfg) for part in parts])

    return label


def measured(case: str, images: int, turns: int) -> list[tuple[str, ...]]:
    """A row for each way."""
    name, settings, classes, size, cfg = CASES[case]
    net = network(name, settings, classes)
    fast = copy.deepcopy(net)
    set_formats(fast, choose_computation(ScheduleConfig(epochs=1, labeled_batch=1, precision="fast"), CPU).passes)
    ways = {
        "as before": one_by_one(lambda x: net(x).logits, cfg),
        "exact": batched(BatchedPredictor(lambda x: net(x).logits, CPU), cfg),
        "fast": batched(BatchedPredictor(lambda x: fast(x).logits, CPU, is_exact=False), cfg),
    }
    x = torch.rand(images, 1 if name == "unet" else 3, *size)
    labels = {way: label(x) for way, label in ways.items()}  # batches are compared with single images here
    clock: dict[str, list[float]] = {way: [] for way in ways}
    processor: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(turns):
        for way, label in ways.items():
            began = time.perf_counter(), time.process_time()
            label(x)
            clock[way].append(time.perf_counter() - began[0])
            processor[way].append(time.process_time() - began[1])
    before, rows = statistics.median(processor["as before"]), []
    for way in ways:
        seconds = statistics.median(processor[way])
        differ = int((labels[way] != labels["as before"]).sum())
        rate, on_clock = images / seconds, images / statistics.median(clock[way])
        rows.append((case, way, f"{rate:.1f}", f"{on_clock:.1f}", f"{before / seconds:.2f}", str(differ)))
    return rows


def main() -> None:
    """Measure every case and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", default=",".join(CASES))
    args = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    with torch.no_grad():
        rows = [row for case in args.only.split(",") for row in measured(case, args.images, args.turns)]
    head = f"Scoring, {hardware(CPU)['name']}, {args.threads} threads, {args.images} images, {args.turns} turns"
    columns = (
        "images",
        "way",
        "images/s of processor time",
        "images/s by the clock",
        "times as before",
        "labels differ",
    )
    print(markdown(head, columns, rows))


if __name__ == "__main__":
    main()
