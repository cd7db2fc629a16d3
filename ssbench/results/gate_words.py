"""What a gate says, for people: rows, lines, and the sentences JUnit reports show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ssbench.results.gate import Compared, Gate, Pool, Probe
from ssbench.results.statistics import Spread
from ssbench.results.throughput import Pace

Rows = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Headings, and a row a cell."""


def gate_rows(gate: Gate) -> Rows:
    """Recipe, split, verdict, and the numbers behind it in percent."""
    heads = ("recipe", "split", "verdict", "stored", "new", "drop", "tolerance", "note")
    return heads, [
        (c.recipe, c.split, c.verdict, _mean(c.stored), _mean(c.new), *_drop(c.test), c.note) for c in gate.cells
    ]


def gate_summary(gate: Gate) -> Iterator[str]:
    """The tests of means, what they rest on, and what could not be compared, a line each."""
    for test in gate.groups:
        yield f"{'WORSE' if test.worse else 'ok':5} {test.level} {test.name}, {test.cells} cells: {numbers(test)}"
    for pool, spread in gate.spreads.items():
        yield _spread(pool, spread)
    yield f"by chance alone, {gate.alpha:.0%} of such comparisons fail"
    for recipe, split in gate.not_stored:
        yield f"not compared, no stored result: {recipe} {split}"


def pace_rows(pace: Pace) -> Rows:
    """Recipe, split, verdict, images/s before and now, their ratio, the machine."""
    heads = ("recipe", "split", "verdict", "stored", "new", "ratio", "machine")
    return heads, [
        (
            c.recipe,
            c.split,
            c.verdict,
            _number(c.stored, ".1f"),
            _number(c.new, ".1f"),
            _number(c.ratio, ".2f"),
            c.machine,
        )
        for c in pace.cells
    ]


def told(cell: Compared) -> str:
    """A cell's numbers in a line."""
    if cell.test is None:
        return cell.note or cell.verdict
    was, now = (_mean(scores) for scores in (cell.stored, cell.new))
    line = f"{cell.metric} {now} now, {was} stored; {numbers(cell.test)}"
    return f"{line}; {cell.note}" if cell.note else line


def numbers(test: Probe) -> str:
    """A test's numbers in a line, percent."""
    return f"drop {test.drop:+.2f}, tolerance {test.tolerance:.2f} (a drop of {test.detectable:.2f} would be found)"


def _mean(scores: Sequence[tuple[int, float]]) -> str:
    """Mean and number of seeds."""
    return "" if not scores else f"{sum(s for _, s in scores) / len(scores):.2f} ({len(scores)})"


def _drop(test: Probe | None) -> tuple[str, str]:
    return ("", "") if test is None else (f"{test.drop:+.2f}", f"{test.tolerance:.2f}")


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _spread(pool: Pool, spread: Spread) -> str:
    seen = f"{spread.cells} cells of several seeds" if spread.cells else "assumed: too few seeds are stored"
    return (
        f"seeds of {pool[0]} ({pool[1]}) scatter by {spread.sd:.2f}, {spread.freedom:.1f} degrees of freedom ({seen})"
    )
