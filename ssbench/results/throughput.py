"""Are new runs as fast as stored ones on the same machine? The rule of `ssbench gate --throughput`.

A cell's images/s are compared with the median of what is stored for its recipe on a machine of the same name (and as
many threads, on a CPU), on the same split where there is such, else on any: the number of labelled images does not
change the speed of a step. It fails when it is slower by more than the share given. Speed depends on what else the
machine does, so the share is wide; there is no seed spread to derive it from.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ssbench.results.baseline import Entry

SLOWER = 0.25  # ours
Verdict = Literal["within", "faster", "slower", "missing", "no record for this machine"]
FAILING: tuple[Verdict, ...] = ("slower", "missing")


@dataclass(frozen=True)
class Paced:
    """A cell: images/s now and before. machine: where it ran now; records: how many stored ones tell."""

    recipe: str
    split: str
    machine: str
    stored: float | None
    new: float | None
    records: int
    verdict: Verdict

    @property
    def ratio(self) -> float | None:
        """New by stored."""
        return self.new / self.stored if self.new and self.stored else None


@dataclass(frozen=True)
class Pace:
    """All cells; slower: the share of the stored speed that may be missing."""

    cells: tuple[Paced, ...]
    slower: float

    @property
    def failures(self) -> list[str]:
        """What failed, by name."""
        return [f"{c.recipe} {c.split} ({c.verdict})" for c in self.cells if c.verdict in FAILING]

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench gate --throughput --json`."""
        cells = [{**vars(cell), "ratio": cell.ratio} for cell in self.cells]
        return {"gate": "throughput", "passed": not self.failures, "slower": self.slower, "cells": cells}


def compare_pace(stored: Sequence[Entry], new: Sequence[Entry], slower: float = SLOWER) -> Pace:
    """Compare images/s of every cell that has a stored result."""
    places = dict.fromkeys(entry.place for entry in stored)
    return Pace(tuple(_paced(place, stored, new, slower) for place in places), slower)


def _paced(place: tuple[str, str], stored: Sequence[Entry], new: Sequence[Entry], slower: float) -> Paced:
    mine = [entry for entry in new if entry.place == place and entry.images_per_s]
    if not mine:
        return Paced(*place, "", None, None, 0, "missing")
    machine, now = mine[-1].machine, statistics.median(entry.images_per_s or 0 for entry in mine)
    alike = [e for e in stored if e.recipe == place[0] and e.machine == machine and e.images_per_s]
    known = [e for e in alike if e.split == place[1]] or alike
    if not known:
        return Paced(*place, machine, None, now, 0, "no record for this machine")
    before = statistics.median(entry.images_per_s or 0 for entry in known)
    verdict: Verdict = (
        "slower" if now < before * (1 - slower) else "faster" if now > before / (1 - slower) else "within"
    )
    return Paced(*place, machine, before, now, len(known), verdict)
