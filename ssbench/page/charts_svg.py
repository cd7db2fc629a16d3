"""Where every mark of a chart goes on the page; the template `page_chart.html` draws it as inline SVG.

Lengths are SVG units; a chart is 340 wide, about what a phone shows, so that its letters keep their size. Colours are
classes (`s0` ...), which the page's style sheet gives a light and a dark value.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ssbench.page.charts import STYLES, Bars, Chart, Lines, number, ticks, whole_ticks

WIDTH, HEIGHT = 340, 216
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 10, 36
BAR, BETWEEN, NAMES, VALUES, ABOVE, FITTING = 13, 9, 112, 44, 17, 18
MANY_POINTS = 16
MARKS = ("circle", "square", "triangle", "diamond", "cross", "ring")


@dataclass(frozen=True)
class Tick:
    """A grid line and its number."""

    at: str
    text: str


@dataclass(frozen=True)
class Dot:
    """A marked point. mark: one of MARKS; tip: what a pointer resting on it shows."""

    style: str
    mark: str
    x: str
    y: str
    tip: str


@dataclass(frozen=True)
class Stroke:
    """A line or an area: `style` is a class name, `path` the points of a polyline or polygon."""

    style: str
    path: str


@dataclass(frozen=True)
class Word:
    """A text. anchor: start, middle or end."""

    x: str
    y: str
    text: str
    anchor: str = "start"


@dataclass(frozen=True)
class Box:
    """A bar."""

    style: str
    x: str
    y: str
    width: str
    height: str
    tip: str


@dataclass(frozen=True)
class Drawing:
    """A chart in place. x_ticks, y_ticks: grid lines; frame: left, top, right, bottom of the plotting area."""

    width: int
    height: int
    frame: tuple[int, int, int, int]
    x_ticks: tuple[Tick, ...] = ()
    y_ticks: tuple[Tick, ...] = ()
    areas: tuple[Stroke, ...] = ()
    strokes: tuple[Stroke, ...] = ()
    dots: tuple[Dot, ...] = ()
    boxes: tuple[Box, ...] = ()
    words: tuple[Word, ...] = ()


def placed(chart: Chart) -> Drawing:
    """The chart, placed."""
    return _lines(chart) if isinstance(chart, Lines) else _bars(chart)


def style(at: int) -> str:
    """The class of the at-th series."""
    return f"s{at % STYLES}"


def mark(at: int) -> str:
    """The marker of the at-th series."""
    return MARKS[at % STYLES]


@dataclass(frozen=True)
class _Scale:
    """From values to lengths, linear."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _lines(chart: Lines) -> Drawing:
    frame = (LEFT, TOP, WIDTH - RIGHT, HEIGHT - BOTTOM)
    y_ticks, x_ticks = ticks(*chart.spread()), whole_ticks(*chart.reach())
    y = _Scale(y_ticks[0], y_ticks[-1], frame[3], frame[1])
    first, last = chart.reach()
    x = _Scale(first - (first == last), last + (first == last), frame[0] + 6, frame[2] - 6)
    series = [(style(s.style), s) for s in chart.series]
    areas = [_area("band", band.points, x, y) for band in chart.bands if len(band.points) > 1]
    areas += [_area(name, s.band, x, y) for name, s in series if len(s.band) > 1]
    strokes = [Stroke("level", f"{frame[0]},{_f(y(v.value))} {frame[2]},{_f(y(v.value))}") for v in chart.levels]
    strokes += [Stroke(name, _path(s.points, x, y)) for name, s in series]
    dots = [
        Dot(name, mark(s.style), _f(x(px)), _f(y(py)), f"{s.label}: {number(py)} at {chart.x} {px:g}")
        for name, s in series
        for px, py in _thinned(s.points)
    ]
    dots += [
        Dot("band", "ring", _f(x(px)), _f(y(py)), f"{d.label}: {number(py)} at {chart.x} {px:g}")
        for d in chart.dots
        for px, py in d.points
    ]
    words = (Word(_f((frame[0] + frame[2]) / 2), _f(HEIGHT - 5), chart.x, "middle"),)
    return Drawing(
        WIDTH, HEIGHT, frame,
        tuple(Tick(_f(x(v)), f"{v:g}") for v in x_ticks), tuple(Tick(_f(y(v)), f"{v:g}") for v in y_ticks),
        tuple(areas), tuple(strokes), tuple(dots), words=words,
    )  # fmt: skip


def _bars(chart: Bars) -> Drawing:
    rows, names = chart.drawn(), NAMES if _short_names(chart) else 0
    above = 0 if names else ABOVE
    zeros = []
    each = above + len(chart.series) * BAR + BETWEEN
    height = TOP + each * len(rows) + BOTTOM
    frame = (names or LEFT // 2, TOP, WIDTH - VALUES, height - BOTTOM)
    x_ticks = ticks(*chart.spread(), most=4)
    x = _Scale(x_ticks[0], x_ticks[-1], frame[0], frame[2])
    boxes, words = [], [Word(_f((frame[0] + frame[2]) / 2), _f(height - 5), chart.x, "middle")]
    for down, at in enumerate(rows):
        top = TOP + down * each + BETWEEN / 2
        if names:
            words.append(Word(_f(names - 6), _f(top + (each - BETWEEN) / 2 + 3), chart.rows[at], "end"))
        else:
            words.append(Word("2", _f(top + ABOVE - 4), _short(chart.rows[at])))
        zeros.append((top + above - 2, top + each - BETWEEN + 1))
        for k, s in enumerate(chart.series):
            if (value := s.values[at]) is not None:
                a, b, y = *sorted((x(0.0), x(value))), top + above + k * BAR
                tip = f"{s.label}, {chart.rows[at]}: {number(value)}"
                boxes.append(Box(style(s.style), _f(a), _f(y), _f(b - a), _f(BAR - 2), tip))
                words.append(Word(_f(b + 4), _f(y + BAR - 3), f"{value:+.2f}" if chart.signed else f"{value:.1f}"))
    grid = tuple(Tick(_f(x(v)), f"{v:g}") for v in x_ticks)
    strokes = tuple(Stroke("zero", f"{_f(x(0.0))},{_f(a)} {_f(x(0.0))},{_f(b)}") for a, b in zeros)
    return Drawing(WIDTH, height, frame, grid, boxes=tuple(boxes), words=tuple(words), strokes=strokes)


def _short_names(chart: Bars) -> bool:
    """Whether the names of the rows fit beside the bars; else each stands above its own."""
    return all(len(row) <= FITTING for row in chart.rows)


def _area(name: str, band: Sequence[tuple[float, float, float]], x: _Scale, y: _Scale) -> Stroke:
    there = [(e, high) for e, _, high in band]
    back = [(e, low) for e, low, _ in reversed(band)]
    return Stroke(name, _path([*there, *back], x, y))


def _path(points: Iterable[tuple[float, float]], x: _Scale, y: _Scale) -> str:
    return " ".join(f"{_f(x(px))},{_f(y(py))}" for px, py in points)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Points that get a marker: all of few, every n-th of many, always the last."""
    every = -(-len(points) // MANY_POINTS)
    return [p for i, p in enumerate(points) if (len(points) - 1 - i) % every == 0]


def _short(text: str, most: int = 52) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def _f(value: float) -> str:
    """A length with one digit after the point, without a needless one."""
    return f"{value:.1f}".removesuffix(".0")
