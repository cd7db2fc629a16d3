"""A filled table line by line, as every format shows it: group headings, rows, gains, claims, footnotes."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count, groupby

from ssbench.tables import verdict as verdicts
from ssbench.tables.cell import Cell, Filled, Gain
from ssbench.tables.claims import KINDS, Claim, claims_for
from ssbench.tables.ranks import Mark, Marks, emphasis
from ssbench.tables.spec import Column, PaperTable, Row
from ssbench.tables.states import row_state

SIGNS = "†‡§¶"
DASH = "-"


@dataclass(frozen=True)
class Entry:
    """One place of the body: the printed number, the measured one, and what stands there when both are missing.

    rest: what follows the measured mean and is never in bold: deviation, seeds, signs, difference.
    """

    printed: str = ""
    measured: str = ""
    rest: str = ""
    blank: str = ""
    marks: Marks = Marks()
    state: str = ""

    @property
    def text(self) -> str:
        """printed | measured, without bold."""
        return " | ".join(t for t in (self.printed, self.measured + self.rest) if t) or self.blank

    @property
    def pieces(self) -> list[tuple[str, Mark, str]]:
        """(number, how it is set, what follows it) of what stands here."""
        both = ((self.printed, self.marks.printed, ""), (self.measured, self.marks.measured, self.rest))
        return [piece for piece in both if piece[0]] or [(self.blank, "", "")]


@dataclass(frozen=True)
class Line:
    """One line of the body: a heading over rows ("group"), a "row", the gains of a row ("gain"), or "claim"s."""

    kind: str
    label: str
    entries: tuple[Entry, ...] = ()
    state: str = ""

    @property
    def texts(self) -> tuple[str, ...]:
        """The entries as plain text."""
        return tuple(entry.text for entry in self.entries)


def lines(filled: Filled, claims: Sequence[Claim] | None = None) -> Iterator[Line]:
    """The body of the table; below each row its gains, and its claims where they are given."""
    table, group, signs, marks = filled.table, None, _signs(filled), emphasis(filled)
    for row in table.rows:
        if row.group != group:
            group = row.group
            yield Line("group", group or "")
        cells = [filled.cells.get((row.id, c.id)) for c in table.columns]
        entries = tuple(_entry(filled, cell, signs, marks) for cell in cells)
        yield Line("row", label(row), entries, row_state(filled, [c for c in cells if c is not None]))
        yield from _gain_lines(filled, row)
        yield from _claim_lines(cells, claims or ())
    if table.mean_gains:
        yield _plain_line("mean Δ", [_mean_gain(filled, c) for c in table.columns])


def heading(table: PaperTable) -> str:
    """Name, title and metric."""
    metric = {"miou": "mIoU, %", "dice": "Dice, %"}.get(table.metric, table.metric.replace("_", " "))
    return f"{table.name}: {table.title} ({metric})"


def legend(filled: Filled, between: str = " | ") -> str:
    """What the numbers of a cell are; `between`: what stands between printed and measured."""
    if any(c.printed is not None for c in filled.cells.values()):
        measured = "measured mean ± sd (seeds), measured - printed"
        return f"printed{between}{measured}; Δ: gains, paired by seed, ± standard error"
    return "measured mean ± sd (seeds); Δ: gains, paired by seed, ± standard error"


def label(row: Row) -> str:
    """A row's name with venue and footnote letters."""
    venue = f" [{row.venue}]" if row.venue else ""
    return row.label + venue + "".join(f" {note})" for note in row.notes)


def head(column: Column, sep: str = " ") -> str:
    """A column's name with the heading above it."""
    return f"{column.group}{sep}{column.label}" if column.group else column.label


def column_groups(table: PaperTable) -> list[tuple[str, int]]:
    """(heading, columns below it) from left to right; "" over columns without one. Empty where no column has one."""
    groups = [(name or "", len([*members])) for name, members in groupby(table.columns, key=lambda c: c.group)]
    return groups if any(name for name, _ in groups) else []


def footer(filled: Filled, claims: Sequence[Claim] | None = None) -> list[str]:
    """Caption, notes, what marks and verdict signs mean, failures, which results were left out, sources of claims."""
    table, cells = filled.table, filled.cells.values()
    out = [table.caption.strip()] if table.caption.strip() else []
    out += [f"{letter}) {text.strip()}" for letter, text in table.notes.items()]
    out += [f"{sign} {mark}" for mark, sign in _signs(filled).items()]
    out += _verdict_legend(filled)
    labels = {r.id: r.label for r in table.rows} | {c.id: head(c) for c in table.columns}
    out += [f"failed: {labels[c.row]}, {labels[c.column]}: {c.why}" for c in cells if c.why]
    left = Counter[str]()
    for place in {(c.stored, c.split, c.metric): c for c in cells}.values():
        left.update(dict(place.left_out))
    if left:
        out.append("not counted: " + ", ".join(f"{n} x {reason}" for reason, n in sorted(left.items())))
    return out + _sources([c for cell in cells for c in _others(cell, claims or ())])


def _verdict_legend(filled: Filled) -> list[str]:
    found = Counter(v.word for v in filled.verdicts.values())
    counted = ", ".join(f"{verdicts.SIGNS[w]} {found[w]} {w}".strip() for w in verdicts.WORDS if found[w])
    return [f"against the printed numbers, 95 % by the spread between seeds: {counted}"] if counted else []


def _signs(filled: Filled) -> dict[str, str]:
    """Mark -> sign, for the marks that occur, always in the same order: †, ‡, §, ¶, ††, ..."""
    found = sorted({m for c in filled.cells.values() for m in c.said})
    signs = (sign * times for times in count(1) for sign in SIGNS)
    return dict(zip(found, signs, strict=False))


def _entry(
    filled: Filled, cell: Cell | None, signs: Mapping[str, str], marks: Mapping[tuple[str, str], Marks]
) -> Entry:
    """A cell's numbers; a state where neither stands."""
    if cell is None:
        return Entry(blank=DASH)
    where = (cell.row, cell.column)
    printed = f"{cell.printed:{'+' if cell.metric == 'miou_gain' else ''}}" if cell.printed is not None else ""
    blank = DASH if cell.dash or cell.state == "quoted" else cell.state
    if cell.mean is None:
        waiting = cell.state if cell.state in ("running", "failed") else ""
        return Entry(printed, waiting, "", blank, Marks(marks[where].printed), cell.state)
    rest = _spread(cell.sd, cell.n) + "".join(signs[m] for m in cell.said)
    if cell.difference is not None:
        rest += f", {cell.difference:+.2f} {verdicts.SIGNS[filled.verdicts[where].word]}".rstrip()
    return Entry(printed, f"{cell.mean:.2f}", rest, blank, marks[where], cell.state)


def _spread(sd: float | None, n: int) -> str:
    return f" ({n})" if sd is None else f" ± {sd:.2f} ({n})"


def _plain_line(text: str, texts: Sequence[str], kind: str = "gain") -> Line:
    return Line(kind, text, tuple(Entry(blank=t) for t in texts))


def _gain_lines(filled: Filled, row: Row) -> Iterator[Line]:
    """Gains over another row, then gains over other columns; none where there is nothing to show."""
    columns = filled.table.columns
    if over := next((r for r in filled.table.rows if r.id == row.gain_over), None):
        texts = [_gain_text(filled.gain(row.id, c.id, over.id, c.id)) for c in columns]
        if any(texts):
            yield _plain_line(f"  Δ over {over.label}", texts)
    texts = [_gain_text(filled.gain(row.id, c.id, row.id, c.gain_over)) if c.gain_over else "" for c in columns]
    if any(texts):
        yield _plain_line("  Δ over " + _over_columns(filled.table), texts)


def _over_columns(table: PaperTable) -> str:
    names = {c.id: c.label for c in table.columns}
    return ", ".join(dict.fromkeys(names[c.gain_over] for c in table.columns if c.gain_over))


def _gain_text(gain: Gain) -> str:
    printed = f"{gain.printed:+}" if gain.printed is not None else ""
    if not gain.pairs:
        return printed
    measured = f"{statistics.fmean(gain.pairs):+.2f}" + _spread(gain.error, len(gain.pairs))
    return f"{printed} | {measured}" if printed else measured


def _mean_gain(filled: Filled, column: Column) -> str:
    """Mean over rows of a column's gains; the measured one only where every row has it."""
    if not column.gain_over:
        return ""
    gains = [filled.gain(r.id, column.id, r.id, column.gain_over) for r in filled.table.rows]
    printed = [g.printed for g in gains if g.printed is not None]
    text = f"{sum(printed, Decimal()) / len(printed):+.2f}" if printed else ""
    if all(g.pairs for g in gains):
        text += f" | {statistics.fmean(statistics.fmean(g.pairs) for g in gains):+.2f}"
    return text


def _others(cell: Cell | None, claims: Sequence[Claim]) -> list[Claim]:
    """Claims about a cell besides the number its table prints."""
    found = claims_for(cell, claims) if cell is not None and claims else ()
    return [c for c in found if c.source != "this table"]


def _claim_lines(cells: Sequence[Cell | None], claims: Sequence[Claim]) -> Iterator[Line]:
    """One line a kind of claim."""
    told = [_others(cell, claims) for cell in cells]
    for kind in KINDS:
        texts = [
            ", ".join(_claimed(c, cell) for c in found if c.kind == kind)
            for cell, found in zip(cells, told, strict=True)
        ]
        if any(texts):
            yield _plain_line(f"  {'another paper' if kind == 'paper' else kind}", texts, "claim")


def _claimed(claim: Claim, cell: Cell | None) -> str:
    """The value, with its crop where the cell has another one."""
    other = cell is not None and None not in (cell.crop, claim.crop) and claim.crop != cell.crop
    return f"{claim.value} at {claim.crop}" if other else str(claim.value)


def _sources(claims: Sequence[Claim]) -> list[str]:
    """One line a kind: where its claims stand, and what their sources say."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for claim in claims:
        source = claim.source.partition(": ")[0] if claim.kind == "log" else claim.source
        found[claim.kind][f"{source} ({claim.note})" if claim.note else source] = None
    return [f"{kind}: {'; '.join(found[kind])}" for kind in KINDS if kind in found]
