"""How far seeds of a cell scatter, from few seeds of it and of its neighbours: a moderated variance.

Cells of one dataset differ in how far their seeds scatter (on the toy tables from 0.2 to 5.4 points), and two or three
seeds of one say little about it. So the variance of a cell is taken as a mean of its own and its neighbours':

    s^2 = (d0 s0^2 + sum of (score - mean)^2) / (d0 + n - 1)        with d0 + n - 1 degrees of freedom

d0 and s0 say how alike the cells are: they are fitted to the logarithms of the cells' own variances where there are
`CELLS` of two seeds or more (Smyth, "Linear Models and Empirical Bayes Methods for Assessing Differential Expression in
Microarray Experiments", 2004, Sec. 6.2). With fewer, d0 is `PRIOR` and s0 is their pooled standard deviation, if they
have as many degrees of freedom together, else what the caller assumes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

CELLS = 5
PRIOR = 4
MOST = 100.0
"""Degrees of freedom of cells that scatter all alike."""


@dataclass(frozen=True)
class Own:
    """A cell's seeds alone: squared deviations from their mean, and degrees of freedom (seeds - 1, or 0)."""

    squares: float
    freedom: int

    @classmethod
    def of(cls, scores: Sequence[float]) -> Own:
        """Of a cell's scores, one a seed."""
        mean = statistics.fmean(scores) if scores else 0.0
        return cls(sum((s - mean) ** 2 for s in scores), max(len(scores) - 1, 0))


@dataclass(frozen=True)
class Spread:
    """What cells have in common: standard deviation s0, its degrees of freedom d0, and how many cells tell."""

    sd: float
    freedom: float
    cells: int

    def variance(self, own: Own) -> tuple[float, float]:
        """(s^2, degrees of freedom) of a cell."""
        freedom = self.freedom + own.freedom
        return (self.freedom * self.sd**2 + own.squares) / freedom, freedom


def spread_of(cells: Sequence[Own], assumed: float) -> Spread:
    """The spread cells have in common; `assumed`: s0 where too few seeds are known."""
    told = [own for own in cells if own.freedom and own.squares > 0]
    freedom = sum(own.freedom for own in told)
    if len(told) >= CELLS:
        return _fitted(told)
    if freedom >= PRIOR:
        return Spread(math.sqrt(sum(own.squares for own in told) / freedom), PRIOR, len(told))
    return Spread(assumed, PRIOR, 0)


def quantile(share: float, freedom: float) -> float:
    """Below which a share of Student's t of so many degrees of freedom lies."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, share))


def _fitted(told: Sequence[Own]) -> Spread:
    """d0 from the variance of the logarithms beyond what seeds explain, s0 from their mean."""
    from scipy.special import digamma, polygamma

    halves = [own.freedom / 2 for own in told]
    logs = [
        math.log(own.squares / own.freedom) - float(digamma(half)) + math.log(half)
        for own, half in zip(told, halves, strict=True)
    ]
    excess = statistics.variance(logs) - statistics.fmean(float(polygamma(1, half)) for half in halves)
    freedom = min(max(2 * _inverse_trigamma(excess), 1.0), MOST) if excess > 0 else MOST
    log = statistics.fmean(logs) + float(digamma(freedom / 2)) - math.log(freedom / 2)
    return Spread(math.exp(log / 2), freedom, len(told))


def _inverse_trigamma(value: float) -> float:
    """x > 0 with trigamma(x) = value, by halving; trigamma falls from infinity to 0."""
    from scipy.special import polygamma

    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if polygamma(1, middle) > value else (low, middle)
    return math.sqrt(low * high)
