"""Fixtures for all tests."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from ran import Ran

pytest_plugins = ("run_fixtures", "table_fixtures", "data_fixtures")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's `&` hands this on, and tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

for name in [name for name in os.environ if name.startswith("SSBENCH_") and not name.startswith("SSBENCH_SOAK")]:
    del os.environ[name]  # a person's own data and results are no part of the tests, nor of commands they start


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data beside the checkout; tests that need it are skipped, and say so, where it is absent."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the real data folder {path}")
    return path


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with the toy data, made once; tests only read it."""
    from ssbench.prepare.prepare import prepare

    root = tmp_path_factory.mktemp("toy") / "data"
    prepare("toy", root, workers=1)
    return root


@pytest.fixture
def ssbench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Ran]:
    """`ssbench("list", "splits")`: the command in this process, in an empty folder, without a terminal."""
    from ssbench import cli

    monkeypatch.chdir(tmp_path)

    def run(*words: str | Path) -> Ran:
        monkeypatch.setattr(sys, "argv", ["ssbench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, *capsys.readouterr())

    return run
