"""How far the seeds of a cell scatter: a moderated variance, from its own seeds and those of its neighbours.

Verdicts of tables and the gate use this one model. Cells of one dataset differ in how far their seeds scatter (on the
toy tables from 0.2 to 5.4 points), and two or three seeds of one cell say little about it. So the variance of a cell is
a mean of its own and its neighbours':

    s^2 = (d0 s0^2 + sum of (score - mean)^2) / (d0 + n - 1)        with d0 + n - 1 degrees of freedom

s0 is the standard deviation that the neighbours have in common, d0 says how alike they are. `pooled_noise` takes d0 as
`PRIOR` and s0 from all seeds of the neighbours together. `fitted_noise` fits both to the logarithms of the neighbours'
own variances, where there are enough of them (Smyth, "Linear Models and Empirical Bayes Methods for Assessing
Differential Expression in Microarray Experiments", 2004, Sec. 6.2).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

ALPHA = 0.05  # ours: probability that a gate over any number of cells gives a false alarm
SPREAD = 1.0  # ours: repeats that UniMatch released scatter by 0.36, those of the toy tables by 2.6
SLOWER = 0.25  # ours: share of the stored images/s that may be missing; speed depends on what else a machine does
PRIOR = 4  # ours: degrees of freedom of s0 where they are not fitted
MIN_CELLS = 5  # ours: below it the variance of log variances is too rough to fit d0
MAX_FREEDOM = 100.0
"""Degrees of freedom of cells that scatter all alike; the fit would give infinity."""


@dataclass(frozen=True)
class SeedScatter:
    """The seeds of one cell: squared deviations from their mean, and degrees of freedom (seeds - 1, or 0)."""

    squares: float
    freedom: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> SeedScatter:
        """Of a cell's scores, one a seed."""
        mean = statistics.fmean(scores) if scores else 0.0
        return cls(sum((s - mean) ** 2 for s in scores), max(len(scores) - 1, 0))


@dataclass(frozen=True)
class SeedNoise:
    """What cells have in common: standard deviation s0, its degrees of freedom d0, and of how many cells it is."""

    sd: float
    freedom: float
    cells: int

    def variance(self, scatter: SeedScatter) -> tuple[float, float]:
        """(s^2, degrees of freedom) of a cell with these seeds."""
        freedom = self.freedom + scatter.freedom
        return (self.freedom * self.sd**2 + scatter.squares) / freedom, freedom


def pooled_noise(cells: Sequence[SeedScatter], assumed: float) -> SeedNoise:
    """s0 from all seeds of `cells`; `assumed` where they have fewer than `PRIOR` degrees of freedom together."""
    freedom = sum(cell.freedom for cell in cells)
    if freedom < PRIOR:
        return SeedNoise(assumed, PRIOR, 0)
    return SeedNoise(math.sqrt(sum(cell.squares for cell in cells) / freedom), PRIOR, len(cells))


def fitted_noise(cells: Sequence[SeedScatter], assumed: float) -> SeedNoise:
    """d0 and s0 fitted to `cells`; pooled where fewer than `MIN_CELLS` of them have seeds that differ.

    d0 is what the variance of the logarithms exceeds that of seeds by (trigamma); s0 is their mean.
    """
    cells = [cell for cell in cells if cell.freedom and cell.squares > 0]  # a logarithm needs a variance above 0
    if len(cells) < MIN_CELLS:
        return pooled_noise(cells, assumed)
    from scipy.special import digamma, polygamma  # here: its import takes longer than `ssbench list`

    halves = [cell.freedom / 2 for cell in cells]
    logs = [
        math.log(cell.squares / cell.freedom) - float(digamma(half)) + math.log(half)
        for cell, half in zip(cells, halves, strict=True)
    ]
    excess = statistics.variance(logs) - statistics.fmean(float(polygamma(1, half)) for half in halves)
    freedom = min(max(2 * _inverse_trigamma(excess), 1.0), MAX_FREEDOM) if excess > 0 else MAX_FREEDOM
    log = statistics.fmean(logs) + float(digamma(freedom / 2)) - math.log(freedom / 2)
    return SeedNoise(math.exp(log / 2), freedom, len(cells))


def mean_drop(drops: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """(drop, variance, degrees of freedom) of the mean of cells, each given as such a triple.

    A cell counts by the inverse of its variance v, so that those whose seeds scatter least say most. The variance of
    the mean is the sum of w^2 v k / (k - 2), which is what v is expected to be given k degrees of freedom; its own
    degrees of freedom are Satterthwaite's.
    """
    total = sum(1 / v for _, v, _ in drops)
    weights = [1 / v / total for _, v, _ in drops]
    expected = [v * k / max(k - 2, 1) for _, v, k in drops]
    variance = sum(w**2 * v for w, v in zip(weights, expected, strict=True))
    squares = sum(
        (w**2 * v) ** 2 * 2 / max(k - 4, 0.5) for w, v, (_, _, k) in zip(weights, expected, drops, strict=True)
    )
    drop = sum(w * d for w, (d, _, _) in zip(weights, drops, strict=True))
    return drop, variance, 2 * variance**2 / squares


def student_quantile(share: float, freedom: float) -> float:
    """Below which a share of Student's t of so many degrees of freedom lies."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _inverse_trigamma(value: float) -> float:
    """x > 0 with trigamma(x) = value, by halving; trigamma falls from infinity to 0."""
    from scipy.special import polygamma

    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if polygamma(1, middle) > value else (low, middle)
    return math.sqrt(low * high)
