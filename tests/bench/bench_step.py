"""Step time of `exact` against a plain re-statement of the step, and the share of it that waits for data.

python tests/bench/bench_step.py [--crop 321] [--encoder resnet50s] [--steps 4] [--threads 2] [--workers 1]

UniMatch on DeepLabV3+, 2 labelled, 2 unlabelled and 2 mixing images a step, on CamVid's pictures of 480 x 360 (the toy
data where they are absent). First the engine alone, with its loader: how long it waits for data. Then, on the batches
of that, the engine's step and the plain one take turns, so that a busy machine slows both: the plain one is the net,
the loss of card: unimatch 3, and an SGD update. The first step of each is not counted.
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

from ssbench.console import Bars
from ssbench.data.batch import Batch
from ssbench.data.open import open_dataset
from ssbench.prepare.prepare import prepare
from ssbench.recipe.recipe import load
from ssbench.splits.manifest import Partition
from ssbench.train.build import method_of
from ssbench.train.distributed import Team
from ssbench.train.trainer import Trainer

TEXTS = {
    "whole": "engine, with its loader",
    "wait": "  of it waiting for data",
    "step": "engine, batches at hand",
    "plain": "plain, batches at hand",
}


def main() -> None:
    """Measure, print."""
    args = arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        made = trainer(args, Path(folder))
        seconds, batches = alone(made)
        seconds |= in_turn(made, batches)
    means = {name: sum(values) / len(values) for name, values in seconds.items()}
    found = {
        "waiting_share": means["wait"] / means["whole"],
        "engine_over_plain": (means["step"] + means["wait"]) / means["plain"],
    }
    if args.json:
        print(json.dumps({**vars(args), "data": str(args.data), "seconds": seconds, **found}, indent=1))
        return
    print(
        f"UniMatch {args.encoder}, crop {args.crop}, 2 + 2 + 2 images, {args.threads} threads, {args.workers} workers"
    )
    print(f"{'seconds':32} {'mean':>7}  each")
    for name, text in TEXTS.items():
        print(f"{text:32} {means[name]:7.3f}  {' '.join(f'{s:.2f}' for s in seconds[name])}")
    print(f"{'waiting share':32} {100 * found['waiting_share']:6.1f}%")
    print(f"{'engine with its waiting / plain':32} {found['engine_over_plain']:7.3f}")


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
    dataset = open_dataset(name, folder / "data")
    made = Trainer(recipe, partition, dataset, 0, folder / "run", Team(0, 1, torch.device("cpu")), Bars(show=False))
    made.steps = min(made.steps, args.steps + 1)
    return made


def alone(made: Trainer) -> tuple[dict[str, list[float]], list[Batch]]:
    """Seconds of each whole step and of the wait at its start, without the first; and the batches."""
    seconds: dict[str, list[float]] = {"whole": [], "wait": []}
    batches, source = [], made._batches()
    made.module.train()
    for _ in range(made.steps):
        began = time.perf_counter()
        batch = next(source)
        got = time.perf_counter()
        made._step(batch)
        seconds["whole"].append(time.perf_counter() - began)
        seconds["wait"].append(got - began)
        batches.append(batch)
    return {name: values[1:] for name, values in seconds.items()}, batches


def in_turn(made: Trainer, batches: Sequence[Batch]) -> dict[str, list[float]]:
    """Seconds of each engine step and plain step but the first, in turn on the same batches."""
    net = method_of(made.recipe, len(made.dataset.classes), 3, 0).net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    seconds: dict[str, list[float]] = {"step": [], "plain": []}
    made.state.step = 0
    for batch in batches:
        began = time.perf_counter()
        made._step(batch)
        turned = time.perf_counter()
        loss = plain_loss(net, batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seconds["step"].append(turned - began)
        seconds["plain"].append(time.perf_counter() - turned)
    return {name: values[1:] for name, values in seconds.items()}


def plain_loss(net: Any, batch: Batch, tau: float = 0.95) -> Tensor:
    """UniMatch's step, in the order of card: unimatch 3."""
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


if __name__ == "__main__":
    main()
