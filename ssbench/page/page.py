"""The report as one HTML file that needs nothing else: no network, no other file, the same bytes for the same store.

Everything a record or table says is escaped by the template engine; the page's own policy (a `Content-Security-Policy`
in its head) lets a browser load nothing and run nothing but the page's own script.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssbench import __version__
from ssbench.page import curves, facts
from ssbench.page.charts import BarChart, Chart, LineChart
from ssbench.page.drawing import Drawing
from ssbench.page.label_curves import Count, label_curves
from ssbench.page.runs import Comparison, Experiment, ReportedRuns
from ssbench.page.scorings import scoring_chart
from ssbench.paths import PACKAGE
from ssbench.tables.cell import Filled
from ssbench.tables.claims import Claim
from ssbench.tables.verdict import SIGNS, WORDS

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

    from ssbench.page.gallery import Gallery  # loads torch, which a report without pictures does not need

TEMPLATES = PACKAGE / "page"
SECTIONS = {
    "summary": "Summary",
    "tables": "Tables",
    "curves": "Learning curves",
    "classes": "Classes",
    "pseudo": "Pseudo-labels",
    "gallery": "Gallery",
    "failed": "Failed runs",
    "provenance": "Provenance",
}


@dataclass(frozen=True)
class ReportContent:
    """What a report shows, before it is written. empty_tables: tables without a single result, shown as a list."""

    tables: tuple[Filled, ...]
    empty_tables: tuple[str, ...]
    runs: ReportedRuns
    galleries: tuple[Gallery, ...] = ()
    no_gallery: str = ""


@dataclass(frozen=True)
class ReportCharts:
    """Every chart of a report. gains: by name of the table, "" for those outside the tables; labels: by name of the
    table; the others by comparison, where it has what they show.
    """

    gains: Mapping[str, BarChart]
    labels: Mapping[str, tuple[LineChart, ...]]
    scores: tuple[tuple[Comparison, LineChart], ...]
    scorings: tuple[LineChart, ...]
    losses: tuple[tuple[Comparison, tuple[LineChart, ...]], ...]
    classes: tuple[BarChart, ...]
    quality: tuple[LineChart, ...]

    def __iter__(self) -> Iterator[Chart]:
        """All of them, in the order of the page."""
        yield from self.gains.values()
        yield from (chart for of_table in self.labels.values() for chart in of_table)
        yield from (chart for _, chart in self.scores)
        yield from self.scorings
        yield from (chart for _, of_terms in self.losses for chart in of_terms)
        yield from self.classes
        yield from self.quality


@dataclass(frozen=True)
class ChartPanel:
    """A chart as the page shows it: drawn, a note below it, and its numbers as a table."""

    name: str
    title: str
    svg: Markup
    heads: list[str]
    rows: list[list[str]]
    note: str


@dataclass(frozen=True)
class SummaryNumber:
    """A number on top of the page."""

    value: str
    label: str


def charts(tables: Sequence[Filled], groups: Sequence[Comparison], count: Count) -> ReportCharts:
    """The charts of these tables and runs. count: how many labelled images a split has."""
    gains = {filled.table.name: curves.table_gains(filled) for filled in tables}
    gains[""] = curves.other_gains(groups, tables)
    # Comparisons with precision and recall come first, so that the page's rows of three stay whole.
    measured = sorted(map(curves.quality_charts, groups), key=len, reverse=True)
    return ReportCharts(
        {name: chart for name, chart in gains.items() if chart},
        {filled.table.name: tuple(label_curves(filled, count)) for filled in tables},
        tuple((g, chart) for g in groups if (chart := curves.score_chart(g))),
        tuple(chart for g in groups if (chart := scoring_chart(g))),
        tuple((g, of_terms) for g in groups if (of_terms := tuple(curves.loss_charts(g)))),
        tuple(bars for g in groups if (bars := curves.class_chart(g))),
        tuple(chart for of_group in measured for chart in of_group),
    )


def html(report: ReportContent, charts: ReportCharts, drawings: Mapping[str, Drawing]) -> str:
    """The page. charts: of the report's tables and runs; drawings: each of them drawn, by its name."""
    from markupsafe import Markup

    def panel(chart: Chart, note: str = "") -> ChartPanel:
        svg = Markup(drawings[chart.name].inline(chart))  # noqa: S704  escaped by matplotlib
        return ChartPanel(chart.name, chart.title, svg, *chart.table(), note)

    experiments = report.runs.experiments
    environments, letters = facts.environments(experiments)
    script, sheet = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    gains = {name: panel(chart) for name, chart in charts.gains.items()}
    values: dict[str, Any] = {
        "title": _title(report),
        "version": __version__,
        "newest": max((run.record.finished for e in experiments for run in e.runs), default=""),
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "sheet": sheet,
        "report": report,
        "numbers": summary_numbers(report),
        "summaries": [facts.table_summary(filled) for filled in report.tables],
        "caution": _caution(experiments),
        "tables": [
            (name, _table(filled), gains.get(name), [panel(chart) for chart in charts.labels.get(name, ())])
            for filled in report.tables
            for name in [filled.table.name]
        ],
        "other_gains": gains.get(""),
        "scores": [panel(chart, _score_note(group)) for group, chart in charts.scores],
        "scorings": [panel(chart) for chart in charts.scorings],
        "losses": [(group.heading, [panel(chart) for chart in of_terms]) for group, of_terms in charts.losses],
        "classes": [panel(chart, _shown_note(chart)) for chart in charts.classes],
        "quality": [panel(chart) for chart in charts.quality],
        "unmeasured": _unmeasured(report.runs.comparisons),
        "failed": facts.failures(report.runs.failed),
        "provenance": [
            environments,
            facts.splits_table(experiments),
            facts.runs_table(experiments, letters),
            facts.departures_table(experiments),
        ],
    }
    empty = {
        "tables": not (report.tables or report.empty_tables or values["other_gains"]),
        "curves": not (charts.scores or charts.losses),
        "classes": not charts.classes,
        "pseudo": not charts.quality,
    }
    sections = [(id, name) for id, name in SECTIONS.items() if not empty.get(id)]
    return _templates().get_template("page.html").render(values, sections=sections)


def summary_numbers(report: ReportContent) -> list[SummaryNumber]:
    """The numbers on top."""
    cells = [c for f in report.tables for c in f.cells.values() if c.state not in ("quoted", "not printed")]
    experiments, numbers = report.runs.experiments, list[SummaryNumber]()
    if cells:
        measured = sum(c.state == "measured" for c in cells)
        numbers.append(SummaryNumber(f"{measured} of {len(cells)}", "cells of the tables measured"))
    verdicts = Counter(v.word for f in report.tables for v in f.verdicts.values())
    numbers += [SummaryNumber(str(verdicts[word]), f"{word} {SIGNS[word]}".strip()) for word in WORDS if verdicts[word]]
    numbers.append(SummaryNumber(str(sum(len(e.runs) for e in experiments)), "runs done"))
    numbers.append(SummaryNumber(str(len(report.runs.failed)), "runs failed"))
    if seeds := sorted({len(e.runs) for e in experiments}):
        several = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        numbers.append(SummaryNumber(several, "seeds a recipe and split"))
    return numbers


def _table(filled: Filled) -> Markup:
    """The paper's layout with verdicts and states, escaped there."""
    from markupsafe import Markup

    from ssbench.tables.html import figure

    return Markup(_marked_code(figure(filled)))  # noqa: S704


def _marked_code(escaped: str) -> str:
    """`ssbench demo` in a note, which is written for Markdown too, as a `code` element."""
    return re.sub(r"`([^`<>]+)`", r"<code>\1</code>", escaped)


def _title(report: ReportContent) -> str:
    names = [filled.table.name for filled in report.tables]
    return f"Report: {', '.join(names) if 0 < len(names) <= 3 else f'{len(names)} tables' if names else 'runs'}"


def _caution(experiments: Sequence[Experiment]) -> str:
    """A warning where scores rest on single seeds."""
    single = sum(len(e.runs) == 1 for e in experiments)
    if not single:
        return ""
    which = "Every run here has" if single == len(experiments) else f"{single} of {len(experiments)} experiments have"
    return f"{which} a single seed, which says nothing about the spread over seeds: small differences are no evidence."


def _score_note(group: Comparison) -> str:
    """The sources of the released logs of a chart, and which runs left their band."""
    outside = curves.outside_bands(group)
    left = f"Outside the band of released logs: {'; '.join(outside)}." if outside else ""
    return " ".join(text for text in (left, _log_sources(group)) if text)


def _log_sources(group: Comparison) -> str:
    """Where the released logs of a chart are from, and what their sources say of them."""
    return "; ".join(dict.fromkeys(_log_source(claim, group.base) for claim in group.claims))


def _log_source(claim: Claim, base: Experiment) -> str:
    ours = base.cell.crop if base.cell else None
    crop = f"crop {claim.crop}" if None not in (ours, claim.crop) and claim.crop != ours else ""
    remarks = ", ".join(text for text in (crop, claim.note) if text)
    return f"{claim.source} ({remarks})" if remarks else claim.source


def _shown_note(chart: BarChart) -> str:
    if not chart.shown:
        return ""
    return f"The {len(chart.shown)} of {len(chart.rows)} whose scores lie furthest apart; the numbers have all."


def _unmeasured(groups: Sequence[Comparison]) -> list[str]:
    """What is missing of the quality of pseudo-labels, why, and of which runs."""
    why = {
        "precision and recall": "No precision and no recall: these records are older than their measurement; "
        "runs done from now on have them.",
        "everything": "Nothing was recorded about pseudo-labels.",
    }
    learners = [g for g in groups if g.base.method != "supervised"]
    headings = {what: [g.heading for g in learners if curves.unmeasured(g) == what] for what in why}
    return [f"{why[what]} ({'; '.join(names)})" for what, names in headings.items() if names]


def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    env = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # An id made of letters, digits and dashes; and text with `code` marked.
    env.filters["anchor"] = lambda text: re.sub(r"[^A-Za-z0-9]", "-", str(text))
    env.filters["code"] = lambda text: Markup(_marked_code(str(escape(text))))  # noqa: S704
    return env
