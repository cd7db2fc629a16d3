"""Is a printed number met? The rule behind the verdicts of `ssbench table`.

The printed number is taken as one run, and so as one draw from the same spread that our seeds have. With n seeds of
mean m and a printed p, the difference d = m - p then has the variance s^2 (1 + 1/n), and p is expected within

    noise = t s sqrt(1 + 1/n)        t: Student's two-sided 95 % quantile

of m: one cell in twenty falls outside by chance alone, so a table of forty reproduced cells has about two that do.

Few seeds tell little about s. A spread s0 therefore counts beside the cell's own seeds, as if PRIOR = 4 more degrees of
freedom had shown it (a moderated t-test: exact where the variances of cells scatter around s0^2 like an inverse
chi-square of 4 degrees of freedom, careful where they are all equal):

    s^2 = (4 s0^2 + sum of (score - m)^2) / (4 + n - 1),        t with 4 + n - 1 degrees of freedom.

s0 is pooled over the other cells of the table that have two seeds or more on the same dataset under the same metric, if
they have at least 4 degrees of freedom between them; else it is `SPREADS`, of which that for mIoU is measured (eight
times three training logs that UniMatch released) and those for Dice and for the IoU of one class are ours.

Verdicts: `reproduced`, the printed number is reached to its last digit, or missed by less than half of that, and not
exceeded beyond noise; `within noise`, below it, by no more than noise; `short` and `better`, below and above by more
than noise. `not compared` where the two must not be: other lists or another protocol (`Cell.apart`), or seeds that ran
under different settings, whose spread is not that of seeds. Other cells have no verdict but their state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ssbench.tables.cell import MIXED, Cell

Word = Literal["reproduced", "within noise", "short", "better", "not compared"]
WORDS: tuple[Word, ...] = ("reproduced", "within noise", "short", "better", "not compared")
SIGNS: dict[Word, str] = {"reproduced": "✓", "within noise": "≈", "short": "▼", "better": "▲", "not compared": ""}
PRIOR = 4
SPREADS = {
    "miou": 0.36,  # UniMatch's logs, ResNet-101 at 321: 8 splits x 3 repeats, pooled (16 degrees of freedom)
    "dice": 1.0,  # ours: nobody released repeats
    "iou": 1.5,  # ours: one class scatters more than the mean of 21
}
# Two-sided 95 % quantiles of Student's t for 1, 2, ... degrees of freedom: importing scipy.stats takes longer than
# reading ten thousand records, so a test compares these with it.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
       2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """How a measured mean stands to its printed number.

    by: measured minus printed, percent. noise: how far they may lie apart at 95 %. spread: s. source: of s0. All but
    the word are empty where nothing is compared.
    """

    word: Word
    by: float = math.nan
    noise: float = math.nan
    spread: float = math.nan
    source: str = ""

    @property
    def text(self) -> str:
        """The word; with the difference where it matters."""
        return f"{self.word} by {abs(self.by):.2f}" if self.word in ("short", "better") else self.word


def judge(cells: Mapping[tuple[str, str], Cell]) -> dict[tuple[str, str], Verdict]:
    """The verdicts of a table's cells, for those that are measured and printed."""
    pool = [(where, cell) for where, cell in cells.items() if cell.n > 1 and MIXED not in cell.marks]
    return {
        where: verdict(cell, *_prior(cell, [other for there, other in pool if there != where]))
        for where, cell in cells.items()
        if cell.scores and cell.printed is not None
    }


def verdict(cell: Cell, spread: float, source: str) -> Verdict:
    """The verdict of one measured and printed cell; `spread` is s0, percent."""
    difference = cell.difference
    if difference is None or MIXED in cell.marks or cell.printed is None:
        return Verdict("not compared")
    s, noise = _noise(cell, spread)
    half_digit = 0.5 * 10.0 ** int(cell.printed.as_tuple().exponent)
    return Verdict(_word(difference, noise, half_digit), difference, noise, s, source)


def _word(difference: float, noise: float, half_digit: float) -> Word:
    if difference > max(noise, half_digit):
        return "better"
    if difference >= -half_digit - 1e-9:
        return "reproduced"
    return "within noise" if difference >= -noise else "short"


def _noise(cell: Cell, spread: float) -> tuple[float, float]:
    """(s, half width of the interval) of the module's docstring."""
    own, freedom = _squares(cell), PRIOR + cell.n - 1
    s = math.sqrt((PRIOR * spread**2 + own) / freedom)
    return s, quantile(freedom) * s * math.sqrt(1 + 1 / cell.n)


def quantile(freedom: int) -> float:
    """Student's two-sided 95 % quantile; beyond 30 degrees of freedom by the first term of its expansion."""
    return T95[freedom - 1] if freedom <= len(T95) else 1.959964 + 2.3722 / freedom + 2.8225 / freedom**2


def _prior(cell: Cell, others: list[Cell]) -> tuple[float, str]:
    """s0 for a cell and where it is from."""
    alike = {_run(c): c for c in others if (c.metric, _dataset(c)) == (cell.metric, _dataset(cell))}
    alike.pop(_run(cell), None)  # two rows may show one run
    freedom = sum(c.n - 1 for c in alike.values())
    if freedom >= PRIOR:
        return math.sqrt(sum(map(_squares, alike.values())) / freedom), f"{len(alike)} other cells of the table"
    return SPREADS.get(cell.metric, SPREADS["miou"]), f"default for {cell.metric}"


def _run(cell: Cell) -> tuple[str | None, ...]:
    return cell.stored, cell.split, cell.class_name


def _squares(cell: Cell) -> float:
    """Sum of squared deviations of the seeds from their mean."""
    mean = cell.mean or 0.0
    return sum((score - mean) ** 2 for _, score in cell.scores)


def _dataset(cell: Cell) -> str:
    return (cell.split or "").partition("/")[0]
