"""Charts as data: what is drawn, before anything is drawn. The page and the files in `plots/` show the same ones.

A chart never tells series apart by colour alone: a style is a colour, a dash and a marker together, and the first
style always stands for the baseline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

STYLES = 6
"""Styles there are; a seventh series looks like the first again (its marker's title still says which it is)."""


@dataclass(frozen=True)
class Series:
    """One line. points: (x, y), x ascending; band: (x, low, high) around it, such as the spread over seeds."""

    label: str
    style: int
    points: tuple[tuple[float, float], ...]
    band: tuple[tuple[float, float, float], ...] = ()


@dataclass(frozen=True)
class Band:
    """What others measured, drawn behind the lines: (x, low, high)."""

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
class Lines:
    """Values over epochs. name: its file's; limits: of the y axis, by default as the data need; unit: of y."""

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    bands: tuple[Band, ...] = ()
    dots: tuple[Dots, ...] = ()
    levels: tuple[Level, ...] = ()
    limits: tuple[float, float] | None = None

    def spread(self) -> tuple[float, float]:
        """Lowest and highest value of anything drawn, or the given limits."""
        if self.limits:
            return self.limits
        values = [y for _, y in self._points()]
        values += [v for _, low, high in self._bands() for v in (low, high)]
        values += [level.value for level in self.levels]
        return min(values), max(values)

    def reach(self) -> tuple[float, float]:
        """First and last x of anything drawn."""
        values = [x for x, _ in self._points()]
        values += [x for x, _, _ in self._bands()]
        return min(values), max(values)

    def _points(self) -> Iterator[tuple[float, float]]:
        for s in self.series:
            yield from s.points
        for dots in self.dots:
            yield from dots.points

    def _bands(self) -> Iterator[tuple[float, float, float]]:
        for s in self.series:
            yield from s.band
        for band in self.bands:
            yield from band.points

    def described(self) -> str:
        """The chart in words, for who does not see it."""
        levels = (f"{level.label}: {level.value:.2f} throughout." for level in self.levels)
        dots = (f"{d.label}: up to {number(max(y for _, y in d.points))}." for d in self.dots)
        return " ".join([*map(_line_in_words, self.series), *map(_band_in_words, self.bands), *dots, *levels])

    def table(self) -> tuple[list[str], list[list[str]]]:
        """(headings, rows) with every number drawn."""
        heads = [self.x, *(s.label for s in self.series)]
        columns = [dict(s.points) for s in self.series]
        for band in self.bands:
            heads += [f"{band.label}, lowest", f"{band.label}, highest"]
            columns += [{x: low for x, low, _ in band.points}, {x: high for x, _, high in band.points}]
        for level in self.levels:
            heads.append(level.label)
            columns.append(dict.fromkeys(self.reach(), level.value))
        known = sorted({x for column in (*columns, *(dict(d.points) for d in self.dots)) for x in column})
        rows = [[f"{x:g}", *(number(column.get(x)) for column in columns)] for x in known]
        for dots in self.dots:
            heads.append(dots.label)
            for row, x in zip(rows, known, strict=True):
                row.append(", ".join(number(y) for at, y in dots.points if at == x))
        return heads, rows


@dataclass(frozen=True)
class BarSeries:
    """One bar a row; None where there is none."""

    label: str
    style: int
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Bars:
    """Horizontal bars: one row a category, one bar a series in each.

    shown: positions of the rows that are drawn,
    where all would be too many; the table has all. signed: the axis begins left of zero.
    """

    name: str
    title: str
    x: str
    rows: tuple[str, ...]
    series: tuple[BarSeries, ...]
    shown: tuple[int, ...] = ()
    signed: bool = False

    def drawn(self) -> Sequence[int]:
        """Positions of the rows that are drawn."""
        return self.shown or range(len(self.rows))

    def spread(self) -> tuple[float, float]:
        """The x axis."""
        values = [0.0, *(v for s in self.series for v in s.values if v is not None)]
        return (min(values), max(values)) if self.signed else (0.0, max(100.0, *values))

    def described(self) -> str:
        """The chart in words."""
        said = []
        for s in self.series:
            known = [(v, row) for v, row in zip(s.values, self.rows, strict=True) if v is not None]
            if known:
                (low, worst), (high, best) = min(known), max(known)
                said.append(f"{s.label}: from {low:.2f} ({worst}) to {high:.2f} ({best}).")
        return " ".join(said)

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


Chart = Lines | Bars


def number(value: float | None) -> str:
    """Two digits after the point, four where that would show little; nothing for None."""
    if value is None:
        return ""
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4f}"


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers that enclose [low, high]; a single value gets room around it."""
    from matplotlib.ticker import MaxNLocator

    if low == high:
        low, high = low - 0.5, high + 0.5
    found = MaxNLocator(nbins=most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(f"{v:.10g}") for v in found]


def whole_ticks(first: float, last: float) -> list[float]:
    """Round whole numbers within [first, last]: epochs."""
    return [v for v in ticks(first, last) if v == int(v) and first <= v <= last] or [first]


def slug(*parts: str) -> str:
    """A file name of letters, digits, dots, dashes and underscores."""
    return "-".join(re.sub(r"[^A-Za-z0-9._]+", "-", part).strip("-.") for part in parts)


def _line_in_words(s: Series) -> str:
    (x0, y0), (x1, y1) = s.points[0], s.points[-1]
    if len(s.points) == 1:
        return f"{s.label}: {number(y0)} at {x0:g}."
    at, best = max(s.points, key=lambda p: p[1])
    return f"{s.label}: {number(y0)} at {x0:g}, {number(y1)} at {x1:g}, highest {number(best)} at {at:g}."


def _band_in_words(band: Band) -> str:
    x, low, high = band.points[-1]
    return f"{band.label}: between {number(low)} and {number(high)} at {x:g}."
