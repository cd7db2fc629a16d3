"""Time and peak memory of preparing VOC-sized images, from archives to ledger.

python tests/bench/bench_prepare.py [--images 1000] [--workers 2] [--data ../shared/data]

The images are copies of the real samples, in the proportions of the dataset (12 % VOC train, 12 % val, 76 % SBD masks).
Prints one JSON object: seconds of each stage, images/s, peak resident memory of the main process and of one worker.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import tarfile
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from ssbench.prepare.job import Archive, PrepareJob
from ssbench.prepare.sources import SourceSpec, find_source
from ssbench.prepare.verify import verify, write_ledger
from ssbench.prepare.voc import ARCHIVES, convert

DEVKIT, SBD = "VOCdevkit/VOC2012", "benchmark_RELEASE/dataset"


def build(real: Path, root: Path, count: int) -> dict[str, int]:
    """The two archives, uncompressed tars, in `root`; ids per list."""
    fine, val = round(count * 0.122), round(count * 0.120)
    ids = [f"2008_{k:06d}" for k in range(count)]
    lists = {"train": ids[:fine], "val": ids[fine : fine + val], "sbd": ids[fine + val :]}
    originals = sorted(path.stem for path in (real / "JPEGImages").iterdir())
    mats = {name: _mat(real / f"SegmentationClassAug/{name}.png", root / f"{name}.mat") for name in originals}
    with tarfile.open(root / ARCHIVES[0].name, "w") as voc, tarfile.open(root / ARCHIVES[1].name, "w") as sbd:
        for id, name in zip(ids, itertools.cycle(originals), strict=False):
            voc.add(real / f"JPEGImages/{name}.jpg", f"{DEVKIT}/JPEGImages/{id}.jpg")
            if id in lists["sbd"]:
                sbd.add(mats[name], f"{SBD}/cls/{id}.mat")
            else:
                voc.add(real / f"SegmentationClass/{name}.png", f"{DEVKIT}/SegmentationClass/{id}.png")
        for tar, name, key in (
            (voc, f"{DEVKIT}/ImageSets/Segmentation/train.txt", "train"),
            (voc, f"{DEVKIT}/ImageSets/Segmentation/val.txt", "val"),
            (sbd, f"{SBD}/train.txt", "sbd"),
            (sbd, f"{SBD}/val.txt", ""),
        ):
            (root / "list.txt").write_text("".join(f"{id}\n" for id in lists.get(key, ())))
            tar.add(root / "list.txt", name)
    return {"train": count - val, "val": val, "fine": fine}


def _mat(mask: Path, path: Path) -> Path:
    with Image.open(mask) as image:
        values = np.asarray(image)
    savemat(path, {"GTcls": {"Segmentation": np.where(values == 255, 0, values)}}, do_compression=True)
    return path


def measure(root: Path, counts: dict[str, int], workers: int) -> dict[str, float]:
    """Seconds of each stage of a preparation in `root`."""
    plan = SourceSpec(tuple(Archive(a.name) for a in ARCHIVES[:2]), None, counts, convert)
    job, work = PrepareJob("voc", root / "data", root, workers), root / "data" / "voc"
    clock = [time.perf_counter()]
    source = find_source(plan, job)
    clock.append(time.perf_counter())
    convert(source, work, job)
    clock.append(time.perf_counter())
    verify(plan, job, work)
    clock.append(time.perf_counter())
    write_ledger(work, "voc", job.settings, counts)
    clock.append(time.perf_counter())
    convert(source, work, job)  # all is there: the price of a restart
    clock.append(time.perf_counter())
    names = ("unpack", "convert", "verify", "ledger", "convert_again")
    return {name: round(b - a, 2) for name, a, b in zip(names, clock, clock[1:], strict=False)}


def main() -> None:
    """Build, measure, print."""
    here = Path(__file__).resolve()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=here.parents[3] / "shared" / "data")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        counts = build(args.data / "voc2012" / DEVKIT, root, args.images)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        seconds = measure(root, counts, args.workers)
    total = sum(seconds[name] for name in ("unpack", "convert", "verify", "ledger"))
    said = {"images": args.images, "workers": args.workers, "seconds": seconds, "total": round(total, 2)}
    said |= {"images_per_s": round(args.images / total, 1), "main_before_mib": before // 1024}
    said["main_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    said["worker_peak_mib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
    print(json.dumps(said, indent=1))


if __name__ == "__main__":
    main()
