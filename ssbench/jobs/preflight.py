"""What a run needs at its end, tried before it trains: places that can be written to, and room for its checkpoints."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ssbench.errors import HardwareError, refused_by_system
from ssbench.files import format_bytes
from ssbench.train.trainer import Trainer

COPIES = 4
"""Files of a run at once: `checkpoint.pt` and `best.pt`, each with the file before it."""
STATES = {"sgd": 1, "adam": 2, "adamw": 2}
"""Copies of the trained weights that an optimiser keeps."""


def try_places(*folders: Path) -> None:
    """Write a small file into each folder, and delete it.

    Raises:
        UsageError: a folder cannot be made or written to. HardwareError: its disk is full.
    """
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=folder, prefix=".try-") as file:
                file.write(b"0" * 4096)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            error.filename = str(folder)
            raise refused_by_system(error) or error from error


def refuse_small_disk(trainer: Trainer) -> None:
    """Refuse a run whose checkpoints, and one more while it is written, do not fit on the disk of its folder.

    What the folder already holds counts as room: a run that goes on replaces it.

    Raises:
        HardwareError: as said.
    """
    state = sum(
        value.numel() * value.element_size()
        for value in trainer.method.state_dict().values()
        if hasattr(value, "numel")
    )
    trained = sum(p.numel() * p.element_size() for p in trainer.method.parameters() if p.requires_grad)
    whole = state + STATES.get(trainer.recipe.optim.name, 2) * trained
    needed = COPIES // 2 * (whole + state) + whole
    here = sum(path.stat().st_size for path in trainer.folder.glob("*.pt"))
    free = shutil.disk_usage(trainer.folder).free
    if needed > free + here:
        what = f"no room for the run's checkpoints: {format_bytes(needed)} needed, {format_bytes(free)} free"
        raise HardwareError(what, str(trainer.folder), "free some space, or another disk with --runs FOLDER")
