"""Commands for tests: what one did, a small recipe to run, and `ssbench` in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SMALL = """\
# A small run of the whole path.
data: {dataset: toy, workers: 0, few: 8}
views: {weak: unimatch, strong: unimatch, box: unimatch, crop: 48}  # ours
net: {name: deeplabv3plus, encoder: test_resnet, weights: random, wide: 32}  # ours
method: {name: fixmatch}  # ours
plugin: {name: s4mc}  # ours
optim: {lr: 0.01}  # ours
schedule: {epochs: 2, labeled_batch: 4, unlabeled_batch: 4}  # ours
eval: {few: 6, report: test}  # ours
"""


@dataclass(frozen=True)
class Ran:
    """Exit code, stdout, stderr."""

    code: int
    out: str
    err: str


def environment(**variables: str) -> dict[str, str]:
    """This process's, with the checkout on the path of Python."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]), **variables}


def process(*words: str, cwd: Path, module: bool = True, **variables: str) -> Ran:
    """`ssbench` (or `python -c`, with `module` false) in a process of its own, with nobody to answer a question."""
    start = ["-m", "ssbench"] if module else ["-c"]
    done = subprocess.run(
        [sys.executable, *start, *words],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
