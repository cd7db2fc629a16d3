"""Where a run stands, and what its session cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class State:
    """What a checkpoint holds besides networks and optimiser: plain data, so that it loads safely.

    step: updates done. history: one entry a finished epoch. best: epoch, the step it ended with, and its score.
    """

    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None


@dataclass
class Timing:
    """Wall-clock seconds of this session: in steps, of these waiting for data, in scoring."""

    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0
    scoring: float = 0.0
