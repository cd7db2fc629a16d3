"""The machine and software a run used: hardware, package versions, the state of the code, torch's switches."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ssbench.paths import PACKAGE
from ssbench.recipe.device import processor_name
from ssbench.train.allocator import keep_freed_memory

PACKAGES = ("ssbench", "torch", "torchvision", "timm", "numpy", "pillow", "scipy")
"""Packages whose version can change a score."""


def hardware(device: torch.device) -> dict[str, Any]:
    """Device name, processor, cores, threads, and whether freed memory was kept (`train/allocator.py`)."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "device": device.type,
        "name": name,
        "processor": processor_name(),
        "devices": torch.cuda.device_count() if device.type == "cuda" else 1,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "keeps_memory": keep_freed_memory(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def packages() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`, by name."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
            versions[name] = "not installed"
    return versions


def code() -> dict[str, Any]:
    """Git commit, and whether files that decide numbers differ from it. Of an installed wheel neither is known."""
    root = PACKAGE.parent
    if not (root / ".git").exists():
        return {"commit": None, "dirty": None}
    return {
        "commit": _git(root, "rev-parse", "HEAD"),
        "dirty": bool(_git(root, "status", "--porcelain", "--", "ssbench", "recipes", "splits")),
    }


def peak_memory(device: torch.device) -> int:
    """Peak bytes: of the GPU's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def deterministic_operations(enable: bool) -> Iterator[None]:
    """With `enable`, torch's deterministic operations, and a warning for each that has none.

    IPixMatch asks for it (Sec. IV-B). A warning and no error, because some CUDA kernels have no deterministic form
    (the backward pass of bilinear upsampling, some indexed sums). cuBLAS reads its variable when a process first
    multiplies on a GPU, so the first run of a process decides for all later ones.
    """
    was, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if enable:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warned)


def _git(root: Path, *arguments: str) -> str | None:
    try:
        process = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607
    except (OSError, subprocess.CalledProcessError):
        return None
    return process.stdout.strip()
