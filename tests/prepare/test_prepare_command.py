"""`ssbench prepare` from the command line, for every dataset: what it prints, its exit codes, what it mends."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_sources import SOURCES, spoil

from ssbench.data.open import open_dataset
from ssbench.prepare.prepare import known

KEYS = {"name", "state", "counts", "files", "bytes", "seconds", "ledger", "lists", "settings", "cache"}


@pytest.fixture
def source(request: pytest.FixtureRequest, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small source of the dataset named by the parameter, the published lists beside it, and its counts expected."""
    name, root = request.param, tmp_path / "brought" / request.param
    counts = SOURCES[name](shared, root)
    monkeypatch.setattr(f"ssbench.prepare.{name}.COUNTS", counts)
    (root.parent / "splits").symlink_to(shared / "splits")
    return root


def test_every_dataset_has_a_source_here():
    assert sorted(SOURCES) == known()


@pytest.mark.real
@pytest.mark.parametrize("source", SOURCES, indirect=True)
def test_a_dataset_from_nothing_to_a_cache_and_back(source, ssbench, tmp_path):
    name, root = source.name, tmp_path / "data"
    given = ("prepare", name, "--source", source, "--data-root", root, "--workers", 1)
    said = ssbench(*given, "--json")
    assert (said.code, said.err) == (0, "")
    (report,) = json.loads(said.out)["prepared"]
    assert set(report) == KEYS
    assert (report["name"], report["state"], report["cache"]) == (name, "prepared", None)
    assert Path(report["ledger"]).is_file()
    dataset = open_dataset(name, root)
    assert {subset: len(dataset.ids(subset)) for subset in report["counts"]} == report["counts"]
    again = ssbench(*given, "--cache")
    assert again.code == 0
    samples = len({id for subset in report["counts"] for id in dataset.ids(subset)})
    assert re.search(rf"{name}: complete in \d+ s", again.out)
    assert re.search(rf"cache: built in \d+ s: {samples} samples", again.out)
    clean = ssbench("prepare", name, "--data-root", root, "--check", "--json")
    assert (clean.code, json.loads(clean.out)) == (0, {"problems": {name: []}})
    mended(ssbench, given, root / name, name)


def mended(ssbench, given, home: Path, name: str) -> None:
    """A spoilt mask is found by --check, named, and brought back by the next run; then the cache is good again."""
    mask = max((p for p in home.rglob("*.png") if not p.parent.name.startswith(".")), key=str)
    mask = mask if name != "acdc" else home / "labels" / mask.name
    good = mask.read_bytes()
    spoil(mask)
    check = ("prepare", name, "--data-root", home.parent, "--check")
    said = ssbench(*check)
    assert said.code == 4
    assert str(mask.relative_to(home)) in said.out
    assert "error: " in said.err
    assert f"ssbench prepare {name}" in said.err
    assert ssbench(*given).code == 0
    assert mask.read_bytes() == good
    assert ssbench(*check).code == 0


@pytest.mark.real
@pytest.mark.parametrize("source", [name for name in SOURCES if name != "toy"], indirect=True)
def test_a_source_that_lacks_files_is_refused_and_nothing_is_prepared(source, ssbench, tmp_path):
    for path in sorted(source.rglob("*.png")):
        path.unlink()
    for path in source.rglob("*.json"):
        path.unlink()
    said = ssbench("prepare", source.name, "--source", source, "--data-root", tmp_path / "data", "--json")
    assert (said.code, said.out) == (4, "")
    assert re.search(r"error: .+\n  where: .+\n  fix:   .+", said.err)
    assert not (tmp_path / "data" / source.name).exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["vok"], 2, "no dataset 'vok' to prepare; did you mean 'voc'"),
        (["cityscapes"], 4, "has to be fetched by hand"),
        (["acdc"], 4, "has to be fetched by hand"),
        (["voc", "--source", "nowhere"], 4, "nowhere"),
        (["voc", "coco", "--source", "."], 2, "one --source for 2 datasets"),
        (["voc", "--check"], 4, "not as prepared"),
        (["folder", "--check"], 2, "no dataset 'folder' to prepare"),
    ],
)
def test_what_cannot_be_ends_in_the_right_code(ssbench, tmp_path, words, code, message):
    said = ssbench("prepare", *words, "--data-root", tmp_path / "data")
    assert said.code == code
    assert message in said.err
    assert "fix:" in said.err
    assert not (tmp_path / "data" / "voc").exists()


@pytest.mark.real
def test_a_terminal_sees_bars_and_a_pipe_does_not(shared, tmp_path):
    SOURCES["camvid"](shared, tmp_path / "camvid")  # too few frames, so it ends with an error, after the bars
    command = [sys.executable, "-m", "ssbench", "prepare", "camvid", "--source", str(tmp_path / "camvid")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "COLUMNS": "120"}
    ours, theirs = pty.openpty()
    place = [*command, "--data-root", str(tmp_path / "one")]
    process = subprocess.Popen(place, env=environment, stderr=theirs, stdout=subprocess.PIPE, cwd=tmp_path)
    os.close(theirs)
    seen = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        seen += part
    os.close(ours)
    assert process.communicate()[0] == b""
    assert process.returncode == 4
    assert b"converting camvid" in seen
    assert "━".encode() in seen
    assert b"camvid is not complete: train has 2 of 367" in seen
    place = [*command, "--data-root", str(tmp_path / "two")]
    piped = subprocess.run(place, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert piped.stderr.startswith("error: camvid is not complete")
