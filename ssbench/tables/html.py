"""A filled table as HTML: one figure with a captioned table that a screen reader can walk; no script, no network."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import groupby
from typing import TYPE_CHECKING

from ssbench.tables.cell import Filled
from ssbench.tables.claims import Claim
from ssbench.tables.layout import BodyLine, column_groups, footer, heading, legend, lines

if TYPE_CHECKING:
    from jinja2 import Template

FIGURE = """\
<figure class="ssbench" id="{{ id }}">
<table>
<caption>{{ heading }}<br><small>{{ legend }}</small></caption>
<thead>
{% if groups %}<tr><td></td>
{%- for name, span in groups %}{% if name %}<th scope="colgroup" colspan="{{ span }}">{{ name }}</th>
{%- else %}<td colspan="{{ span }}"></td>{% endif %}{% endfor %}<td></td></tr>
{% endif %}<tr><td></td>
{%- for column in columns %}<th scope="col">{{ column }}</th>{% endfor %}<th scope="col">state</th></tr>
</thead>
{% for title, body in blocks %}<tbody>
{% if title %}<tr><th scope="rowgroup" colspan="{{ columns | length + 2 }}">{{ title }}</th></tr>
{% endif %}{% for line in body %}<tr class="{{ line.kind }}"><th scope="row">{{ line.label.strip() }}</th>
{%- for cell in line.cells %}<td{% if cell.state %} data-state="{{ cell.state }}"{% endif %}>
{%- for text, font, rest in cell.pieces %}{% if not loop.first %}<br>{% endif %}
{%- if font == "bold" %}<strong>{{ text }}</strong>{% elif font %}<u>{{ text }}</u>{% else %}{{ text }}{% endif %}
{{- rest }}{% endfor %}</td>{% endfor %}<td>{{ line.state }}</td></tr>
{% endfor %}</tbody>
{% endfor %}</table>
<figcaption>
{% for note in notes %}<p>{{ note }}</p>
{% endfor %}</figcaption>
</figure>
"""
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ heading }}</title>
<style>
:root { color-scheme: light dark; font: 1rem/1.4 system-ui, sans-serif; }
figure { margin: 1rem; overflow-x: auto; }
table { border-collapse: collapse; border-block: 2px solid; }
caption { text-align: start; font-weight: bold; padding-block-end: .5rem; }
small, figcaption { font-weight: normal; font-size: .85rem; }
th, td { padding: .15rem .6rem; text-align: end; vertical-align: top; white-space: nowrap; }
td { font-variant-numeric: tabular-nums; }
tbody th, thead tr:last-child > :first-child { text-align: start; font-weight: normal; }
tbody td:last-child, thead tr:last-child > :last-child { text-align: start; }
thead th[colspan] { text-align: center; border-block-end: 1px solid; }
thead tr:last-child > *, tbody + tbody > tr:first-child > * { border-block-end: 1px solid; }
tbody + tbody > tr:first-child > * { border-block: 1px solid; }
th[scope=rowgroup] { font-style: italic; }
.gain, .claim { font-size: .85rem; font-style: italic; }
.gain th[scope=row], .claim th[scope=row] { padding-inline-start: 1.6rem; }
figcaption p { margin: .2rem 0; max-width: 60rem; }
</style>
</head>
<body>
{{ figure }}</body>
</html>
"""


def document(filled: Filled, claims: Sequence[Claim] | None = None) -> str:
    """A page that holds nothing but the table's figure."""
    from markupsafe import Markup

    return _template(PAGE).render(heading=heading(filled.table), figure=Markup(figure(filled, claims)))  # noqa: S704  escaped there


def figure(filled: Filled, claims: Sequence[Claim] | None = None) -> str:
    """A `figure` element for any page: caption, column and row headings with their scope, notes below."""
    table = filled.table
    return _template(FIGURE).render(
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
def _template(text: str) -> Template:
    from jinja2 import Environment, StrictUndefined

    return Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True).from_string(text)
