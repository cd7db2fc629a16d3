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
