"""A plug-in that writes down every step it is asked for, and waits a while: so trainings are counted, and take time."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

PLUGIN = """
import os
import time

from ssbench.plugins.base import Plugin, PluginConfig


class Counting(Plugin):
    class Config(PluginConfig):
        name: str = "counting"
        log: str = ""
        wait: float = 0.0
        tired: str = ""  # a file, or an environment variable, that ends the waiting

    def loss(self, seen, t):
        with open(f"{self.cfg.log}.{t.rank}", "a") as file:
            file.write(f"{t.step} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
        if not os.path.exists(self.cfg.tired) and not os.environ.get(self.cfg.tired):
            time.sleep(self.cfg.wait)
        return {}
"""
BASE = Path(__file__).parents[2] / "recipes/tasks/toy.yaml"
RECIPE = """\
base: {base}
data: {{few: 8}}
views: {{crop: 48}}
net: {{wide: 32}}
method: {{name: fixmatch, threshold: 0.8}}
plugin: {{name: {folder}/counting.py, log: {folder}/{name}.steps, wait: {wait}, tired: "{tired}"}}
schedule: {{epochs: {epochs}, labeled_batch: 2, unlabeled_batch: 2, checkpoint_minutes: {saving}}}
eval: {{few: 2, every: {epochs}}}
"""
STEPS_PER_EPOCH = 4


def until(happened: Callable[[], bool], process: BaseProcess | None = None, seconds: float = 240) -> bool:
    """Whether it happened, while the process lived: looks ten times a second, for others need the cores."""
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end and (process is None or process.is_alive()):
        time.sleep(0.1)
    return happened()


def write(folder: Path, name: str, epochs: int, wait: float = 0.0, tired: str = "", saving: float = 15) -> str:
    """A recipe whose trainings are counted, with a checkpoint every `saving` minutes; its path."""
    (folder / "counting.py").write_text(PLUGIN)
    path = folder / f"{name}.yaml"
    fields = {"name": name, "epochs": epochs, "wait": wait, "tired": tired, "saving": saving}
    path.write_text(RECIPE.format(base=BASE, folder=folder, **fields))
    return str(path)


def steps(folder: Path, name: str, rank: int = 0) -> Counter[int]:
    """How often each step was trained, of all processes that ever were at it."""
    return Counter(int(line.split()[0]) for line in _lines(folder, name, rank))


def pids(folder: Path, name: str, rank: int = 0) -> set[int]:
    """Who trained."""
    return {int(line.split()[1]) for line in _lines(folder, name, rank)}


def gpus(folder: Path, name: str) -> set[str]:
    """What those who trained saw of GPUs."""
    return {line.split()[2] for line in _lines(folder, name, 0)}


def once(epochs: int) -> Counter[int]:
    """What `steps` should be: every step, once."""
    return Counter(range(STEPS_PER_EPOCH * epochs))


def _lines(folder: Path, name: str, rank: int) -> list[str]:
    path = folder / f"{name}.steps.{rank}"
    return path.read_text().splitlines() if path.exists() else []
