"""`doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssbench import paths
from ssbench.commands.common import DataRoot, Json, Results, Runs, print_json
from ssbench.paths import quoted

Check = dict[str, Any]
"""what, state ("ok", "missing", "optional", "note" or "low"), found, mend: one row of the answer."""
LOW_GIB = 5


def doctor(data_root: DataRoot = None, runs: Runs = None, results: Results = None, json: Json = False) -> None:
    """Environment, GPU, data, disk: each with what to do about it."""
    data = paths.data_root(data_root)
    folders = {"data": data, "runs": paths.runs_root(runs), "results": paths.results_root(results)}
    checks = [*_packages(), _device(), *_data(data), *_disk(folders)]
    if json:
        print_json({"checks": checks})
        return
    for check in checks:
        print(f"{check['state']:8} {check['what']:14} {check['found']}")
        if check["mend"]:
            print(f"{'':23} {check['mend']}")


def _check(what: str, found: str, mend: str = "", state: str = "") -> Check:
    return {"what": what, "state": state or ("missing" if mend else "ok"), "found": found, "mend": mend}


def _packages() -> list[Check]:
    import importlib.metadata
    import platform

    rows = [_check("python", platform.python_version())]
    extras = {"nibabel": "medical", "h5py": "medical", "pycocotools": "coco"}
    for name in ("torch", "torchvision", "timm", "nibabel", "h5py", "pycocotools"):
        try:
            rows.append(_check(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            install = f"pip install 'ssbench[{extras[name]}]'" if name in extras else f"pip install {name}"
            rows.append(_check(name, "not installed", install, "optional" if name in extras else "missing"))
    return rows


def _device() -> Check:
    import torch

    if not torch.cuda.is_available():
        threads = f"none; {torch.get_num_threads()} CPU threads"
        return _check("gpu", threads, "papers' recipes need a GPU; toy and camvid run here", "note")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free, total = torch.cuda.mem_get_info()
    return _check("gpu", f"{', '.join(names)}; {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")


def _data(root: Path) -> list[Check]:
    from ssbench import find
    from ssbench.data.open import imported

    rows = []
    for name in find.names("dataset"):
        is_prepared = (root / name / "ledger.json").is_file()
        mend = f"ssbench prepare {name}" + f" --data-root {quoted(root)}"
        rows.append(_check(name, str(root / name)) if is_prepared else _check(name, "not prepared", mend, "note"))
    return [*rows, *(_imported(name, root) for name in imported(root))]


def _imported(name: str, root: Path) -> Check:
    """An imported folder: images and classes, or what is wrong with it."""
    from ssbench.data.folder import read_card
    from ssbench.errors import DataError

    again = f"ssbench import FOLDER --name {name} --replace" + f" --data-root {quoted(root)}"
    if not (root / name / "ledger.json").is_file():
        return _check(name, "imported in part", again)
    try:
        card = read_card(root / name)
    except DataError as error:
        return _check(name, error.what, again)
    counts = ", ".join(f"{count} {subset}" for subset, count in card.subsets.items())
    return _check(name, f"imported: {counts}, {len(card.classes)} classes; {root / name}")


def _disk(folders: Mapping[str, Path]) -> list[Check]:
    rows = []
    for name, path in folders.items():
        # A root that does not exist yet lies on the disk of the nearest folder above it.
        existing = next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
        free = shutil.disk_usage(existing).free / 2**30
        mend, state = ("free some space", "low") if free < LOW_GIB else ("", "ok")
        rows.append(_check(f"disk {name}", f"{free:.0f} GiB free at {path}", mend, state))
    return rows
