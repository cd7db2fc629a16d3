"""Are new results as good as stored ones, as far as seeds can tell? The rule of `ssbench gate`.

Three levels are tested, because a fault may touch one run, one method, or all: each cell, the mean drop of a method's
cells, and the mean drop of all cells of a dataset. A drop is the stored mean minus the new one. Were nothing changed, a
cell's drop would have the variance

    v = s^2 (1 / stored seeds + 1 / new seeds)        s: `spread`, from all stored seeds of the dataset and metric

and a cell fails when its drop exceeds t sqrt(v). A mean takes each cell by 1 / v, so that those whose seeds scatter
least say most; its variance is the sum of w^2 v k / (k - 2), which is what v is expected to be given k degrees of
freedom, and its own degrees of freedom are Satterthwaite's. t is the one-sided quantile of Student's distribution at
alpha / levels / tests of the level (Bonferroni): a gate over any number of cells gives a false alarm with a probability
of about alpha, over draws of stored and new seeds; tests/report/test_gate_rates.py measures it. Beside the tolerance
stands what a test would find: a true drop of tolerance + t(80 %) sqrt(v) is found four times in five.

New results of the same seeds, machine and code are the same numbers, so alarms are only ever asked for where something
did change. A cell that has no new result, or lacks a seed that other cells have, fails.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssbench.results.baseline import Entry, Place
from ssbench.results.statistics import Own, Spread, quantile, spread_of

ALPHA = 0.05  # ours
SPREAD = 1.0  # ours: repeats that UniMatch released scatter by 0.36, those of the toy tables by 2.6
FOUND = 0.8
Verdict = Literal["identical", "within", "better", "worse", "changed", "missing", "failed"]
FAILING: tuple[Verdict, ...] = ("worse", "changed", "missing", "failed")
Pool = tuple[str, str]
"""(dataset, metric): cells whose seeds are taken to scatter alike."""


@dataclass(frozen=True)
class Probe:
    """One test. level: "cell", "method" or "dataset"; cells: how many; drop, tolerance, detectable: percent."""

    level: str
    name: str
    cells: int
    drop: float
    tolerance: float
    detectable: float

    @property
    def worse(self) -> bool:
        """Whether the drop is more than seeds explain."""
        return self.drop > self.tolerance


@dataclass(frozen=True)
class Compared:
    """A cell: scores by seed, and what became of them. test: None where there is nothing to compare."""

    recipe: str
    split: str
    metric: str
    method: str
    stored: tuple[tuple[int, float], ...]
    new: tuple[tuple[int, float], ...]
    verdict: Verdict
    note: str = ""
    test: Probe | None = None

    @property
    def pool(self) -> Pool:
        """Whose seeds scatter like its own."""
        return self.split.partition("/")[0], self.metric

    @property
    def drop(self) -> float:
        """Stored mean minus new mean, percent."""
        return statistics.fmean(s for _, s in self.stored) - statistics.fmean(s for _, s in self.new)

    def as_json(self) -> dict[str, Any]:
        """One entry of `cells` in the documented object of `ssbench gate --json`."""
        test = self.test
        return {
            "recipe": self.recipe,
            "split": self.split,
            "metric": self.metric,
            "stored": dict(self.stored),
            "new": dict(self.new),
            "verdict": self.verdict,
            "note": self.note,
            "drop": test and test.drop,
            "tolerance": test and test.tolerance,
            "detectable": test and test.detectable,
        }


@dataclass(frozen=True)
class Gate:
    """All of it. groups: the tests of means; not_stored: cells asked for without a stored result."""

    cells: tuple[Compared, ...]
    groups: tuple[Probe, ...]
    spreads: Mapping[Pool, Spread]
    alpha: float
    not_stored: tuple[Place, ...] = ()

    @property
    def failures(self) -> list[str]:
        """What failed, by name."""
        cells = [f"{c.recipe} {c.split} ({c.verdict})" for c in self.cells if c.verdict in FAILING]
        return cells + [f"{g.level} {g.name} (worse)" for g in self.groups if g.worse]

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench gate --json`."""
        return {
            "gate": "scores",
            "passed": not self.failures,
            "alpha": self.alpha,
            "spreads": [
                {"dataset": dataset, "metric": metric, "sd": s.sd, "degrees_of_freedom": s.freedom, "cells": s.cells}
                for (dataset, metric), s in self.spreads.items()
            ],
            "cells": [cell.as_json() for cell in self.cells],
            "groups": [{**vars(group), "worse": group.worse} for group in self.groups],
            "not_stored": [" ".join(place) for place in self.not_stored],
        }


def compare(
    stored: Sequence[Entry],
    new: Sequence[Entry],
    *,
    alpha: float = ALPHA,
    spread: float = SPREAD,
    exact: bool = False,
    seen: Sequence[Entry] = (),
    not_stored: Sequence[Place] = (),
) -> Gate:
    """Compare `new` with `stored`, cell by cell.

    Args:
        alpha: probability of a false alarm in the whole comparison. spread: s where too few seeds are stored.
        exact: a cell fails, too, where the same machine and packages gave other numbers on a CPU.
        seen: more stored results that tell how seeds scatter (default: `stored`).
    """
    seeds = {entry.seed for entry in new}
    theirs = _by_place(new)
    cells = [_cell(mine, theirs.get(place, []), seeds, exact) for place, mine in _by_place(stored).items()]
    own = _own(seen or stored)
    spreads = {
        pool: spread_of([one for place, one in own.items() if place[2:] == pool], spread)
        for pool in dict.fromkeys(cell.pool for cell in cells)
    }
    levels = _levels([cell for cell in cells if cell.stored and cell.new])
    tests = {
        level: [
            _tested(level, name, some, spreads, own, alpha / len(levels) / len(sets)) for name, some in sets.items()
        ]
        for level, sets in levels.items()
    }
    by_name = {test.name: test for test in tests.get("cell", ())}
    judged = (_judged(cell, by_name.get(_name(cell))) for cell in cells)
    groups = [test for level, some in tests.items() if level != "cell" for test in some]
    return Gate(tuple(judged), tuple(groups), spreads, alpha, tuple(not_stored))


def _by_place(found: Iterable[Entry]) -> dict[Place, list[Entry]]:
    places: dict[Place, list[Entry]] = defaultdict(list)
    for entry in found:
        places[entry.place].append(entry)
    return dict(places)


def _cell(stored: Sequence[Entry], new: Sequence[Entry], seeds: set[int], exact: bool) -> Compared:
    """The cell before its drop is judged. seeds: all that new results have."""
    first, was, now = stored[0], _scores(stored), _scores(new)
    lacking = sorted(seeds & was.keys() - now.keys()) if now else sorted(was)
    failed = "; ".join(f"seed {e.seed}: {e.reason or e.status}" for e in new if e.score is None)
    verdict, note = _verdict(stored, new, exact)
    if lacking:
        verdict = "failed" if failed else "missing"
        note = failed or f"no new result of seed {', '.join(map(str, lacking))}"
    scores = tuple(sorted(was.items())), tuple(sorted(now.items()))
    return Compared(first.recipe, first.split, first.metric, first.method, *scores, verdict, note)


def _scores(found: Iterable[Entry]) -> dict[int, float]:
    return {entry.seed: entry.score for entry in found if entry.status == "done" and entry.score is not None}


def _verdict(stored: Sequence[Entry], new: Sequence[Entry], exact: bool) -> tuple[Verdict, str]:
    """Of the bits alone: whether they are the same, and whether they should be."""
    before = {entry.seed: entry for entry in stored}
    pairs = [(before[entry.seed], entry) for entry in new if entry.seed in before]
    if pairs and len(pairs) == len(new) and all(a.numbers == b.numbers for a, b in pairs):
        return "identical", ""
    if any(a.settings != b.settings for a, b in pairs):
        return "within", "the recipe has changed since"
    alike = [(a, b) for a, b in pairs if (a.machine, a.packages, a.device) == (b.machine, b.packages, b.device)]
    if any(a.numbers != b.numbers and a.device == "cpu" for a, b in alike):
        return "changed" if exact else "within", "other numbers on the same kind of machine with the same packages"
    return "within", ""


def _own(stored: Sequence[Entry]) -> dict[tuple[str, ...], Own]:
    """(recipe, split, dataset, metric) -> the scatter of its seeds, where they ran under one setting."""
    found: dict[tuple[str, ...], Own] = {}
    for place, some in _by_place(stored).items():
        scores = list(_scores(some).values()) if len({entry.settings for entry in some}) == 1 else []
        found[*place, place[1].partition("/")[0], some[0].metric] = Own.of(scores)
    return found


def _levels(ready: Sequence[Compared]) -> dict[str, dict[str, list[Compared]]]:
    """The cells of each test by level and name; means of one cell, and methods that are all of a dataset, are none."""
    pools: dict[Pool, list[Compared]] = defaultdict(list)
    for cell in ready:
        pools[cell.pool].append(cell)
    methods: dict[str, list[Compared]] = {}
    for (dataset, metric), cells in pools.items():
        for method in dict.fromkeys(cell.method for cell in cells):
            of_method = [cell for cell in cells if cell.method == method]
            if 1 < len(of_method) < len(cells):
                methods[f"{method} on {dataset} ({metric})"] = of_method
    whole = {f"{dataset} ({metric})": cells for (dataset, metric), cells in pools.items() if len(cells) > 1}
    levels = {"cell": {_name(cell): [cell] for cell in ready}, "method": methods, "dataset": whole}
    return {level: sets for level, sets in levels.items() if sets}


def _tested(
    level: str,
    name: str,
    cells: Sequence[Compared],
    spreads: Mapping[Pool, Spread],
    own: Mapping[tuple[str, ...], Own],
    p: float,
) -> Probe:
    """Whether the mean drop of cells of one pool is more than seeds explain, at a false-alarm probability of p."""
    each = []
    for cell in cells:
        square, freedom = spreads[cell.pool].variance(own.get((cell.recipe, cell.split, *cell.pool), Own(0.0, 0)))
        each.append((cell.drop, square * (1 / len(cell.stored) + 1 / len(cell.new)), freedom))
    drop, variance, freedom = each[0] if len(each) == 1 else _mean(each)
    tolerance = quantile(1 - p, freedom) * math.sqrt(variance)
    detectable = tolerance + quantile(FOUND, freedom) * math.sqrt(variance)
    return Probe(level, name, len(cells), drop, tolerance, detectable)


def _mean(each: Sequence[tuple[float, float, float]]) -> tuple[float, float, float]:
    """(drop, variance, degrees of freedom) of the mean of cells, each by the inverse of its variance."""
    total = sum(1 / v for _, v, _ in each)
    weights = [1 / v / total for _, v, _ in each]
    expected = [v * k / max(k - 2, 1) for _, v, k in each]
    variance = sum(w**2 * v for w, v in zip(weights, expected, strict=True))
    spread = sum((w**2 * v) ** 2 * 2 / max(k - 4, 0.5) for w, v, (_, _, k) in zip(weights, expected, each, strict=True))
    drop = sum(w * d for w, (d, _, _) in zip(weights, each, strict=True))
    return drop, variance, 2 * variance**2 / spread


def _judged(cell: Compared, test: Probe | None) -> Compared:
    """The cell with its test; what is missing, failed or identical stays so."""
    verdict = cell.verdict
    if test and verdict in ("within", "changed"):
        verdict = "worse" if test.worse else "better" if -test.drop > test.tolerance else verdict
    return replace(cell, verdict=verdict, test=test)


def _name(cell: Compared) -> str:
    return f"{cell.recipe} {cell.split}"
