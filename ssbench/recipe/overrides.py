"""`--set a.b=value`: one constant of a recipe replaced, checked like a line of its file."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from ssbench.errors import RecipeError
from ssbench.recipe.compose import NAMED, plugin_blocks
from ssbench.recipe.marks import Keys, Mark, Marked, parse

MAX_LENGTH = 10_000  # characters of one --set argument; the longest list of a recipe has about 200


def override(marked: Marked, text: str) -> Marked:
    """`marked` with one "a.b=value" put in; a number steps into a list.

    Another name of a method, net or plug-in empties its block first.

    Raises:
        RecipeError: not of that form, a value that is not plain YAML, or a path that leads through a plain value.
    """
    keys, value = _parsed(text)
    mark, data, replaced = Mark(f"--set {text}", 0, "--set"), copy.deepcopy(marked.data), keys
    if keys[0] == "plugin" and len(keys) > 1:
        data["plugin"] = plugin_blocks(data.get("plugin"))
    block = data
    for key in keys[:-1]:
        block = _step(block, key, mark)
    if isinstance(block, list) and not _is_index(keys[-1], block):
        raise _no_place(keys[-1], mark)
    if keys[-1] == "name" and keys[0] in NAMED and block.get("name") != value:
        block.clear()
        replaced = keys[:-1]
    block[keys[-1]] = value
    marks = {k: m for k, m in marked.marks.items() if k[: len(replaced)] != replaced}
    return Marked(data, {**marks, **{keys[:n]: mark for n in range(1, len(keys) + 1)}})


def _step(block: Any, key: str | int, mark: Mark) -> Any:
    """The mapping or list at `key`, a new mapping where there is nothing yet."""
    if isinstance(block, dict) and block.get(key) is None:
        block[key] = {}
    below = block[key] if isinstance(block, dict) or _is_index(key, block) else None
    if not isinstance(below, dict | list):
        raise _no_place(key, mark)
    return below


def _no_place(key: str | int, mark: Mark) -> RecipeError:
    return RecipeError(f"no place '{key}' to set a value", str(mark), "ssbench check RECIPE shows the constants' names")


def _parsed(text: str) -> tuple[Keys, Any]:
    dotted, sign, value = text.partition("=")
    parts = dotted.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(f"--set '{text:.200}' is no name.field=value", "--set", "--set optim.lr=0.01")
    if len(text) > MAX_LENGTH:
        raise RecipeError(f"--set '{text:.40}...' has {len(text)} characters", "--set", f"at most {MAX_LENGTH}")
    try:
        data = parse(value, "--set").data if value.strip() else None
    except (RecipeError, yaml.YAMLError) as error:
        what = error.what if isinstance(error, RecipeError) else str(error)
        raise RecipeError(f"--set '{text:.200}': {what}", "--set", "quote the whole argument") from None
    keys = tuple(int(part) if part.isdecimal() and len(part) < 6 else part for part in parts)
    return keys, data


def _is_index(key: str | int, values: list[Any]) -> bool:
    return isinstance(key, int) and 0 <= key < len(values)
