from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ssbench.console import Bars
from ssbench.errors import DataError
from ssbench.prepare.job import PrepareJob, parallel, preparation_lock


def test_a_lock_is_held_by_one_and_names_it(tmp_path):
    again = pytest.raises(DataError, match="toy is being prepared by another process")
    with preparation_lock(tmp_path, "toy"), again, preparation_lock(tmp_path, "toy"):
        pass
    with preparation_lock(tmp_path, "toy"), preparation_lock(tmp_path, "voc"):
        pass


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
    assert parallel(square, range(count), PrepareJob("toy", tmp_path, workers=workers), "squares") == [
        n * n for n in range(count)
    ]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_error_ends_the_work_and_names_its_item(tmp_path, workers):
    job = PrepareJob("toy", tmp_path, workers=workers)

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


@pytest.mark.parametrize("workers", [1, 2])
def test_the_bar_of_a_pool_counts_every_item(tmp_path, workers):
    bars = Bars(show=False, leave=True)
    parallel(square, range(70), PrepareJob("toy", tmp_path, workers=workers, bars=bars), "squares")
    assert [(bar.description, bar.completed, bar.total) for bar in bars.progress.tasks] == [("squares", 70, 70)]
