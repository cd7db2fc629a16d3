"""From a recipe's name to its merged text: bases, host and plug-in constants laid over each other.

A recipe is found in four places: a YAML file given by its path, a file `recipes/<folder>/<name>.yaml`, an entry of
`recipes/<folder>/rows.yaml` (a host, a plug-in and a few lines), or a host with plug-ins written `HOST+PLUGIN`. Every
one of them may be based on any other, as deep as wanted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssbench.errors import RecipeError, nearest
from ssbench.paths import shipped
from ssbench.recipe.marks import Keys, Mark, Marked, read

SUFFIXES = (".yaml", ".yml")
NOT_RECIPES = ("claims", "plugins", "tasks")  # folders of recipes/ whose files cannot be run
HOSTS = "hosts"
OWN = "own"  # recipes for any dataset
ROWS = "rows"
ALIASES = "aliases.yaml"
NAMED = ("method", "net", "plugin")  # sections whose `name` decides which fields there are


@dataclass(frozen=True)
class RecipeFile:
    """Where a recipe stands. name: what its results are kept under; row: its entry in a `rows.yaml`, if it is one."""

    name: str
    path: Path
    row: str | None = None


def recipe_names() -> tuple[str, ...]:
    """Names of the shipped recipes of papers and tasks, in alphabetical order: files, and entries of `rows.yaml`.

    Hosts have names too (`host_names`), and recipes for any dataset (`own_names`); each has a list of its own.
    """
    root, names = shipped("recipes"), []
    for path in root.glob("*/*.yaml"):
        folder = path.parent.name
        if folder in (*NOT_RECIPES, HOSTS, OWN) or is_table_name(path.stem):
            continue
        names += [f"{folder}/{row}" for row in _rows(path)] if path.stem == ROWS else [f"{folder}/{path.stem}"]
    return tuple(sorted(names))


def host_names() -> tuple[str, ...]:
    """Names of the shipped hosts, `<method>_<dataset>[_...]`: complete recipes that take a plug-in by name."""
    return tuple(sorted(path.stem for path in (shipped("recipes") / HOSTS).glob("*.yaml")))


def own_names() -> tuple[str, ...]:
    """Names of the recipes for any dataset, `own/<method>`: the split, or `--set data.dataset=NAME`, says which."""
    return tuple(f"{OWN}/{row}" for row in _rows(shipped("recipes") / OWN / f"{ROWS}.yaml"))


def is_table_name(stem: str) -> bool:
    """Whether a file's stem is that of a table: table1, supp_table2. Tables stand beside recipes."""
    return stem.removeprefix("supp_").startswith("table")


def find_recipe(name: str) -> RecipeFile:
    """The place of a recipe: `paper/recipe`, a host's name, or a YAML file given by its path.

    Raises:
        RecipeError: there is none of that name; the error names the nearest ones.
    """
    if name.endswith(SUFFIXES):
        return _given_file(name)
    root, aliases = shipped("recipes"), _aliases()
    name = aliases.get(name, name)
    folder, _, stem = name.rpartition("/")
    for place in ([folder] if folder else [HOSTS]) if folder not in NOT_RECIPES else []:
        if not is_table_name(stem) and stem != ROWS and (path := root / place / f"{stem}.yaml").is_file():
            return RecipeFile(f"{place}/{stem}", path)
        if (path := root / place / f"{ROWS}.yaml").is_file() and stem in _rows(path):
            return RecipeFile(f"{place}/{stem}", path, row=stem)
    if is_table_name(stem) and (root / f"{name}.yaml").is_file():
        raise RecipeError(f"'{name}' is a table, not a recipe", "", "ssbench list recipes")
    known = [*recipe_names(), *host_names(), *own_names()]
    raise RecipeError(f"no recipe '{name}'; {nearest(name, known)}", "", "ssbench list recipes")


def read_recipe(name: str) -> tuple[RecipeFile, Marked]:
    """A recipe's place, and its text merged over everything it is based on; marks say where each value stands.

    `HOST+PLUGIN` is the recipe HOST with the constants of `recipes/plugins/PLUGIN.yaml`; PLUGIN may be a user's
    `FILE.py`. More plug-ins, each behind another `+`, are stacked.

    Raises:
        RecipeError: no such recipe, a file that cannot be read, or recipes based on each other in a circle.
    """
    if name.endswith(SUFFIXES):
        place = find_recipe(name)
        return place, _merged(place, ())
    host, plugins = _host_and_plugins(name)
    place = find_recipe(host)
    merged = _merged(place, ())
    if plugins:
        blocks = [{"name": plugin} for plugin in plugins]
        mark = Mark(f"--plugin {' '.join(plugins)}", 0, "--plugin")
        title = " + ".join([str(merged.data.get("title") or place.name), *plugins])
        own = {"plugin": blocks if len(blocks) > 1 else blocks[0], "title": title}
        merged = merge(merge(merged, _plugin_constants(own["plugin"], merged)), Marked(own, {("plugin",): mark}))
        place = RecipeFile("+".join([place.name, *(Path(plugin).stem for plugin in plugins)]), place.path, place.row)
    return place, merged


def _host_and_plugins(name: str) -> tuple[str, list[str]]:
    """The parts of `HOST+PLUGIN+...`; a host that is a file may have a "+" in its path."""
    for suffix in SUFFIXES:
        stem, is_there, rest = name.partition(f"{suffix}+")
        if is_there:
            return stem + suffix, rest.split("+")
    host, *plugins = name.split("+")
    return host, plugins


def _given_file(name: str) -> RecipeFile:
    path, root = Path(name), shipped("recipes").resolve()
    if not path.is_file() and path.resolve().is_relative_to(root):  # a file of an earlier version, now a row
        return find_recipe(path.resolve().relative_to(root).with_suffix("").as_posix())
    if not path.is_file():
        fix = "check the path; ssbench list recipes shows the shipped ones"
        raise RecipeError(f"no recipe file '{name}'", name, fix)
    if path.resolve().is_relative_to(root):
        return RecipeFile(path.resolve().relative_to(root).with_suffix("").as_posix(), path)
    return RecipeFile(f"custom/{path.stem}", path)


def _merged(place: RecipeFile, above: tuple[RecipeFile, ...]) -> Marked:
    """The recipe at `place` over its bases. above: the recipes that are being read and based on this one."""
    if place in above:
        chain = " -> ".join(str(each.path) for each in (*above, place))
        raise RecipeError(f"'{place.name}' is based on itself: {chain}", shown(place.path), "remove one of the bases")
    own = _own(place)
    merged = Marked({}, {})
    for where, base in _bases(own):
        merged = merge(merged, _merged(_base(base, place.path.parent, where), (*above, place)))
    if "host" in own.data:
        host = own.data["host"]
        if not isinstance(host, str):
            raise RecipeError(f"host {host!r} is no name", str(own.at(("host",))), "host: unimatch_voc")
        merged = merge(merged, _merged(_base(host, place.path.parent, str(own.at(("host",)))), (*above, place)))
        if "plugin" in own.data:
            merged = merge(merged, _plugin_constants(own.data["plugin"], merged))
    merged = merge(merged, own)
    return Marked({k: v for k, v in merged.data.items() if k not in ("base", "host")}, merged.marks)


def _own(place: RecipeFile) -> Marked:
    """What stands in the recipe's own file or row; files of a method, net or plug-in are sought beside it."""
    whole = _read(place.path)
    if place.row is None:
        own = whole
    else:
        marks = {keys[1:]: mark for keys, mark in whole.marks.items() if keys[:1] == (place.row,)}
        own = Marked(whole.data[place.row], marks)
    if not isinstance(own.data, dict):
        fix = "name: value lines, as `ssbench check` shows them"
        raise RecipeError("a recipe is a mapping", str(own.at(())) or f"{shown(place.path)}:1", fix)
    beside = {part: _beside(own.data[part], place.path.parent) for part in NAMED if part in own.data}
    return Marked({**own.data, **beside}, own.marks)


def _read(path: Path) -> Marked:
    """The file, read once as long as it does not change: a table asks for many rows of one file."""
    try:
        stamp = path.stat()
    except OSError:
        return read(path, shown(path))
    return _read_once(path, shown(path), stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=256)
def _read_once(path: Path, name: str, changed_ns: int, size: int) -> Marked:
    return read(path, name)


def _rows(path: Path) -> list[str]:
    data = _read(path).data
    return [str(row) for row in data] if isinstance(data, dict) else []


def _aliases() -> dict[str, str]:
    """Old names of recipes and of base files, with the name each has now."""
    path = shipped("recipes") / ALIASES
    return dict(_read(path).data) if path.is_file() else {}


def _bases(own: Marked) -> list[tuple[str, str]]:
    """(where it is asked for, name or path as written) of each base."""
    bases = own.data.get("base") or []
    listed = []
    for i, base in enumerate(bases if isinstance(bases, list) else [bases]):
        where = str(own.at(("base", i)))
        if not isinstance(base, str):
            raise RecipeError(f"base {base!r} is neither a name nor a path", where, "base: hosts/unimatch_voc")
        listed.append((where, base))
    return listed


def _base(base: str, folder: Path, where: str) -> RecipeFile:
    """The place of a base: a recipe's name, or a file by its path from the folder of the recipe that asks."""
    if not base.endswith(SUFFIXES):
        try:
            return find_recipe(base)
        except RecipeError as error:
            raise RecipeError(error.what, where, error.fix) from None
    path = Path(os.path.normpath(folder / base))
    if path.is_file():
        return RecipeFile(shown(path), path)
    moved = _aliases().get("/".join(Path(base).with_suffix("").parts[-2:]))
    if moved is not None:  # a base file of an earlier version, named by path in a user's recipe
        root = shipped("recipes")
        return RecipeFile(moved, root / f"{moved}.yaml")
    raise RecipeError(f"no base file '{base}'", where, "a base is a recipe's name, or a path from the recipe's folder")


def _plugin_constants(plugin: Any, host: Marked) -> Marked:
    """The shipped constants of a recipe's plug-ins: `plugins/NAME.yaml`, and `plugins/NAME_DATASET.yaml` over it."""
    dataset = (host.data.get("data") or {}).get("dataset") if isinstance(host.data.get("data"), dict) else None
    blocks: list[Any] = []
    marks: dict[Keys, Mark] = {}
    rest = Marked({}, {})
    listed = plugin if isinstance(plugin, list) else [plugin]
    for i, block in enumerate(listed):
        name = block.get("name") if isinstance(block, dict) else block
        constants = Marked({}, {})
        for stem in (str(name), f"{name}_{dataset}"):
            if isinstance(name, str) and (path := shipped("recipes") / "plugins" / f"{stem}.yaml").is_file():
                constants = merge(constants, _read(path))
        blocks.append(constants.data.get("plugin") or {"name": name})
        at: Keys = ("plugin", i) if isinstance(plugin, list) else ("plugin",)
        marks |= {(*at, *keys[1:]): mark for keys, mark in constants.marks.items() if keys[:1] == ("plugin",)}
        others = {key: value for key, value in constants.data.items() if key != "plugin"}
        rest = merge(rest, Marked(others, {k: m for k, m in constants.marks.items() if k[:1] != ("plugin",)}))
    return merge(rest, Marked({"plugin": blocks if isinstance(plugin, list) else blocks[0]}, marks))


def merge(below: Marked, above: Marked) -> Marked:
    """`above` over `below`, mappings field by field; a method, net or plug-in of another name replaces the block.

    So do stacked plug-ins, unless they are the same ones in the same order. Departures of both are kept.
    """
    data, marks = dict(below.data), dict(below.marks)
    for key, value in above.data.items():
        data[key], replaced = _laid_over(key, data.get(key), value)
        marks = {k: m for k, m in marks.items() if not any(k[: len(keys)] == keys for keys in replaced)}
    return Marked(data, {**marks, **above.marks})


def _laid_over(key: str, old: Any, value: Any) -> tuple[Any, list[Keys]]:
    """A section once `value` is laid over `old`, and the places whose old marks no longer hold."""
    if isinstance(value, dict) and isinstance(old, dict) and (key not in NAMED or _same_name(value, old)):
        return {**old, **value}, [(key, field) for field in value]
    if key == "departures" and isinstance(value, list) and isinstance(old, list):
        return [*old, *(text for text in value if text not in old)], []  # a recipe departs as its bases do, and more
    if key == "plugin" and isinstance(value, str) and isinstance(old, dict) and old.get("name") == value:
        return old, []  # a bare name of the plug-in that is there already
    if key == "plugin" and isinstance(value, list) and isinstance(old, list) and len(value) == len(old):
        pairs = list(zip(plugin_blocks(old), plugin_blocks(value), strict=True))
        if all(isinstance(a, dict) and isinstance(b, dict) and _same_name(b, a) for a, b in pairs):
            return [{**a, **b} for a, b in pairs], [(key, i, field) for i, (_, b) in enumerate(pairs) for field in b]
    return value, [(key,)]


def _same_name(value: dict[str, Any], old: dict[str, Any]) -> bool:
    return bool(value.get("name", old.get("name")) == old.get("name"))


def plugin_blocks(plugin: Any) -> Any:
    """The section `plugin` with each bare name as the block it stands for."""
    if isinstance(plugin, list):
        return [plugin_blocks(block) for block in plugin]
    return {"name": plugin} if isinstance(plugin, str) else plugin


def _beside(plugin: Any, folder: Path) -> Any:
    """A section with a file that is not in the current folder sought in the recipe's, as bases are."""
    if isinstance(plugin, list):
        return [_beside(block, folder) for block in plugin]
    if isinstance(plugin, dict):
        return {**plugin, "name": _beside(plugin["name"], folder)} if "name" in plugin else plugin
    absent = isinstance(plugin, str) and plugin.endswith(".py") and not Path(plugin).is_file()
    return str(folder / plugin) if absent and (folder / plugin).is_file() else plugin


def shown(path: Path) -> str:
    """A recipe's path as a user would type it: recipes/... for shipped ones."""
    root, full = shipped("recipes").resolve(), path.resolve()
    return f"recipes/{full.relative_to(root).as_posix()}" if full.is_relative_to(root) else str(path)


def with_plugins(names: Sequence[str], plugins: Sequence[str]) -> list[str]:
    """The recipes `names` with `--plugin` laid over each, as names that `read_recipe` takes.

    Raises:
        RecipeError: a table, whose rows name their plug-ins; a record, which is repeated as it stands.
    """
    if not plugins:
        return list(names)
    for name in names:
        if name.endswith(".json"):
            fix = "ssbench check RECORD.json --write mine.yaml, then mine.yaml with --plugin"
            raise RecipeError(f"--plugin with the record '{name}'", name, fix)
        if is_table_name(name.rpartition("/")[2].removesuffix(".yaml")):
            raise RecipeError(f"--plugin with the table '{name}'", name, "name a host: ssbench list recipes")
    return ["+".join([name, *plugins]) for name in names]
