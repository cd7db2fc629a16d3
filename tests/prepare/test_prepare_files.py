from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssbench.errors import DataError
from ssbench.prepare.files import intact, locked, put, put_copy, put_png, readable_errors, size, sweep, walk
from ssbench.prepare.job import Bar, Job, parallel, stage


def test_put_replaces_a_file_whole(tmp_path):
    put(tmp_path / "a" / "b", b"old")
    put(tmp_path / "a" / "b", b"new")
    assert (tmp_path / "a" / "b").read_bytes() == b"new"
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(small_disk):
    put(small_disk / "a", b"old")
    with pytest.raises(DataError, match="the disk is full"), readable_errors(small_disk):
        put(small_disk / "a", bytes(1_000_000))
    assert (small_disk / "a").read_bytes() == b"old"
    assert [p.name for p in small_disk.iterdir()] == ["a"]


def test_a_picture_cut_short_is_not_intact(tmp_path):
    for path in (tmp_path / "a.png", tmp_path / "a.jpg"):
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(path)
        assert intact(path)
        path.write_bytes(path.read_bytes()[:-3])
        assert not intact(path)
    assert not intact(tmp_path / "gone.png")
    (tmp_path / "empty.txt").touch()
    assert not intact(tmp_path / "empty.txt")


def test_a_copy_is_made_again_only_when_it_is_not_there_whole(tmp_path):
    put_png(tmp_path / "a.png", Image.new("L", (9, 9)))
    put_copy(tmp_path / "a.png", tmp_path / "b.png")
    there = (tmp_path / "b.png").stat().st_ino
    put_copy(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_ino == there
    (tmp_path / "b.png").write_bytes(b"cut")
    put_copy(tmp_path / "a.png", tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    with pytest.raises(DataError, match=r"no file gone\.png"):
        put_copy(tmp_path / "gone.png", tmp_path / "c.png")


def test_names_with_a_dot_are_swept_and_never_walked(tmp_path):
    for name in (".a.png.xyz", ".keep", "a.png", "d/.b", "d/b"):
        put(tmp_path / name, b"1")
    assert [path for path, _ in walk(tmp_path)] == ["a.png", "d/b"]
    sweep(tmp_path, keep=".keep")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [".keep", "a.png", "d", "d/b"]


def test_a_lock_is_held_by_one_and_names_it(tmp_path):
    again = pytest.raises(DataError, match="toy is being prepared by another process")
    with locked(tmp_path, "toy"), again, locked(tmp_path, "toy"):
        pass
    with locked(tmp_path, "toy"), locked(tmp_path, "voc"):
        pass


def test_sizes_for_people():
    assert [size(n) for n in (7, 1500, 2_000_000, 11_592_327_197, 5 * 10**12)] == [
        *("7 B", "1.5 kB", "2.0 MB", "11.6 GB", "5.0 TB"),
    ]


def square(number: int) -> int:
    return number * number


def fail_at(path: Path) -> int:
    if path.name == "77":
        raise DataError(f"{path.name} is bad", str(path), "mend it")
    if path.name == "88":
        raise OSError(errno.EIO, "it smokes", str(path))
    if path.name == "99":
        raise ZeroDivisionError("a bug")
    return 0


@pytest.mark.parametrize(("workers", "count"), [(1, 100), (2, 100), (2, 3), (2, 0)])
def test_results_come_in_order(tmp_path, workers, count):
    assert parallel(square, range(count), Job("toy", tmp_path, workers=workers), "squares") == [
        n * n for n in range(count)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_ends_the_work_and_names_its_item(tmp_path, workers):
    job = Job("toy", tmp_path, workers=workers)

    def items(bad: str) -> list[Path]:
        return [tmp_path / str(n) for n in range(60)] + [tmp_path / bad]

    with pytest.raises(DataError, match="77 is bad") as caught:
        parallel(fail_at, items("77"), job, "x")
    assert (caught.value.where, caught.value.fix) == (str(tmp_path / "77"), "mend it")
    with pytest.raises(DataError, match="88: it smokes") as caught:
        parallel(fail_at, items("88"), job, "x")
    assert caught.value.where == str(tmp_path / "88")
    with pytest.raises(ZeroDivisionError) as bug:
        parallel(fail_at, items("99"), job, "x")
    assert bug.value.__notes__ == [f"while working on {tmp_path / '99'}"]


def test_the_bar_is_on_stderr_one_line_a_stage(capsys):
    bar = Bar()
    bar.advance()
    with stage(bar, 10, "first"):
        bar.advance(7)
        bar.start(20, "first")
        bar.advance(20)
    with stage(bar, 0, "second"):
        bar.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split()[0] for line in err.splitlines() if line.strip()] == ["first", "second"]
    assert "100%" in err
