"""Name = file = key: from a name in a recipe to the one class in the file of that name.

Nothing is registered. The folder listing is the catalogue, read without importing (and so without torch).
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ssbench.errors import RecipeError, SsbenchError, nearest, printable
from ssbench.paths import PACKAGE

Kind = Literal["method", "plugin", "net", "dataset"]
DIGEST = "__ssbench_sha256__"
"""Attribute of a user's module: SHA-256 of the file as it was imported."""
USER = "ssbench_user"
"""What the name of every module made of a user's file begins with."""
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
    ours = [f.stem for f in sorted((PACKAGE / folder).glob("*.py")) if f.stem != "base" and _defines(f, base)]
    return (*ours, *sorted({p.name for p in entry_points(group=f"ssbench.{folder}")} - set(ours)))


def summary(kind: Kind, name: str) -> str:
    """First line of the file's docstring, or why it is no Python; of an installed package's class, which package."""
    path = Path(name) if name.endswith(".py") else PACKAGE / _WHERE[kind][0] / f"{name}.py"
    if name.endswith(".py") and not path.is_file():
        raise RecipeError(f"no file '{path}'", "", "give the path from the folder you start ssbench in")
    if not path.is_file():
        point = next(iter(entry_points(group=f"ssbench.{_WHERE[kind][0]}", name=name)), None)
        return f"from the package {point.dist.name}" if point and point.dist else "from an installed package"
    try:
        tree = ast.parse(path.read_bytes())  # bytes: the file may name its encoding
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"cannot be read: {error}"
    return printable((ast.get_docstring(tree) or "").partition("\n")[0])


def is_ours(kind: Kind, name: str) -> bool:
    """Whether it is part of ssbench: not a user's file, nor an installed package's."""
    return (PACKAGE / _WHERE[kind][0] / f"{name}.py").is_file()


def load(kind: Kind, name: str, where: str = "") -> type[Any]:
    """The class called `name`: ours, an installed package's, or the one in a user's file (`path/to/mine.py`).

    Raises:
        RecipeError: no such name (with the nearest ones), not exactly one class of the kind in the file, or a user's
            file or an installed package that fails when imported.
    """
    folder, base = _WHERE[kind]
    if name.endswith(".py"):
        return _the_class(_from_path(Path(name), where), base, name)
    known = names(kind)
    if name in known and is_ours(kind, name):
        return _the_class(importlib.import_module(f"ssbench.{folder}.{name}"), base, name)
    for point in entry_points(group=f"ssbench.{folder}", name=name):
        try:
            cls = point.load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # another package's code, which may raise anything
            raise _broken(f"{kind} '{name}' of an installed package", error, point.value) from error
        if not (inspect.isclass(cls) and any(b.__name__ == base for b in cls.__mro__[1:])):
            raise RecipeError(
                f"{kind} '{name}' of an installed package is no {base}", point.value, "mend its entry point"
            )
        return cls
    raise RecipeError(f"no {kind} '{name}'; {nearest(name, list(known))}", where, f"ssbench list {kind}s")


def own_name(cls: type[Any]) -> str:
    """What a method, net or plug-in calls itself in its settings: the word records and other recipes use.

    Raises:
        RecipeError: it has no name, or its settings are no pydantic model.
    """
    known = getattr(cls.Config, "model_fields", {}).get("name")
    if known is None or not isinstance(known.default, str):
        fix = 'in its Config: name: Literal["mine"] = "mine"'
        where = str(getattr(sys.modules.get(cls.__module__), "__file__", cls.__module__))
        raise RecipeError(f"the settings of {cls.__name__} have no 'name' with a default", where, fix)
    return str(known.default)


def _defines(path: Path, base: str) -> bool:
    """Whether a file has a class whose base is written `base`, read without running it.

    A dataset also says its name, which is the file's: wrappers of datasets are no datasets.
    """
    text = path.read_text(encoding="utf-8")
    named = base != "Dataset" or re.search(rf'^    name = "{path.stem}"', text, re.MULTILINE)
    return bool(named and re.search(rf"^class \w+\((?:[^)]*[ ,])?{base}[ ,)]", text, re.MULTILINE))


def _the_class(module: ModuleType, base: str, name: str) -> type[Any]:
    classes = [
        c
        for _, c in inspect.getmembers(module, inspect.isclass)
        if c.__module__ == module.__name__ and any(b.__name__ == base for b in c.__mro__[1:])
    ]
    if len(classes) != 1:
        what = f"'{name}' defines {len(classes)} classes derived from {base}, needs one"
        raise RecipeError(what, str(module.__file__), f"one {base} a file")
    return classes[0]


def _from_path(path: Path, where: str) -> ModuleType:
    """A user's file as a module.

    Its name depends on its whole path, so two `mine.py` are two, and on its content, so an edited file is another
    module: what was built from the first goes on with the code it was built from. The bytes are read once and no
    byte-code cache is used, because that misses an edit of equal length within one second.
    """
    if not path.is_file():
        raise RecipeError(f"no file '{path}'", where, "give the path from the folder you start ssbench in")
    full = path.resolve()
    source = full.read_bytes()
    digest = hashlib.sha256(source).hexdigest()
    parts = [part for part in full.with_suffix("").parts if part != full.anchor]
    name = "_".join([USER, *parts, digest[:8]])
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, full)
    assert spec is not None  # noqa: S101  a .py path always has a loader
    module = importlib.util.module_from_spec(spec)
    setattr(module, DIGEST, digest)
    sys.modules[name] = module
    try:
        exec(compile(source, str(full), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  the user named it
    except SsbenchError as error:
        del sys.modules[name]
        error.where = str(path) if error.where == name else error.where
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's code, which may raise anything
        del sys.modules[name]
        raise _broken(f"'{path}'", error, str(path)) from error
    return module


def fault_of_user(error: BaseException) -> RecipeError | None:
    """An exception that went through a user's file, with the last line of it on the way; None for any other.

    Hooks are called by `plugins.promises`, which names them. This is for the rest: class methods and settings.
    """
    place, trace = None, error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(USER):
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        trace = trace.tb_next
    if place is None:
        return None
    return RecipeError(f"{Path(place).name} raised {type(error).__name__}: {error}"[:500], place, "mend the file")


def _broken(what: str, error: BaseException, where: str) -> RecipeError:
    """An import that failed, with the last line of that file on the way to the failure."""
    line = 0
    trace = error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename).name == Path(where).name:
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError):
        line = error.lineno or 0
    at = f"{where}:{line}" if line else where
    return RecipeError(f"{what} cannot be imported: {type(error).__name__}: {error}", at, "mend the file")
