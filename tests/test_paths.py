from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ssbench import paths

ROOTS = [(paths.data_root, "SSBENCH_DATA", "data"), (paths.runs_root, "SSBENCH_RUNS", "runs"),
         (paths.results_root, "SSBENCH_RESULTS", "results")]  # fmt: skip


@pytest.mark.parametrize(("root", "variable", "usual"), ROOTS)
def test_an_argument_beats_the_environment_beats_the_usual_place(
    root: Callable[[Path | None], Path], variable: str, usual: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert root(None) == Path(usual)
    monkeypatch.setenv(variable, "/elsewhere")
    assert root(None) == Path("/elsewhere")
    assert root(Path("given")) == Path("given")


def test_shipped_folders_are_in_the_package_or_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "ssbench"
    monkeypatch.setattr(paths, "PACKAGE", package)
    assert paths.shipped("recipes") == tmp_path / "site" / "recipes"
    (package / "_shipped" / "recipes").mkdir(parents=True)
    assert paths.shipped("recipes") == package / "_shipped" / "recipes"
