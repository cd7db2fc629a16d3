"""Which archives a preparation asks for: never one that another, brought by the user, stands in for."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ssbench.errors import DataError
from ssbench.prepare import coco as prepare_coco
from ssbench.prepare import voc as prepare_voc
from ssbench.prepare.job import Archive, PrepareJob
from ssbench.prepare.sources import SourceSpec, find_source


def plan(archives: tuple[Archive, ...], web) -> SourceSpec:
    """The published archives by name, on a server that has none, without their checksums."""
    bare = [replace(a, urls=(web.url(a.name),) if a.urls else (), md5=None, size=None) for a in archives]
    return SourceSpec(tuple(bare), None, {}, lambda source, dest, job: None)


def brought(folder: Path, *names: str) -> Path:
    """Small archives of these names, each with one file called after it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr(f"{name}.txt", "x")
    return folder


CASES = [
    (prepare_voc.ARCHIVES, ("VOCtrainval_11-May-2012.tar", "SegmentationClassAug.zip"), "benchmark.tgz"),
    (
        prepare_coco.ARCHIVES,
        ("train2017.zip", "val2017.zip", "stuffthingmaps_trainval2017.zip"),
        "annotations_trainval2017.zip",
    ),
]


@pytest.mark.parametrize(("archives", "names", "other"), CASES)
@pytest.mark.parametrize("where", ["source", "downloads"])
def test_an_alternative_spares_the_download_of_what_it_replaces(archives, names, other, where, web, tmp_path):
    job = PrepareJob("x", tmp_path / "data", tmp_path / "source" if where == "source" else None)
    brought(job.source or job.downloads, *names)
    found = find_source(plan(archives, web), job)
    assert {p.name for p in found.glob("*.txt")} == {f"{name}.txt" for name in names}
    assert web.log == []


@pytest.mark.parametrize(("archives", "names", "other"), CASES)
def test_without_the_alternative_what_is_missing_is_asked_for(archives, names, other, web, tmp_path):
    job = PrepareJob("x", tmp_path / "data", brought(tmp_path / "source", *names[:-1]))
    with pytest.raises(DataError, match=f"{other} could not be downloaded"):
        find_source(plan(archives, web), job)
    assert {path for path, _, _ in web.log} == {other}


@pytest.mark.parametrize(("archives", "names", "other"), CASES)
def test_both_may_be_there(archives, names, other, web, tmp_path):
    job = PrepareJob("x", tmp_path / "data", brought(tmp_path / "source", *names, other))
    found = find_source(plan(archives, web), job)
    assert {p.name for p in found.glob("*.txt")} == {f"{name}.txt" for name in (*names, other)}
    assert web.log == []
