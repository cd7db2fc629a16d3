from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssbench import find
from ssbench.errors import RecipeError
from ssbench.find import Kind
from ssbench.paths import PACKAGE

KINDS: tuple[Kind, ...] = ("method", "plugin", "net", "dataset")
PLUGIN = """\
from ssbench.plugins.base import Plugin, PluginConfig


class {name}(Plugin):
    class Config(PluginConfig):
        name: str = "{name}"
"""


def test_the_catalogue_is_the_folder_and_needs_no_torch() -> None:
    code = (
        "import sys; from ssbench import find\n"
        "print([find.names(k) for k in ('method', 'plugin', 'net', 'dataset')])\n"
        "print([find.summary('method', n) for n in find.names('method')])\n"
        "sys.exit(sum(m in sys.modules for m in ('torch', 'timm', 'pandas', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_the_issue_asks_for_is_there_and_helpers_are_not() -> None:
    assert {"supervised", "mean_teacher", "cutmix_seg", "fixmatch", "unimatch"} <= set(find.names("method"))
    assert "s4mc" in find.names("plugin")
    assert find.names("dataset") == ("acdc", "ade20k", "camvid", "cityscapes", "coco", "toy", "voc")
    assert find.names("net") == ("deeplabv3plus", "dpt", "mask2former", "semivl", "unet")
    assert "base" not in {name for kind in KINDS for name in find.names(kind)}


@pytest.mark.parametrize("kind", KINDS)
def test_name_is_file_is_key(kind: Kind) -> None:
    for name in find.names(kind):
        cls = find.load(kind, name)
        assert cls.__module__.endswith(f".{name}")
        said = cls.name if kind == "dataset" else cls.Config.model_fields["name"].default
        assert said == name


@pytest.mark.parametrize(("kind", "name", "hint"), [
    ("method", "unimatsch", "did you mean 'unimatch'"),
    ("plugin", "s4m", "did you mean 's4mc'"),
    ("net", "deeplab", "did you mean 'deeplabv3plus'"),
    ("dataset", "vok", "did you mean 'voc'"),
    ("plugin", "base", "known:"),
    ("method", "../methods/unimatch", "unimatch"),
])  # fmt: skip
def test_an_unknown_name_answers_with_the_closest(kind: Kind, name: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=f"no {kind} '{name}'") as error:
        find.load(kind, name, "r.yaml:3")
    assert hint in error.value.what
    assert (error.value.where, error.value.fix) == ("r.yaml:3", f"ssbench list {kind}s")


def test_a_users_file_is_found_by_path_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="Mine"))
    monkeypatch.chdir(tmp_path)
    cls = find.load("plugin", "mine.py")
    assert cls.__name__ == "Mine"
    assert find.load("plugin", str(tmp_path / "mine.py")) is cls


def test_two_files_of_one_name_are_two(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(PLUGIN.format(name=f"In{folder.upper()}"))
    assert [find.load("plugin", str(tmp_path / f / "mine.py")).__name__ for f in "ab"] == ["InA", "InB"]


@pytest.mark.parametrize(("text", "part", "line"), [
    (PLUGIN.format(name="One") + PLUGIN.format(name="Two"), "2 classes derived from Plugin, needs one", ""),
    ("x = 1\n", "0 classes derived from Plugin", ""),
    ("x = 1\nimport no_such_module\n", "ModuleNotFoundError", ":2"),
    ("def f():\n    return 1 / 0\n\nf()\n", "ZeroDivisionError", ":2"),
    ("def f(:\n", "SyntaxError", ":1"),
    ("import sys\nsys.exit()\n", "SystemExit", ":2"),
    ("from ssbench.plugins.base import Plugin\nclass A(Plugin):\n    def refin(self): ...\n", "refin", ""),
])  # fmt: skip
def test_a_users_file_that_is_wrong_says_where(tmp_path: Path, text: str, part: str, line: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text)
    for _ in range(2):  # a failed import leaves nothing behind that a second one could take for a module
        with pytest.raises(RecipeError, match=part) as error:
            find.load("plugin", str(path))
        assert error.value.where.endswith(f"wrong.py{line}" if "refin" not in part else "wrong.py")


@pytest.mark.parametrize("field", ["pass", "name: str", "name: int = 3"])
def test_a_plug_in_must_call_itself_something(tmp_path: Path, field: str) -> None:
    (tmp_path / "mine.py").write_text(PLUGIN.format(name="Mine").replace('name: str = "Mine"', field))
    cls = find.load("plugin", str(tmp_path / "mine.py"))
    with pytest.raises(RecipeError, match="the settings of Mine have no 'name' with a default"):
        find.own_name(cls)


def test_no_such_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no file 'no/such\.py'"):
        find.load("method", "no/such.py", "r.yaml:1")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installed package with a good plug-in, a broken one and one that is none."""
    (tmp_path / "their_plugin.py").write_text(PLUGIN.format(name="Theirs"))
    (tmp_path / "their_broken.py").write_text("raise RuntimeError('old torch')\n")
    info = tmp_path / "their-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their\nVersion: 1.0\n")
    points = "theirs = their_plugin:Theirs\nbroken = their_broken:X\nodd = their_plugin:PluginConfig\n"
    (info / "entry_points.txt").write_text(f"[ssbench.plugins]\n{points}")
    monkeypatch.syspath_prepend(str(tmp_path))
    find.names.cache_clear()
    yield
    find.names.cache_clear()


@pytest.mark.usefixtures("package")
def test_entry_points_of_installed_packages_are_found_and_refused_when_wrong() -> None:
    assert {"theirs", "s4mc"} <= set(find.names("plugin"))
    assert find.load("plugin", "theirs").__name__ == "Theirs"
    assert find.summary("plugin", "theirs") == "from the package their"
    with pytest.raises(RecipeError, match="RuntimeError: old torch"):
        find.load("plugin", "broken")
    with pytest.raises(RecipeError, match="is no Plugin"):
        find.load("plugin", "odd")


def test_every_file_of_a_kind_says_in_one_line_what_it_is() -> None:
    for kind in KINDS:
        for name in find.names(kind):
            line = find.summary(kind, name)
            assert 20 < len(line) < 160, f"{kind} {name}: {line!r}"
    assert PACKAGE.name == "ssbench"
