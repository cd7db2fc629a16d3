"""Is a printed number met? The rule behind the verdicts of `ssbench table`.

The printed number is taken as one run, and so as one draw from the same spread that our seeds have. With n seeds of
mean m and a printed p, the difference d = m - p then has the variance s^2 (1 + 1/n), and p is expected within

    noise = t s sqrt(1 + 1/n)        t: Student's two-sided 95 % quantile

of m: one cell in twenty falls outside by chance alone, so a table of forty reproduced cells has about two that do.

Few seeds tell little about s. A spread s0 therefore counts beside the cell's own seeds, as if 4 more degrees of freedom
had shown it (`results.statistics`; exact where the variances of cells scatter around s0^2 like an inverse chi-square of
4 degrees of freedom, careful where they are all equal):

    s^2 = (4 s0^2 + sum of (score - m)^2) / (4 + n - 1),        t with 4 + n - 1 degrees of freedom.

s0 is pooled over the other cells of the table that have two seeds or more on the same dataset under the same metric, if
they have at least 4 degrees of freedom between them; else it is `SPREADS`, of which that for mIoU is measured (eight
times three training logs that UniMatch released) and those for Dice and for the IoU of one class are ours.

Verdicts: `reproduced`, the printed number is reached to its last digit, or missed by less than half of that, and not
exceeded beyond noise; `within noise`, below it, by no more than noise; `short` and `better`, below and above by more
than noise. `not compared` where the two must not be: other lists or another protocol (`Cell.apart`), or seeds that ran
under different settings, whose spread is not that of seeds. Other cells have no verdict but their state.

Two measured cells are told apart by the same model (`is_ahead`): their difference has the variance
s1^2 / n1 + s2^2 / n2, and the fewer degrees of freedom of the two.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from ssbench.results.statistics import SeedNoise, SeedScatter, pooled_noise, student_quantile
from ssbench.tables.cell import MIXED, Cell, CellKey, Verdict, VerdictWord

WORDS: tuple[VerdictWord, ...] = ("reproduced", "within noise", "short", "better", "not compared")
SIGNS: dict[VerdictWord, str] = {
    "reproduced": "✓",
    "within noise": "≈",
    "short": "▼",
    "better": "▲",
    "not compared": "",
}
SPREADS = {
    "miou": 0.36,  # UniMatch's logs, ResNet-101 at 321: 8 splits x 3 repeats, pooled (16 degrees of freedom)
    "dice": 1.0,  # ours: nobody released repeats
    "iou": 1.5,  # ours: one class scatters more than the mean of 21
}


def judge(cells: Mapping[CellKey, Cell]) -> dict[CellKey, Verdict]:
    """The verdicts of a table's cells, for those that are measured and printed."""
    repeated = repeated_cells(cells)
    return {
        key: verdict(cell, noise_around(cell, repeated))
        for key, cell in cells.items()
        if cell.scores and cell.printed is not None
    }


def repeated_cells(cells: Mapping[CellKey, Cell]) -> list[Cell]:
    """The cells that show how seeds scatter: two seeds or more, under one setting."""
    return [cell for cell in cells.values() if cell.n > 1 and MIXED not in cell.marks]


def is_ahead(first: Cell, second: Cell, repeated: Sequence[Cell]) -> bool:
    """Whether `first` is measured above `second` by more than seeds explain, at 95 %."""
    moderated = [(noise_around(c, repeated).variance(_scatter(c)), c.n) for c in (first, second)]
    variance = sum(square / n for (square, _), n in moderated)
    freedom = min(k for (_, k), _ in moderated)
    return (first.mean or 0) - (second.mean or 0) > student_quantile(0.975, freedom) * math.sqrt(variance)


def verdict(cell: Cell, noise: SeedNoise) -> Verdict:
    """The verdict of one measured and printed cell; `noise` holds s0, percent."""
    difference = cell.difference
    if difference is None or MIXED in cell.marks or cell.printed is None:
        return Verdict("not compared")
    variance, freedom = noise.variance(_scatter(cell))
    allowed = student_quantile(0.975, freedom) * math.sqrt(variance * (1 + 1 / cell.n))
    half_digit = 0.5 * 10.0 ** int(cell.printed.as_tuple().exponent)
    source = f"{noise.cells} other cells of the table" if noise.cells else f"default for {cell.metric}"
    return Verdict(_word(difference, allowed, half_digit), difference, allowed, math.sqrt(variance), source)


def noise_around(cell: Cell, repeated: Sequence[Cell]) -> SeedNoise:
    """s0 for a cell, from the `repeated` cells (two seeds or more) of its dataset and metric that are other runs."""
    own = _run(cell)
    neighbours = {_run(c): c for c in repeated if (c.metric, _dataset(c)) == (cell.metric, _dataset(cell))}
    neighbours.pop(own, None)  # two rows may show one run
    return pooled_noise([_scatter(c) for c in neighbours.values()], SPREADS.get(cell.metric, SPREADS["miou"]))


def _scatter(cell: Cell) -> SeedScatter:
    return SeedScatter.of([score for _, score in cell.scores])


def _word(difference: float, noise: float, half_digit: float) -> VerdictWord:
    if difference > max(noise, half_digit):
        return "better"
    if difference >= -half_digit - 1e-9:  # 1e-9: a mean of floats may miss the half digit by rounding
        return "reproduced"
    return "within noise" if difference >= -noise else "short"


def _run(cell: Cell) -> tuple[str | None, ...]:
    return cell.stored, cell.split, cell.class_name


def _dataset(cell: Cell) -> str:
    return (cell.split or "").partition("/")[0]
