"""A filled table line by line, as every format shows it: group headings, rows, gains, claims, footnotes.

Also worked out here, once for all formats: which numbers are bold or underlined, and the state of a row in words.
"""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count, groupby
from typing import Literal

from ssbench.tables import verdict as verdicts
from ssbench.tables.cell import CUSTOM, NO_RUN, Cell, CellKey, Filled, Gain
from ssbench.tables.claims import KINDS, Claim, claims_for
from ssbench.tables.level import LEVELS
from ssbench.tables.spec import PaperTable, TableColumn, TableRow

FOOTNOTE_SIGNS = "†‡§¶"
DASH = "-"
SILENT = ("not run", *NO_RUN)  # states that a cell with a printed number does not show itself
CLAIMED = ("claimed by a log", "checkpoint re-scored")
Font = Literal["", "bold", "underline"]


@dataclass(frozen=True)
class CellFonts:
    """How the two numbers of a cell are set."""

    printed: Font = ""
    measured: Font = ""


@dataclass(frozen=True)
class CellText:
    """One place of the body: the printed number, the measured one, and what stands there when both are missing.

    rest: what follows the measured mean and is never in bold: deviation, seeds, signs, difference.
    """

    printed: str = ""
    measured: str = ""
    rest: str = ""
    blank: str = ""
    fonts: CellFonts = CellFonts()
    state: str = ""
    level: str = ""

    @property
    def text(self) -> str:
        """printed | measured, without bold."""
        return " | ".join(t for t in (self.printed, self.measured + self.rest) if t) or self.blank

    @property
    def pieces(self) -> list[tuple[str, Font, str]]:
        """(number, how it is set, what follows it) of what stands here."""
        both = ((self.printed, self.fonts.printed, ""), (self.measured, self.fonts.measured, self.rest))
        return [piece for piece in both if piece[0]] or [(self.blank, "", "")]


@dataclass(frozen=True)
class BodyLine:
    """One line of the body: a heading over rows ("group"), a "row", the gains of a row ("gain"), or "claim"s."""

    kind: str
    label: str
    cells: tuple[CellText, ...] = ()
    state: str = ""


def lines(filled: Filled, claims: Sequence[Claim] | None = None) -> Iterator[BodyLine]:
    """The body of the table; below each row its gains, and its claims where they are given."""
    table, group, signs, fonts = filled.table, None, _footnote_signs(filled), emphasis(filled)
    for row in table.rows:
        if row.group != group:
            group = row.group
            yield BodyLine("group", group or "")
        cells = [filled.cells.get((row.id, c.id)) for c in table.columns]
        texts = tuple(_cell_text(filled, cell, signs, fonts) for cell in cells)
        yield BodyLine("row", _row_label(row), texts, row_state(filled, [c for c in cells if c is not None]))
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


def column_label(column: TableColumn) -> str:
    """A column's name with the heading above it."""
    return f"{column.group} {column.label}" if column.group else column.label


def column_groups(table: PaperTable) -> list[tuple[str, int]]:
    """(heading, columns below it) from left to right; "" over columns without one. Empty where no column has one."""
    groups = [(name or "", len([*members])) for name, members in groupby(table.columns, key=lambda c: c.group)]
    return groups if any(name for name, _ in groups) else []


def footer(filled: Filled, claims: Sequence[Claim] | None = None) -> list[str]:
    """Caption, notes, what marks and verdict signs mean, failures, which results were left out, sources of claims."""
    table, cells = filled.table, filled.cells.values()
    out = [table.caption.strip()] if table.caption.strip() else []
    out += [f"{letter}) {text.strip()}" for letter, text in table.notes.items()]
    out += [f"{sign} {remark}" for remark, sign in _footnote_signs(filled).items()]
    words = Counter(verdict.word for verdict in filled.verdicts.values())
    if counted := ", ".join(f"{verdicts.SIGNS[w]} {words[w]} {w}".strip() for w in verdicts.WORDS if words[w]):
        out.append(f"against the printed numbers, 95 % by the spread between seeds: {counted}")
    labels = {r.id: r.label for r in table.rows} | {c.id: column_label(c) for c in table.columns}
    out += _level_notes(filled)
    out += [f"failed: {labels[c.row]}, {labels[c.column]}: {c.why}" for c in cells if c.why]
    versions = {labels[c.row]: ", ".join(f"{part} {n}" for part, n in c.versions) for c in cells if c.versions}
    if versions:
        out.append("behaviour versions above 1: " + "; ".join(f"{row}: {parts}" for row, parts in versions.items()))
    left_out = Counter[str]()
    for cell in {(c.stored, c.split, c.metric): c for c in cells}.values():
        left_out.update(dict(cell.left_out))
    if left_out:
        out.append("not counted: " + ", ".join(f"{n} x {reason}" for reason, n in sorted(left_out.items())))
    return out + _claim_sources([claim for cell in cells for claim in _foreign_claims(cell, claims or ())])


def _level_notes(filled: Filled) -> list[str]:
    """How many cells are of each reproduction level, in one line; the cells that claims back are named.

    The other levels can be read from a cell itself: seeds stand in brackets, a printed number alone is quoted.
    """
    texts = []
    for level in reversed(LEVELS):
        cells = [cell for cell in filled.cells.values() if cell.level == level]
        if cells:
            texts.append(f"{len(cells)} {level}" + (f" ({_named(filled, cells)})" if level in CLAIMED else ""))
    return [f"levels: {', '.join(texts)}"] if texts else []


def _named(filled: Filled, cells: Sequence[Cell]) -> str:
    """Rows and columns of some cells: "UniMatch: Classic 1/16, 1/8; AugSeg (ResNet-50): Blender".

    A row's group is named where rows of several groups share its label.
    """
    rows, by_row = filled.table.rows, defaultdict[str, list[Cell]](list)
    repeated = {label for label, n in Counter(row.label for row in rows).items() if n > 1}
    labels = {r.id: f"{r.label} ({r.group})" if r.group and r.label in repeated else r.label for r in rows}
    for cell in cells:
        by_row[cell.row].append(cell)
    return "; ".join(f"{labels[row]}: {_columns_of(filled.table, members)}" for row, members in by_row.items())


def emphasis(filled: Filled) -> dict[CellKey, CellFonts]:
    """Bold and underlined numbers by the paper's own rule (`spec.EmphasisRule`), printed and measured ones apart.

    Ranked are numbers of one metric, measured ones only among those on lists of one family; equal numbers rank
    equally; a number alone in its field is not set apart. A measured number is the best, or the second, only where its
    lead is more than the spread of seeds explains: of single seeds that lie close together none is in bold.
    """
    printed = {key: float(c.printed) for key, c in filled.cells.items() if c.printed is not None}
    measured = {key: round(c.mean, 2) for key, c in filled.cells.items() if c.mean is not None}
    first, second = _fonts(filled, printed, measured=False), _fonts(filled, measured, measured=True)
    return {key: CellFonts(first.get(key, ""), second.get(key, "")) for key in filled.cells}


def _fonts(filled: Filled, numbers: Mapping[CellKey, float], measured: bool) -> dict[CellKey, Font]:
    rule, repeated = filled.table.emphasis, verdicts.repeated_cells(filled.cells)

    def leads(key: CellKey, below: Sequence[CellKey]) -> bool:
        """Whether a number stands above those of lower rank beyond doubt; printed ones always do."""
        return not measured or all(verdicts.is_ahead(filled.cells[key], filled.cells[k], repeated) for k in below)

    fonts: dict[CellKey, Font] = {}
    for keys in _ranked_fields(filled, numbers, measured):
        ranks = sorted({numbers[key] for key in keys}, reverse=True)
        first, second = ([key for key in keys if ranks[i : i + 1] == [numbers[key]]] for i in (0, 1))
        lower = [key for key in keys if key not in first]
        are_best = len(keys) > 1 and all(leads(key, lower) for key in first)
        if rule.bold == "best" and are_best:
            fonts |= dict.fromkeys(first, "bold")
        last = [key for key in lower if key not in second]
        if rule.underline == "second" and are_best and all(leads(key, last) for key in second):
            fonts |= dict.fromkeys(second, "underline")
    if rule.bold == "plugin":
        fonts |= {key: "bold" for key in numbers if filled.cells[key].plugin}
    return fonts


def _ranked_fields(filled: Filled, keys: Iterable[CellKey], by_family: bool) -> Iterable[list[CellKey]]:
    """The cells whose numbers are ranked against each other; `by_family`: apart by split family."""
    rows = {r.id: r for r in filled.table.rows}
    columns = {c.id: c for c in filled.table.columns}
    fields: dict[Hashable, list[CellKey]] = defaultdict(list)
    for key in keys:
        cell, row, column = filled.cells[key], rows[key[0]], columns[key[1]]
        field = {
            "row": row.id,
            "block": (row.group, column.group),
            "group": (column.id, row.group),
            "column": column.id,
        }[filled.table.emphasis.within]
        family = (cell.split or "").rpartition("/")[0], CUSTOM in cell.marks
        fields[cell.metric, field, family if by_family else None].append(key)
    return fields.values()


def row_state(filled: Filled, cells: Sequence[Cell]) -> str:
    """What the cells of a row are: "3 reproduced, 1 short by 1.20, 4 not run". Dashes do not count.

    Every cell's state can be told from it and the cell: where cells without a measured number are of two states, the
    columns of the rarer one are named.
    """
    by_word: dict[str, list[Cell]] = {}
    for cell in cells:
        if cell.state != "not printed":
            verdict = filled.verdicts.get((cell.row, cell.column))
            by_word.setdefault(verdict.word if verdict else cell.state, []).append(cell)
    if len(by_word) == 1:
        return "".join(_worst(filled, word, members) for word, members in by_word.items())
    shown = [word for word in by_word if word not in SILENT]
    silent = sorted((word for word in by_word if word in SILENT), key=lambda word: len(by_word[word]))
    named = [f"{_columns_of(filled.table, by_word[word])} {word}" for word in silent[:-1]]
    counted = [f"{len(by_word[word])} {_worst(filled, word, by_word[word])}" for word in [*shown, *silent[-1:]]]
    return ", ".join([*named, *counted])


def _worst(filled: Filled, word: str, cells: list[Cell]) -> str:
    """The word; for "short" and "better" with the largest difference."""
    if word not in ("short", "better"):
        return word
    by = max(abs(filled.verdicts[c.row, c.column].by) for c in cells)
    return f"{word} by {'up to ' if len(cells) > 1 else ''}{by:.2f}"


def _columns_of(table: PaperTable, cells: list[Cell]) -> str:
    """The columns of some cells; a group by its heading alone where all of it is meant."""
    ids, names = {c.column for c in cells}, []
    for group, members in groupby(table.columns, key=lambda column: column.group):
        columns = list(members)
        labels = [c.label for c in columns if c.id in ids]
        if labels:
            names.append(group if group and len(labels) == len(columns) else f"{group or ''} {', '.join(labels)}")
    return ", ".join(name.strip() for name in names)


def _row_label(row: TableRow) -> str:
    """A row's name with venue and footnote letters."""
    venue = f" [{row.venue}]" if row.venue else ""
    return row.label + venue + "".join(f" {note})" for note in row.notes)


def _footnote_signs(filled: Filled) -> dict[str, str]:
    """Remark -> sign, for the remarks that occur, always in the same order: †, ‡, §, ¶, ††, ..."""
    remarks = sorted({remark for cell in filled.cells.values() for remark in cell.remarks})
    signs = (sign * times for times in count(1) for sign in FOOTNOTE_SIGNS)
    return dict(zip(remarks, signs, strict=False))


def _cell_text(
    filled: Filled, cell: Cell | None, signs: Mapping[str, str], fonts: Mapping[CellKey, CellFonts]
) -> CellText:
    """A cell's numbers; a state where neither stands."""
    if cell is None:
        return CellText(blank=DASH)
    key = (cell.row, cell.column)
    printed = f"{cell.printed:{'+' if cell.metric == 'miou_gain' else ''}}" if cell.printed is not None else ""
    blank, level = DASH if cell.dash or cell.state == "quoted" else cell.state, cell.level or ""
    if cell.mean is None:
        waiting = cell.state if cell.state in ("running", "failed") else ""
        return CellText(printed, waiting, "", blank, CellFonts(fonts[key].printed), cell.state, level)
    rest = _spread(cell.sd, cell.n) + "".join(signs[remark] for remark in cell.remarks)
    if cell.difference is not None:
        rest += f", {cell.difference:+.2f} {verdicts.SIGNS[filled.verdicts[key].word]}".rstrip()
    return CellText(printed, f"{cell.mean:.2f}", rest, blank, fonts[key], cell.state, level)


def _spread(sd: float | None, n: int) -> str:
    return f" ({n})" if sd is None else f" ± {sd:.2f} ({n})"


def _plain_line(label: str, texts: Sequence[str], kind: str = "gain") -> BodyLine:
    return BodyLine(kind, label, tuple(CellText(blank=t) for t in texts))


def _gain_lines(filled: Filled, row: TableRow) -> Iterator[BodyLine]:
    """Gains over another row, then gains over other columns; none where there is nothing to show."""
    columns = filled.table.columns
    if over := next((r for r in filled.table.rows if r.id == row.gain_over), None):
        texts = [_gain_text(filled.gain(row.id, c.id, over.id, c.id)) for c in columns]
        if any(texts):
            yield _plain_line(f"  Δ over {over.label}", texts)
    texts = [_gain_text(filled.gain(row.id, c.id, row.id, c.gain_over)) if c.gain_over else "" for c in columns]
    if any(texts):
        names = {c.id: c.label for c in columns}
        yield _plain_line(
            "  Δ over " + ", ".join(dict.fromkeys(names[c.gain_over] for c in columns if c.gain_over)), texts
        )


def _gain_text(gain: Gain) -> str:
    printed = f"{gain.printed:+}" if gain.printed is not None else ""
    if not gain.pairs:
        return printed
    measured = f"{statistics.fmean(gain.pairs):+.2f}" + _spread(gain.error, len(gain.pairs))
    return f"{printed} | {measured}" if printed else measured


def _mean_gain(filled: Filled, column: TableColumn) -> str:
    """Mean over rows of a column's gains; the measured one only where every row has it."""
    if not column.gain_over:
        return ""
    gains = [filled.gain(r.id, column.id, r.id, column.gain_over) for r in filled.table.rows]
    printed = [g.printed for g in gains if g.printed is not None]
    text = f"{sum(printed, Decimal()) / len(printed):+.2f}" if printed else ""
    if all(g.pairs for g in gains):
        text += f" | {statistics.fmean(statistics.fmean(g.pairs) for g in gains):+.2f}"
    return text


def _foreign_claims(cell: Cell | None, claims: Sequence[Claim]) -> list[Claim]:
    """Claims about a cell besides the number its table prints."""
    about = claims_for(cell, claims) if cell is not None and claims else ()
    return [claim for claim in about if claim.source != "this table"]


def _claim_lines(cells: Sequence[Cell | None], claims: Sequence[Claim]) -> Iterator[BodyLine]:
    """One line a kind of claim."""
    by_cell = [(cell, _foreign_claims(cell, claims)) for cell in cells]
    for kind in KINDS:
        texts = [", ".join(_claim_text(c, cell) for c in about if c.kind == kind) for cell, about in by_cell]
        if any(texts):
            yield _plain_line(f"  {'another paper' if kind == 'paper' else kind}", texts, "claim")


def _claim_text(claim: Claim, cell: Cell | None) -> str:
    """The value, with its crop where the cell has another one."""
    differs = cell is not None and None not in (cell.crop, claim.crop) and claim.crop != cell.crop
    return f"{claim.value} at {claim.crop}" if differs else str(claim.value)


def _claim_sources(claims: Sequence[Claim]) -> list[str]:
    """One line a kind: where its claims stand, and what their sources say."""
    by_kind: dict[str, dict[str, None]] = defaultdict(dict)
    for claim in claims:
        source = claim.source.partition(": ")[0] if claim.kind == "log" else claim.source
        by_kind[claim.kind][f"{source} ({claim.note})" if claim.note else source] = None
    return [f"{kind}: {'; '.join(by_kind[kind])}" for kind in KINDS if kind in by_kind]
