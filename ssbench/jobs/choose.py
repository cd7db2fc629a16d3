"""Chooses which runs of a plan come first: those that fill most of the tables per hour, within a budget of hours.

The rule of `ssbench plan --gpu-hours N`, and of the order a plan is executed in:

1. Seeds in turn: no run of a further seed while a run of an earlier one still fits.
2. Within a seed, the unit that closes most per hour. A unit is a run with the baselines its table takes gains over, as
   far as these are not there: a gain needs both, so neither is bought alone when the pair is what pays. It closes
   every cell it gives a score, in whatever paper, and every gain both of whose sides are then there. The columns of one
   class each are one cell: a run gives them all at once.
3. Of equals, the one that stands first in the tables as given.

What is running counts as there; what failed is tried again; a run whose hours nobody knows fits no budget.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

Gains = Mapping[tuple[str, str], int]
"""(run, its baseline) -> how many gains of tables need these two."""
SHORTEST = 1e-6
"""Hours a run takes at least, for what it closes per hour."""


@dataclass(frozen=True)
class Option:
    """A run that may be chosen. hours: left to do, None where nobody knows; cells: how many it closes."""

    id: str
    seed: int
    hours: float | None
    cells: int
    is_there: bool = False


def choose(options: Sequence[Option], gains: Gains, budget: float | None) -> list[str]:
    """Ids of the runs to do, most informative first, baselines before what is compared with them.

    Args:
        budget: hours on one device; None: all runs, those of unknown length last.
    """
    choice = _Choice(options, gains)
    taken: list[str] = []
    left = inf if budget is None else budget
    for seed in sorted({option.seed for option in options}):
        worth = {o.id: choice.worth(o.id) for o in options if o.seed == seed and o.id not in choice.there}
        while worth:
            best = max(worth, key=lambda id: worth[id])  # the first of equals
            unit = choice.unit(best)
            hours = choice.hours(unit)
            if hours > left or (hours == inf and budget is not None):
                del worth[best]
                continue
            left -= hours if hours < inf else 0
            taken += unit
            choice.there.update(unit)
            touched = choice.related(unit)
            for id in set(worth) & touched:
                if id in choice.there:
                    del worth[id]
                else:
                    worth[id] = choice.worth(id)
    return taken


def closed(taken: Sequence[str], options: Sequence[Option], gains: Gains) -> tuple[int, int]:
    """(cells, gains) that the runs `taken` close."""
    new, there = set(taken), {option.id for option in options if option.is_there}
    both = sum(n for pair, n in gains.items() if set(pair) <= new | there and set(pair) & new)
    return sum(option.cells for option in options if option.id in new), both


def shortest_unit(options: Sequence[Option], gains: Gains) -> float | None:
    """Hours of the shortest unit; None where nothing is left to do, or nothing of known length."""
    choice = _Choice(options, gains)
    hours = min((choice.hours(choice.unit(option.id)) for option in options if not option.is_there), default=inf)
    return hours if hours < inf else None


def hours_side_by_side(hours: Sequence[float], devices: int) -> float:
    """Hours until all are done, each on one of `devices`, the longest first."""
    ends = [0.0] * devices
    for each in sorted(hours, reverse=True):
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


class _Choice:
    """The runs that are there so far, and what each further one would close."""

    def __init__(self, options: Sequence[Option], gains: Gains) -> None:
        self.options = {option.id: option for option in options}
        self.there = {option.id for option in options if option.is_there}
        self._pairs: dict[str, Counter[str]] = defaultdict(Counter)  # either side of gains -> the other
        self._bases: dict[str, list[str]] = defaultdict(list)
        for (run, base), count in gains.items():
            self._pairs[run][base] += count
            self._pairs[base][run] += count
            self._bases[run].append(base)

    def unit(self, id: str, above: tuple[str, ...] = ()) -> list[str]:
        """The run after the baselines it still lacks, and theirs. `above` ends a circle of gains."""
        lacking = [base for base in self._bases[id] if base not in self.there and base not in (*above, id)]
        return list(dict.fromkeys([x for base in lacking for x in self.unit(base, (*above, id))] + [id]))

    def hours(self, unit: Sequence[str]) -> float:
        """Hours of a unit, infinite where one of its runs is of unknown length."""
        each = [self.options[id].hours for id in unit]
        return sum(inf if hours is None else hours for hours in each)

    def worth(self, id: str) -> float:
        """Cells and gains closed per hour."""
        unit = self.unit(id)
        pairs = sum(
            count
            for at, member in enumerate(unit)
            for other, count in self._pairs[member].items()
            if other in self.there or other in unit[:at]
        )
        return (sum(self.options[member].cells for member in unit) + pairs) / max(self.hours(unit), SHORTEST)

    def related(self, unit: Sequence[str]) -> set[str]:
        """Every run that gains tie to these, however far: what their units close may have changed."""
        reached, edge = set(unit), set(unit)
        while edge:
            edge = {other for id in edge for other in self._pairs[id]} - reached
            reached |= edge
        return reached
