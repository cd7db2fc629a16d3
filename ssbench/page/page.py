"""The report as one HTML file that needs nothing else: no network, no other file, the same bytes for the same store.

Everything a record or table says is escaped by the template engine; the page's own policy (a `Content-Security-Policy`
in its head) lets a browser load nothing and run nothing but the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssbench import __version__
from ssbench.page import curves, facts
from ssbench.page.charts import Bars, Chart, Lines
from ssbench.page.charts_svg import Drawing, mark, placed, style
from ssbench.page.gallery import Gallery
from ssbench.page.runs import Group, Line, Runs
from ssbench.paths import PACKAGE
from ssbench.tables.cell import Cell, Filled
from ssbench.tables.claims import Claim
from ssbench.tables.verdict import SIGNS, WORDS

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = PACKAGE / "page"


@dataclass(frozen=True)
class Figure:
    """A chart with everything the page shows of it. key: (class, marker, label) of its series."""

    chart: Chart
    drawing: Drawing
    key: tuple[tuple[str, str, str], ...]
    heads: list[str]
    rows: list[list[str]]
    note: str = ""


@dataclass(frozen=True)
class Tile:
    """A number of the summary."""

    value: str
    label: str


@dataclass(frozen=True)
class Report:
    """What a report shows, before it is written. empty_tables: tables without a single result, shown as a list."""

    tables: tuple[Filled, ...]
    empty_tables: tuple[str, ...]
    runs: Runs
    galleries: tuple[Gallery, ...] = ()
    no_gallery: str = ""


@dataclass(frozen=True)
class Charts:
    """Every chart of a report: one of gains; the others by group of runs, where the group has what they show."""

    gains: Bars | None
    scores: tuple[tuple[Group, Lines], ...]
    classes: tuple[tuple[Group, Bars], ...]
    quality: tuple[tuple[Group, Lines], ...]
    losses: tuple[tuple[Group, tuple[Lines, ...]], ...]

    def __iter__(self) -> Iterator[Chart]:
        """All of them, in the order of the page."""
        yield from (self.gains,) if self.gains else ()
        yield from (chart for _, chart in self.scores)
        yield from (chart for _, found in self.losses for chart in found)
        yield from (bars for _, bars in self.classes)
        yield from (chart for _, chart in self.quality)


def charts(groups: Sequence[Group]) -> Charts:
    """The charts of these runs; those that know more of pseudo-labels first, so that rows of three stay whole."""
    measured = sorted(((g, curves.quality_charts(g)) for g in groups), key=lambda pair: -len(pair[1]))
    return Charts(
        curves.gains_chart(groups),
        tuple((g, chart) for g in groups if (chart := curves.score_chart(g))),
        tuple((g, bars) for g in groups if (bars := curves.class_chart(g))),
        tuple((g, chart) for g, found in measured for chart in found),
        tuple((g, found) for g in groups if (found := tuple(curves.loss_charts(g)))),
    )


def html(report: Report, drawn: Charts) -> str:
    """The page; `drawn` are the charts of the report's runs."""
    lines = report.runs.lines
    places, letters = facts.environments(lines)
    script, sheet = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=_title(report),
            version=__version__,
            newest=max((run.record.finished for line in lines for run in line.runs), default=""),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            sheet=sheet,
            report=report,
            sections=_sections(report, drawn),
            tiles=tiles(report),
            standings=[facts.standing(filled) for filled in report.tables],
            caution=_caution(lines),
            tables=[(filled, _table(filled)) for filled in report.tables],
            gains=figure(drawn.gains, _shown_note(drawn.gains)) if drawn.gains else None,
            scores=[figure(chart, _band_note(group)) for group, chart in drawn.scores],
            losses=[(group.heading, [figure(chart) for chart in found]) for group, found in drawn.losses],
            classes=[figure(chart, _shown_note(chart)) for _, chart in drawn.classes],
            quality=[figure(chart) for _, chart in drawn.quality],
            unmeasured=_unmeasured(report.runs.groups),
            failed=facts.failures(report.runs.failed),
            provenance=[
                places,
                facts.splits_grid(lines),
                facts.runs_grid(lines, letters),
                facts.departures_grid(lines),
            ],
        )
    )


def figure(chart: Chart, note: str = "") -> Figure:
    """The chart placed, with its key and its numbers."""
    key = tuple((style(s.style), mark(s.style), s.label) for s in chart.series)
    return Figure(chart, placed(chart), key, *chart.table(), note)


def tiles(report: Report) -> list[Tile]:
    """The numbers on top."""
    cells = [c for f in report.tables for c in f.cells.values() if c.state not in ("quoted", "not printed")]
    states = Counter(c.state for c in cells)
    lines = report.runs.lines
    out = [Tile(f"{states['measured']} of {len(cells)}", "cells of the tables measured")] if cells else []
    verdicts = Counter(v.word for f in report.tables for v in f.verdicts.values())
    out += [Tile(str(verdicts[word]), f"{word} {SIGNS[word]}".strip()) for word in WORDS if verdicts[word]]
    out.append(Tile(str(sum(len(line.runs) for line in lines)), "runs done"))
    out.append(Tile(str(len(report.runs.failed)), "runs failed"))
    seeds = sorted({len(line.runs) for line in lines})
    if seeds:
        out.append(Tile(str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}", "seeds a recipe and split"))
    return out


def _sections(report: Report, drawn: Charts) -> list[tuple[str, str]]:
    """(id, name) of the sections the page has, in their order."""
    there = {
        "summary": ("Summary", True),
        "tables": ("Tables", bool(report.tables or report.empty_tables)),
        "curves": ("Learning curves", bool(drawn.scores or drawn.losses)),
        "classes": ("Classes", bool(drawn.classes)),
        "pseudo": ("Pseudo-labels", bool(drawn.quality)),
        "gallery": ("Gallery", True),
        "failed": ("Failed runs", True),
        "provenance": ("Provenance", True),
    }
    return [(id, name) for id, (name, shown) in there.items() if shown]


def _table(filled: Filled) -> Any:
    """The paper's layout with verdicts and states; what it says is escaped there."""
    from markupsafe import Markup

    from ssbench.tables.html import figure as table_figure

    return Markup(table_figure(filled))  # noqa: S704


def _title(report: Report) -> str:
    names = [filled.table.name for filled in report.tables]
    return f"Report: {', '.join(names) if 0 < len(names) <= 3 else f'{len(names)} tables' if names else 'runs'}"


def _caution(lines: Sequence[Line]) -> str:
    """What single seeds do not tell."""
    single = sum(len(line.runs) == 1 for line in lines)
    if not single:
        return ""
    which = "Every run here has" if single == len(lines) else f"{single} of {len(lines)} recipes and splits have"
    return f"{which} a single seed, so nothing says how far another would lie: small differences are no evidence."


def _band_note(group: Group) -> str:
    """Where the released logs stand, and what their sources say of them."""
    return "; ".join(dict.fromkeys(_log_source(claim, group.lines[0].cell) for claim in group.claims))


def _log_source(claim: Claim, cell: Cell | None) -> str:
    crop = f"crop {claim.crop}" if cell and None not in (cell.crop, claim.crop) and claim.crop != cell.crop else ""
    said = ", ".join(text for text in (crop, claim.note) if text)
    return f"{claim.source} ({said})" if said else claim.source


def _shown_note(chart: Bars) -> str:
    if not chart.shown:
        return ""
    what = "with the largest gains or losses" if chart.signed else "whose scores lie furthest apart"
    return f"The {len(chart.shown)} of {len(chart.rows)} {what}; the numbers have all."


def _unmeasured(groups: Sequence[Group]) -> list[str]:
    """What is missing of the quality of pseudo-labels, why, and of which runs."""
    why = {
        "precision and recall": "No precision and no recall: these records are older than their measurement; "
        "runs done from now on have them.",
        "everything": "Nothing was recorded about pseudo-labels.",
    }
    learners = [g for g in groups if g.lines[0].method != "supervised"]
    found = {what: [g.heading for g in learners if curves.unmeasured(g) == what] for what in why}
    return [f"{why[what]} ({'; '.join(names)})" for what, names in found.items() if names]


def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.filters["anchor"] = _anchor
    return env


def _anchor(text: Any) -> str:
    """An id made of letters, digits and dashes."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in str(text))
