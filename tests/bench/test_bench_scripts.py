"""The scripts that race, that need a GPU, and that compare fast with exact: what of them runs here, in toy sizes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parents[1]


@pytest.fixture(scope="module")
def script() -> Any:
    """Imports a script of this folder by name."""
    sys.path.insert(0, str(BENCH))
    yield lambda name: __import__(name)
    sys.path.remove(str(BENCH))


def call(*words: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=env, check=False)


def test_a_race_measures_every_side_in_turn(toy_data: Path, tmp_path: Path) -> None:
    words = ["--cases", "tiny", "--turns", "1", "--steps", "1", "--threads", "1", "--sides", "plain", "fast"]
    done = call(str(BENCH / "bench_race.py"), *words, "--data-root", str(toy_data), "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "race.json").read_text())["cases"]["tiny"]
    assert list(rows) == ["plain", "fast"]
    assert all(row["seconds"] > 0 and row["cpu"] > 0 and row["peak_bytes"] > row["base_bytes"] for row in rows.values())
    assert "| fast |" in (tmp_path / "race.md").read_text()


def test_sides_of_a_race_have_settings_and_variables(script: Callable[[str], Any]) -> None:
    side = script("bench_race").RaceSide.parsed("fast,schedule.compile=on,SSBENCH_KEEP_MEMORY=0")
    assert (side.precision, side.settings) == ("fast", ("schedule.compile=on",))
    assert side.environment == {"SSBENCH_KEEP_MEMORY": "0"}
    with pytest.raises(SystemExit, match="no side 'fastest'"):
        script("bench_race").RaceSide.parsed("fastest")


def test_the_gpu_script_writes_its_summary_stage_by_stage(toy_data: Path, tmp_path: Path) -> None:
    words = ["--tiny", "--stages", "facts", "evaluation", "--data-root", str(toy_data), "--out", str(tmp_path)]
    done = call(str(BENCH / "gpu.py"), *words)
    assert done.returncode == 0, done.stderr
    assert {"name", "bf16", "git"} <= set(json.loads((tmp_path / "facts.json").read_text()))
    text = (tmp_path / "summary.md").read_text()
    assert "| facts | done |" in text
    assert "| tiny exact |" in text
    assert "| tiny fast |" in text


def test_a_stage_that_takes_too_long_is_cut_off_and_its_files_are_kept(
    script: Callable[[str], Any], tmp_path: Path
) -> None:
    gpu = script("gpu")
    code = f"import pathlib, time; pathlib.Path({str(tmp_path / 'kept')!r}).write_text('x'); time.sleep(60)"
    began = time.monotonic()
    stage = gpu.GpuStage("slow", (sys.executable, "-c", code), 5.5)
    assert gpu.run(stage, 100, tmp_path)["state"] == "cut off"
    assert time.monotonic() - began < 30
    assert (tmp_path / "kept").read_text() == "x"
    assert gpu.run(stage, 1, tmp_path)["state"] == "left out"
    assert gpu.run(gpu.GpuStage("bad", (sys.executable, "-c", "exit(3)"), 9), 100, tmp_path)["state"] == "failed"


def test_the_rule_by_which_fast_tracks_exact(script: Callable[[str], Any]) -> None:
    tracks = script("fast_tracks")
    assert tracks.standard_error([1.0], [2.0]) is None
    assert tracks.standard_error([0.0, 2.0], [5.0, 5.0]) == pytest.approx(1.0)  # of the differences
    assert tracks.standard_error([0.0, 0.0], [4.0, 6.0]) == pytest.approx(1.0)  # of seed noise
    exact = [[1.0, 0.5], [1.2, 0.5]]  # the second epoch has no spread: two percent of the loss
    assert tracks.share_inside(exact, [[1.3, 0.505], [1.3, 0.505]]) == 1.0
    assert tracks.share_inside(exact, [[1.5, 0.505], [1.5, 0.505]]) == 0.5
    assert tracks.share_inside(exact, [[1.1, 0.52], [1.1, 0.52]]) == 0.5
