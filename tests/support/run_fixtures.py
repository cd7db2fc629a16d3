"""The toy data, made once for all tests of the engine, and one thread so that a core is enough."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def toy(toy_data: Path) -> Path:
    """A data root with the toy data."""
    return toy_data


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Processes started from here, and this one, compute with one thread: the order of sums is part of the bytes."""
    before, threads = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    if before is None:
        del os.environ["OMP_NUM_THREADS"]
    else:
        os.environ["OMP_NUM_THREADS"] = before
