"""What the benches of training steps share: who takes part, steps that take turns, the peak memory of each alone.

All take part with the same network, batch and optimiser, past every warm-up, plug-ins with their default settings but
for those of `NOT_IN_A_STEP`.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ssbench import find
from ssbench.certify import small
from ssbench.methods.hosting import fit
from ssbench.ops.progress import Progress
from ssbench.plugins.base import Plugin
from ssbench.train.machine import hardware, peak_memory

ROOT = Path(__file__).resolve().parents[2]
LATE, EPOCH = 25, 10
"""The first counted step, and steps of an epoch: past every warm-up of an epoch or two."""
NOT_IN_A_STEP = ("detector", "box_score", "confidence", "tau")
"""How the settings begin that are those of a quick run: a detector, which no step runs, and thresholds that pixels of
an untrained net pass."""


@dataclass(frozen=True)
class Setting:
    """The size of a step, and where it is made."""

    encoder: str
    crop: int
    classes: int
    steps: int
    threads: int
    device: str

    @classmethod
    def parsed(cls, parser: argparse.ArgumentParser, encoder: str, crop: int, steps: int) -> tuple[Setting, Any]:
        """The command line with these defaults, and what else it holds."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        parser.add_argument("--encoder", default=encoder, help=f"default {encoder}; the papers': resnet50s, resnet101s")
        parser.add_argument("--crop", type=int, default=crop, help=f"side of the square images (default {crop})")
        parser.add_argument("--classes", type=int, default=21)
        parser.add_argument("--steps", type=int, default=steps, help=f"counted steps of each (default {steps})")
        parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
        parser.add_argument("--device", default=device, help=f"default here: {device}")
        parser.add_argument("--json", action="store_true", help="one object instead of a Markdown table")
        args = parser.parse_args()
        return cls(args.encoder, args.crop, args.classes, args.steps, args.threads, args.device), args

    @property
    def on(self) -> torch.device:
        """The device."""
        return torch.device(self.device)

    def head(self, kind: str) -> str:
        """What a table was measured with, in words."""
        name = hardware(self.on)["name"]
        where = f"{name}, {self.threads} threads" if self.on.type == "cpu" else name
        images = f"{small.IMAGES} + {small.IMAGES} images of {self.crop} x {self.crop}"
        return f"{kind}: DeepLabV3+ {self.encoder}, {images}, {self.classes} classes, {self.steps} steps each, {where}"


@dataclass(frozen=True)
class Side:
    """A method, alone or with a plug-in."""

    method: str
    plugin: str = ""

    def __str__(self) -> str:
        return f"{self.method} + {self.plugin}" if self.plugin else self.method


class Ready:
    """A side with its optimiser and a batch on the device. folder: where plug-ins keep what they prepare."""

    def __init__(self, side: Side, setting: Setting, folder: Path) -> None:
        self.setting, self.step = setting, LATE
        host = find.load("method", side.method)
        cls = find.load("plugin", side.plugin) if side.plugin else Plugin
        fitting = fit(host, cls)
        quick = {name: value for name, value in cls.quick.items() if name.startswith(NOT_IN_A_STEP)}
        plugin = cls(cls.Config(**{**quick, **fitting.plugin}), setting.classes)
        wide = small.maker(classes=setting.classes, encoder=setting.encoder, wide=256)
        run = small.prepared(folder / side.plugin, setting.crop)
        plugin.prepare(run)
        self.method = small.build(side.method, plugin, wide, **fitting.method).to(setting.on)
        self.optimizer = small.optimizer(self.method)
        batch = small.batch_for(self.method, self._now(), maps=tuple(run.maps), side=setting.crop)
        self.images = len(batch.labeled.x) + (0 if batch.unlabeled is None else len(batch.unlabeled.weak))
        self.batch = batch.to(setting.on)

    def _now(self) -> Progress:
        return Progress(self.step, 100 * EPOCH, EPOCH, 0, self.setting.on)

    def once(self) -> float:
        """One update as the trainer makes it; its seconds."""
        t, cuda = self._now(), self.setting.on.type == "cuda"
        torch.manual_seed(self.step)
        began = time.perf_counter()
        loss = self.method(self.batch, t).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.method.after_step(t)
        if cuda:
            torch.cuda.synchronize()
        self.step += 1
        return time.perf_counter() - began


@dataclass(frozen=True)
class Cost:
    """Seconds of each counted step of a side, images of a step, peak bytes."""

    seconds: list[float]
    images: int
    peak: int


def costs(sides: Sequence[Side], setting: Setting) -> dict[Side, Cost]:
    """What every side costs; plug-ins prepare while the steps are timed, so that no peak is of their preparing."""
    with tempfile.TemporaryDirectory() as name:
        seconds, images = _in_turn(sides, setting, Path(name))
        alone = _on_gpu if setting.on.type == "cuda" else _in_child
        return {side: Cost(seconds[side], images[side], alone(side, setting, Path(name))) for side in sides}


def _in_turn(sides: Sequence[Side], setting: Setting, folder: Path) -> tuple[dict[Side, list[float]], dict[Side, int]]:
    """Seconds of every side's steps, made in turn so that a busy machine slows all alike; and images of a step.

    The first step of each, which makes buffers and chooses kernels, is not counted.
    """
    made = {side: Ready(side, setting, folder) for side in sides}
    seconds: dict[Side, list[float]] = {side: [] for side in sides}
    for _ in range(setting.steps + 1):
        for side, ready in made.items():
            seconds[side].append(ready.once())
    return {side: values[1:] for side, values in seconds.items()}, {side: r.images for side, r in made.items()}


def _on_gpu(side: Side, setting: Setting, folder: Path) -> int:
    """Bytes a side takes at most over two steps, beyond what there was before it was made."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ready = Ready(side, setting, folder)
    ready.once()
    ready.once()
    return int(torch.cuda.max_memory_allocated()) - before


def _in_child(side: Side, setting: Setting, folder: Path) -> int:
    """The same of memory, in a process of its own: what a process once had, its allocator may keep."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, __file__, json.dumps([asdict(side), asdict(setting), str(folder)])]
    done = subprocess.run(words, env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, text=True, check=True)
    return int(done.stdout)


def _child(given: str) -> None:
    side, setting, folder = json.loads(given)
    where = Setting(**setting)
    torch.set_num_threads(where.threads)
    before = _peak()
    ready = Ready(Side(**side), where, Path(folder))
    ready.once()
    ready.once()
    print(_peak() - before)


def _peak() -> int:
    """Peak bytes of this process. Linux hands `ru_maxrss` of who started it on to it; its status begins anew."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return peak_memory(torch.device("cpu"))
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def markdown(head: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column to the left, numbers to the right."""
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join([head, "", *(f"| {' | '.join(line)} |" for line in lines)])


def told(setting: Setting, rows: Sequence[Mapping[str, Any]]) -> str:
    """One JSON object: how it was measured, and every row with the seconds of each step."""
    return json.dumps({**asdict(setting), "hardware": hardware(setting.on), "rows": list(rows)}, indent=1)


if __name__ == "__main__":
    _child(sys.argv[1])
