"""A filled table as HTML: one figure with a captioned table that a screen reader can walk; no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from ssbench.tables.cell import Filled
from ssbench.tables.claims import Claim
from ssbench.tables.layout import BodyLine, column_groups, footer, heading, legend, lines

if TYPE_CHECKING:
    from jinja2 import Template


def document(filled: Filled, claims: Sequence[Claim] | None = None) -> str:
    """A page that holds nothing but the table's figure."""
    from markupsafe import Markup

    return _template("page.html").render(heading=heading(filled.table), figure=Markup(figure(filled, claims)))  # noqa: S704  escaped there


def figure(filled: Filled, claims: Sequence[Claim] | None = None) -> str:
    """A `figure` element for any page: caption, column and row headings with their scope, notes below."""
    table = filled.table
    return _template("figure.html").render(
        id=table.name.replace("/", "-"),
        heading=heading(table),
        legend=legend(filled, ", below it "),
        groups=column_groups(table),
        columns=[c.label for c in table.columns],
        blocks=_blocks(list(lines(filled, claims))),
        notes=footer(filled, claims),
    )


def _blocks(body: list[BodyLine]) -> list[tuple[str, list[BodyLine]]]:
    """(group heading, its lines), in order."""
    out: list[tuple[str, list[BodyLine]]] = []
    for is_group, members in groupby(body, key=lambda line: line.kind == "group"):
        group = list(members)
        if is_group:
            out += [(line.label, []) for line in group]
        elif out:
            out[-1][1].extend(group)
        else:
            out.append(("", group))
    return out


@cache
def _template(name: str) -> Template:
    """A template that stands beside this module."""
    from jinja2 import Environment, StrictUndefined

    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True).from_string(text)
