"""How often the gate is wrong, over simulated nights: false alarms, and planted drops of 1.5 points it misses.

The spreads are those of the project's own toy tables: 21 cells of three seeds each (2026-11), from 0.2 to 5.4 points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ssbench.results.baseline import BaselineRun
from ssbench.results.gate import ScoreGate, compare_scores

TOY = np.array([
    1.98, 4.61, 1.69, 4.25, 2.25, 2.57, 1.12, 2.71, 1.14, 1.67, 1.71, 5.36, 1.75, 2.0, 2.89, 0.44, 0.18, 2.43, 2.7,
    2.83, 0.84,
])  # fmt: skip
CELLS = 21
Nights = list[ScoreGate]


def nights(
    count: int, drop: NDArray[np.float64] | float = 0.0, alpha: float = 0.05, seeds: int = 3, old: int = 3, key: int = 0
) -> Nights:
    """Gates over cells whose seeds scatter as the toy tables' do; `drop` is what new results are worse by."""
    rng = np.random.default_rng(key)
    made = []
    for _ in range(count):
        stored = 70 + rng.normal(size=(CELLS, old)) * TOY[:, None]
        new = 70 + rng.normal(size=(CELLS, seeds)) * TOY[:, None] - np.broadcast_to(drop, CELLS)[:, None]
        made.append(compare_scores(entries(stored), entries(new), alpha=alpha))
    return made


def entries(scores: NDArray[np.float64]) -> list[BaselineRun]:
    """Cells of seven methods, three each."""
    same: dict[str, Any] = {
        **{"split": "toy/ours/1_16", "metric": "miou", "status": "done", "reason": "", "images_per_s": None},
        **{"settings": "s", "device": "cpu", "machine": "m", "packages": "p"},
    }
    return [
        BaselineRun(recipe=f"r{at}", seed=seed, method=f"m{at // 3}", score=float(score), numbers=f"{score}", **same)
        for at, row in enumerate(scores)
        for seed, score in enumerate(row)
    ]


def rate(some: Nights) -> float:
    return sum(bool(gate.failures) for gate in some) / len(some)


@pytest.mark.parametrize(("alpha", "seeds"), [(0.05, 3), (0.05, 1), (0.2, 3)])
def test_seed_noise_passes(alpha: float, seeds: int) -> None:
    """At most alpha, within three standard errors of 300 nights; over 2000: 2.6, 2.4 and 10.3 in 100."""
    found = rate(nights(300, alpha=alpha, seeds=seeds))
    assert found <= alpha + 3 * np.sqrt(alpha * (1 - alpha) / 300), found


def test_a_drop_of_a_point_and_a_half_everywhere_fails() -> None:
    """Over 1000 nights: 92 in 100 with three new seeds, 63 with one."""
    assert rate(nights(150, drop=1.5)) > 0.83
    assert 0.45 < rate(nights(150, drop=1.5, seeds=1)) < 0.8


def test_a_tenth_of_the_points_lost_by_one_method_fails() -> None:
    """A method's three cells lose 12 points: a broken method, not a worse one."""
    assert rate(nights(50, drop=np.where(np.arange(CELLS) // 3 == 2, 12.0, 0.0))) > 0.9


def test_what_the_gate_says_it_would_find_it_finds() -> None:
    """A planted drop of the size it names as detectable is found in about four nights of five."""
    named = [next(g.detectable for g in gate.groups if g.level == "dataset") for gate in nights(50)]
    found = nights(150, drop=float(np.median(named)), key=1)
    share = sum(any(g.level == "dataset" and g.worse for g in gate.groups) for gate in found) / len(found)
    assert 0.6 < share < 0.99, share


def test_improvements_never_fail() -> None:
    assert rate(nights(50, drop=-5.0)) == 0
