"""A wheel, unpacked far from any checkout, finds the recipes, tables and split manifest it ships."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("ssbench", "recipes", "splits", "pyproject.toml", "README.md", "LICENSE")
ASK = """
import json, sys
from pathlib import Path
from ssbench import paths
from ssbench.splits.manifest import Partition, manifest
from ssbench.recipe.recipe import load, recipe_names
from ssbench.tables.spec import PaperTable, table_names
print(json.dumps({
    "from": str(paths.PACKAGE),
    "recipes": list(recipe_names()),
    "tables": [PaperTable.read(name).name for name in table_names()],
    "splits": list(manifest().splits),
    "drawn": len(Partition.read("toy/ours/1_16", Path("nowhere")).labeled),
    "lr": load("unimatch/unimatch_voc_r50").optim.lr,
    "where": str(load("toy/none_unimatch").marked.at(("optim", "lr"))).partition(":")[0],
}))
"""


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel built from a copy of the sources, without a network."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index",
         "--disable-pip-version-check", "--wheel-dir", str(out), str(source)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = out.glob("ssbench-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(out / "site")
    return out / "site"


def _python(unpacked: Path, cwd: Path, *words: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(unpacked), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_everything_shipped_is_found_there(unpacked: Path, tmp_path: Path) -> None:
    import json

    from ssbench.recipe.recipe import recipe_names
    from ssbench.splits.manifest import manifest
    from ssbench.tables.spec import table_names

    found = json.loads(_python(unpacked, tmp_path, "-c", ASK))
    assert found["from"] == str(unpacked / "ssbench")
    assert found["recipes"] == list(recipe_names())
    assert found["tables"] == table_names()
    assert found["splits"] == list(manifest().splits)
    assert (found["drawn"], found["lr"], found["where"]) == (20, 0.001, "recipes/tasks/toy.yaml")


def test_the_command_works_there(unpacked: Path, tmp_path: Path) -> None:
    assert "S4MC + FixMatch" in _python(unpacked, tmp_path, "-m", "ssbench", "table", "s4mc/table1")
    assert "recipes/hosts/unimatch_acdc.yaml" in _python(
        unpacked, tmp_path, "-m", "ssbench", "check", "acdc/unimatch_unet"
    )
    _python(unpacked, tmp_path, "-m", "ssbench", "report", "toy/table1", "--results", "nowhere", "-o", "made")
    assert "toy/table1" in (tmp_path / "made" / "report.html").read_text(encoding="utf-8")


def test_what_is_shipped_is_the_package_and_no_more(unpacked: Path) -> None:
    assert {path.name.partition("-")[0] for path in unpacked.iterdir()} == {"ssbench"}
    shipped = unpacked / "ssbench" / "_shipped"
    assert {path.name for path in shipped.iterdir()} == {"recipes", "splits"}
    files = [path for path in unpacked.rglob("*") if path.is_file()]
    assert not [path for path in files if path.suffix in (".pyc", ".pt", ".png", ".jpg")]
    assert sum(path.stat().st_size for path in files) < 5_000_000  # 0.8 MB are the toy task's encoder
    points = next(unpacked.glob("ssbench-*.dist-info/entry_points.txt")).read_text()
    assert "ssbench = ssbench.cli:main" in points
    assert next(unpacked.glob("ssbench-*.dist-info/licenses/LICENSE")).read_text().startswith("MIT License")
