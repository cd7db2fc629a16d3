"""Freed memory is kept: the same numbers with far fewer pages taken from the system."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys

import pytest

REPEATED = """
import json, resource, sys
import torch
from ssbench.train.distributed import join
join("cpu")
torch.set_num_threads(1)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
total = 0.0
for i in range(20):
    total += float(torch.arange(16e6).add_(i).sum())  # 64 MB each
from ssbench.train.machine import hardware
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(json.dumps({"faults": faults, "total": total, "kept": hardware(torch.device("cpu"))["keeps_memory"]}))
"""


def measured(switch: str | None) -> dict[str, float]:
    environment = {k: v for k, v in os.environ.items() if k != "SSBENCH_KEEP_MEMORY"}
    if switch is not None:
        environment["SSBENCH_KEEP_MEMORY"] = switch
    answer = subprocess.run(
        [sys.executable, "-c", REPEATED], capture_output=True, text=True, check=True, env=environment
    ).stdout
    values: dict[str, float] = json.loads(answer)
    return values


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_large_blocks_are_taken_from_the_system_once() -> None:
    kept, returned = measured(None), measured("0")
    assert kept["kept"] is True
    assert returned["kept"] is False
    assert kept["total"] == returned["total"]
    assert returned["faults"] > 3 * kept["faults"], (kept, returned)
