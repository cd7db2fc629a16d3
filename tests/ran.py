"""What a command did, as the fixture `ssbench` returns it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Ran:
    """Exit code, stdout, stderr."""

    code: int
    out: str
    err: str
