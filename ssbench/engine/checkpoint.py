"""Checkpoints that are never half written: the new one is complete before the old one is given up.

`<name>.pt` is the newest, `<name>.prev.pt` the one before. A file that does not load (a torn disk, a kill of the
machine) is passed over for the previous one, with a warning.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssbench.errors import DataError
from ssbench.io import write_bytes


def to_bytes(state: Any) -> bytes:
    """`state` as torch.save writes it; equal states give equal bytes."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def save(path: Path, state: Any, keep_previous: bool = True) -> None:
    """Write `state` to `path`; the file that was there becomes `<name>.prev.pt`."""
    data = to_bytes(state)
    if keep_previous and path.is_file():
        spare = path.with_name(f".{path.name}.link")
        spare.unlink(missing_ok=True)
        os.link(path, spare)
        os.replace(spare, previous(path))
    write_bytes(path, data)


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """The state in `path`, tensors and plain data only.

    Raises:
        DataError: missing, damaged, or holding anything but tensors and plain data.
    """
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise DataError(f"no checkpoint '{path.name}'", str(path), "ssbench run RECIPE makes it") from None
    except Exception as error:  # whatever the unpickler meets in a damaged file
        reason = str(error).partition("\n")[0][:160]
        raise DataError(f"checkpoint '{path.name}' cannot be read: {reason}", str(path), "delete it and run again") from None


def load_latest(path: Path, device: torch.device | str, warn: Callable[[str], None]) -> Any | None:
    """The newest readable of `path` and its previous one; None when there is neither."""
    for candidate in (path, previous(path)):
        if not candidate.is_file():
            continue
        try:
            return load(candidate, device)
        except DataError as error:
            warn(f"{error.what}; trying the one before")
    return None
