"""One recipe out of several places: the file over its bases, then `--quick`, then `--set`; values keep their marks."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ssbench.errors import RecipeError, nearest
from ssbench.paths import shipped
from ssbench.recipe.marks import Keys, Loader, Mark, Marked, read

FILES = (".yaml", ".yml")
ASIDE = ("base", "claims")  # folders of recipes/ that hold no recipes
CHOSEN = ("method", "net", "plugin")  # sections whose `name` decides which fields there are


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes: every YAML file that is no base, no table and no list of claims."""
    root = shipped("recipes")
    files = [p.relative_to(root).with_suffix("") for p in sorted(root.glob("*/*.yaml"))]
    return tuple(f.as_posix() for f in files if f.parts[0] not in ASIDE and not is_table_name(f.name))


def is_table_name(stem: str) -> bool:
    """table1, supp_table2: tables stand beside recipes."""
    return stem.removeprefix("supp_").startswith("table")


def find_recipe(name: str) -> tuple[str, Path]:
    """(name, path) of a shipped recipe `paper/recipe`, or of a user's YAML file given by path."""
    given, root = Path(name), shipped("recipes")
    if given.suffix in FILES:
        if not given.is_file():
            raise RecipeError(
                f"no recipe file '{name}'", name, "check the path; ssbench list recipes shows the shipped ones"
            )
        inside = given.resolve()
        if inside.is_relative_to(root.resolve()):
            return inside.relative_to(root.resolve()).with_suffix("").as_posix(), given
        return f"custom/{given.stem}", given
    known = recipe_names()
    if name not in known:
        what = f"no recipe '{name}'; {nearest(name, list(known))}"
        if is_table_name(name.rpartition("/")[2]) and (root / f"{name}.yaml").is_file():
            what = f"'{name}' is a table, not a recipe"
        raise RecipeError(what, "", "ssbench list recipes")
    return name, root / f"{name}.yaml"


def read_raw(path: Path) -> Marked:
    """The file merged over its `base` files, one level: a base has no base. Marks say where each value stands."""
    own = _mapping(read(path, shown(path)), path)
    merged = Marked({}, {})
    for where, base in _bases(own):
        below_path = Path(os.path.normpath(path.parent / base))
        if not below_path.is_file():
            raise RecipeError(f"no base file '{base}'", where, "a base is given by its path from the recipe's folder")
        below = _mapping(read(below_path, shown(below_path)), below_path)
        if "base" in below.data:
            raise RecipeError("a base file has a base of its own", str(below.at(("base",))), "bases are one level deep")
        merged = merge(merged, below)
    merged = merge(merged, own)
    merged.data.pop("base", None)
    return merged


def _mapping(marked: Marked, path: Path) -> Marked:
    if not isinstance(marked.data, dict):
        raise RecipeError(
            "a recipe is a mapping", f"{shown(path)}:1", "name: value lines, as `ssbench check` shows them"
        )
    return marked


def _bases(own: Marked) -> Iterator[tuple[str, str]]:
    """(where it is asked for, path as written) of each base."""
    bases = own.data.get("base") or []
    for i, base in enumerate(bases if isinstance(bases, list) else [bases]):
        where = str(own.at(("base", i)))
        if not isinstance(base, str):
            raise RecipeError(f"base {base!r} is no path", where, "base: ../base/NAME.yaml")
        yield where, base


def merge(below: Marked, above: Marked) -> Marked:
    """`above` over `below`, mappings field by field; a method, net or plug-in of another name replaces the block.

    So do stacked plug-ins, unless they are the same ones in the same order.
    """
    data, marks = dict(below.data), dict(below.marks)
    for key, value in above.data.items():
        data[key], gone = _laid(key, data.get(key), value)
        marks = {k: m for k, m in marks.items() if not any(k[: len(g)] == g for g in gone)}
    return Marked(data, {**marks, **above.marks})


def _laid(key: str, old: Any, value: Any) -> tuple[Any, list[Keys]]:
    """A section once `value` is laid over `old`, and the places that are no longer old."""
    if isinstance(value, dict) and isinstance(old, dict) and (key not in CHOSEN or _same_name(value, old)):
        return {**old, **value}, [(key, field) for field in value]
    if key == "plugin" and isinstance(value, list) and isinstance(old, list) and len(value) == len(old):
        pairs = list(zip(_blocks(old), _blocks(value), strict=True))
        if all(isinstance(a, dict) and isinstance(b, dict) and _same_name(b, a) for a, b in pairs):
            return [{**a, **b} for a, b in pairs], [(key, i, field) for i, (_, b) in enumerate(pairs) for field in b]
    return value, [(key,)]


def _same_name(value: dict[str, Any], old: dict[str, Any]) -> bool:
    return bool(value.get("name", old.get("name")) == old.get("name"))


def override(marked: Marked, text: str) -> Marked:
    """`marked` with one "a.b=value" put in; a number steps into a list.

    Another name of a method, net or plug-in empties its block first.

    Raises:
        RecipeError: not of that form, a value that is no YAML, or a path that leads through a plain value.
    """
    keys, value = _parsed(text)
    mark, data, gone = Mark(f"--set {text}", 0, "--set"), copy.deepcopy(marked.data), keys
    if keys[0] == "plugin" and len(keys) > 1:
        data["plugin"] = _blocks(data.get("plugin"))
    block = data
    for key in keys[:-1]:
        block = _step(block, key, mark)
    if isinstance(block, list) and not _index(keys[-1], block):
        raise _no_place(keys[-1], mark)
    if keys[-1] == "name" and keys[0] in CHOSEN and block.get("name") != value:
        block.clear()
        gone = keys[:-1]
    block[keys[-1]] = value
    marks = {k: m for k, m in marked.marks.items() if k[: len(gone)] != gone}
    return Marked(data, {**marks, **{keys[:n]: mark for n in range(1, len(keys) + 1)}})


def _step(block: Any, key: str | int, mark: Mark) -> Any:
    """The mapping or list at `key`, a new mapping where there is nothing yet."""
    if isinstance(block, dict) and block.get(key) is None:
        block[key] = {}
    below = block[key] if isinstance(block, dict) or _index(key, block) else None
    if not isinstance(below, dict | list):
        raise _no_place(key, mark)
    return below


def _blocks(plugin: Any) -> Any:
    """The section with each bare name as the block it stands for."""
    if isinstance(plugin, list):
        return [_blocks(one) for one in plugin]
    return {"name": plugin} if isinstance(plugin, str) else plugin


def _no_place(key: str | int, mark: Mark) -> RecipeError:
    return RecipeError(f"no place '{key}' to set a value", str(mark), "ssbench check RECIPE shows the constants' names")


def _parsed(text: str) -> tuple[Keys, Any]:
    dotted, sign, value = text.partition("=")
    parts = dotted.strip().split(".")
    if not sign or not all(parts):
        raise RecipeError(f"--set '{text}' is no name.field=value", "--set", "--set optim.lr=0.01")
    try:
        data = yaml.load(value, Loader=Loader)  # noqa: S506  a safe loader
    except yaml.YAMLError:
        raise RecipeError(f"--set '{text}': the value is not YAML", "--set", "quote the whole argument") from None
    return tuple(int(p) if p.isdigit() else p for p in parts), data


def _index(key: str | int, values: list[Any]) -> bool:
    return isinstance(key, int) and 0 <= key < len(values)


def shown(path: Path) -> str:
    """A recipe's path as a user would type it: recipes/... for shipped ones."""
    root, full = shipped("recipes").resolve(), path.resolve()
    return f"recipes/{full.relative_to(root).as_posix()}" if full.is_relative_to(root) else str(path)
