"""`doctor`: what this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import shutil
from typing import Any

import typer

from ssbench.commands.common import DataRoot, Json, Results, Runs, print_json


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(data_root: DataRoot = None, runs: Runs = None, results: Results = None, json: Json = False) -> None:
    """Environment, GPU, data, disk: each with what to do about it."""
    from ssbench.paths import data_root as data_of
    from ssbench.paths import results_root, runs_root

    data = data_of(data_root)
    places = {"data": data, "runs": runs_root(runs), "results": results_root(results)}
    checks = [*_packages(), _device(), *_data(data), *_disk(places)]
    if json:
        print_json({"checks": checks})
        return
    for check in checks:
        print(f"{check['state']:8} {check['what']:14} {check['found']}")
        if check["mend"]:
            print(f"{'':23} {check['mend']}")


def _check(what: str, found: str, mend: str = "", state: str = "") -> dict[str, Any]:
    return {"what": what, "state": state or ("missing" if mend else "ok"), "found": found, "mend": mend}


def _packages() -> list[dict[str, Any]]:
    import importlib.metadata
    import platform

    rows = [_check("python", platform.python_version())]
    extras = {"nibabel": "medical", "h5py": "medical", "pycocotools": "coco"}
    for name in ("torch", "torchvision", "timm", "nibabel", "h5py", "pycocotools"):
        try:
            rows.append(_check(name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            wanted = f"pip install 'ssbench[{extras[name]}]'" if name in extras else f"pip install {name}"
            rows.append(_check(name, "not installed", wanted, "optional" if name in extras else "missing"))
    return rows


def _device() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        found = f"none; {torch.get_num_threads()} CPU threads"
        return _check("gpu", found, "papers' recipes need a GPU; toy and camvid run here", "note")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    free, total = torch.cuda.mem_get_info()
    return _check("gpu", f"{', '.join(names)}; {free / 2**30:.0f} of {total / 2**30:.0f} GiB free")


def _data(root: Any) -> list[dict[str, Any]]:
    from ssbench import find

    rows = []
    for name in find.names("dataset"):
        ready = (root / name / "ledger.json").is_file()
        mend = f"ssbench prepare {name} --data-root {root}"
        rows.append(_check(name, str(root / name)) if ready else _check(name, "not prepared", mend, "note"))
    return rows


def _disk(places: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for name, path in places.items():
        there = next(p for p in (path.resolve(), *path.resolve().parents) if p.exists())
        free = shutil.disk_usage(there).free / 2**30
        found = f"{free:.0f} GiB free at {path}"
        rows.append(
            _check(f"disk {name}", found, "free some space", "low") if free < 5 else _check(f"disk {name}", found)
        )
    return rows
