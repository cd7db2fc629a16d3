from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from ssbench import keyed
from ssbench.console import Bars
from ssbench.errors import DataError
from ssbench.prepare.fetch import RetryPolicy, fetch
from ssbench.prepare.job import Archive

DATA = keyed.rng("a file").bytes(300_000)
MD5, SHA = hashlib.md5(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest()  # noqa: S324  published sums are MD5
QUICK = RetryPolicy(tries=3, pause=0.01, longest=0.02, stall=0.3)


def get(web, folder: Path, *paths: str, **known) -> Path:
    archive = Archive("a.zip", tuple(web.url(path) for path in paths or ("a",)), **known)
    return fetch(archive, folder, "by hand: ...", policy=QUICK)


def only(folder: Path, *names: str) -> bool:
    return sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_a_file_is_downloaded_verified_and_told(web, tmp_path):
    web.files["a"], bars = DATA, Bars(show=False, leave=True)
    archive = Archive("a.zip", (web.url("a"),), md5=MD5, sha256=SHA, size=len(DATA))
    path = fetch(archive, tmp_path / "downloads", "", bars, QUICK)
    assert path.read_bytes() == DATA
    assert only(tmp_path / "downloads", "a.zip")
    (bar,) = bars.progress.tasks
    assert (bar.total, bar.completed, bar.stop_time is not None) == (len(DATA), len(DATA), True)


def test_what_is_there_and_right_is_not_asked_for_again(web, tmp_path):
    (tmp_path / "a.zip").write_bytes(DATA)
    assert get(web, tmp_path, sha256=SHA).read_bytes() == DATA
    assert web.log == []


def test_what_is_there_and_wrong_is_fetched_again(web, tmp_path):
    web.files["a"] = DATA
    (tmp_path / "a.zip").write_bytes(DATA[:-1] + b"?")
    assert get(web, tmp_path, md5=MD5).read_bytes() == DATA


@pytest.mark.parametrize("known", [{}, {"sha256": SHA}])
def test_a_cut_is_resumed_where_it_happened(web, tmp_path, known):
    web.files["a"], web.faults["a"] = DATA, ["cut:100000", "cut:50000"]
    assert get(web, tmp_path, **known).read_bytes() == DATA
    assert web.log == [("a", None, 200), ("a", "bytes=100000-", 206), ("a", "bytes=150000-", 206)]
    assert only(tmp_path, "a.zip")


def test_many_cuts_do_not_end_a_download_that_moves_on(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA, ["cut:30000"] * 9
    assert get(web, tmp_path).read_bytes() == DATA
    assert len(web.log) == 10


def test_the_next_run_goes_on_from_the_part_of_the_last(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA, ["cut:100000", "503", "503", "503"]
    with pytest.raises(DataError, match=r"a\.zip could not be downloaded"):
        get(web, tmp_path)
    assert only(tmp_path, "a.zip.part", "a.zip.part.json")
    assert get(web, tmp_path).read_bytes() == DATA
    assert web.log[-1] == ("a", "bytes=100000-", 206)


def test_a_server_that_ignores_ranges_sends_everything_again(web, tmp_path):
    web.files["a"], web.faults["a"], web.ranges = DATA, ["cut:100000"], False
    assert get(web, tmp_path).read_bytes() == DATA
    assert web.log == [("a", None, 200), ("a", "bytes=100000-", 200)]


def test_a_server_that_always_cuts_at_the_same_place_is_given_up(web, tmp_path):
    web.files["a"], web.faults["a"], web.ranges = DATA, ["cut:100000"] * 99, False
    with pytest.raises(DataError) as caught:
        get(web, tmp_path)
    assert "cut off at 100.0 kB of 300.0 kB (3 tries)" in caught.value.where
    assert caught.value.fix == "by hand: ..."
    assert len(web.log) == 3


def test_a_file_that_changed_in_between_is_fetched_anew(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA[::-1], ["cut:100000", "503", "503", "503"]
    with pytest.raises(DataError):
        get(web, tmp_path)
    web.files["a"] = DATA
    assert get(web, tmp_path, sha256=SHA).read_bytes() == DATA
    assert web.log[-1] == ("a", "bytes=100000-", 200)


def test_a_wrong_range_is_not_appended(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA, ["cut:100000", "shifted:7"]
    assert get(web, tmp_path, sha256=SHA).read_bytes() == DATA
    assert [status for _, _, status in web.log] == [200, 206, 200]


def test_a_part_longer_than_the_file_starts_over(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA + b"more", ["cut:300002", "503", "503", "503"]
    with pytest.raises(DataError):
        get(web, tmp_path, sha256=SHA)
    web.files["a"] = DATA
    web.etag = lambda path: '"always the same"'
    (tmp_path / "a.zip.part.json").write_text(
        (tmp_path / "a.zip.part.json").read_text().replace(web.url("a"), "elsewhere")
    )
    assert get(web, tmp_path, sha256=SHA).read_bytes() == DATA


def test_wrong_bytes_are_thrown_away_and_the_next_mirror_is_asked(web, tmp_path):
    web.files |= {"a": DATA, "b": DATA}
    web.faults["a"] = ["wrong"]
    assert get(web, tmp_path, "a", "b", md5=MD5).read_bytes() == DATA
    assert [path for path, _, _ in web.log] == ["a", "b"]


def test_wrong_bytes_everywhere_leave_nothing_behind(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA, ["wrong"]
    with pytest.raises(DataError) as caught:
        get(web, tmp_path, sha256=SHA)
    assert "sha256" in caught.value.where
    assert SHA in caught.value.where
    assert web.url("a") in caught.value.where
    assert only(tmp_path)


def test_a_resumed_file_that_is_wrong_is_fetched_anew(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA, ["cut:100000", "wrong"]
    assert get(web, tmp_path, sha256=SHA).read_bytes() == DATA
    assert [status for _, _, status in web.log] == [200, 206, 200]


def test_a_mirror_goes_on_with_the_part_of_another_when_a_checksum_will_tell(web, tmp_path):
    web.files |= {"a": DATA, "b": DATA}
    web.faults["a"] = ["cut:100000", "404"]
    assert get(web, tmp_path, "a", "b", sha256=SHA).read_bytes() == DATA
    assert web.log[-1] == ("b", "bytes=100000-", 206)


def test_a_mirror_starts_over_when_no_checksum_is_known(web, tmp_path):
    web.files |= {"a": DATA[::-1], "b": DATA}
    web.faults["a"] = ["cut:100000", "404"]
    assert get(web, tmp_path, "a", "b").read_bytes() == DATA
    assert web.log[-1] == ("b", None, 200)


def test_404_goes_to_the_next_mirror_at_once_and_ends_in_the_steps_by_hand(web, tmp_path):
    web.files["c"] = DATA
    assert get(web, tmp_path, "a", "b", "c").read_bytes() == DATA
    assert [status for _, _, status in web.log] == [404, 404, 200]
    with pytest.raises(DataError) as caught:
        get(web, tmp_path / "other", "a", "b")
    assert caught.value.where.count("HTTP 404") == 2
    assert caught.value.fix == "by hand: ..."
    assert caught.value.code == 4


def test_errors_of_the_moment_are_tried_again(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA, ["503", "500"]
    assert get(web, tmp_path).read_bytes() == DATA


def test_a_redirect_is_followed_also_for_the_rest(web, tmp_path):
    web.files |= {"a": b"", "b": DATA}
    web.faults |= {"a": ["redirect:b", "redirect:b"], "b": ["cut:100000"]}
    assert get(web, tmp_path).read_bytes() == DATA
    assert web.log[-1] == ("b", "bytes=100000-", 206)


def test_a_stalled_connection_is_dropped(web, tmp_path):
    web.files["a"], web.faults["a"] = DATA, ["stall"]
    assert get(web, tmp_path).read_bytes() == DATA
    assert [status for _, _, status in web.log] == [0, 200]


def test_a_size_that_is_not_the_published_one_is_refused_before_the_download(web, tmp_path):
    web.files["a"] = DATA
    with pytest.raises(DataError) as caught:
        get(web, tmp_path, size=7)
    assert "offers 300000 bytes, not 7" in caught.value.where


def test_no_server_at_all(tmp_path):
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(Archive("a.zip", ("http://127.0.0.1:9/a",)), tmp_path, "by hand", policy=QUICK)


def test_only_http_addresses_are_opened(tmp_path):
    with pytest.raises(DataError) as caught:
        fetch(Archive("a.zip", ("file:///etc/passwd",)), tmp_path, "by hand", policy=QUICK)
    assert "not an http address" in caught.value.where


def test_a_chunked_download_without_a_length_is_resumed_too(web, tmp_path):
    web.files["a"], web.faults["a"], web.chunked = DATA, ["cut:100000"], True
    assert get(web, tmp_path).read_bytes() == DATA


def test_a_disk_too_small_is_said_before_anything_is_written(web, small_disk):
    web.files["a"] = DATA * 3
    with pytest.raises(DataError) as caught:
        get(web, small_disk)
    assert "the disk is full: 900.0 kB more needed, 5" in caught.value.what
    assert str(small_disk / "a.zip.part") == caught.value.where


def test_a_disk_that_fills_up_keeps_the_part_and_the_next_run_goes_on(web, small_disk):
    data = DATA + DATA[::2]
    web.files["a"], web.chunked = data, True
    (small_disk / "other").write_bytes(bytes(100_000))
    with pytest.raises(DataError) as caught:
        get(web, small_disk)
    assert "the disk is full" in caught.value.what
    assert len(web.log) == 1, "asking again does not empty a disk"
    part = (small_disk / "a.zip.part").read_bytes()
    assert part
    assert data.startswith(part)
    (small_disk / "other").unlink()
    assert get(web, small_disk).read_bytes() == data
    assert web.log[-1] == ("a", f"bytes={len(part)}-", 206)
