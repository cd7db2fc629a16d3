"""What a method costs: images a second and peak memory of each, their steps taking turns.

python tests/bench/bench_methods.py [--methods unimatch u2pl ...] [--encoder resnet50s] [--crop 321] [--json]

Images are those of a step's batch, labelled and unlabelled, as in the records of runs; a method that looks at an image
more than once (strong views, a teacher) is the slower for it. Memory as in bench_plugins.py.
"""

from __future__ import annotations

import argparse
from statistics import median
from typing import Any

import torch
from steps import Cost, Setting, Side, costs, markdown, told

from ssbench import find


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=list(find.names("method")), help="default: all")
    setting, args = Setting.parsed(parser, encoder="resnet18", crop=129, steps=5)
    torch.set_num_threads(setting.threads)
    found = costs([Side(method) for method in args.methods], setting)
    rows = [row(side.method, cost) for side, cost in found.items()]
    if args.json:
        print(told(setting, rows))
        return
    columns = ("method", "images / s", "s / step", "images", "peak MiB")
    lines = [
        (
            r["method"],
            f"{r['images_per_s']:.2f}",
            f"{r['median']:.3f}",
            str(r["images"]),
            f"{r['peak_bytes'] / 2**20:.0f}",
        )
        for r in rows
    ]
    print(markdown(setting.head("Methods"), columns, lines))


def row(method: str, cost: Cost) -> dict[str, Any]:
    """One method."""
    middle = median(cost.seconds)
    speed = cost.images / middle
    return {
        "method": method, "images": cost.images, "seconds": cost.seconds, "median": middle, "images_per_s": speed,
        "peak_bytes": cost.peak,
    }  # fmt: skip


if __name__ == "__main__":
    main()
