"""Convergence bands: between which scores the released logs of a run stand at an epoch, and whether a run left them.

A run that goes wrong (weights that were not loaded, another batch size, masks with other values) shows it long before
its last epoch. Claims keep the curves of released logs, so the scores of a run can be held against them epoch by epoch.

The rule, all of it ours:

* Logs count that are of the run's method, plug-in, encoder, crop, split and metric, last as many epochs, and depart in
  no setting from the released configuration.
* Between two known epochs at most `CLOSE` apart a log's score lies on the line through them. Where they are further
  apart (shipped claims have the first, the best and the last epoch), it lies between that line and the log's best
  score: a curve rises steeply at first, so it runs above the line. Before its first and after its last known epoch a
  log says nothing.
* The band goes from the lowest to the highest of these scores and is widened on both sides by `WIDTH` standard
  deviations of seed noise, `verdict.SPREADS`. That figure is of best epochs. First epochs scatter `EARLY` times as
  much; the factor falls linearly to 1 at half of the run.
* One log alone does not tell how far runs scatter: its band is widened by twice as much, and the message says so.
* A run has left the band where two scored epochs in a row stand on the same side of it, or one more than `FAR` points
  away: single epochs of good runs dip (a released supervised log falls from 73.5 to 67.9 and goes on to 79.4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ssbench.tables.claims import Claim, Curve, backbone_of
from ssbench.tables.verdict import SPREADS

CLOSE = 5  # epochs
WIDTH = 3.0
EARLY = 3.9  # UniMatch's repeated logs: 1.39 points at the first epoch, 0.36 at the best one (8 splits x 3 repeats)
ALONE = 2.0
FAR = 10.0  # points
BELOW = "check weights and batch size"
ABOVE = "check the split, and on which images it is scored"


@dataclass(frozen=True)
class BandRange:
    """The band at one epoch: scores in percent, and how many logs say so."""

    low: float
    high: float
    logs: int


@dataclass(frozen=True)
class BandExit:
    """A run outside its band: the epoch (from 0) and its score, percent, and the band there."""

    epoch: int
    score: float
    band: BandRange

    def __str__(self) -> str:
        """ "epoch 12: 48.1, band 60.2 to 66.9 of 3 released logs: check weights and batch size"; epochs from 1."""
        band = self.band
        logs = f"{band.logs} released logs" if band.logs > 1 else "1 released log, so twice as wide"
        advice = BELOW if self.score < band.low else ABOVE
        return f"epoch {self.epoch + 1}: {self.score:.1f}, band {band.low:.1f} to {band.high:.1f} of {logs}: {advice}"


@dataclass(frozen=True)
class ConvergenceBand:
    """The band of one run. curves: of the logs, by epoch from 0; epochs: of the run; metric: as claims call it."""

    curves: tuple[Curve, ...]
    epochs: int
    metric: str

    def at(self, epoch: int) -> BandRange | None:
        """The band at an epoch (from 0); None where no log says anything."""
        spans = [span for curve in self.curves if (span := _span(curve, epoch)) is not None]
        if not spans:
            return None
        margin = WIDTH * SPREADS.get(self.metric, SPREADS["miou"]) * self._early(epoch)
        margin *= 1 if len(spans) > 1 else ALONE
        low, high = min(low for low, _ in spans) - margin, max(high for _, high in spans) + margin
        return BandRange(max(low, 0.0), min(high, 100.0), len(spans))

    def exit_of(self, scores: Mapping[int, float]) -> BandExit | None:
        """Where a run with these scores (epoch from 0 -> percent) stands outside, at its last scored epoch; or None."""
        last = [_Position.of(self, epoch, scores[epoch]) for epoch in sorted(scores)[-2:]]
        here = last[-1] if last else None
        if here is None or here.band is None or here.side == 0:
            return None
        is_settled = len(last) > 1 and last[0].side == here.side
        return BandExit(here.epoch, here.score, here.band) if is_settled or here.distance > FAR else None

    def first_exit(self, scores: Mapping[int, float]) -> BandExit | None:
        """The first epoch at which a finished run had left the band; None where it never did."""
        done: dict[int, float] = {}
        for epoch in sorted(scores):
            done[epoch] = scores[epoch]
            if (outside := self.exit_of(done)) is not None:
                return outside
        return None

    def _early(self, epoch: int) -> float:
        """By what seed noise at an epoch exceeds that of best epochs."""
        half = max(self.epochs / 2, 1.0)
        return EARLY + (1 - EARLY) * min(epoch / half, 1.0)


@dataclass(frozen=True)
class _Position:
    """A score beside the band: side is -1 below, 1 above, 0 inside or without a band; distance in points."""

    epoch: int
    score: float
    band: BandRange | None
    side: int
    distance: float

    @classmethod
    def of(cls, band: ConvergenceBand, epoch: int, score: float) -> _Position:
        here = band.at(epoch)
        below = here.low - score if here else 0.0
        above = score - here.high if here else 0.0
        return cls(epoch, score, here, (above > 0) - (below > 0), max(below, above, 0.0))


def find_band(
    claims: Iterable[Claim], resolved: Mapping[str, Any], split: str, epochs: int, metric: str
) -> ConvergenceBand | None:
    """The band of a run, None where no released log is of it.

    Args:
        resolved: the resolved recipe, as records keep it.
        epochs: of the whole run.
    """
    method, net, views = (_section(resolved, name) for name in ("method", "net", "views"))
    plugins = resolved.get("plugin") or []
    names = [_section({"": p}, "").get("name") for p in (plugins if isinstance(plugins, list) else [plugins])]
    plugin = "+".join(str(name) for name in names if name not in (None, "none")) or None
    run = (method.get("name"), plugin, backbone_of(net), split, metric)
    crop = views.get("crop")
    curves = tuple(
        claim.curve
        for claim in claims
        if claim.kind == "log"
        and claim.curve
        and not claim.departs
        and (claim.method, claim.plugin, claim.backbone, claim.split, claim.metric) == run
        and claim.crop in (None, crop)
        and (claim.epochs or claim.curve[-1][0] + 1) == epochs
    )
    return ConvergenceBand(curves, epochs, metric) if curves else None


def _section(resolved: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of a resolved recipe; empty in a record that has none."""
    section = resolved.get(name)
    return section if isinstance(section, dict) else {}


def _span(curve: Curve, epoch: int) -> tuple[float, float] | None:
    """Between which scores a log stands at an epoch; None outside of its known epochs."""
    known = dict(curve)
    if epoch in known:
        return known[epoch], known[epoch]
    for (before, low), (after, high) in pairwise(curve):
        if before < epoch < after:
            line = low + (high - low) * (epoch - before) / (after - before)
            return (line, line) if after - before <= CLOSE else (line, max(line, *known.values()))
    return None
