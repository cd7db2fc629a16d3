"""Commands over a store of 100,000 records: `python tests/bench/bench_scale.py [RECORDS]`.

The shipped toy records stand among RECORDS others of 1,000 recipes. Each command is run twice in a process of its own,
over the shipped records alone and over all. What the second takes more is the cost of records it does not need.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SEEDS, SPLITS = 10, 10
COMMANDS = (
    ("plan", "toy/table1", "--json"),
    ("table", "toy/table1"),
    ("list", "runs", "--json"),
    ("report", "toy/table1", "-o", "{out}"),
)


def make_store(root: Path, others: int) -> None:
    """The shipped toy records, and `others` copies of them under other names, splits, seeds and keys."""
    shutil.copytree(ROOT / "results" / "toy", root / "toy", dirs_exist_ok=True)
    templates = [path.read_text() for path in sorted((ROOT / "results" / "toy").rglob("seed0.json"))]
    for number in range(others):
        place, seed = divmod(number, SEEDS)
        recipe, split = f"other/recipe{place // SPLITS:04}", f"toy/bench/part{place % SPLITS}"
        text = templates[place % len(templates)]
        for name, value in {"recipe": recipe, "split": split, "seed": seed, "key": f"{number:016x}"}.items():
            text = _with(text, name, value)
        path = root / recipe / split.replace("/", "-") / f"seed{seed}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _with(text: str, name: str, value: object) -> str:
    """The record with another value of one top-level field, each of which stands on a line of its own."""
    begin = text.index(f'\n "{name}": ')
    end = text.index("\n", begin + 1)
    return f'{text[:begin]}\n "{name}": {json.dumps(value)},{text[end:]}'


def measure(words: list[str]) -> tuple[float, float, int]:
    """Wall seconds, processor seconds and peak MB of a command in a process of its own."""
    code = (
        "import resource, subprocess, sys\n"
        "code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(code, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024)\n"
    )
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=ROOT)
    exit_code, cpu, peak = done.stdout.split()
    assert exit_code == "0", words
    return time.perf_counter() - begin, float(cpu), int(peak)


def main(others: int) -> None:
    """Make both stores, and print one line a command."""
    with tempfile.TemporaryDirectory() as folder:
        stores = {0: Path(folder) / "shipped", others: Path(folder) / "all"}
        for count, root in stores.items():
            make_store(root, count)
        print(f"{'command':30} {'records':>8} {'wall s':>7} {'cpu s':>6} {'peak MB':>8}")
        for command in COMMANDS:
            for count, root in stores.items():
                words = [word.format(out=f"{folder}/report") for word in command]
                wall, cpu, peak = measure([sys.executable, "-m", "ssbench", *words, "--results", str(root)])
                print(f"{' '.join(command[:2]):30} {count:>8} {wall:>7.1f} {cpu:>6.1f} {peak:>8}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
