"""Step time and data-wait share of `precision: exact`: UniMatch, ResNet-50, crop 321, 2 + 2 + 2 images, on a CPU.

    python tests/bench/bench_step.py [--steps 3] [--crop 321] [--encoder resnet50s] [--workers 1]

In one run, taking turns: our whole training step (loader, method, plug-in hooks, optimiser, records), and a plain
re-statement of its passes and losses with the same network on the same batch. The ratio is the figure to watch.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

from ssbench.data.partition import Partition
from ssbench.data.prepare import prepare
from ssbench.engine.build import dataset_of
from ssbench.engine.console import Bars
from ssbench.engine.distributed import join
from ssbench.engine.trainer import Trainer
from ssbench.recipe import load


def plain_step(trainer: Trainer, batch: object) -> None:
    """Network and loss only: what the paper's step computes, written out."""
    net, b = trainer.method.net, batch
    with torch.no_grad():
        net.eval()
        second = net(b.partner.weak).logits.softmax(1).max(1)
        net.train()
    both = torch.cat([b.labeled.x, b.unlabeled.weak])
    out = net(both, [torch.ones(len(both), c) for c in net.perturb_channels])
    n = len(b.labeled.x)
    conf, label = out.logits[n:].detach().softmax(1).max(1)
    loss = F.cross_entropy(out.logits[:n], b.labeled.y, ignore_index=255) / 2
    images = []
    for k, box in enumerate(b.unlabeled.boxes):
        images.append(torch.where(box[:, None], b.partner.strong[k], b.unlabeled.strong[k]))
    seen = net(torch.cat(images)).logits.chunk(2)
    for logits, box in zip(seen, b.unlabeled.boxes, strict=True):
        target = torch.where(box, second.indices, label)
        sure = torch.where(box, second.values, conf) >= 0.95
        loss = loss + 0.125 * (F.cross_entropy(logits, target, reduction="none") * sure).mean()
    loss = loss + 0.25 * (F.cross_entropy(out.perturbed[n:], label, reduction="none") * (conf >= 0.95)).mean()
    trainer.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    trainer.optimizer.step()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--encoder", default="resnet50s")
    parser.add_argument("--workers", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        prepare("toy", root)
        recipe = load("toy/none_unimatch", (
            f"views.crop={given.crop}", "views.scale=[3.0, 4.0]", f"net.encoder={given.encoder}", "net.wide=256",
            "schedule.labeled_batch=2", "schedule.unlabeled_batch=2", "schedule.epochs=1",
            f"data.workers={given.workers}",
        ))  # fmt: skip
        dataset = dataset_of("toy", root)
        trainer = Trainer(
            recipe, Partition.read("toy/ours/1_16", root), dataset, 0, root, join("cpu"), Bars(show=False)
        )
        trainer.module.train()
        batches, ours, plain = trainer._timed(trainer._batches()), [], []
        for at, batch in enumerate(batches):
            began = time.monotonic()
            trainer._step(batch)
            middle = time.monotonic()
            plain_step(trainer, batch)
            ours.append(middle - began)
            plain.append(time.monotonic() - middle)
            if at == given.steps:
                break
        waiting = trainer.timing.waiting / max(trainer.timing.steps, 1)
    step, restated = min(ours[1:]), min(plain[1:])  # the first of each warms up
    threads = torch.get_num_threads()
    print(f"{given.encoder}, crop {given.crop}, 2 + 2 + 2 images, {threads} threads, {given.workers} workers")
    print(f"our step          {step:8.2f} s")
    print(f"plain restatement {restated:8.2f} s")
    print(f"ratio             {step / restated:8.2f}")
    print(f"waiting for data  {waiting:8.3f} s a step, {waiting / (step + waiting):.1%} of it")


if __name__ == "__main__":
    main()
