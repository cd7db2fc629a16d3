"""Which runs first, and how long they take side by side.

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

SHORTEST = 1e-6
"""Hours a run takes at least, for what it closes per hour."""


@dataclass(frozen=True)
class Option:
    """A run that may be chosen. hours: what is left of it, None where nobody knows; cells: how many it closes."""

    id: str
    seed: int
    hours: float | None
    cells: int
    there: bool = False


def choose(options: Sequence[Option], gains: Mapping[tuple[str, str], int], budget: float | None) -> list[str]:
    """Ids of the runs to do, most informative first, baselines before what is compared with them.

    Args:
        gains: (run, baseline) -> how many gains of tables need these two.
        budget: hours on one device; None: all runs, those of unknown length last.
    """
    choice = _Choice(options, gains, inf if budget is None else budget, unknown=inf if budget is None else None)
    for seed in sorted({option.seed for option in options}):
        choice.spend([option.id for option in options if option.seed == seed])
    return choice.taken


def closed(taken: Sequence[str], options: Sequence[Option], gains: Mapping[tuple[str, str], int]) -> tuple[int, int]:
    """(cells, gains) that the runs `taken` close."""
    new, there = set(taken), {option.id for option in options if option.there}
    both = sum(n for pair, n in gains.items() if set(pair) <= new | there and set(pair) & new)
    return sum(option.cells for option in options if option.id in new), both


def least(options: Sequence[Option], gains: Mapping[tuple[str, str], int]) -> float | None:
    """Hours of the shortest unit; None where nothing is left to do, or nothing of known length."""
    choice = _Choice(options, gains, inf, unknown=None)
    each = [choice.hours(choice.unit(option.id)) for option in options if not option.there]
    return min((hours for hours in each if hours is not None), default=None)


def side_by_side(hours: Sequence[float], devices: int) -> float:
    """Hours until all are done, each on one of `devices`, the longest first."""
    ends = [0.0] * devices
    for each in sorted(hours, reverse=True):
        heapq.heapreplace(ends, ends[0] + each)
    return max(ends)


class _Choice:
    """What is chosen so far. unknown: hours a run of unknown length counts for; None: it cannot be chosen."""

    def __init__(
        self, options: Sequence[Option], gains: Mapping[tuple[str, str], int], budget: float, unknown: float | None
    ) -> None:
        self.options = {option.id: option for option in options}
        self.there = {option.id for option in options if option.there}
        self.gains, self.left, self.unknown = gains, budget, unknown
        self.taken: list[str] = []
        self._pairs: dict[str, Counter[str]] = defaultdict(Counter)  # either side -> the other
        self._bases: dict[str, list[str]] = defaultdict(list)
        for (run, base), count in gains.items():
            self._pairs[run][base] += count
            self._pairs[base][run] += count
            self._bases[run].append(base)

    def spend(self, ids: Sequence[str]) -> None:
        """Take units of these runs until none fits."""
        worth = {id: self._worth(id) for id in ids if id not in self.there}
        while worth:
            best = max(worth, key=lambda id: worth[id])  # the first of equals
            unit = self.unit(best)
            hours = self.hours(unit)
            if hours is None or (hours > self.left and hours != inf):
                del worth[best]
                continue
            self.left -= 0 if hours == inf else hours
            self.taken += unit
            self.there.update(unit)
            touched = self._around(unit)
            worth = {id: self._worth(id) if id in touched else old for id, old in worth.items() if id not in self.there}

    def _around(self, unit: Sequence[str]) -> set[str]:
        """Every run that gains tie to these, however far: what their units are worth may have changed."""
        found, edge = set(unit), set(unit)
        while edge:
            edge = {other for id in edge for other in self._pairs[id]} - found
            found |= edge
        return found

    def unit(self, id: str) -> list[str]:
        """The run after the baselines it still lacks, and theirs."""
        found: dict[str, None] = {}
        self._lacking(id, found, ())
        return list(found)

    def _lacking(self, id: str, found: dict[str, None], above: tuple[str, ...]) -> None:
        for base in self._bases[id]:
            if base not in self.there and base not in (*above, id):
                self._lacking(base, found, (*above, id))
        found.setdefault(id)

    def hours(self, unit: Sequence[str]) -> float | None:
        """Hours of a unit, None where it cannot be chosen."""
        each = [self.options[id].hours for id in unit]
        known = [hours for hours in each if hours is not None]
        return sum(known) if len(known) == len(each) else self.unknown

    def _worth(self, id: str) -> float:
        """Cells and gains closed per hour."""
        unit = self.unit(id)
        hours = self.hours(unit)
        if hours is None:
            return 0.0
        cells = sum(self.options[one].cells for one in unit)
        pairs = sum(
            count
            for one in unit
            for other, count in self._pairs[one].items()
            if other in self.there or (other in unit and unit.index(other) < unit.index(one))
        )
        return (cells + pairs) / max(hours, SHORTEST)
