"""The texts of the five papers, and the shipped tables beside them."""

from __future__ import annotations

import re
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from ssbench.results.store import ResultStore
from ssbench.tables.cell import Filled
from ssbench.tables.fill import fill
from ssbench.tables.spec import PaperTable, TableRow, table_names

PAPERS = ("ipixmatch", "mpmc", "s4mc", "upc", "wpl")
TEXTS = Path(__file__).resolve().parents[3] / "shared" / "papers"

# Where each table stands in its paper's text: from the first string to the second.
REGIONS = {
    "mpmc/table1": ("Method Classic Blender", "Beyond Pixels 11"),
    "mpmc/table2": ("Method ResNet-50 ResNet-101", "Table 3: Quantitative"),
    "mpmc/table3": ("Method 3 cases 7 cases", "4.3 Ablation"),
    "mpmc/table4": ("1 - hamming loss 90+", "Table 5: Impact"),
    "mpmc/table5": ("186 372 744\n", "Table 6: Ablation"),
    "mpmc/table6": ("MPMCL MPMCUL 1/16", "Analysis of different"),
    "wpl/table1": ("**Table 1:** Quantitative", "**Table 2:** Quantitative"),
    "wpl/table2": ("**Table 2:** Quantitative", "**Fig. 4"),
    "wpl/table3": ("RPPI\tPPW", "**Table 3:**"),
    "wpl/table4": ("**Table 4:** Per-class", "## 6"),
    "wpl/supp_table1": ("**Table 1:** Analysis of the performance", "**Fig. 1:**"),
    "wpl/supp_table2": ("**Table 2:** Analysis of (", "**Table 3:** Analysis"),
    "wpl/supp_table3": ("**Table 3:** Analysis of BBox", "## 5 Memory"),
    "wpl/supp_table4": ("**Table 4:** Effect of our", "**Fig. 2"),
    "wpl/supp_table5": ("**Table 5:** Quantitative", "**Table 6:** Quant"),
    "wpl/supp_table6": ("**Table 6:** Quantitative", "## 9"),
    "s4mc/table1": ("Table 1: Comparison", "212 **Impl"),
    "s4mc/table2": ("Table 2: Comparison", "Table 3: Comparison"),
    "s4mc/table3": ("Table 3: Comparison", "228 2022)"),
    "s4mc/table4": ("(a) Neighborhood choice", "244 **Contextual"),
    "s4mc/table5": ("Table 5: Ablation", "529 Table 5"),
    "ipixmatch/table1": ("TABLE I\n", "TABLE II\n"),
    "ipixmatch/table2": ("TABLE II\n", "#### B. Impl"),
    "ipixmatch/table3": ("TABLE III\n", "TABLE IV\n"),
    "ipixmatch/table4": ("TABLE IV\n", "inter-pixel relation is more prone"),
    "ipixmatch/table5": ("TABLE V\n", "resolutions. Furthermore"),
    "upc/table1": ("Method\t1/16 (92)", "Table 1. Comparison"),
    "upc/table2": ("Method\t1/16(662)", "Table 2. Comparison"),
    "upc/table3": ("Method\t1/16 (186)\t1/8 (372)\t1/4 (744)\t1/2 (1488)\nSupOnly", "Table 3. Comparison"),
    "upc/table4": ("Method\tSupOnly", "Table 4. Semi"),
    "upc/table5": ("Method\t1/8 (1323)", "Table 5. The effect"),
    "upc/table6": ("CutMix\tPatch CutMix\tRAS", "Table 6. Ablation"),
    "upc/table7": ("k\t1\t2\t3\t5", "Table 7. Ablation"),
    "upc/table8": ("$N \\backslash k$", "Table 8. Ablation"),
}


@cache
def table(name: str) -> PaperTable:
    return PaperTable.read(name)


@cache
def empty(name: str) -> Filled:
    return fill(table(name), ResultStore(Path("no-such-folder")))


def paper_tables() -> list[str]:
    return [name for name in table_names() if name.split("/")[0] in PAPERS]


def region(name: str) -> list[str]:
    """The lines of a table in its paper's text; the test is skipped, and says so, where the texts are absent."""
    if not TEXTS.is_dir():
        pytest.skip(f"needs the papers' texts in {TEXTS}")
    start, stop = REGIONS[name]
    text = (TEXTS / f"{name.split('/')[0]}.txt").read_text()
    text = text[text.index(start) + len(start) :]
    return text[: text.index(stop)].splitlines()


def tokens(line: str) -> list[str]:
    """Numbers and lone dashes of a line of the text, without its label and its gains."""
    line = re.sub(r"</?\w+>|\*\*", "", line.partition("\t")[2] or line)
    line = re.sub(r"/\d+\.\d+|↑ ?\d+\.\d+", "", line)
    numbers: list[str] = re.findall(r"(?<!\S)-(?!\S)|[+-]?\d+\.\d+", line)
    return numbers if any("." in n for n in numbers) else []


def gain_line(line: str) -> bool:
    return line.startswith(("(", "Gain", "Improvement", "Average"))


def printed(name: str, row: TableRow) -> list[str]:
    """A row as the paper shows it, "-" where it has no number."""
    cells = empty(name).cells
    got = [cells.get((row.id, c.id)) for c in table(name).columns]
    return [str(c.printed) if c and c.printed is not None else "-" for c in got]


def plain(words: list[str]) -> tuple[str, ...]:
    return tuple(w.lstrip("+") for w in words)


def numbers(words: list[str]) -> list[Decimal]:
    return [Decimal(w) for w in words if w != "-"]
