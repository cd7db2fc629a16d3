"""A plug-in that writes down every step it is asked for, and waits a while: so trainings are counted, and take time."""

from __future__ import annotations

from collections import Counter
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
            file.write(f"{t.step} {os.getpid()}\\n")
        if not os.path.exists(self.cfg.tired) and not os.environ.get(self.cfg.tired):
            time.sleep(self.cfg.wait)
        return {}
"""
BASE = Path(__file__).parents[2] / "recipes/base/toy.yaml"
RECIPE = """\
base: {base}
data: {{few: 8}}
views: {{crop: 48}}
net: {{wide: 32}}
method: {{name: fixmatch, threshold: 0.8}}
plugin: {{name: {folder}/counting.py, log: {folder}/{name}.steps, wait: {wait}, tired: "{tired}"}}
schedule: {{epochs: {epochs}, labeled_batch: 2, unlabeled_batch: 2, checkpoint_minutes: 0}}
eval: {{few: 2, every: {epochs}}}
"""
STEPS_PER_EPOCH = 4


def write(folder: Path, name: str, epochs: int, wait: float = 0.0, tired: str = "") -> str:
    """A recipe whose trainings are counted; its path."""
    (folder / "counting.py").write_text(PLUGIN)
    path = folder / f"{name}.yaml"
    path.write_text(RECIPE.format(base=BASE, folder=folder, name=name, wait=wait, tired=tired, epochs=epochs))
    return str(path)


def steps(folder: Path, name: str, rank: int = 0) -> Counter[int]:
    """How often each step was trained, of all processes that ever were at it."""
    return Counter(int(line.split()[0]) for line in _lines(folder, name, rank))


def pids(folder: Path, name: str, rank: int = 0) -> set[int]:
    """Who trained."""
    return {int(line.split()[1]) for line in _lines(folder, name, rank)}


def once(epochs: int) -> Counter[int]:
    """What `steps` should be: every step, once."""
    return Counter(range(STEPS_PER_EPOCH * epochs))


def _lines(folder: Path, name: str, rank: int) -> list[str]:
    path = folder / f"{name}.steps.{rank}"
    return path.read_text().splitlines() if path.exists() else []
