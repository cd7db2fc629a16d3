"""Where things are: shipped files (in a checkout or in a wheel), data, runs and results."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """The shipped folder `recipes` or `splits`: inside the wheel, or beside the package in a checkout."""
    inside = PACKAGE / "_shipped" / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def data_root(given: Path | None = None) -> Path:
    """Prepared data: `--data-root`, else `$SSBENCH_DATA`, else `./data`."""
    return given or Path(os.environ.get("SSBENCH_DATA", "data"))


def runs_root(given: Path | None = None) -> Path:
    """Checkpoints, logs and pictures of runs: `--runs`, else `$SSBENCH_RUNS`, else `./runs`."""
    return given or Path(os.environ.get("SSBENCH_RUNS", "runs"))


def results_root(given: Path | None = None) -> Path:
    """Result records: `--results`, else `$SSBENCH_RESULTS`, else `./results`."""
    return given or Path(os.environ.get("SSBENCH_RESULTS", "results"))


def quoted(path: Path | str) -> str:
    """A path or name as it stands in a command line to paste: quoted for the shell where it needs to be."""
    return shlex.quote(str(path))
