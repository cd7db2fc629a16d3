"""Checkpoints that are never half written: the new one is complete before the old one is given up.

`<name>.pt` is the newest, `<name>.prev.pt` the one before. A file that does not load (a torn disk, a kill of the
machine) is passed over for the previous one, with a warning.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from ssbench.errors import DataError
from ssbench.files import write_bytes


def to_bytes(state: Any) -> bytes:
    """`state` as torch.save writes it; equal states give equal bytes."""
    buffer = io.BytesIO()
    torch.save(_own(state), buffer)
    return buffer.getvalue()


def save(path: Path, state: Any, keep_previous: bool = True) -> None:
    """Write `state` to `path`; the file that was there becomes `<name>.prev.pt`."""
    data = to_bytes(state)
    if keep_previous and path.is_file():
        spare = path.with_name(f".{path.name}.link")
        spare.unlink(missing_ok=True)
        os.link(path, spare)
        spare.replace(previous(path))
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
        _check(path)
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise DataError(f"no checkpoint '{path.name}'", str(path), "ssbench run RECIPE makes it") from None
    except Exception as error:  # whatever the unpickler meets in a damaged file
        reason = str(error).partition("\n")[0][:160]
        what = f"checkpoint '{path.name}' cannot be read: {reason}"
        raise DataError(what, str(path), "delete it and run again") from None


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


def sweep(folder: Path) -> None:
    """Remove what a killed process left of files it was writing. Only for whoever holds the folder's lock."""
    for name in ("checkpoint.pt", "best.pt", "record.json"):
        for torn in folder.glob(f".{name}.*"):
            torn.unlink(missing_ok=True)


def _check(path: Path) -> None:
    """Compare the checksums of the archive; torch reads past them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                raise ValueError(f"bad checksum of {name}")


def _own(value: Any) -> Any:
    """The same nested data with no container or string in common, but every equal string one object.

    pickle writes an object that it meets again as a reference. Loaded strings and new ones are equal and yet not one
    object, so without this a resumed run's file would differ from an uninterrupted one's.
    """
    if isinstance(value, dict):
        return {_own(k): _own(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_own(v) for v in value)
    return sys.intern(value) if type(value) is str else value
