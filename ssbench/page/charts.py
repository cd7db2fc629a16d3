"""Charts as data, with their numbers as a table and as sentences; `drawing` draws them.

A chart never tells series apart by colour alone: a style is a colour, a dash and a marker (bars: a hatch) together. The
first style always stands for the baseline.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Series:
    """One line. points: (x, y), x ascending; band: (x, low, high) around it, such as the spread over seeds."""

    label: str
    style: int
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Band:
    """A range that others measured, drawn behind the lines: (x, low, high)."""

    label: str
    points: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Dots:
    """Single values that others published."""

    label: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Level:
    """A horizontal reference."""

    label: str
    value: float


@dataclass(frozen=True)
class LineChart:
    """Values over epochs, or over another count.

    name: of its files; limits: of the y axis, by default as the data need. ticks: (x, label) of the x axis, which is
    then logarithmic; empty: a linear axis with ticks as the data need.
    """

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    bands: tuple[Band, ...] = ()
    dots: tuple[Dots, ...] = ()
    levels: tuple[Level, ...] = ()
    limits: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] = ()

    def described(self) -> str:
        """The chart in words, for readers who do not see it."""
        bands = (
            f"{band.label}: between {number(band.points[-1][1])} and {number(band.points[-1][2])} "
            f"at {band.points[-1][0]:g}."
            for band in self.bands
        )
        dots = (f"{d.label}: up to {number(max(y for _, y in d.points))}." for d in self.dots)
        levels = (f"{level.label}: {level.value:.2f} throughout." for level in self.levels)
        return " ".join([*map(_line_in_words, self.series), *bands, *dots, *levels])

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(headings, rows) with every number drawn."""
        columns = {s.label: {x: number(y) for x, y in s.points} for s in self.series}
        for band in self.bands:
            columns[f"{band.label}, lowest"] = {x: number(low) for x, low, _ in band.points}
            columns[f"{band.label}, highest"] = {x: number(high) for x, _, high in band.points}
        for dots in self.dots:
            at = {x for x, _ in dots.points}
            columns[dots.label] = {x: ", ".join(number(y) for x2, y in dots.points if x2 == x) for x in at}
        xs = sorted({x for column in columns.values() for x in column})
        for level in self.levels:
            columns[level.label] = dict.fromkeys(xs, number(level.value))
        rows = [[f"{x:g}", *(column.get(x, "") for column in columns.values())] for x in xs]
        return [self.x, *columns], rows


@dataclass(frozen=True)
class BarSeries:
    """One bar a row; None where there is none."""

    label: str
    style: int
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class BarChart:
    """Horizontal bars: one row a category, one bar a series in each.

    shown: positions of the rows that are drawn where all would be too many; the table has all. signed: values are
    differences, to both sides of zero; otherwise they are percentages.
    """

    name: str
    title: str
    x: str
    rows: tuple[str, ...]
    series: tuple[BarSeries, ...]
    shown: tuple[int, ...] = ()
    signed: bool = False

    def described(self) -> str:
        """The chart in words, for readers who do not see it."""
        sentences = []
        for s in self.series:
            known = [(v, row) for v, row in zip(s.values, self.rows, strict=True) if v is not None]
            if known:
                (low, worst), (high, best) = min(known), max(known)
                sentences.append(f"{s.label}: from {low:.2f} ({worst}) to {high:.2f} ({best}).")
        return " ".join(sentences)

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(headings, rows) with every number; with two series also their difference."""
        heads = ["", *(s.label for s in self.series)]
        rows = [[row, *(number(s.values[i]) for s in self.series)] for i, row in enumerate(self.rows)]
        if len(self.series) == 2:
            heads.append("difference")
            for i, row in enumerate(rows):
                a, b = (s.values[i] for s in self.series)
                row.append("" if a is None or b is None else f"{b - a:+.2f}")
        return heads, rows


Chart = LineChart | BarChart


def number(value: float | None) -> str:
    """Two digits after the point, four for a small number; nothing for None."""
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4f}"


def slug(*parts: str) -> str:
    """A file name of letters, digits, dots, dashes and underscores."""
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") for part in parts)


def _line_in_words(s: Series) -> str:
    (x0, y0), (x1, y1) = s.points[0], s.points[-1]
    if len(s.points) == 1:
        return f"{s.label}: {number(y0)} at {x0:g}."
    at, best = max(s.points, key=lambda p: p[1])
    return f"{s.label}: {number(y0)} at {x0:g}, {number(y1)} at {x1:g}, highest {number(best)} at {at:g}."
