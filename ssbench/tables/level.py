"""How well the number of a cell is backed: its reproduction level.

From weak to strong: `quoted`, the paper's print alone; `claimed by a log`, a training log that the authors released
says a score; `checkpoint re-scored`, a released checkpoint was scored here; `one seed` and `three seeds or more`, it
was run here. Two seeds count as `one seed`: three are the fewest that show a spread. A measured number goes before
every claim. A cell that nobody printed, claimed or ran has no level.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import get_args

from ssbench.tables.cell import Cell, ReproductionLevel
from ssbench.tables.claims import Claim

LEVELS: tuple[ReproductionLevel, ...] = get_args(ReproductionLevel)
"""From weak to strong."""
ENOUGH_SEEDS = 3
ClaimsByRun = Mapping[Hashable, list[Claim]]
"""Logs and re-scored checkpoints by method, plug-in, backbone, split and metric."""


def evidence(claims: Iterable[Claim]) -> ClaimsByRun:
    """The claims that can raise a level, by the run they are about: logs and re-scored checkpoints."""
    by_run: dict[Hashable, list[Claim]] = {}
    for claim in claims:
        if claim.kind in ("log", "checkpoint"):
            by_run.setdefault(_run(claim), []).append(claim)
    return by_run


def level_of(cell: Cell, claims: ClaimsByRun) -> ReproductionLevel | None:
    """The level of a filled cell; a claim at another crop than the cell's does not count."""
    if cell.n:
        return "three seeds or more" if cell.n >= ENOUGH_SEEDS else "one seed"
    about = [] if cell.class_name else claims.get(_run(cell), [])  # no log or checkpoint claims a single class
    kinds = {claim.kind for claim in about if None in (claim.crop, cell.crop) or claim.crop == cell.crop}
    if "checkpoint" in kinds:
        return "checkpoint re-scored"
    if "log" in kinds:
        return "claimed by a log"
    return None if cell.printed is None else "quoted"


def _run(about: Cell | Claim) -> Hashable:
    return about.method, about.plugin, about.backbone, about.split, about.metric
