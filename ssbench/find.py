"""Name = file = key: from a name in a recipe to the one class in the file of that name.

Nothing is registered. The folder listing is the catalogue, read without importing (and so without torch).
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Iterator
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ssbench.errors import RecipeError, nearest
from ssbench.paths import PACKAGE

Kind = Literal["method", "plugin", "net", "dataset"]
_WHERE: dict[str, tuple[str, str]] = {
    "method": ("methods", "Method"),
    "plugin": ("plugins", "Plugin"),
    "net": ("nets", "SegNet"),
    "dataset": ("data", "Dataset"),
}


@cache
def names(kind: Kind) -> tuple[str, ...]:
    """Every known name: our files that define a class of the kind, then entry points of installed packages."""
    folder, base = _WHERE[kind]
    ours = [f.stem for f in sorted((PACKAGE / folder).glob("*.py")) if _defines(f, base)]
    return (*ours, *sorted(p.name for p in entry_points(group=f"ssbench.{folder}")))


def summary(kind: Kind, name: str) -> str:
    """First line of the file's docstring."""
    path = PACKAGE / _WHERE[kind][0] / f"{name}.py"
    if not path.is_file():
        return "from an installed package"
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def load(kind: Kind, name: str, where: str = "") -> type[Any]:
    """The class called `name`: ours, an installed package's, or the one in a user's file (`path/to/mine.py`).

    Raises:
        RecipeError: no such name (with the nearest ones), or not exactly one class of the kind in the file.
    """
    folder, base = _WHERE[kind]
    if name.endswith(".py"):
        return _the_class(_from_path(Path(name), where), base, name)
    if (PACKAGE / folder / f"{name}.py").is_file() and name in names(kind):
        return _the_class(importlib.import_module(f"ssbench.{folder}.{name}"), base, name)
    for point in entry_points(group=f"ssbench.{folder}", name=name):
        return point.load()  # type: ignore[no-any-return]
    raise RecipeError(f"no {kind} '{name}'; {nearest(name, list(names(kind)))}", where, f"ssbench list {_plural(kind)}")


def _plural(kind: str) -> str:
    return kind + "s"


def _defines(path: Path, base: str) -> bool:
    return any(True for _ in _classes(ast.parse(path.read_text()), base))


def _classes(tree: ast.Module, base: str) -> Iterator[ast.ClassDef]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and any(isinstance(b, ast.Name) and b.id == base for b in node.bases):
            yield node


def _the_class(module: ModuleType, base: str, name: str) -> type[Any]:
    found = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if c.__module__ == module.__name__ and any(b.__name__ == base for b in c.__mro__[1:])
    ]
    if len(found) != 1:
        raise RecipeError(f"'{name}' defines {len(found)} classes derived from {base}, needs one", str(module.__file__))
    return found[0]


def _from_path(path: Path, where: str) -> ModuleType:
    if not path.is_file():
        raise RecipeError(f"no file '{path}'", where, "give the path from the folder you start ssbench in")
    name = f"ssbench_user_{path.stem}"
    if name in sys.modules and sys.modules[name].__file__ == str(path):
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None  # noqa: S101  a .py path always has a loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
