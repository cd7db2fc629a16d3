"""Where a default comes from: the line of the settings class that gives it, and the source in its comment."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ssbench.paths import PACKAGE
from ssbench.recipe.marks import Mark


def default_mark(model: type[BaseModel], field: str, value: Any) -> Mark:
    """The line that declares `field` in `model` or one of its bases; the comment is its source.

    A value that is not the field's default was filled in by the class (a pipeline's own number); its source then stands
    elsewhere in that file, and the comment says so.
    """
    for cls in model.__mro__:
        if field in vars(cls).get("__annotations__", {}):
            file, line, comment = _declared(cls, field)
            if to_jsonable_python(model.model_fields[field].get_default(call_default_factory=True)) != value:
                comment = "filled in by the class"
            return Mark(file, line, comment)
    return Mark(model.__name__, 0)


@cache
def _declared(cls: type[Any], field: str) -> tuple[str, int, str]:
    """(file as shown, line, comment) of a field's annotation; of the class when its source is not at hand."""
    try:
        path = Path(inspect.getsourcefile(cls) or "")
        text = path.read_text(encoding="utf-8")
    except (OSError, TypeError):
        return cls.__qualname__, 0, ""
    file = f"ssbench/{path.relative_to(PACKAGE).as_posix()}" if path.is_relative_to(PACKAGE) else str(path)
    node: ast.AST = ast.parse(text)
    for name in cls.__qualname__.split("."):
        node = next(n for n in ast.iter_child_nodes(node) if isinstance(n, ast.ClassDef) and n.name == name)
    for n in ast.iter_child_nodes(node):
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id == field:
            after = text.splitlines()[(n.end_lineno or n.lineno) - 1].encode()[n.end_col_offset :].decode()
            return file, n.lineno, after.partition("#")[2].strip()
    return file, 0, ""
