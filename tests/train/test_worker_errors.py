"""An error in a loader's worker ends the run, in three parts, with exit code 4, and leaves no process behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ran import SMALL, environment

WATCHDOG = 240
"""Seconds after which a run has hung. It takes 15 on a quiet machine."""
SPLIT = "toy/ours/1_16"

EATS = """
from typing import Literal

from ssbench.plugins.base import Plugin, PluginConfig


def _maps(id):
    raise MemoryError


class Eats(Plugin):
    class Config(PluginConfig):
        name: Literal["eats"] = "eats"

    def prepare(self, run):
        run.maps.append(_maps)
"""


@pytest.fixture
def data(toy: Path, tmp_path: Path) -> Path:
    """A copy of the toy data to damage."""
    return Path(shutil.copytree(toy, tmp_path / "data", copy_function=os.link))


def start(folder: Path, data: Path, text: str = SMALL, workers: int = 2) -> subprocess.Popen[str]:
    (folder / "own.yaml").write_text(text)
    return subprocess.Popen(
        [sys.executable, "-m", "ssbench", "run", "own.yaml", "--split", SPLIT, "--set", f"data.workers={workers}"],
        cwd=folder,
        env=environment(SSBENCH_DATA=str(data)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it said, once it ended with code 4 and nothing of its session is left."""
    try:
        _, err = process.communicate(timeout=WATCHDOG)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 4, err
    assert "error: " in err
    assert "  where: " in err
    assert "  fix:   " in err
    assert "Traceback" not in err
    for _ in range(50):  # the system takes a moment to clear away what has ended
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return err
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError(f"processes are left: {err}")


def damage(path: Path) -> None:
    content = path.read_bytes()[:600]
    path.unlink()  # the bytes are shared with the other tests' data
    path.write_bytes(content)


def test_a_picture_cut_short_in_the_middle_of_a_run(data: Path, tmp_path: Path) -> None:
    from ssbench.splits.manifest import Partition

    last = Partition.read(SPLIT, data).unlabeled[7]  # of `data.few: 8`
    damage(data / "toy" / "images" / f"{last}.jpg")
    assert f"{last}.jpg cannot be read" in ended(start(tmp_path, data))


def test_a_picture_that_is_gone_when_an_epoch_is_scored(data: Path, tmp_path: Path) -> None:
    first = sorted((data / "toy" / "images").glob("val_*.jpg"))[2]
    first.unlink()
    assert f"no file {first.name}" in ended(start(tmp_path, data))


def test_memory_that_runs_out_in_a_worker(data: Path, tmp_path: Path) -> None:
    (tmp_path / "eats.py").write_text(EATS)
    err = ended(start(tmp_path, data, SMALL.replace("name: s4mc", "name: eats.py")))
    assert "memory ran out while images were loaded" in err
    assert "data.workers=0" in err


def test_a_worker_that_the_system_kills(data: Path, tmp_path: Path) -> None:
    process = start(tmp_path, data, SMALL.replace("epochs: 2", "epochs: 2000"))
    workers: list[int] = []
    while len(workers) < 2 and process.poll() is None:
        time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        workers = [int(pid) for pid in children.read_text().split()] if children.exists() else []
    os.kill(workers[-1], signal.SIGKILL)
    assert "a process that loads images died" in ended(process)


def test_a_fault_in_a_step_leaves_no_worker(data: Path, tmp_path: Path) -> None:
    """The workers wait for orders while the step fails: they must end with it, whatever the exit code."""
    (tmp_path / "bad.py").write_text(
        EATS.replace("def prepare(self, run):\n        run.maps.append(_maps)", "def refine(self, pseudo, t):\n"
                     "        return None").replace("eats", "bad").replace("Eats", "Bad")
    )  # fmt: skip
    process = start(tmp_path, data, SMALL.replace("name: s4mc", "name: bad.py"))
    _, err = process.communicate(timeout=WATCHDOG)
    assert process.returncode == 6, err
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
