"""Label-saving curves: the score of each row of a table against the number of labels of its columns.

A table whose columns are parts of one dataset answers the question of the field: how many labels does a method save?
One chart holds at most as many lines as there are styles. Where a table has more rows, several charts share its first
row, so that each of them shows the same baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from ssbench.errors import SsbenchError
from ssbench.jobs.targets import split_size
from ssbench.page.charts import LineChart, slug
from ssbench.page.curves import METRICS, seed_line
from ssbench.tables.cell import Filled
from ssbench.tables.spec import TableColumn, TableRow

LINES = 6
"""Most lines of one chart: as many as `drawing` has styles."""

Count = Callable[[str], int | None]
"""Name of a split -> its number of labelled images; None where it is not known here."""


def labelled_count(split: str, data_root: Path) -> int | None:
    """How many images of a split are labelled; None for a split that is unknown or cannot be read."""
    try:
        return split_size(split, data_root)[0]
    except SsbenchError:
        return None


def label_curves(filled: Filled, count: Count) -> Iterator[LineChart]:
    """The charts of one table; none where no row is measured at two or more numbers of labels.

    Columns are compared where they ask for the same dataset, network, crop and metric: one set of charts for each.
    """
    for name, columns in _settings(filled, count).items():
        rows = [row for row in filled.table.rows if len(_scores(filled, row.id, columns)) > 1]
        title = f"{filled.table.name}: score against labels{f' ({name})' if name else ''}"
        y = f"{METRICS.get(filled.table.metric, filled.table.metric)}, %"
        ticks = tuple((float(number), column.label) for column, number in columns)
        parts = _charts(rows)
        for part, members in enumerate(parts):
            lines = tuple(
                seed_line(row.label, style, _scores(filled, row.id, columns)) for style, row in enumerate(members)
            )
            words = ("labels", filled.table.name, name, str(part + 1) if len(parts) > 1 else "")
            file = slug(*filter(None, words))
            yield LineChart(file, title, "labelled images", y, lines, ticks=ticks)


def _settings(filled: Filled, count: Count) -> Mapping[str, list[tuple[TableColumn, int]]]:
    """Group of columns -> its columns with their numbers of labels, fewest first; groups of one column are left out."""
    groups: dict[str, list[tuple[TableColumn, int]]] = {}
    for column in filled.table.columns:
        number = count(column.split) if column.split and not column.class_name else None
        if number:
            groups.setdefault(column.group or "", []).append((column, number))
    several = {
        name: sorted(columns, key=lambda entry: entry[1])
        for name, columns in groups.items()
        if len({number for _, number in columns}) == len(columns) > 1
        and len({str(column.split).partition("/")[0] for column, _ in columns}) == 1
    }
    return several if len(several) > 1 else dict(zip([""], several.values(), strict=False))


def _charts(rows: Sequence[TableRow]) -> list[list[TableRow]]:
    """The rows of each chart: the first row in all of them, and a baseline in one chart with its plug-ins."""
    charts: list[list[TableRow]] = []
    for host in dict.fromkeys(row.gain_over or row.id for row in rows[1:]):
        family = [row for row in rows[1:] if host in (row.id, row.gain_over)]
        for at in range(0, len(family), LINES - 1):
            part = family[at : at + LINES - 1]
            if charts and len(charts[-1]) + len(part) <= LINES:
                charts[-1] += part
            else:
                charts.append([rows[0], *part])
    return charts or [list(rows)] * bool(rows)


def _scores(filled: Filled, row: str, columns: list[tuple[TableColumn, int]]) -> dict[int, list[float]]:
    """Number of labels -> the measured scores of the row's seeds, in percent."""
    cells = {number: filled.cells.get((row, column.id)) for column, number in columns}
    return {
        number: [score for _, score in cell.scores]
        for number, cell in cells.items()
        if cell is not None and cell.state == "measured" and cell.scores
    }
