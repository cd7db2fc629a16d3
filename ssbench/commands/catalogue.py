"""`list`: the catalogue, without importing torch."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer

from ssbench.commands.common import DataRoot, Json, Results, print_json, print_rows
from ssbench.commands.matrix import show_matrix
from ssbench.errors import UsageError


class What(StrEnum):
    """What `list` lists."""

    datasets = "datasets"
    splits = "splits"
    methods = "methods"
    plugins = "plugins"
    recipes = "recipes"
    tables = "tables"
    runs = "runs"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(name="list")(list_)


def list_(
    what: Annotated[What | None, typer.Argument(help="Part of the catalogue (default: how many of each).")] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="With plugins: each method x plug-in, and why not.")] = False,
    also: Annotated[list[str] | None, typer.Option("--with", help="With plugins: your own file, too.")] = None,
    data_root: DataRoot = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """The catalogue: datasets, splits, methods, plugins, recipes, tables, runs."""
    from ssbench import find
    from ssbench.paths import data_root as data_of
    from ssbench.paths import results_root

    if (matrix or also) and what is not What.plugins:
        raise UsageError("--matrix and --with are about plug-ins", "arguments", "ssbench list plugins --matrix")
    if matrix:
        show_matrix(also or (), json)
        return
    data, records = data_of(data_root), results_root(results)
    title = "catalogue" if what is None else what.value
    rows = [{"kind": w.value, "count": _count(w, data, records)} for w in What] if what is None else []
    rows = rows or _rows(what or What.runs, data, records)
    rows += [{"plugin": name, "about": find.summary("plugin", name)} for name in also or ()]
    if json:
        print_json({title: rows})
    elif rows:
        print_rows(title, list(rows[0]), [["" if v is None else v for v in row.values()] for row in rows])
    else:
        print(f"no {title} yet", file=sys.stderr)


def _rows(what: What, data: Any, results: Any) -> list[dict[str, Any]]:
    from ssbench import find

    if what is What.datasets:
        return [*_datasets(data), *_imported(data)]
    if what is What.methods:
        return [{"method": n, "about": find.summary("method", n)} for n in find.names("method")]
    if what is What.plugins:
        return [{"plugin": n, "about": find.summary("plugin", n)} for n in find.names("plugin")]
    if what is What.recipes:
        return _recipes()
    if what is What.tables:
        from ssbench.tables.spec import table_names

        return [{"table": name} for name in table_names()]
    if what is What.runs:
        return _runs(results)
    from ssbench.splits.passport import catalogue

    return catalogue(data)


def _count(what: What, data: Any, results: Any) -> int:
    """How many rows `list WHAT` has, without reading what stands in them."""
    from ssbench import find
    from ssbench.recipe.compose import recipe_names
    from ssbench.splits.manifest import manifest

    if what is What.methods or what is What.plugins:
        return len(find.names("method" if what is What.methods else "plugin"))
    if what is What.recipes:
        return len(recipe_names())
    return len(manifest().splits) if what is What.splits else len(_rows(what, data, results))


def _datasets(data: Any) -> list[dict[str, Any]]:
    from ssbench import find

    return [
        {
            "dataset": name,
            "state": "prepared" if (data / name / "ledger.json").is_file() else "not prepared",
            "about": find.summary("dataset", name),
        }
        for name in find.names("dataset")
    ]


def _imported(data: Any) -> list[dict[str, Any]]:
    from ssbench.data.open import imported

    return [{"dataset": name, "state": "imported", "about": str(data / name)} for name in imported(data)]


def _recipes() -> list[dict[str, Any]]:
    from ssbench.recipe.recipe import find_recipe, read_raw, recipe_names

    rows = []
    for name in recipe_names():
        raw = read_raw(find_recipe(name)[1]).data
        plugin = raw.get("plugin") or {}
        listed = plugin if isinstance(plugin, list) else [plugin]
        shown = "+".join(p if isinstance(p, str) else p.get("name", "") for p in listed if p)
        rows.append({
            "recipe": name, "dataset": raw["data"]["dataset"], "method": raw["method"]["name"], "plugin": shown,
            "title": raw.get("title", ""),
        })  # fmt: skip
    return rows


def _runs(results: Any) -> list[dict[str, Any]]:
    from ssbench.results.store import ResultStore

    return [
        {"recipe": r.recipe, "split": r.split, "seed": r.seed, "status": r.status, "metric": r.metric,
         "best": r.best, "last": r.last, "finished": r.finished}
        for r in ResultStore(results).records()
    ]  # fmt: skip
