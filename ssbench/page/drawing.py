"""The one renderer of charts: matplotlib draws SVG and PNG files for slides and papers, and the page inlines the SVG.

The same data give the same bytes: no date, no random ids. On the page colours become CSS variables, so that one drawing
serves the light and the dark theme; text stays text, in the page's font.
"""

from __future__ import annotations

import html
import io
import re
import textwrap
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING, Any

from ssbench.page.charts import Band, BarChart, Chart, Dots, Level, LineChart, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, SOFT, RULE, PAPER = "#1b2026", "#57606a", "#d5dbe1", "#ffffff"
COLOURS = ("#0072b2", "#c44e00", "#00805c", "#a8467f", "#7a6a00", "#444c55")
VARIABLES = {INK: "ink", SOFT: "soft", RULE: "rule", PAPER: "page"} | {c: f"s{at}" for at, c in enumerate(COLOURS)}
"""Colour of a file -> name of the page's CSS variable, whose light value is the same colour (page.css)."""
DASHES = ("-", (0, (5, 2)), (0, (1.5, 2)), (0, (6, 2, 1.5, 2)), (0, (8, 3)), (0, (1, 1.5)))
LEVEL_DASHES = (":", "-.", "--")
MARKERS = ("o", "s", "^", "D", "P", "v")
HATCHES = ("////", "", "\\\\\\\\", "----", "xxxx", "....")
WIDTH = 3.4
"""Inches of every chart: about what a phone shows, so that letters keep their size there."""
TITLE, LABEL, LONG_NAME, NAME = 37, 44, 18, 48
"""Characters of a title's line and of a key's line; of a row's name before it moves above its bars, and there."""
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a recipe's name is a dollar
    "font.size": 8.5,
    "hatch.linewidth": 0.8,
    **{f"axes.spines.{side}": False for side in ("left", "top", "right")},
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
    "axes.facecolor": "none",
    "lines.markeredgewidth": 0,
    "axes.edgecolor": SOFT,
    "text.color": INK,
    "axes.labelcolor": INK,
    **dict.fromkeys(("xtick.color", "ytick.color"), SOFT),
}


@dataclass(frozen=True)
class Drawing:
    """A chart drawn: the bytes of its two files."""

    svg: bytes
    png: bytes

    def inline(self, chart: Chart) -> str:
        """The SVG as an element of the page: named for screen readers, in the theme's colours, and small."""
        text = self.svg.decode()
        width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
        body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
        body = body[body.index("<g ") : body.rindex("</svg>")]
        body = re.sub(r"<[^>]+>", lambda tag: _slim(tag.group()), re.sub(r">\s+<", "><", body))
        before = ""
        while before != body:  # groups without attributes go, from the innermost outwards
            before, body = body, re.sub(r"<g>((?:(?!</?g[ >]).)*)</g>|<g/>", r"\1", body)
        name = html.escape(f"{chart.title}. {chart.described()}")
        return f'<svg class="plot" viewBox="0 0 {width} {height}" role="img" aria-label="{name}">{body}</svg>'


def draw(chart: Chart) -> Drawing:
    """The chart as SVG with text as text, and as PNG at 200 dots an inch."""
    import matplotlib as mpl

    # The salt makes the ids of clips and markers, which must differ between the charts of one page.
    with mpl.rc_context(SETTINGS | {"svg.hashsalt": chart.name}):
        figure = _draw_lines(chart) if isinstance(chart, LineChart) else _draw_bars(chart)
        files = []
        for form, metadata in (("svg", {"Date": None}), ("png", {"Software": None})):
            out = io.BytesIO()
            figure.savefig(out, format=form, metadata=metadata, dpi=200)
            figure.set_layout_engine("none")  # the first drawing has placed everything; doing it again takes as long
            files.append(out.getvalue())
    return Drawing(*files)


def _slim(tag: str) -> str:
    """A tag of matplotlib's SVG as the page needs it."""
    tag = re.sub(r'^<g id="[^"]*"', "<g", " ".join(tag.split()))  # ids of groups: the same in every chart
    tag = re.sub(r'(?: ?font-family: [^;]*;)|(?: transform="rotate\(-0 [^)]*\)")', "", tag)
    tag = re.sub(r"-?\d+\.\d{3,}", lambda value: f"{float(value.group()):.1f}".removesuffix(".0"), tag)
    tag = re.sub(r"#[0-9a-f]{6}", lambda c: f"var(--{VARIABLES[c.group()]})" if c.group() in VARIABLES else c[0], tag)
    tag = re.sub(r"stroke-line(?:join|cap): \w+(; )?|stroke-dashoffset: 0; |text-anchor: start; ", "", tag)
    return tag.replace("xlink:href", "href").replace("; ", ";").replace(": ", ":").replace(' style=""', "")


def _figure(chart: Chart, height: float, entries: int) -> tuple[Figure, Axes]:
    """A figure with axes of this height (inches), a title above them, and room for a key of so many lines below."""
    from matplotlib.figure import Figure

    title = textwrap.fill(chart.title, TITLE)
    lines = title.count("\n") + 1
    figure = Figure(figsize=(WIDTH, height + 0.16 * (entries + lines)), layout="constrained")
    figure.suptitle(title, x=0.02, ha="left", fontsize=9.5, fontweight="bold")
    return figure, figure.add_subplot()


def _draw_lines(chart: LineChart) -> Figure:
    from matplotlib.ticker import MaxNLocator

    keyed: tuple[Series | Band | Dots | Level, ...] = (*chart.bands, *chart.series, *chart.dots, *chart.levels)
    keys = {entry.label: textwrap.fill(entry.label, LABEL) for entry in keyed}
    figure, axes = _figure(chart, 2.1, sum(key.count("\n") + 1 for key in keys.values()))
    for band in chart.bands:
        x, low, high = zip(*band.points, strict=True)
        axes.fill_between(x, low, high, color=SOFT, alpha=0.25, linewidth=0, clip_on=False, label=keys[band.label])
    for s in chart.series:
        look = s.style % len(COLOURS)
        if len(s.band) > 1:
            x, low, high = zip(*s.band, strict=True)
            axes.fill_between(x, low, high, color=COLOURS[look], alpha=0.16, linewidth=0, clip_on=False)
        every = -(-len(s.points) // 16)  # few enough markers to tell them apart; always one on the last point
        axes.plot(*zip(*s.points, strict=True), color=COLOURS[look], linestyle=DASHES[look], label=keys[s.label],
                  marker=MARKERS[look], markersize=4.5, markevery=((len(s.points) - 1) % every, every),
                  clip_on=False)  # fmt: skip
    for dots in chart.dots:
        axes.plot(
            *zip(*dots.points, strict=True),
            "o",
            color=SOFT,
            fillstyle="none",
            markeredgewidth=1,
            label=keys[dots.label],
        )
    for level, dash in zip(chart.levels, cycle(LEVEL_DASHES), strict=False):
        axes.axhline(level.value, clip_on=False, color=SOFT, linestyle=dash, linewidth=1, label=keys[level.label])
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if chart.ticks:
        axes.set_xscale("log")
        axes.set_xticks([x for x, _ in chart.ticks], [label for _, label in chart.ticks])
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.set_ylim(*chart.limits or (None, None))
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.grid(axis="y", color=RULE, linewidth=0.6, clip_on=False)
    figure.legend(frameon=False, fontsize=8, loc="outside lower left")
    return figure


def _draw_bars(chart: BarChart) -> Figure:
    from matplotlib.ticker import MaxNLocator

    rows, many = list(chart.shown or range(len(chart.rows))), len(chart.series)
    names = [textwrap.shorten(chart.rows[r], NAME, placeholder="...") for r in rows]
    above = max(map(len, names)) > LONG_NAME  # beside long names there would be no room for bars
    pitch = many + above + 0.5  # of rows, in bars
    figure, axes = _figure(chart, 0.55 + 0.13 * pitch * len(rows), many if many > 1 else 0)
    for k, s in enumerate(chart.series):
        look = s.style % len(COLOURS)
        values = [s.values[r] for r in rows]
        bars = axes.barh(
            [at * pitch + above + k for at in range(len(rows))], [v or 0.0 for v in values], 0.85, label=s.label,
            hatch=HATCHES[look], color=PAPER if HATCHES[look] else COLOURS[look], edgecolor=COLOURS[look],
        )  # fmt: skip
        form = "{:+.2f}" if chart.signed else "{:.1f}"
        axes.bar_label(bars, ["" if v is None else form.format(v) for v in values], padding=3, fontsize=8)
    if above:
        axes.set_yticks([])
        for at, name in enumerate(names):
            axes.text(0.01, at * pitch, name, transform=axes.get_yaxis_transform(), va="center", fontsize=8)
    else:
        axes.set_yticks([at * pitch + (many - 1) / 2 for at in range(len(rows))], names)
    axes.set_ylim(len(rows) * pitch - 0.5, -0.8)
    first = [at * pitch + above - 0.5 for at in range(len(rows))]
    axes.vlines(
        [0] * len(rows), first, [y + many for y in first], color=SOFT, linewidth=0.8
    )  # zero, but not through the names
    if chart.signed:
        axes.margins(x=0.2)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    else:
        axes.set_xlim(0, 115)  # percent, and room for the number behind the longest bar
        axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(chart.x)
    if many > 1:
        figure.legend(frameon=False, fontsize=8, loc="outside lower left")
    return figure
