"""The charts as files for slides and papers, drawn by matplotlib: SVG with text as text, and PNG at 200 dots an inch.

Same data, same bytes: no date, no random ids. What a record says is never read as a formula.
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssbench.files import write_bytes
from ssbench.page.charts import Bars, Chart, Lines, ticks, whole_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#c44e00", "#00805c", "#a8467f", "#7a6a00", "#444c55")
DASHES = ("-", (0, (5, 2)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)), (0, (8, 3)), (0, (1, 1.5)))
MARKERS = ("o", "s", "^", "D", "P", "$\u25cb$")
HATCHES = ("////", "", "\\\\\\\\", "----", "xxxx", "....")
SOFT = "#57606a"
SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "ssbench",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.8,
}


def write(chart: Chart, folder: Path) -> list[Path]:
    """Write `<name>.svg` and `<name>.png` into `folder`; the paths written."""
    import matplotlib as mpl

    with mpl.rc_context(SETTINGS):
        figure = _lines(chart) if isinstance(chart, Lines) else _bars(chart)
        made = []
        for kind, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            out = io.BytesIO()
            figure.savefig(out, format=kind, metadata=metadata, dpi=200)
            figure.set_layout_engine("none")  # the first drawing has placed everything; doing it again takes as long
            made.append(folder / f"{chart.name}.{kind}")
            write_bytes(made[-1], out.getvalue())
    return made


def _figure(width: float, height: float, chart: Chart, entries: int) -> tuple[Figure, Axes]:
    """A figure with room for a key of so many entries below the axes."""
    from matplotlib.figure import Figure

    title = textwrap.fill(chart.title, int(13 * width))
    figure = Figure(figsize=(width, height + 0.17 * (entries + title.count("\n"))), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=10, loc="left")
    return figure, axes


def _lines(chart: Lines) -> Figure:
    figure, axes = _figure(4.4, 2.8, chart, len(chart.series) + len(chart.bands) + len(chart.dots) + len(chart.levels))
    for band in chart.bands:
        x, low, high = zip(*band.points, strict=True)
        axes.fill_between(x, low, high, color=SOFT, alpha=0.25, linewidth=0, label=band.label)
    for s in chart.series:
        look = s.style % len(COLOURS)
        if len(s.band) > 1:
            x, low, high = zip(*s.band, strict=True)
            axes.fill_between(x, low, high, color=COLOURS[look], alpha=0.16, linewidth=0)
        every = -(-len(s.points) // 20)
        axes.plot(*zip(*s.points, strict=True), color=COLOURS[look], linestyle=DASHES[look], label=s.label,
                  marker=MARKERS[look], markersize=4, markevery=((len(s.points) - 1) % every, every))  # fmt: skip
    for dots in chart.dots:
        axes.plot(*zip(*dots.points, strict=True), "o", color=SOFT, fillstyle="none", markersize=5, label=dots.label)
    for level in chart.levels:
        axes.axhline(level.value, color=SOFT, linestyle=":", linewidth=1, label=level.label)
    found = ticks(*chart.spread())
    axes.set_yticks(found)
    axes.set_ylim(found[0], found[-1])
    axes.set_xticks(whole_ticks(*chart.reach()))
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(axis="y", color="#d5dbe1", linewidth=0.6)
    figure.legend(frameon=False, fontsize=8, loc="outside lower left")
    return figure


def _bars(chart: Bars) -> Figure:
    rows, many = list(chart.drawn()), len(chart.series)
    names = [textwrap.shorten(chart.rows[r], 60, placeholder="...") for r in rows]
    height = 0.9 + 0.15 * len(rows) * (many + 0.5)
    figure, axes = _figure(3.4 + 0.06 * max(map(len, names)), height, chart, many)
    thick = 0.8 / many
    for k, s in enumerate(chart.series):
        look = s.style % len(COLOURS)
        places = [at + (k - (many - 1) / 2) * thick for at in range(len(rows))]
        bars = axes.barh(places, [s.values[r] or 0.0 for r in rows], thick * 0.9, label=s.label, hatch=HATCHES[look],
                         color="white" if HATCHES[look] else COLOURS[look], edgecolor=COLOURS[look])  # fmt: skip
        said = ["" if (v := s.values[r]) is None else f"{v:+.2f}" if chart.signed else f"{v:.1f}" for r in rows]
        axes.bar_label(bars, said, padding=3, fontsize=7)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.margins(x=0.2)
    axes.set_xlabel(chart.x)
    figure.legend(frameon=False, fontsize=8, loc="outside lower left")
    return figure
