from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ssbench.results.store import ResultStore
from ssbench.tables.claims import shipped_claims
from ssbench.tables.fill import fill
from ssbench.tables.html import figure
from ssbench.tables.render import render
from ssbench.tables.spec import PaperTable, table_names

Make = Callable[..., dict[str, Any]]
Write = Callable[..., Path]
A = "voc/classic/1_16"
VOID = {"meta", "br"}


class Tree(HTMLParser):
    """Tags with their attributes and text; fails where one is closed that is not open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.rows: list[int] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += int(dict(attrs).get("colspan") or 1)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)


def page(name: str) -> str:
    return render(fill(PaperTable.read(name), ResultStore(Path("no-such-folder"))), "html", claims=shipped_claims())


@pytest.mark.parametrize("name", table_names())
def test_every_table_can_be_walked(name: str) -> None:
    """Well-formed; one caption; every heading has a scope; every row has as many cells; nothing is fetched."""
    text, table = page(name), PaperTable.read(name)
    tree = Tree(text)
    assert tree.open == []
    tags = [tag for tag, _ in tree.found]
    assert (tags.count("caption"), tags.count("table"), tags.count("title")) == (1, 1, 1)
    assert all(attrs.get("scope") for tag, attrs in tree.found if tag == "th")
    assert set(tree.rows) == {len(table.columns) + 2}
    heads = [attrs for tag, attrs in tree.found if tag == "th" and attrs["scope"] == "col"]
    assert len(heads) == len(table.columns) + 1
    assert not {"script", "link", "img", "iframe"} & set(tags)
    assert not any(key in ("src", "href") for _, attrs in tree.found for key in attrs)
    assert "url(" not in text
    assert "http" not in text


def test_headings_numbers_and_marks(table_file: Write, store: ResultStore, record: Make) -> None:
    store.add(record("toypaper/base", A, 0, 70.1))
    store.add(record("toypaper/plug", A, 0, 71.1))
    text = figure(fill(PaperTable.read(str(table_file())), store))
    assert '<th scope="colgroup" colspan="2">Classic</th>' in text
    assert '<th scope="rowgroup" colspan="5">quoted</th>' in text
    assert (
        '<th scope="row">UniMatch [CVPR&#39;23]</th><td data-state="measured" data-level="one seed">'
        "70.0<br>70.10 (1), +0.10 ✓</td>" in text
    )
    assert "<strong>71.2</strong><br>71.10 (1), -0.10 ≈" in text  # one seed decides nothing
    assert '<td data-state="quoted" data-level="quoted">60.0</td>' in text


def test_a_name_cannot_bring_in_markup(table_file: Write, store: ResultStore) -> None:
    path = table_file(("label: Other", "label: '<img src=x onerror=alert(1)>'"), ("n: a note", "n: '<b>'"))
    text = render(fill(PaperTable.read(str(path)), store), "html")
    assert "<img" not in text
    assert "<b>" not in text
    assert "&lt;img src=x" in text
