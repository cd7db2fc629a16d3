from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssbench.results.store import ResultStore
from ssbench.tables.cell import Filled
from ssbench.tables.fill import fill
from ssbench.tables.latex import SPECIAL, escape
from ssbench.tables.render import render
from ssbench.tables.spec import PaperTable, table_names

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
A = "voc/classic/1_16"
BODY = r"""\begin{tabular}{lrrr}
\toprule
 & \multicolumn{2}{c}{Classic} & \multicolumn{1}{c}{Blender} \\
\cmidrule(lr){2-3} \cmidrule(lr){4-4}
 & 1/16 & 1/8 & 1/16 \\
\midrule
\multicolumn{4}{l}{\textit{R50}} \\
UniMatch [CVPR'23] & 70.0 $|$ 70.10 $\pm$ 0.20 (3), +0.10 $\surd$ & 71.50 & -- \\
UniMatch + X n) & \textbf{71.2} $|$ \textbf{71.10} $\pm$ 0.20 (3), $-$0.10 $\approx$ & \textbf{72.00} $|$ failed & 73.1 \\
\quad $\Delta$ over UniMatch & +1.2 $|$ +1.00 $\pm$ 0.00 (3) & +0.50 &  \\
\midrule
\multicolumn{4}{l}{\textit{quoted}} \\
Other & 60.0 & 61.0 & -- \\
\bottomrule
\end{tabular}"""  # noqa: E501  a row is one line


def test_the_layout_of_the_paper(filled: Filled) -> None:
    assert BODY in render(filled, "latex")


def test_what_a_run_says_of_its_failure_cannot_break_the_table(
    table_file: Write, store: ResultStore, record: Make
) -> None:
    store.add(record("toypaper/base", A, 0, status="failed", reason="5% of {memory} left & no_more", scores={}))
    text = render(fill(PaperTable.read(str(table_file())), store), "latex")
    assert r"seed 0: 5\% of \{memory\} left \& no\_more" in text


def test_where_nothing_is_measured_only_the_paper_speaks(table_file: Write, store: ResultStore) -> None:
    text = render(fill(PaperTable.read(str(table_file())), store), "latex")
    assert r"\caption{a small table.}" in text
    assert "measured" not in text


def unescaped(text: str) -> Counter[str]:
    return Counter(re.sub(r"\\[{}&%$#_]", "", text))


@pytest.mark.parametrize("name", table_names())
def test_every_table_is_well_formed(name: str) -> None:
    """Braces, math and environments close; every row has as many cells as the tabular has columns; all is ASCII."""
    text = render(fill(PaperTable.read(name), ResultStore(Path("no-such-folder"))), "latex")
    text.encode("ascii")
    found = unescaped(text)
    assert found["{"] == found["}"]
    assert found["$"] % 2 == 0
    assert re.findall(r"\\begin{(\w+)}", text) == re.findall(r"\\end{(\w+)}", text)[::-1]
    assert [text.count(f"\\{rule}\n") for rule in ("toprule", "bottomrule")] == [1, 1]
    inside = text[text.index("\\toprule") : text.index("\\bottomrule")]
    columns = len(str(re.findall(r"\\begin{tabular}{(l+r+)}", text)[0]))
    for line in (line for line in inside.splitlines() if line.endswith(r"\\")):
        spans = [int(n) for n in re.findall(r"\\multicolumn{(\d+)}", line)]
        assert unescaped(line)["&"] + 1 + sum(n - 1 for n in spans) == columns, line
    for first, last in re.findall(r"\\cmidrule\(lr\){(\d+)-(\d+)}", inside):
        assert 2 <= int(first) <= int(last) <= columns
    assert set(re.findall(r"\\([a-zA-Z]+)", text)) <= KNOWN


KNOWN = {"begin", "end", "centering", "caption", "label", "toprule", "midrule", "bottomrule", "cmidrule", "multicolumn",
         "textbf", "textit", "underline", "quad", "par", "footnotesize", "usepackage", "textbackslash",
         "textasciitilde", "textasciicircum", "pm", "Delta", "alpha", "kappa", "psi", "tau", "cap", "geq", "leq",
         "approx", "times", "surd", "bigtriangledown", "bigtriangleup", "dag", "ddag", "S", "P"}  # fmt: skip
"""Of LaTeX itself and of booktabs."""


@given(st.text(alphabet=[*SPECIAL, *"ab 1-.,+"], max_size=40))
def test_no_text_can_break_a_table(text: str) -> None:
    safe = escape(text)
    found = unescaped(safe.replace(r"\textbackslash{}", ""))
    assert found["{"] == found["}"]
    assert found["$"] % 2 == 0
    assert not {"&", "%", "#", "_", "~", "^"} & set(found)


def test_a_minus_sign_stands_before_numbers_only() -> None:
    assert escape("-0.10, R-50, 1-2, a -3") == "$-$0.10, R-50, 1-2, a $-$3"


def test_tex_takes_it(filled: Filled, tmp_path: Path) -> None:
    engine = next((e for e in ("pdflatex", "xelatex", "lualatex", "tectonic") if shutil.which(e)), None)
    if engine is None:
        pytest.skip("no LaTeX engine on the path")
    page = (
        "\\documentclass{article}\\usepackage{booktabs}\\begin{document}" + render(filled, "latex") + "\\end{document}"
    )
    (tmp_path / "page.tex").write_text(page)
    flags = [] if engine == "tectonic" else ["-interaction=nonstopmode", "-halt-on-error"]
    done = subprocess.run([engine, *flags, "page.tex"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
