"""Reads the ledger of a prepared folder: the size and SHA-256 of every file, and how the files were made.

`ssbench prepare` writes `ledger.json` last, so a folder without one was never finished. Writing it, and comparing a
folder with it, is in `ssbench.prepare.verify`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path, PurePosixPath
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from ssbench.errors import DataError
from ssbench.files import read_model
from ssbench.paths import quoted

NAME = "ledger.json"
Count = Annotated[int, Field(ge=0)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Ledger(BaseModel):
    """What a preparation wrote: dataset, settings it was converted with, ids per subset, path -> (bytes, SHA-256)."""

    model_config = ConfigDict(frozen=True, strict=True)

    dataset: str
    tool: str
    settings: dict[str, JsonValue]
    counts: dict[str, Count]
    files: dict[str, Annotated[tuple[Count, Digest], Field(strict=False)]]

    @field_validator("files")
    @classmethod
    def _inside_the_folder(cls, files: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
        """Mending a folder deletes files by these paths, so a forged ledger must not reach outside."""
        for path in files:
            if path.startswith("/") or ".." in PurePosixPath(path).parts or "\0" in path:
                raise ValueError(f"the path {path!r} leaves the folder")
        return files

    @classmethod
    def read(cls, root: Path) -> Ledger | None:
        """The ledger of the prepared folder `root`, or None where there is none: the folder was never finished.

        Raises:
            DataError: there is a ledger and it is damaged.
        """
        path = root / NAME
        if not path.is_file():
            return None
        return read_model(path, cls, "ledger", f"ssbench prepare {root.name} --data-root {quoted(root.parent)}")

    @property
    def bytes(self) -> int:
        """Size of all files together."""
        return sum(size for size, _ in self.files.values())

    def digest(self, below: str = "") -> str:
        """SHA-256 over the lines "path sha256" of the files whose path begins with `below`, in order of path."""
        lines = (f"{path} {digest}\n" for path, (_, digest) in sorted(self.files.items()) if path.startswith(below))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def no_ledger(dataset: str, root: Path) -> DataError:
    """The error for a folder that was never prepared to the end."""
    return DataError(f"{dataset} is not prepared (no {NAME})", str(root), f"ssbench prepare {dataset}")
