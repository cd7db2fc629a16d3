"""What a plug-in costs: step time and peak memory of host + plug-in as a ratio to the host's, measured in one run.

python tests/bench/bench_plugins.py [--pairs unimatch+mpmc ...] [--encoder resnet50s] [--crop 321] [--json]

The steps of a host and of it with each plug-in take turns (A, B, C, A, B, C), the ratio is of their medians. Memory: on
a GPU what torch allocates at most, on a CPU the peak of a process that makes two steps, both beyond what was there
before. Pairs: those a paper's table holds, unless some are given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from steps import Setting, Side, costs, markdown, told

from ssbench.certify.matrix import matrix


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", nargs="+", metavar="HOST+PLUGIN", help="such as unimatch+mpmc (default: published)")
    setting, args = Setting.parsed(parser, encoder="resnet18", crop=97, steps=5)
    torch.set_num_threads(setting.threads)
    hosts: dict[str, list[str]] = {}
    for host, plugin in pairs(args.pairs):
        hosts.setdefault(host, []).append(plugin)
    rows = [row for host, plugins in hosts.items() for row in measured(host, plugins, setting)]
    if args.json:
        print(told(setting, rows))
        return
    columns = ("host", "plug-in", "s / step", "x host", "peak MiB", "x host")
    print(markdown(setting.head("Plug-ins on their hosts"), columns, [shown(row) for row in rows]))


def pairs(given: Sequence[str] | None) -> list[tuple[str, str]]:
    """(host, plug-in) as asked for, or all that are published."""
    if given is None:
        return [key for key, pair in matrix(()).pairs.items() if pair.state == "published"]
    split = [text.split("+") for text in given]
    if wrong := [text for text, parts in zip(given, split, strict=True) if len(parts) != 2]:
        sys.exit(f"no pair '{wrong[0]}': write HOST+PLUGIN, such as unimatch+mpmc")
    return [(host, plugin) for host, plugin in split]


def measured(host: str, plugins: Sequence[str], setting: Setting) -> list[dict[str, Any]]:
    """A row for the host alone and one for each plug-in on it."""
    sides = [Side(host), *(Side(host, plugin) for plugin in plugins)]
    print(f"{host}: {', '.join(plugins)}", file=sys.stderr)
    found = costs(sides, setting)
    alone = found[sides[0]]
    return [
        {
            "host": host, "plugin": side.plugin or None, "seconds": cost.seconds, "median": median(cost.seconds),
            "time_ratio": median(cost.seconds) / median(alone.seconds),
            "peak_bytes": cost.peak, "memory_ratio": cost.peak / alone.peak,
        }
        for side, cost in found.items()
    ]  # fmt: skip


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    """A row of the table; the host's own ratios are left out."""
    ratios = [f"{row[name]:.2f}" if row["plugin"] else "" for name in ("time_ratio", "memory_ratio")]
    mib = f"{row['peak_bytes'] / 2**20:.0f}"
    return row["host"], row["plugin"] or "", f"{row['median']:.3f}", ratios[0], mib, ratios[1]


if __name__ == "__main__":
    main()
