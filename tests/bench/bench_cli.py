"""How long commands that are typed all day take, Python's start included: `python tests/bench/bench_cli.py`.

The contract asks for under 0.3 s of `--help` and completion. Wall and processor seconds are the best of seven; on a
busy machine the second is the one to read.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TYPED = (
    ["--help"],
    ["run", "--help"],
    ["list"],
    ["list", "splits"],
    ["list", "recipes"],
    ["table", "s4mc/table1"],
)
COMPLETION = {"_SSBENCH_COMPLETE": "complete_bash", "COMP_WORDS": "ssbench spl", "COMP_CWORD": "1"}


def taken(words: list[str], more: dict[str, str] | None = None) -> tuple[float, float]:
    """Wall and processor seconds of one command."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **(more or {})}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, "-m", "ssbench", *words], env=env, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print a line a command."""
    print(f"{'':32} {'wall':>6} {'cpu':>6}   seconds, best of 7, {os.cpu_count()} cores")
    for words, more in [*((words, None) for words in TYPED), ([], COMPLETION)]:
        wall, cpu = (min(values) for values in zip(*(taken(words, more) for _ in range(7)), strict=True))
        print(f"ssbench {' '.join(words) or '(completion)':24} {wall:6.2f} {cpu:6.2f}")


if __name__ == "__main__":
    main()
