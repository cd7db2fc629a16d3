"""A recipe that has been read: every section typed, where each value came from, and the key of its runs."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from ssbench import find, paths
from ssbench.errors import RecipeError
from ssbench.paths import PACKAGE
from ssbench.recipe.marks import Keys, Mark, Marked
from ssbench.recipe.outside import Outside, code_files, data_digest, weight_files
from ssbench.recipe.sections import AboutConfig, DataConfig, EvalConfig, OptimConfig, ScheduleConfig

Division = Literal["closed", "open"]


@dataclass(frozen=True)
class Recipe:
    """A resolved recipe: every section typed, plus where each value came from."""

    name: str
    path: Path
    about: AboutConfig
    data: DataConfig
    views: Any
    net: Any
    method: Any
    plugins: tuple[Any, ...]
    loss: Any
    optim: OptimConfig
    schedule: ScheduleConfig
    eval: EvalConfig
    overrides: tuple[str, ...]
    quick: bool
    marked: Marked
    classes: tuple[type[Any], ...]
    """The classes of method, net and plug-ins, in this order."""
    data_root: Path | None = field(default=None, compare=False)
    """Where imported datasets are; None: the usual place."""

    @property
    def paper(self) -> str | None:
        """The paper whose row it is."""
        return self.about.paper

    @property
    def title(self) -> str:
        """For people."""
        return self.about.title

    @property
    def division(self) -> Division:
        """closed: the paper's recipe with declared departures only; open: anything else, and whatever runs `fast`."""
        return "open" if self.schedule.precision == "fast" else self.about.division

    @property
    def departures(self) -> tuple[str, ...]:
        """From the paper, in words."""
        return tuple(self.about.departures)

    def resolved(self) -> dict[str, Any]:
        """Everything that decides the outcome, as plain data; the run key is a hash of it."""
        return {
            "data": self.data.facts(),
            "views": self.views.facts(),
            "net": self.net.model_dump(mode="json"),
            "method": _facts(self.method),
            "plugin": [_facts(p) for p in self.plugins],
            "loss": self.loss.model_dump(mode="json"),
            "optim": self.optim.facts(),
            "schedule": self.schedule.facts(),
            "eval": self.eval.facts(),
        }

    def behaviours(self) -> dict[str, int]:
        """The behaviour version of each part of the recipe, where it is above 1.

        A part raises its version when what it computes changes, so that no record from before passes for a new one.
        """
        return {name: version for name, version in self.versions().items() if version > 1}

    def versions(self) -> dict[str, int]:
        """The behaviour version of every part, as a record holds them."""
        settings = [self.method, self.net, *self.plugins]
        versions = {}
        for name, cls, cfg in zip(self._part_names, self.classes, settings, strict=True):
            version = cls.behaviour_of(cfg) if hasattr(cls, "behaviour_of") else getattr(cls, "behaviour", 1)
            if not isinstance(version, int):
                raise RecipeError(f"{name} has the behaviour version {version!r}", cls.__module__, "an integer: 1")
            versions[name] = version
        sections = {"loss": self.loss, "views": self.views, "schedule": self.schedule, "eval": self.eval}
        return versions | {name: section.behaviour for name, section in sections.items()}

    @cached_property
    def outside(self) -> Outside:
        """What the run reads from outside the package, as it was when this was first asked for."""
        sections = {"net": self.net, "method": self.method} | {f"plugin {p.name}": p for p in self.plugins}
        parts = zip(self._part_names, self.classes, strict=True)
        code = [file for name, cls in parts for file in code_files(name, cls)]
        weights = [f for name, cfg in sections.items() for f in weight_files(name, cfg.model_dump(mode="json"))]
        if self.data.dataset.endswith(".py"):
            code += code_files("dataset", find.load("dataset", self.data.dataset))
        data = data_digest(self.data.dataset, paths.data_root(self.data_root))
        return Outside(data=data, files=[*code, *weights])

    @property
    def _part_names(self) -> list[str]:
        """What `classes` are called in versions and outside files."""
        return ["method", "net", *(f"plugin {plugin.name}" for plugin in self.plugins)]

    def key(self, split_sha256: str, seed: int) -> str:
        """What makes two runs the same run: a hash of the resolved recipe, the split's digest, the seed, of the
        behaviour versions above 1, and of what it reads from outside the package.

        A shipped recipe on shipped data at version 1 has the key of the first stored records.
        """
        return self._key(split_sha256, seed, self.outside.key_part())

    def older_key(self, split_sha256: str, seed: int) -> str:
        """The key before content from outside the package was part of it."""
        return self._key(split_sha256, seed, {})

    def _key(self, split_sha256: str, seed: int, outside: dict[str, Any]) -> str:
        content: list[Any] = [self.resolved(), split_sha256, seed]
        content += [part for part in (self.behaviours(), outside) if part]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def stored_name(self) -> str:
        """Name of its folder under results/: the recipe's, with a hash of the overrides if there are any."""
        return name_with_overrides(self.name, self.overrides)

    def sources(self) -> Iterator[tuple[str, Any, Mark]]:
        """(dotted name, value, mark) of every constant in use: where it was written down, or the default it has."""
        for keys, model in self._models():
            for name, value in model.model_dump(mode="json").items():
                mark = self.marked.marks.get((*keys, name))
                yield ".".join(map(str, (*keys, name))), value, mark or default_mark(type(model), name, value)

    def _models(self) -> Iterator[tuple[Keys, BaseModel]]:
        listed = isinstance(self.marked.data.get("plugin"), list)
        for section in ("data", "views", "net", "method"):
            yield (section,), getattr(self, section)
        for i, plugin in enumerate(self.plugins):
            yield ("plugin", i) if listed else ("plugin",), plugin
        for section in ("loss", "optim", "schedule", "eval"):
            yield (section,), getattr(self, section)


def name_with_overrides(name: str, overrides: Sequence[str]) -> str:
    """A recipe's name with a hash of the overrides; the name alone where there are none."""
    return f"{name}+{hashlib.sha256(chr(10).join(overrides).encode()).hexdigest()[:6]}" if overrides else name


def _facts(settings: Any) -> dict[str, Any]:
    """Settings as plain data, without fields `added` after records were stored that still have their usual value."""
    added = type(settings).added
    return {n: v for n, v in settings.model_dump(mode="json").items() if n not in added or v != added[n]}


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
        with tokenize.open(path) as source:  # a user's file may begin with a mark, or name its encoding
            text = source.read()
        node: ast.AST = ast.parse(text)
    except (OSError, TypeError, SyntaxError, ValueError):
        return cls.__qualname__, 0, ""
    file = f"ssbench/{path.relative_to(PACKAGE).as_posix()}" if path.is_relative_to(PACKAGE) else str(path)
    for name in cls.__qualname__.split("."):
        inside = (n for n in ast.iter_child_nodes(node) if isinstance(n, ast.ClassDef) and n.name == name)
        if (inner := next(inside, None)) is None:  # made by a function
            return file, 0, ""
        node = inner
    for n in ast.iter_child_nodes(node):
        if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name) and n.target.id == field:
            after = text.splitlines()[(n.end_lineno or n.lineno) - 1].encode()[n.end_col_offset :].decode()
            return file, n.lineno, after.partition("#")[2].strip()
    return file, 0, ""
