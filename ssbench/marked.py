"""YAML that remembers where each value stands: file, line, and the comment behind it (its source)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ssbench.errors import RecipeError

Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class Mark:
    """Where a value stands; `comment` is the text after '#' on its line, or ''."""

    file: str
    line: int
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass
class Marked:
    """Plain YAML data plus a mark for every path in it."""

    data: Any
    marks: dict[Keys, Mark] = field(default_factory=dict)

    def at(self, keys: Keys) -> Mark:
        """The mark of `keys`, or of the nearest enclosing path."""
        while keys and keys not in self.marks:
            keys = keys[:-1]
        return self.marks.get(keys, Mark("", 0))


def read(path: Path, shown: str | None = None) -> Marked:
    """Read a YAML file.

    Raises:
        RecipeError: unreadable, not YAML, or a key that stands twice in one mapping (which YAML would drop silently).
    """
    shown = shown or str(path)
    try:
        text = path.read_text()
    except OSError as error:
        raise RecipeError(f"cannot read '{shown}': {error.strerror}", shown, "check the path") from None
    return parse(text, shown)


def parse(text: str, shown: str) -> Marked:
    """Parse YAML text; `shown` names the file in marks and errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        line = error.problem_mark.line + 1 if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark else 0
        problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else str(error)
        raise RecipeError(f"not YAML: {problem}", f"{shown}:{line}", "mend the line") from None
    lines = text.splitlines()
    marked = Marked(None)
    loader = yaml.SafeLoader("")
    marked.data = {} if node is None else _value(node, (), marked.marks, shown, lines, loader)
    return marked


def _value(
    node: yaml.Node, keys: Keys, marks: dict[Keys, Mark], shown: str, lines: list[str], loader: yaml.SafeLoader
) -> Any:
    marks[keys] = Mark(shown, node.start_mark.line + 1, _comment(lines, node))
    if isinstance(node, yaml.MappingNode):
        return dict(_pairs(node, keys, marks, shown, lines, loader))
    if isinstance(node, yaml.SequenceNode):
        return [_value(n, (*keys, i), marks, shown, lines, loader) for i, n in enumerate(node.value)]
    try:
        return loader.construct_object(node)  # type: ignore[no-untyped-call]
    except yaml.YAMLError as error:
        raise RecipeError(f"not plain data: {error}", str(marks[keys]), "write a number, a string or a list") from None


def _pairs(
    node: yaml.MappingNode, keys: Keys, marks: dict[Keys, Mark], shown: str, lines: list[str], loader: yaml.SafeLoader
) -> Iterator[tuple[Any, Any]]:
    seen: set[Any] = set()
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node)  # type: ignore[no-untyped-call]
        if key in seen:
            raise RecipeError(f"'{key}' stands twice", f"{shown}:{key_node.start_mark.line + 1}", "remove one")
        seen.add(key)
        yield key, _value(value_node, (*keys, key), marks, shown, lines, loader)


def _comment(lines: list[str], node: yaml.Node) -> str:
    """The comment on the value's last line, found after the value's end so that a '#' inside it is no comment."""
    if node.end_mark.line >= len(lines) or not isinstance(node, yaml.ScalarNode):
        return ""
    return lines[node.end_mark.line][node.end_mark.column :].partition(" #")[2].strip()
