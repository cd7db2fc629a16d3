"""Step time of `exact` against a plain re-statement of the step, and the share of it that waits for data.

python tests/bench/bench_step.py [--crop 321] [--encoder resnet50s] [--steps 4] [--threads 2] [--workers 1]

UniMatch on DeepLabV3+, 2 labelled, 2 unlabelled and 2 mixing images a step, on CamVid's pictures of 480 x 360 (the toy
data where they are absent). The engine's step is all of it: batches from the loader, views, losses, terms, schedule.
The plain one is the network, the loss of specs/unimatch.md 1.3 on batches already in memory, and an SGD update. Both
run in this process, one after the other, on the same batches; the first step of each is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.data.partition import Partition
from ssbench.data.prepare import prepare
from ssbench.engine.build import dataset_of, method_of
from ssbench.engine.console import Bars
from ssbench.engine.distributed import Team
from ssbench.engine.trainer import Trainer
from ssbench.recipe import Recipe, load


def main() -> None:
    """Measure, print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(args, Path(folder))
        engine, batches = by_engine(made)
        plain = by_plain(made.recipe, batches, len(made.dataset.classes))
    found = {
        "engine_s": mean(engine["step"]),
        "of it waiting for data": sum(engine["wait"]) / sum(engine["step"]),
        "plain_s": mean(plain),
        "engine / plain": mean(engine["step"]) / mean(plain),
    }
    if args.json:
        print(json.dumps({**vars(args), "data": str(args.data), **found}, indent=1))
        return
    print(
        f"UniMatch {args.encoder}, crop {args.crop}, 2 + 2 + 2 images, {args.threads} threads, {args.workers} workers"
    )
    print(f"{'':24} {'mean s':>8}  each step")
    for name, seconds in (
        ("engine, whole step", engine["step"]),
        ("  waiting for data", engine["wait"]),
        ("plain", plain),
    ):
        print(f"{name:24} {mean(seconds):8.3f}  {' '.join(f'{s:.2f}' for s in seconds)}")
    print(f"{'waiting share':24} {100 * found['of it waiting for data']:7.1f}%")
    print(f"{'engine / plain':24} {found['engine / plain']:8.3f}")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--encoder", default="resnet50s")
    parser.add_argument("--steps", type=int, default=4, help="counted steps of each")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--workers", type=int, default=1, help="loader workers of the engine")
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared/data/camvid")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def trainer(args: argparse.Namespace, folder: Path) -> Trainer:
    """A trainer of the published recipe with another dataset and one process's batch."""
    name = "camvid" if args.data.is_dir() else "toy"
    prepare(name, folder / "data", source=args.data if name == "camvid" else None)
    sets = (
        f"data={{dataset: {name}, workers: {args.workers}}}",
        f"views.crop={args.crop}",
        f"net.encoder={args.encoder}",
        "net.weights=random",
        "schedule={epochs: 1, labeled_batch: 2, unlabeled_batch: 2, devices: 1}",
    )
    recipe = load("unimatch/unimatch_voc_r50", sets)
    partition = Partition.read(f"{name}/ours/1_8", folder / "data")
    dataset = dataset_of(name, folder / "data")
    made = Trainer(recipe, partition, dataset, 0, folder / "run", Team(0, 1, torch.device("cpu")), Bars(show=False))
    made.steps = min(made.steps, args.steps + 1)
    return made


def by_engine(made: Trainer) -> tuple[dict[str, list[float]], list[Batch]]:
    """Seconds of each step and of the wait before it, without the first; and the batches."""
    seconds: dict[str, list[float]] = {"step": [], "wait": []}
    batches, source = [], made._batches()
    made.module.train()
    for _ in range(made.steps):
        began = time.perf_counter()
        batch = next(source)
        got = time.perf_counter()
        made._step(batch)
        seconds["step"].append(time.perf_counter() - began)
        seconds["wait"].append(got - began)
        batches.append(batch)
    return {name: values[1:] for name, values in seconds.items()}, batches


def by_plain(recipe: Recipe, batches: Sequence[Batch], classes: int) -> list[float]:
    """Seconds of each plain step but the first."""
    net = method_of(recipe, classes, 3, 0).net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    seconds = []
    for batch in batches:
        began = time.perf_counter()
        loss = plain_loss(net, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


def plain_loss(net: Any, batch: Batch, tau: float = 0.95) -> Tensor:
    """specs/unimatch.md 1.3, numbered as there."""
    x, y, here, there = batch.labeled.x, batch.labeled.y, batch.unlabeled, batch.partner
    assert here is not None
    assert there is not None
    net.eval()  # 1
    with torch.no_grad():
        conf_pasted, label_pasted = net(there.weak).logits.softmax(1).max(1)
    net.train()
    strong = [torch.where(b[:, None], t, h) for h, t, b in zip(here.strong, there.strong, here.boxes, strict=True)]  # 2
    both = torch.cat([x, here.weak])  # 3
    drop = [(torch.rand(len(both), c) >= 0.5).float() * 2 for c in net.perturb_channels]
    out = net(both, drop)
    scores, perturbed = out.logits, out.perturbed[len(x) :]
    seen = net(torch.cat(strong)).logits.chunk(2)  # 4
    conf, label = scores[len(x) :].detach().softmax(1).max(1)  # 5
    loss = F.cross_entropy(scores[: len(x)], y, ignore_index=255) + 0.5 * masked(
        perturbed, label, conf >= tau, here.valid
    )
    for q, box in zip(seen, here.boxes, strict=True):  # 6, 7
        mixed_label, mixed_conf = torch.where(box, label_pasted, label), torch.where(box, conf_pasted, conf)
        valid = torch.where(box, there.valid, here.valid)
        loss = loss + 0.25 * masked(q, mixed_label, mixed_conf >= tau, valid)
    return loss / 2


def masked(logits: Tensor, label: Tensor, keep: Tensor, valid: Tensor) -> Tensor:
    """Cross-entropy over kept pixels by the number of valid ones."""
    return (F.cross_entropy(logits, label, reduction="none") * (keep & valid)).sum() / valid.sum()


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


if __name__ == "__main__":
    main()
