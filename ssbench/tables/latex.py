"""A filled table as LaTeX, in the paper's layout. Needs the package booktabs and nothing else."""

from __future__ import annotations

import re

from ssbench.tables.cell import Filled
from ssbench.tables.layout import DASH, BodyLine, CellText, column_groups, footer, legend, lines
from ssbench.tables.spec import PaperTable

SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$",
    "Δ": r"$\Delta$", "α": r"$\alpha$", "κ": r"$\kappa$", "ψ": r"$\psi$", "τ": r"$\tau$", "∩": r"$\cap$",
    "≥": r"$\geq$", "≤": r"$\leq$", "≈": r"$\approx$", "×": r"$\times$", "✓": r"$\surd$", "▼": r"$\bigtriangledown$",
    "▲": r"$\bigtriangleup$", "†": r"\dag{}", "‡": r"\ddag{}", "§": r"\S{}", "¶": r"\P{}", "−": "$-$", "–": "--",
}  # fmt: skip
_NEGATIVE = re.compile(r"(?<![\w.])-(?=\d)")


def document(filled: Filled) -> str:
    """A `table` environment: caption, label, booktabs rules, multi-column headings, footnotes below.

    Where nothing is measured it holds what the paper prints, and only that.
    """
    table, width = filled.table, len(filled.table.columns) + 1
    body = [_line(line, width, first=not i) for i, line in enumerate(lines(filled))]
    name = table.name.replace("/", "-")
    explained = f" {escape(legend(filled))}." if any(c.scores for c in filled.cells.values()) else ""
    out = [
        f"% {escape(table.name)}; needs \\usepackage{{booktabs}}",
        r"\begin{table}",
        r"\centering",
        f"\\caption{{{escape(table.title)}.{explained}}}",
        f"\\label{{tab:{name}}}",
        f"\\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        r"\toprule",
        *_headings(table),
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        *(f"\\par\\footnotesize {escape(note)}" for note in footer(filled)),
        r"\end{table}",
    ]
    return "\n".join(out) + "\n"


def escape(text: str) -> str:
    """Text as LaTeX sets it; a minus sign before a number."""
    text = text.replace(">=", "≥").replace("<=", "≤")
    safe = "".join(SPECIAL.get(letter, letter) for letter in text)
    return _NEGATIVE.sub("$-$", safe)


def _headings(table: PaperTable) -> list[str]:
    """The column headings, below their groups where there are any."""
    out, first = [], 2  # column 1 holds the row labels
    if groups := column_groups(table):
        spans = [f"\\multicolumn{{{n}}}{{c}}{{{escape(name)}}}" for name, n in groups]
        out.append(f" & {' & '.join(spans)} \\\\")
        rules = []
        for name, n in groups:
            rules += [f"\\cmidrule(lr){{{first}-{first + n - 1}}}"] if name else []
            first += n
        out.append(" ".join(rules))
    return [*out, f" & {' & '.join(escape(c.label) for c in table.columns)} \\\\"]


def _line(line: BodyLine, width: int, first: bool) -> str:
    if line.kind == "group":
        rule = "" if first else "\\midrule\n"
        return f"{rule}\\multicolumn{{{width}}}{{l}}{{\\textit{{{escape(line.label)}}}}} \\\\"
    indent = r"\quad " if line.label.startswith(" ") else ""
    return f"{indent}{escape(line.label.strip())} & {' & '.join(map(_cell, line.cells))} \\\\"


def _cell(cell: CellText) -> str:
    if cell.text == DASH:
        return "--"
    commands = {"bold": r"\textbf{%s}", "underline": r"\underline{%s}", "": "%s"}
    return " $|$ ".join(commands[font] % escape(text) + escape(rest) for text, font, rest in cell.pieces)
