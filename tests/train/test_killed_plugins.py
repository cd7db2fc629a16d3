"""A quick run with each plug-in, killed half-way by SIGKILL and started again, ends in the bytes of one left alone.

What a plug-in carries from step to step has to survive: classifiers and their averages, estimates, banks, boxes, ramps.
"""

from __future__ import annotations

import json
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from running import Job, wait_until
from test_interrupted import EVERY_STEP, End, written

from ssbench import find
from ssbench.recipe.recipe import Recipe, load

SETTINGS: dict[str, dict[str, Any]] = {
    "mpmc": {"widest": 16, "teacher_module": "ema"},
    "s4mc": {"variant": "release", "neighbour": "random"},
    "ipixmatch": {"warmup_epochs": 4, "tau": 0.2},
    "upc": {"guidance": "random"},
    "prevmatch": {"select": "labeled", "list_max_len": 2},
}
"""So that all a plug-in can hold is held: a moving average, estimates, draws, a ramp that is not over, a full list."""


@dataclass(frozen=True)
class Quick(Job):
    """`ssbench run --quick`, of a few more epochs than usual."""

    @property
    def loaded(self) -> Recipe:
        return load(self.recipe, self.overrides, quick=True)

    @property
    def record(self) -> Path:
        return self.folder / "record.json"

    @property
    def arguments(self) -> list[str]:
        return [*super().arguments, "--quick"]


def overrides(plugin: str) -> tuple[str, ...]:
    cls = find.load("plugin", plugin)
    chosen = json.dumps({"name": plugin, **cls.quick, **SETTINGS.get(plugin, {})})
    return f"plugin={chosen}", "schedule.epochs=4", EVERY_STEP


@pytest.mark.parametrize("plugin", find.names("plugin"))
def test_killed_half_way(plugin: str, toy: Path, tmp_path: Path) -> None:
    check_killed(*(Quick(toy, tmp_path / name, overrides(plugin)) for name in ("whole", "killed")))


def test_unimatch_v2_on_a_transformer_killed_half_way(toy: Path, tmp_path: Path) -> None:
    """The teacher of averaged weights, AdamW's moments of a part of the parameters, and the draws of its dropout."""
    settings = ("method.threshold=0.0", "schedule.epochs=4", EVERY_STEP)
    recipe = "unimatch_v2/unimatch_v2_voc_dinov2s_518"
    check_killed(*(Quick(toy, tmp_path / name, settings, recipe) for name in ("whole", "killed")))


def check_killed(whole: Quick, killed: Quick) -> None:
    """Assert that a run killed half-way goes on, and ends as one that nobody disturbed."""
    whole.here()
    steps = json.loads(whole.record.read_text())["timings"]["steps"]
    process = killed.start()
    assert wait_until(written(killed, times=steps // 2), process), killed.log.read_text()
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL, f"the kill came too late: {killed.log.read_text()}"
    assert killed.finish() == 0, killed.log.read_text()
    after = json.loads(killed.record.read_text())["timings"]["steps"]
    assert 0 < after < steps, "it went on, and did not begin again"
    assert End.of(killed) == End.of(whole)
