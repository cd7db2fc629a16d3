"""A composed recipe as one YAML file, whole and commented: what `ssbench check NAME --write mine.yaml` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from ssbench.recipe.marks import Keys, Marked
from ssbench.recipe.recipe import SECTIONS, Recipe

WORDS = ("paper", "title", "division", "departures")


def recipe_text(recipe: Recipe) -> str:
    """Every value that the recipe's files, host, plug-in constants and `--set` give, each with its source.

    Fields that nobody gave keep their defaults and are left out: `ssbench check` lists them. The text read again gives
    a recipe with the same key.
    """
    lines = [
        f"# {recipe.title or recipe.name}",
        f"# Written from {recipe.name}. Each value ends in its source, or in the file and line it comes from.",
    ]
    data = {name: recipe.marked.data[name] for name in SECTIONS if name in recipe.marked.data}
    for section, block in data.items():
        lines += _section(section, block, recipe.marked)
    return "\n".join(lines) + "\n"


def _section(name: str, block: Any, marked: Marked) -> Iterator[str]:
    if name in WORDS:
        yield f"{name}: {_plain(block)}"
    elif isinstance(block, Mapping):
        yield f"{name}:"
        yield from _fields(block, (name,), marked, "  ")
    elif isinstance(block, list) and name == "plugin":
        yield f"{name}:"
        for i, item in enumerate(block):
            fields = list(_fields(item if isinstance(item, Mapping) else {"name": item}, (name, i), marked, "    "))
            yield "  - " + fields[0].strip()
            yield from fields[1:]
    else:
        yield f"{name}: {_plain(block)}{_source((name,), marked)}"


def _fields(block: Mapping[str, Any], at: Keys, marked: Marked, indent: str) -> Iterator[str]:
    for field, value in block.items():
        yield f"{indent}{field}: {_plain(value)}{_source((*at, field), marked)}"


def _source(keys: Keys, marked: Marked) -> str:
    mark = marked.at(keys)
    source = mark.comment if mark.comment and not mark.comment.startswith("--") else str(mark)
    return f"  # {source}" if mark.file else ""


def _plain(value: Any) -> str:
    """A value in YAML's flow style, on one line; numbers keep the form that reads back as the same number."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_plain(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, str):
        return yaml.safe_dump([value], default_flow_style=True, width=10**6).strip()[1:-1]  # quoted as inside a list
    return json.dumps(value)  # numbers, true, false and null are the same in YAML 1.2
