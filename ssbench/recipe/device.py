"""What this machine computes on, asked without importing torch: whether it has a GPU, and its processor's name."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that this process may use."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1", "NoDevFiles")
    return not hidden and Path("/dev/nvidiactl").exists() and any(Path("/dev").glob("nvidia[0-9]*"))


def processor_name() -> str:
    """The processor's name, as records have it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
