from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssbench import files as io
from ssbench.errors import DataError


def test_folders_are_made_and_files_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    io.write_text(path, "one")
    io.write_text(path, "zwei ü")
    assert path.read_text(encoding="utf-8") == "zwei ü"
    assert [p.name for p in path.parent.iterdir()] == ["b.txt"]


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        io.write_bytes(tmp_path / "x", b"1")
    finally:
        assert os.umask(old) == 0o027
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    io.write_json(path, {"a": 1})

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        io.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_order_and_ends_in_a_newline(tmp_path: Path) -> None:
    io.write_json(tmp_path / "x.json", {"b": 1, "a": "é"})
    assert (tmp_path / "x.json").read_bytes() == '{\n "b": 1,\n "a": "é"\n}\n'.encode()


def test_sha256_is_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc" * 100_000)
    assert io.sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_disk_that_is_full_is_said_and_the_old_file_stays(small_disk: Path) -> None:
    io.write_bytes(small_disk / "a", b"old")
    with pytest.raises(DataError, match="the disk is full"), io.readable_errors(small_disk):
        io.write_bytes(small_disk / "a", bytes(1_000_000), flush=False)
    assert (small_disk / "a").read_bytes() == b"old"
    assert [p.name for p in small_disk.iterdir()] == ["a"]


def test_names_with_a_dot_are_removed_and_never_walked(tmp_path: Path) -> None:
    for name in (".a.png.xyz", ".keep", "a.png", "d/.b", "d/b"):
        io.write_bytes(tmp_path / name, b"1")
    assert [path for path, _ in io.walk_files(tmp_path)] == ["a.png", "d/b"]
    io.remove_temporary(tmp_path, keep=".keep")
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")) == [".keep", "a.png", "d", "d/b"]


def test_sizes_for_people() -> None:
    assert [io.format_bytes(n) for n in (7, 1500, 2_000_000, 11_592_327_197, 5 * 10**12)] == [
        *("7 B", "1.5 kB", "2.0 MB", "11.6 GB", "5.0 TB"),
    ]


def test_a_marker_is_the_very_bytes_that_were_written(tmp_path: Path) -> None:
    io.write_json(tmp_path / "x.json", {"a": (1, 2)})
    assert io.holds_json(tmp_path / "x.json", {"a": [1, 2]})
    assert not io.holds_json(tmp_path / "x.json", {"a": [1]})
    assert not io.holds_json(tmp_path / "nowhere.json", {})


def test_half_a_character_is_no_json_and_a_whole_one_is(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text('["\\ud83d\\ude00"]')
    assert io.read_json(tmp_path / "x.json", "record", "mend it") == ["\U0001f600"]
    (tmp_path / "x.json").write_text('["\\udc80"]')
    with pytest.raises(DataError, match="this record is not JSON: .* surrogates not allowed"):
        io.read_json(tmp_path / "x.json", "record", "mend it")


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\n"
YAML = {
    "a: [": "not YAML",
    "a: 2026-13-45": "not YAML: month must be in",
    f"a: {'9' * 5000}": "not YAML",
    BOMB: "uses the alias",
    "[" * 100 + "]" * 100: "nested deeper than 64",
    "a: !!python/object:os.system {}": "not YAML",
    "a: !!bool x": "not YAML",
    "a: !!int ''": "not YAML",
    "a: !!timestamp x": "not YAML",
}


@pytest.mark.parametrize("text", YAML)
def test_yaml_that_cannot_be_read_is_one_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(DataError, match=YAML[text]) as caught:
        io.read_yaml(tmp_path / "x.yaml", "card", "mend it")
    assert caught.value.where.startswith(str(tmp_path / "x.yaml"))
    assert caught.value.fix == "mend it"


def test_a_pipe_in_place_of_a_lock_is_no_lock_and_does_not_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "lock")
    assert not io.is_locked(tmp_path / "lock")


def test_what_is_no_file_or_too_large_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(2000))
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    for name, words in {"pipe": "no regular file", "large": "2,000 bytes; at most", "latin": "not UTF-8"}.items():
        with pytest.raises(DataError, match=words):
            io.read_text(tmp_path / name, "list", "bring another", max_bytes=1000)
    with pytest.raises(DataError, match="not there"):
        io.read_text(tmp_path / "gone", "list", "bring another")


WRITER = """
import sys
from pathlib import Path
from ssbench.files import write_bytes
path, at = Path(sys.argv[1]), 0
while True:
    at += 1
    write_bytes(path, bytes([at % 256]) * 300_000)
"""


def test_a_reader_never_sees_half_a_file_however_the_writer_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for round in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
        while not path.is_file():
            time.sleep(0.01)
        for _ in range(20 + 7 * round):
            data = path.read_bytes()
            assert len(data) == 300_000
            assert len(set(data)) == 1
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        assert len(set(path.read_bytes())) == 1
