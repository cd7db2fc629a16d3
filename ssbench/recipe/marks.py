"""YAML that remembers where each value stands: file, line, and the comment behind it (its source)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ssbench.errors import RecipeError
from ssbench.files import UNBUILDABLE

Keys = tuple[str | int, ...]
MAX_DEPTH = 40
"""Deepest nesting of a recipe or table; the shipped ones nest below 8, and the parser itself overflows its stack."""
MAX_VALUES = 50_000
"""Most values of one file, aliases counted as often as they are used; the largest shipped table has about 3,000."""
MAX_DIGITS = 40
"""Most digits of an integer; no constant of a recipe has more than 9."""

if TYPE_CHECKING:
    _Loader = yaml.SafeLoader
else:  # libyaml's, where PyYAML was built with it: ten times faster
    _Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Loader(_Loader):
    """Plain data only; 1e-4 is a number, as in YAML 1.2 (PyYAML reads it as a string without a dot)."""


Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"[-+]?\d+[eE][-+]?\d+"), list("-+0123456789"))


@dataclass(frozen=True)
class Mark:
    """Where a value stands; `comment` is the text after '#' on its line, or ''."""

    file: str
    line: int
    comment: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


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
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot read '{shown}': {error.strerror}", shown, "check the path") from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"'{shown}' is no UTF-8 text: {error.reason}", shown, "save it as UTF-8") from None
    return parse(text, shown)


def parse(text: str, shown: str) -> Marked:
    """Parse YAML text; `shown` names the file in marks and errors.

    Raises:
        RecipeError: not YAML, too deep, too many values, a key that stands twice, or a number that is not finite.
    """
    try:
        _check_depth(text, shown)
        node = yaml.compose(text, Loader=Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: characters that no YAML has
        raise _not_yaml(error, text, shown) from None
    marked = Marked(None)
    marked.data = {} if node is None else _Reader(text, shown, marked.marks, _ends(node)).value(node, ())
    return marked


def _check_depth(text: str, shown: str) -> None:
    """Refuse nesting beyond `MAX_DEPTH`. The exact count walks the parser's events, so it is left to doubtful files."""
    open_brackets = accumulate(
        re.findall(r"[][{}]", text), lambda n, c: n + 1 if c in "[{" else max(0, n - 1), initial=0
    )
    deepest = max(open_brackets)
    indented = max((len(line) - len(line.lstrip(" -?:\t")) for line in text.splitlines()), default=0)
    if deepest <= MAX_DEPTH // 2 and indented <= MAX_DEPTH:
        return
    depth = 0
    for event in yaml.parse(text, Loader=Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                where = str(Mark(shown, event.start_mark.line + 1 if event.start_mark else 0))
                raise RecipeError(f"nested deeper than {MAX_DEPTH} levels", where, "remove the nesting")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _not_yaml(error: Exception, text: str, shown: str) -> RecipeError:
    line, problem, fix = 0, str(error), "mend the line"
    if isinstance(error, yaml.MarkedYAMLError):
        problem = error.problem or problem
        line = error.problem_mark.line + 1 if error.problem_mark else 0
    lines = text.splitlines()
    if "\\t" in problem or (0 < line <= len(lines) and "\t" in lines[line - 1]):
        fix = "YAML is indented by spaces, not tabs"
    return RecipeError(f"not YAML: {problem}", str(Mark(shown, line)), fix)


def _ends(root: yaml.Node) -> dict[int, int]:
    """Line -> the column behind the last value that ends on it; what follows there is a comment."""
    ends: dict[int, int] = {}
    stack, seen = [root], set()
    while stack:
        node = stack.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if _ends_itself(node):
            line, column = node.end_mark.line, node.end_mark.column
            ends[line] = max(column, ends.get(line, 0))
        if isinstance(node, yaml.MappingNode):
            stack += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            stack += node.value
    return ends


def _ends_itself(node: yaml.Node) -> bool:
    """Whether its end mark is its own last character; block collections and block scalars end at what comes next."""
    if isinstance(node, yaml.ScalarNode):
        return node.style not in ("|", ">")
    return isinstance(node, yaml.CollectionNode) and bool(node.flow_style)


class _Reader:
    """Nodes to plain data, with a mark for every path."""

    def __init__(self, text: str, shown: str, marks: dict[Keys, Mark], ends: dict[int, int]) -> None:
        self.lines, self.shown, self.marks, self.ends = text.splitlines(), shown, marks, ends
        self.loader = Loader("")
        self.inside: set[int] = set()
        self.count = 0

    def value(self, node: yaml.Node, keys: Keys, line: int | None = None) -> Any:
        """The value of a node that stands at `keys`; `line` of its key, which a block begins below."""
        begins = node.start_mark.line if line is None or _ends_itself(node) else line
        self.marks[keys] = Mark(self.shown, begins + 1, self.comment(node))
        self.count += 1
        if self.count > MAX_VALUES:  # aliases of aliases: a few lines can stand for millions of values
            raise RecipeError(f"more than {MAX_VALUES:,} values", str(self.marks[keys]), "write fewer, without aliases")
        if id(node) in self.inside:
            raise RecipeError("a value that contains itself", str(self.marks[keys]), "remove the alias")
        self.inside.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return dict(self.pairs(node, keys))
            if isinstance(node, yaml.SequenceNode):
                return [self.value(n, (*keys, i)) for i, n in enumerate(node.value)]
            return self.scalar(node)
        finally:
            self.inside.discard(id(node))

    def pairs(self, node: yaml.MappingNode, keys: Keys) -> Iterator[tuple[Any, Any]]:
        """Key and value of each line of a mapping."""
        seen: set[Any] = set()
        for key_node, value_node in node.value:
            where = f"{self.shown}:{key_node.start_mark.line + 1}"
            key = self.scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            if not isinstance(key, str | int):
                raise RecipeError("a key that is no plain word", where, "name: value lines")
            if key in seen:
                raise RecipeError(f"'{key}' stands twice", where, "remove one")
            seen.add(key)
            yield key, self.value(value_node, (*keys, key), key_node.start_mark.line)

    def scalar(self, node: yaml.Node) -> Any:
        """A number, a string, true, false or null."""
        where = f"{self.shown}:{node.start_mark.line + 1}"
        if str(node.tag).endswith(":int") and len(node.value) > MAX_DIGITS:
            raise RecipeError(f"a number of {len(node.value)} digits", where, f"at most {MAX_DIGITS} digits")
        try:
            value = self.loader.construct_object(node)
        except (yaml.YAMLError, *UNBUILDABLE) as error:
            kind = str(node.tag).rpartition(":")[2]
            problem = error.problem if isinstance(error, yaml.MarkedYAMLError) else f"{node.value[:60]!r} is no {kind}"
            raise RecipeError(f"not plain data: {problem}", where, "write a number, a string or a list") from None
        if isinstance(value, float) and not math.isfinite(value):
            raise RecipeError(f"{node.value} is no finite number", where, "write a number")
        return value

    def comment(self, node: yaml.Node) -> str:
        """The comment on the value's last line, behind everything else there, so that a '#' in a value is none."""
        line = node.end_mark.line
        if not _ends_itself(node) or line >= len(self.lines):
            return ""
        return (
            self.lines[line][self.ends.get(line, 0) :].partition("#")[2].strip()
        )  # an alias ends where its anchor does
