"""The command and its file: what it says, that it is one file, the same bytes, and never half of it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from page_made import NASTY, A, Make, add_runs, made_report, page_of
from ran import ROOT, Ran

from ssbench.results.store import ResultStore

Ssbench = Callable[..., Ran]
Write = Callable[..., Path]
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Elements(HTMLParser):
    """Every start tag with its attributes, the text of each element, and whether tags nest and close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str]]] = []
        self.said: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["style"], ["script"]) and data.strip():
            self.said.append(" ".join(data.split()))


@pytest.fixture
def text(store: ResultStore, record: Make, table_file: Write) -> str:
    return page_of(made_report(store, record, table_file))


def test_every_tag_closes_and_no_id_stands_twice(text: str) -> None:
    ids = [a["id"] for _, a in Elements(text).found if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"].removeprefix("#") for tag, a in Elements(text).found if tag in ("a", "use")]
    assert set(links) <= set(ids)
    named = [a["aria-labelledby"] for _, a in Elements(text).found if "aria-labelledby" in a]
    assert set(named) <= set(ids)


def test_nothing_is_loaded_from_anywhere(text: str) -> None:
    for tag, attributes in Elements(text).found:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name, "data:")
            assert value.startswith(("data:", "#")), (tag, name, value)
    assert "url(http" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_what_records_say_is_text(text: str) -> None:
    assert text.count("<script>") == 1
    assert NASTY not in text
    assert any("no memory <script>" in said for said in Elements(text).said)


def test_it_shows_what_the_issue_asks_for(text: str) -> None:
    said = " ".join(Elements(text).said)
    for part in (
        "1 released log", ": kept share", ": precision", ": recall",
        "No precision and no recall", "differ on 5.0 % of pixels", "ssbench run toypaper/base --split voc/classic/1_8",
        "stopped by the sun", "ssbench run toypaper/plug --split voc/classic/1_8 --seed 2", "2007_000032",
        "0" * 64, "against the printed numbers", "1 table has no result yet",
    ):  # fmt: skip
        assert part in said, part


def test_charts_have_words_and_numbers(text: str) -> None:
    plots = [a for tag, a in Elements(text).found if tag == "svg" and a.get("role") == "img"]
    assert len(plots) >= 8
    for plot in plots:
        assert re.search(r"\d", plot["aria-label"]), plot
    assert text.count("<summary>Numbers") == len(plots)


def test_the_command_writes_the_same_bytes_twice(
    ssbench: Ssbench, store: ResultStore, record: Make, table_file: Write, tmp_path: Path
) -> None:
    add_runs(store, record)
    words = ("report", table_file(), "--results", store.root, "--json", "--pictures", "0", "-o")
    found = [json.loads(ssbench(*words, tmp_path / name).out) for name in ("one", "two")]
    sums = [_sums(tmp_path / name) for name in ("one", "two")]
    assert sums[0] == sums[1]
    assert set(found[0]) == {"page", "bytes", "plots", "tables", "empty_tables", "runs", "pictures", "missing"}
    assert found[0]["runs"] == {"done": 5, "failed": 2, "not_shown": {}}
    assert found[0]["bytes"] == (tmp_path / "one" / "report.html").stat().st_size
    assert {str(p) for p in (tmp_path / "one" / "plots").iterdir()} == set(found[0]["plots"])
    for path in (tmp_path / "one" / "plots").glob("*.svg"):
        assert ElementTree.parse(path).getroot().tag.endswith("svg")  # noqa: S314  written just now
    assert not list(tmp_path.rglob(".*"))


def _sums(folder: Path) -> dict[str, str]:
    files = [p for p in folder.rglob("*") if p.is_file()]
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_without_a_table_all_results_are_shown_and_tables_without_any_are_named(
    ssbench: Ssbench, store: ResultStore, record: Make, tmp_path: Path
) -> None:
    store.add(record("mine/net", A))
    store.add(record("toy/none_fixmatch", "toy/ours/1_16"))
    found = json.loads(
        ssbench("report", "--results", store.root, "--pictures", "0", "--json", "-o", tmp_path / "o").out
    )
    assert "toy/table1" in found["tables"]
    assert "mpmc/table1" in found["empty_tables"]
    assert found["runs"]["done"] == 2
    assert "mine/net" in (tmp_path / "o" / "report.html").read_text()


def test_the_stored_results_of_camvid(ssbench: Ssbench, tmp_path: Path) -> None:
    """Real records: three runs of the project's own, with the score each is known by."""
    ran = ssbench("report", "camvid/table1", "--results", ROOT / "results", "--pictures", "0", "-o", tmp_path / "o")
    assert (ran.code, ran.out) == (0, f"{tmp_path / 'o' / 'report.html'}\n")
    text = (tmp_path / "o" / "report.html").read_text()
    assert "25.31 (epoch 12)" in text
    assert len(text) < 300_000


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--results", "nowhere"], 2, "no results in 'nowhere'"),
        (["toy/tabel1"], 3, "did you mean 'toy/table1'"),
        (["toy/table1", "--pictures", "-1"], 2, "--pictures"),
        (["toy/table1", "-o", "file"], 2, "cannot use"),
    ],
)
def test_what_cannot_be_reported_says_why(
    ssbench: Ssbench, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    (tmp_path / "file").write_text("")
    ran = ssbench("report", *words)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert "fix:" in ran.err


def test_a_table_without_results_is_a_report_too(ssbench: Ssbench, tmp_path: Path) -> None:
    assert ssbench("report", "s4mc/table1", "--results", "nowhere", "-o", tmp_path / "o").code == 0
    said = Elements((tmp_path / "o" / "report.html").read_text()).said
    assert any("No baseline has been run" in text for text in said)
    assert "Learning curves" not in said
