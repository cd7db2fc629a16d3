from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from ssbench.data.ledger import Ledger
from ssbench.errors import DataError
from ssbench.prepare.verify import Problem, compare, write_ledger


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three files and their ledger."""
    root = tmp_path / "data set"
    for path, text in (("images/ä.png", "one"), ("images/b.png", "two"), ("train.txt", "")):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    (root / ".temporary").write_text("not data")
    write_ledger(root, "toy", {"form": "png"}, {"train": 2})
    return root


def book(root: Path) -> Ledger:
    found = Ledger.read(root)
    assert found is not None
    return found


def test_a_ledger_names_size_and_digest_of_every_file(root):
    found = book(root)
    assert found.files["images/ä.png"] == (3, hashlib.sha256(b"one").hexdigest())
    assert sorted(found.files) == ["images/b.png", "images/ä.png", "train.txt"]
    assert (found.dataset, found.settings, found.counts, found.bytes) == ("toy", {"form": "png"}, {"train": 2}, 6)
    assert found.tool.startswith("ssbench ")


def test_a_ledger_is_json_with_a_file_a_line(root):
    text = (root / "ledger.json").read_text()
    assert json.loads(text)["schema"] == 1
    assert sum(line.startswith('  "images/') for line in text.splitlines()) == 2


def test_writing_twice_gives_the_same_bytes(root):
    before = (root / "ledger.json").read_bytes()
    write_ledger(root, "toy", {"form": "png"}, {"train": 2})
    assert (root / "ledger.json").read_bytes() == before


def test_nothing_changed_nothing_said(root):
    assert compare(root, book(root)) == []


def test_each_kind_of_change_is_named(root):
    (root / "images/ä.png").write_text("on")
    (root / "images/b.png").write_text("TWO")
    (root / "train.txt").unlink()
    (root / "new.txt").write_text("?")
    problems = compare(root, book(root))
    assert [(p.kind, p.path) for p in problems] == [
        ("changed", "images/b.png"),
        ("truncated", "images/ä.png"),
        ("extra", "new.txt"),
        ("missing", "train.txt"),
    ]
    assert problems[1].detail == "2 of 3 bytes"


def test_a_longer_file_is_changed(root):
    (root / "images/b.png").write_text("two and more")
    assert compare(root, book(root)) == [Problem("changed", "images/b.png", "12 of 3 bytes")]


def test_a_quick_look_hashes_only_what_was_written_since(root):
    (root / "images/b.png").write_text("TWO")
    os.utime(root / "images/b.png", (1, 1))
    assert compare(root, book(root), quick=True) == []
    os.utime(root / "images/b.png")
    assert [p.kind for p in compare(root, book(root), quick=True)] == ["changed"]


DAMAGED = {
    "": "not JSON",
    "{": "not JSON",
    "[]": "valid dictionary",
    '{"files": {"a": 1}}': "field 'dataset'",
    '{"files": [], "dataset": "a"}': "field 'tool'",
}
LEAVING = ("../b", "/etc/passwd", "a/../../b")


@pytest.mark.parametrize("text", DAMAGED)
def test_a_damaged_ledger_is_named_with_its_field(root, text):
    (root / "ledger.json").write_text(text)
    with pytest.raises(DataError, match=DAMAGED[text]) as caught:
        Ledger.read(root)
    assert caught.value.where.startswith(str(root / "ledger.json"))
    assert caught.value.fix == f"ssbench prepare {root.name} --data-root {root.parent}"


@pytest.mark.parametrize("path", LEAVING)
def test_a_ledger_may_not_name_files_outside_its_folder(root, path):
    text = (root / "ledger.json").read_text()
    (root / "ledger.json").write_text(text.replace("images/b.png", path))
    with pytest.raises(DataError, match="field 'files': the path .* leaves the folder"):
        Ledger.read(root)


def test_no_ledger_is_none(tmp_path):
    assert Ledger.read(tmp_path / "nowhere") is None


def test_the_digest_is_of_names_and_contents(root):
    before = book(root)
    assert before.digest() != before.digest("images/")
    (root / "images/b.png").rename(root / "images/c.png")
    write_ledger(root, "toy", {}, {})
    assert book(root).digest("images/") != before.digest("images/")
    assert book(root).digest("train") == before.digest("train")


def test_more_files_than_are_hashed_at_once(tmp_path):
    for i in range(1100):
        (tmp_path / f"{i:05d}").write_bytes(i.to_bytes(2, "big"))
    write_ledger(tmp_path, "toy", {}, {})
    assert len(book(tmp_path).files) == 1100
    assert compare(tmp_path, book(tmp_path)) == []


OLD = """{
 "schema": 1,
 "dataset": "acdc",
 "tool": "ssbench 0.1.0",
 "settings": {
  "form": "png",
  "intensity": "as in the PNG files; 8 bit"
 },
 "counts": {
  "train": 1312,
  "val": 210
 },
 "files": {
  "labels/patient001_frame01_slice_1.png": [134, "7bb0d1a7b072f7b76b819e5540fab9cedb7c63343b55f62c9490bb594911d028"],
  "volumes.csv": [330, "7a123288b7d9fe0859403bedbfdea5e874c5689addbab5386b8d8307851e6627"]
 }
}
"""


def test_a_ledger_of_version_0_1_stays_readable(tmp_path):
    (tmp_path / "ledger.json").write_text(OLD)
    ledger = book(tmp_path)
    assert (ledger.tool, ledger.counts, ledger.bytes) == ("ssbench 0.1.0", {"train": 1312, "val": 210}, 464)
    assert ledger.settings["form"] == "png"
    assert ledger.files["volumes.csv"][0] == 330
