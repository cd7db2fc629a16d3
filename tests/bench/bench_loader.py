"""Images/s of each loader, from the prepared files and from the decoded cache, in one process.

python tests/bench/bench_loader.py [--images 96] [--seconds 3] [--data ../shared/data] [--only voc,cityscapes]

The real samples of each dataset are converted as `ssbench prepare` does, and copied under new names up to `--images`
of them. Prints one JSON object: for each dataset images/s of reading a pair (`read`) and of the loader of a run
(`loader`: the labelled view and an unlabelled one with two strong views, batches as tensors), each from the files and
from the cache, and cached / files. The two take turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "data"))
import numpy as np
from small_sources import SOURCES

from ssbench.data.dataset import Dataset
from ssbench.data.loader import Steps
from ssbench.data.open import open_dataset
from ssbench.data.plan import Needs, Plan
from ssbench.prepare import cache
from ssbench.prepare.job import PrepareJob
from ssbench.prepare.sources import SourceSpec
from ssbench.prepare.verify import open_folder, verify, write_ledger
from ssbench.views.pipelines import read_views

TURNS = 4
VIEWS: dict[str, dict[str, Any]] = {  # those of UniMatch's recipes
    "voc": {"crop": 321},
    "cityscapes": {"crop": 801},
    "coco": {"crop": 513},
    "camvid": {"crop": 320},
    "toy": {"crop": 64},
    "acdc": {"crop": 256, "weak": "acdc", "strong": "acdc"},
}


def prepared(name: str, real: Path, root: Path, count: int) -> Dataset:
    """About `count` samples of the dataset, prepared below `root`."""
    module = __import__(f"ssbench.prepare.{name}", fromlist=["convert"])
    counts = SOURCES[name](real, root / "source" / name)
    if name == "toy":
        module.COUNTS = counts = {"train": count // 2, "val": count // 4, "test": count // 4}
    home, job = root / name, PrepareJob(name, root, root / "source" / name)
    home.mkdir()
    module.convert(root / "source" / name, home, job)
    if name not in ("toy", "acdc"):
        repeat(home, list(counts), count)
    plan = SourceSpec((), None, {s: len(open_folder(name, str(home)).ids(s)) for s in counts}, module.convert)
    write_ledger(home, name, job.settings, verify(plan, job, home))
    return open_folder(name, str(home))


def repeat(home: Path, subsets: list[str], count: int) -> None:
    """The samples again under new names (links), until there are about `count`."""
    lists = {subset: (home / f"{subset}.txt").read_text().split() for subset in subsets}
    every = {id for ids in lists.values() for id in ids}
    copies = {id: [f"{id}r{k}" for k in range(1, -(-count // len(every)))] for id in every}
    files = [file for file in home.rglob("*.*") if file.suffix in (".jpg", ".png")]
    for id, new in ((id, new) for id, names in copies.items() for new in names):
        for file in files:
            if file.name.startswith(id):
                os.link(file, file.with_name(file.name.replace(id, new, 1)))
    for subset, ids in lists.items():
        (home / f"{subset}.txt").write_text("".join(f"{name}\n" for id in ids for name in (id, *copies[id])))
    open_folder.cache_clear()


def reading(dataset: Dataset) -> Callable[[], int]:
    """One pair more on each call, as arrays of their own."""
    ids = cycle(sorted({id for subset in ("train", "val") for id in dataset.ids(subset)}))

    def one() -> int:
        id = next(ids)
        np.array(dataset.image(id))
        np.array(dataset.mask(id))
        return 1

    return one


def loading(dataset: Dataset, name: str) -> Callable[[], int]:
    """One step more on each call: two labelled and two unlabelled images."""
    given = {"weak": "unimatch", "strong": "unimatch", "box": "unimatch", **VIEWS[name]}
    ids = dataset.ids("train")
    half = max(2, len(ids) // 2)
    plan = Plan(ids[:half], ids[half:] or ids, Needs(strong=2), 2, 2)
    steps = Steps(dataset, plan, read_views(given))
    numbers = cycle(range(plan.steps_per_epoch))

    def one() -> int:
        steps[next(numbers)]
        return 4

    return one


def rates(works: dict[str, Callable[[], int]], seconds: float) -> dict[str, float]:
    """Images/s of each, taking turns."""
    done, spent = dict.fromkeys(works, 0), dict.fromkeys(works, 0.0)
    for work in works.values():
        work()
    for _ in range(TURNS):
        for name, work in works.items():
            began = time.perf_counter()
            while (took := time.perf_counter() - began) < seconds / TURNS:
                done[name] += work()
            spent[name] += took
    found = {name: round(done[name] / spent[name], 1) for name in works}
    return found | {"ratio": round(found["cached"] / found["files"], 2)}


def measure(name: str, real: Path, count: int, seconds: float) -> dict[str, Any]:
    """The rates of one dataset."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        files = prepared(name, real, root, count)
        made = cache.build(name, root, workers=1)
        cached = open_dataset(name, root)
        said: dict[str, Any] = {"samples": made.samples, "cache_mb": round(made.bytes / 1e6, 1)}
        said["files_mb"] = round(sum(f.stat().st_size for f in (root / name).rglob("*.*g")) / 1e6, 1)
        said["read"] = rates({"files": reading(files), "cached": reading(cached)}, seconds)
        said["loader"] = rates({"files": loading(files, name), "cached": loading(cached, name)}, seconds)
        shutil.rmtree(root / name)
    return said


def main() -> None:
    """Measure, print."""
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--data", type=Path, default=here.parents[3] / "shared" / "data")
    parser.add_argument("--only", default=",".join(SOURCES))
    args = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    said = {name: measure(name, args.data, args.images, args.seconds) for name in args.only.split(",")}
    print(json.dumps({"load": round(os.getloadavg()[0], 1), "datasets": said}, indent=1))


if __name__ == "__main__":
    main()
