"""Are new results as good as stored ones, as far as seeds can tell? And as fast? The rules of `ssbench gate`.

Scores. Three levels are tested, because a fault may touch one run, one method, or all: each cell, the mean drop of a
method's cells, and the mean drop of all cells of a dataset. A drop is the stored mean minus the new one. Were nothing
changed, a cell's drop would have the variance

    v = s^2 (1 / stored seeds + 1 / new seeds)        s: `statistics.fitted_noise`, from all stored seeds of the
                                                      dataset and metric

and a cell fails when its drop exceeds t sqrt(v); for means see `statistics.mean_drop`. t is the one-sided quantile of
Student's distribution at alpha / levels / tests of the level (Bonferroni): a gate over any number of cells gives a
false alarm with a probability of about alpha, over draws of stored and new seeds; tests/results/test_gate_rates.py
measures it. Beside the tolerance stands what a test would find: a true drop of tolerance + t(80 %) sqrt(v) is found
four times in five.

New results of the same seeds, machine and code are the same numbers, so alarms are only ever asked for where something
did change. A cell that has no new result, or lacks a seed that other cells have, fails. So does one
whose stored or new result is stale: made from other data, or by another behaviour version, than the present ones.

Speed (`--throughput`). A cell's images/s are compared with the median of what is stored for its recipe on a machine of
the same name (and as many threads, on a CPU), on the same split where there is such, else on any: the number of
labelled images does not change the speed of a step. It fails when it is slower by more than the share given.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ssbench.results.baseline import BaselineRun, ScoredRun, scored
from ssbench.results.statistics import (
    ALPHA,
    SLOWER,
    SPREAD,
    SeedNoise,
    SeedScatter,
    fitted_noise,
    mean_drop,
    student_quantile,
)
from ssbench.results.store import Place

POWER = 0.8
ScoreVerdict = Literal[
    "identical", "within", "better", "worse", "changed", "missing", "failed", "stale", "no tolerance"
]
NO_TOLERANCE = "no cell of the dataset has two seeds: no tolerance can be had (--spread states one)"
SpeedVerdict = Literal["within", "faster", "slower", "missing", "no record for this machine"]
FAILING: tuple[ScoreVerdict, ...] = ("worse", "changed", "missing", "failed", "stale")
TOO_SLOW: tuple[SpeedVerdict, ...] = ("slower", "missing")
Pool = tuple[str, str]
"""(dataset, metric): cells whose seeds are taken to scatter alike."""


@dataclass(frozen=True)
class DropTest:
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
class CellComparison:
    """A cell: its stored and new scores by seed, and the verdict. test: None where there is nothing to compare."""

    recipe: str
    split: str
    metric: str
    method: str
    stored: tuple[tuple[int, float], ...]
    new: tuple[tuple[int, float], ...]
    verdict: ScoreVerdict
    note: str = ""
    test: DropTest | None = None

    @property
    def name(self) -> str:
        """Recipe and split."""
        return f"{self.recipe} {self.split}"

    @property
    def pool(self) -> Pool:
        """The cells whose seed variance is pooled with this one's."""
        return self.split.partition("/")[0], self.metric

    @property
    def drop(self) -> float:
        """Stored mean minus new mean, percent."""
        return statistics.fmean(s for _, s in self.stored) - statistics.fmean(s for _, s in self.new)

    def as_json(self) -> dict[str, Any]:
        """One entry of `cells` in the documented object of `ssbench gate --json`."""
        numbers = {name: self.test and getattr(self.test, name) for name in ("drop", "tolerance", "detectable")}
        fields = {name: getattr(self, name) for name in ("recipe", "split", "metric")}
        seeds = {"stored": dict(self.stored), "new": dict(self.new)}
        return {**fields, **seeds, "verdict": self.verdict, "note": self.note, **numbers}


@dataclass(frozen=True)
class ScoreGate:
    """All comparisons. groups: the tests of means; not_stored: cells asked for without a stored result."""

    cells: tuple[CellComparison, ...]
    groups: tuple[DropTest, ...]
    spreads: Mapping[Pool, SeedNoise]
    alpha: float
    not_stored: tuple[Place, ...] = ()

    @property
    def failures(self) -> list[str]:
        """What failed, by name."""
        cells = [f"{c.name} ({c.verdict})" for c in self.cells if c.verdict in FAILING]
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


@dataclass(frozen=True)
class SpeedComparison:
    """A cell: images/s now and before. machine: where it ran now; records: how many stored ones were compared."""

    recipe: str
    split: str
    machine: str
    stored: float | None
    new: float | None
    records: int
    verdict: SpeedVerdict

    @property
    def ratio(self) -> float | None:
        """New by stored."""
        return self.new / self.stored if self.new and self.stored else None


@dataclass(frozen=True)
class SpeedGate:
    """All cells; slower: the share of the stored speed that may be missing."""

    cells: tuple[SpeedComparison, ...]
    slower: float

    @property
    def failures(self) -> list[str]:
        """What failed, by name."""
        return [f"{c.recipe} {c.split} ({c.verdict})" for c in self.cells if c.verdict in TOO_SLOW]

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench gate --throughput --json`."""
        cells = [{**vars(cell), "ratio": cell.ratio} for cell in self.cells]
        return {"gate": "throughput", "passed": not self.failures, "slower": self.slower, "cells": cells}


def compare_scores(
    stored: Sequence[BaselineRun],
    new: Sequence[BaselineRun],
    *,
    alpha: float = ALPHA,
    spread: float | None = None,
    exact: bool = False,
    neighbours: Iterable[ScoredRun] = (),
    not_stored: Sequence[Place] = (),
) -> ScoreGate:
    """Compare `new` with `stored`, cell by cell.

    Args:
        alpha: probability of a false alarm in the whole comparison. spread: s where too few seeds are stored; None:
            `SPREAD`, and no tolerance at all where no cell of the dataset has two seeds.
        exact: a cell fails, too, where the same machine and packages gave other numbers on a CPU.
        neighbours: more stored results of the same datasets, which tell how seeds scatter.
    """
    seeds = {run.seed for run in new}
    new_by_place = _by_place(new)
    cells = [_cell(runs, new_by_place.get(place, []), seeds, exact) for place, runs in _by_place(stored).items()]
    scatters = _scatters([*map(scored, stored), *neighbours])
    spreads = {
        pool: fitted_noise([scatter for (_, other), scatter in scatters.items() if other == pool], spread or SPREAD)
        for pool in dict.fromkeys(cell.pool for cell in cells)
    }
    seeded = {pool for (_, pool), scatter in scatters.items() if scatter.freedom or spread is not None}
    seeded |= {cell.pool for cell in cells if len(cell.new) > 1}  # new seeds show how far seeds lie apart
    able = [cell for cell in cells if cell.stored and cell.new and cell.verdict != "stale"]
    levels = _levels([cell for cell in able if cell.pool in seeded])
    tests = {
        level: [
            _drop_test(level, name, members, spreads, scatters, alpha / len(levels) / len(sets))
            for name, members in sets.items()
        ]
        for level, sets in levels.items()
    }
    by_name = {test.name: test for test in tests.get("cell", ())}
    judged = tuple(_judged(cell, by_name.get(cell.name), cell.pool in seeded) for cell in cells)
    groups = tuple(test for level, of_level in tests.items() if level != "cell" for test in of_level)
    return ScoreGate(judged, groups, spreads, alpha, tuple(not_stored))


def _by_place(runs: Iterable[BaselineRun]) -> dict[Place, list[BaselineRun]]:
    places: dict[Place, list[BaselineRun]] = defaultdict(list)
    for run in runs:
        places[run.place].append(run)
    return dict(places)


def _cell(stored: Sequence[BaselineRun], new: Sequence[BaselineRun], seeds: set[int], exact: bool) -> CellComparison:
    """The cell before its drop is judged. seeds: all that new results have."""
    first, before, now = stored[0], _scores(stored), _scores(new)
    lacking = sorted(seeds & before.keys() - now.keys()) if now else sorted(before)
    failed = "; ".join(f"seed {run.seed}: {run.reason or run.status}" for run in new if run.score is None)
    verdict, note = _compare_bits(stored, new, exact)
    if lacking:
        verdict = "failed" if failed else "missing"
        note = failed or f"no new result of seed {', '.join(map(str, lacking))}"
    elif not before:  # nothing to compare with
        verdict = "failed" if failed and not now else "missing" if not now else "within"
        note = f"{failed}; it failed before, too" if failed else "the stored run failed"
    if stale := _stale_note(stored, new):
        verdict, note = "stale", stale
    scores = tuple(sorted(before.items())), tuple(sorted(now.items()))
    return CellComparison(first.recipe, first.split, first.metric, first.method, *scores, verdict, note)


def _stale_note(stored: Sequence[BaselineRun], new: Sequence[BaselineRun]) -> str:
    """Which results were made from other data or by other code than the present ones, and why."""
    sides = {"stored": stored, "new": new}
    reasons = {name: dict.fromkeys(run.stale for run in runs if run.stale) for name, runs in sides.items()}
    return "; ".join(f"the {name} one is stale: {', '.join(why)}" for name, why in reasons.items() if why)


def _scores(runs: Iterable[BaselineRun]) -> dict[int, float]:
    return {run.seed: run.done_score for run in runs if run.done_score is not None}


def _compare_bits(stored: Sequence[BaselineRun], new: Sequence[BaselineRun], exact: bool) -> tuple[ScoreVerdict, str]:
    """Whether all numbers are the same, and a note where they should be and are not."""
    before = {run.seed: run for run in stored}
    pairs = [(before[run.seed], run) for run in new if run.seed in before]
    if pairs and len(pairs) == len(new) and all(a.numbers == b.numbers for a, b in pairs):
        return "identical", ""
    if any(a.settings != b.settings for a, b in pairs):
        return "within", "the recipe has changed since"
    alike = [(a, b) for a, b in pairs if (a.machine, a.packages, a.device) == (b.machine, b.packages, b.device)]
    if any(a.numbers != b.numbers and a.device == "cpu" for a, b in alike):  # GPU sums depend on the order of threads
        return "changed" if exact else "within", "other numbers on the same kind of machine with the same packages"
    return "within", ""


def _scatters(runs: Iterable[ScoredRun]) -> dict[tuple[Place, Pool], SeedScatter]:
    """The scatter of each cell's seeds, where they ran under one setting."""
    seeds: dict[tuple[Place, Pool], dict[int, ScoredRun]] = defaultdict(dict)
    for run in runs:
        seeds[run.place, (run.place[1].partition("/")[0], run.metric)][run.seed] = run
    return {
        cell: SeedScatter.of(
            [run.score for run in by_seed.values() if run.score is not None]
            if len({run.settings for run in by_seed.values()}) == 1
            else []
        )
        for cell, by_seed in seeds.items()
    }


def _levels(ready: Sequence[CellComparison]) -> dict[str, dict[str, list[CellComparison]]]:
    """The cells of each test by level and name.

    The mean of one cell is no test of its own, and neither is that of a method which has all cells of a dataset.
    """
    pools: dict[Pool, list[CellComparison]] = defaultdict(list)
    for cell in ready:
        pools[cell.pool].append(cell)
    methods: dict[str, list[CellComparison]] = {}
    for (dataset, metric), cells in pools.items():
        for method in dict.fromkeys(cell.method for cell in cells):
            of_method = [cell for cell in cells if cell.method == method]
            if 1 < len(of_method) < len(cells):
                methods[f"{method} on {dataset} ({metric})"] = of_method
    whole = {f"{dataset} ({metric})": cells for (dataset, metric), cells in pools.items() if len(cells) > 1}
    levels = {"cell": {cell.name: [cell] for cell in ready}, "method": methods, "dataset": whole}
    return {level: sets for level, sets in levels.items() if sets}


def _drop_test(
    level: str,
    name: str,
    cells: Sequence[CellComparison],
    spreads: Mapping[Pool, SeedNoise],
    scatters: Mapping[tuple[Place, Pool], SeedScatter],
    alpha: float,
) -> DropTest:
    """Whether the mean drop of cells of one pool is more than seeds explain, at a false-alarm probability of alpha."""
    drops = []
    for cell in cells:
        scatter = scatters.get(((cell.recipe, cell.split), cell.pool), SeedScatter(0.0, 0))
        square, freedom = spreads[cell.pool].variance(scatter)
        drops.append((cell.drop, square * (1 / len(cell.stored) + 1 / len(cell.new)), freedom))
    drop, variance, freedom = drops[0] if len(drops) == 1 else mean_drop(drops)
    tolerance = student_quantile(1 - alpha, freedom) * math.sqrt(variance)
    detectable = tolerance + student_quantile(POWER, freedom) * math.sqrt(variance)
    return DropTest(level, name, len(cells), drop, tolerance, detectable)


def _judged(cell: CellComparison, test: DropTest | None, is_seeded: bool) -> CellComparison:
    """The cell with its test; what is missing, failed or identical stays so."""
    verdict = cell.verdict
    if not is_seeded and verdict == "within" and cell.stored and cell.new:
        note = f"drop {cell.drop:+.2f}; {NO_TOLERANCE}"
        return replace(cell, verdict="no tolerance", note="; ".join(filter(None, (cell.note, note))))
    if test and verdict in ("within", "changed"):
        verdict = "worse" if test.worse else "better" if -test.drop > test.tolerance else verdict
    return replace(cell, verdict=verdict, test=test)


def compare_speeds(stored: Sequence[BaselineRun], new: Sequence[BaselineRun], slower: float = SLOWER) -> SpeedGate:
    """Compare images/s of every cell that has a stored result."""
    places = dict.fromkeys(run.place for run in stored)
    return SpeedGate(tuple(_compare_speed(place, stored, new, slower) for place in places), slower)


def _compare_speed(
    place: Place, stored: Sequence[BaselineRun], new: Sequence[BaselineRun], slower: float
) -> SpeedComparison:
    runs = [run for run in new if run.place == place and run.images_per_s]
    if not runs:
        return SpeedComparison(*place, "", None, None, 0, "missing")
    machine, now = runs[-1].machine, statistics.median(run.images_per_s or 0 for run in runs)
    alike = [run for run in stored if run.recipe == place[0] and run.machine == machine and run.images_per_s]
    on_split = [run for run in alike if run.split == place[1]] or alike
    if not on_split:
        return SpeedComparison(*place, machine, None, now, 0, "no record for this machine")
    before = statistics.median(run.images_per_s or 0 for run in on_split)
    verdict: SpeedVerdict = (
        "slower" if now < before * (1 - slower) else "faster" if now > before / (1 - slower) else "within"
    )
    return SpeedComparison(*place, machine, before, now, len(on_split), verdict)
