"""`list`: the catalogue. Only `list plugins --matrix` imports torch, because it asks classes for their hooks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from ssbench import find, paths
from ssbench.commands.common import DataRoot, Json, Results, print_damaged, print_grid, print_json, print_rows
from ssbench.errors import DataError, UsageError
from ssbench.without_torch import import_stand_ins

if TYPE_CHECKING:
    from ssbench.certify.matrix import PairState, PluginMatrix
    from ssbench.recipe.stored import RunHead
    from ssbench.results.record import Record

CatalogueKind = Literal["datasets", "splits", "methods", "plugins", "recipes", "tables", "runs"]
STYLES: dict[PairState, str] = {"published": "bold green", "works": "green", "impossible": "dim"}


def list_(
    what: Annotated[
        CatalogueKind | None, typer.Argument(help="Part of the catalogue (default: how many of each).")
    ] = None,
    matrix: Annotated[bool, typer.Option("--matrix", help="With plugins: each method x plug-in, and why not.")] = False,
    also: Annotated[list[str] | None, typer.Option("--with", help="With plugins: your own file, too.")] = None,
    stale: Annotated[
        bool,
        typer.Option("--stale", help="With runs: only those of other data or code than the present ones, and why."),
    ] = False,
    data_root: DataRoot = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """The catalogue: datasets, splits, methods, plugins, recipes, tables, runs.

    At a terminal an aligned table; into a pipe or a file one line a row, its fields apart by tabs, for scripts.
    """
    if (matrix or also) and what != "plugins":
        raise UsageError("--matrix and --with are about plug-ins", "arguments", "ssbench list plugins --matrix")
    if stale and what != "runs":
        raise UsageError("--stale is about runs", "arguments", "ssbench list runs --stale")
    if matrix:
        _show_matrix(also or (), json)
        return
    data, records = paths.data_root(data_root), paths.results_root(results)
    damaged: dict[Path, DataError] = {}
    if what is None:
        rows = [{"kind": kind, "count": _count(kind, data, records)} for kind in get_args(CatalogueKind)]
    elif stale:
        rows = _stale_runs(data, records, damaged)
    else:
        rows = _rows(what, data, records, damaged)
    rows += [{"plugin": name, "about": find.summary("plugin", name)} for name in also or ()]
    title = what or "catalogue"
    if json:
        print_json({title: rows} | print_damaged(damaged))
        return
    print_damaged(damaged)
    if rows:
        print_rows(title, list(rows[0]), [["" if v is None else v for v in row.values()] for row in rows])
    else:
        print(f"no stale {title}" if stale else f"no {title} yet", file=sys.stderr)


def _rows(what: CatalogueKind, data: Path, results: Path, damaged: dict[Path, DataError]) -> list[dict[str, Any]]:
    """What `list WHAT` shows; `damaged` takes the records that were passed over."""
    if what == "datasets":
        return _datasets(data)
    if what == "methods":
        return [{"method": n, "about": find.summary("method", n)} for n in find.names("method")]
    if what == "plugins":
        return [{"plugin": n, "about": find.summary("plugin", n)} for n in find.names("plugin")]
    if what == "recipes":
        return [*_recipes(), *_own_recipes()]
    if what == "tables":
        from ssbench.tables.spec import own_table_names, table_names

        return [{"table": name} for name in (*table_names(), *own_table_names(data))]
    if what == "runs":
        return _runs(results, damaged)
    from ssbench.splits.passport import catalogue

    return [*catalogue(data), *_own_splits(data)]


def _own_splits(data: Path) -> list[dict[str, Any]]:
    """The lists a user drew, in the columns of the published ones."""
    from contextlib import suppress

    from ssbench.splits.manifest import Partition, own_splits

    rows = []
    for name in own_splits(data):
        with suppress(DataError):  # a damaged list is named when it is used
            split = Partition.read(name, data)
            dataset, family, part = name.split("/")
            row: dict[str, Any] = {"name": name, "dataset": dataset, "family": family, "part": part}
            row |= {"labeled": len(split.labeled), "unlabeled": len(split.unlabeled)}
            rows.append(row | {"repository": None, "commit": None, "note": "a list of your own", "here": True})
    return rows


def _count(what: CatalogueKind, data: Path, results: Path) -> int:
    """How many rows `list WHAT` has, without reading what stands in them."""
    from ssbench.recipe.compose import own_names, recipe_names
    from ssbench.splits.manifest import manifest, own_splits

    if what == "methods" or what == "plugins":
        return len(find.names("method" if what == "methods" else "plugin"))
    if what == "recipes":
        return len(recipe_names()) + len(own_names())
    if what == "runs":
        from ssbench.results.store import record_paths

        return sum(1 for _ in record_paths(results))
    if what == "splits":
        return len(manifest().splits) + len(own_splits(data))
    return len(_rows(what, data, results, {}))


def _datasets(data: Path) -> list[dict[str, Any]]:
    from ssbench.data.open import imported

    shipped = [
        {
            "dataset": name,
            "state": "prepared" if (data / name / "ledger.json").is_file() else "not prepared",
            "about": find.summary("dataset", name),
        }
        for name in find.names("dataset")
    ]
    own = [{"dataset": name, "state": "imported", "about": str(data / name)} for name in imported(data)]
    return [*shipped, *own]


def _recipes() -> list[dict[str, Any]]:
    from ssbench.recipe.recipe import read_recipe, recipe_names

    rows = []
    for name in recipe_names():
        raw = read_recipe(name)[1].data
        plugin = raw.get("plugin") or {}
        listed = plugin if isinstance(plugin, list) else [plugin]
        shown = "+".join(p if isinstance(p, str) else p.get("name", "") for p in listed if p)
        rows.append({
            "recipe": name, "dataset": raw["data"]["dataset"], "method": raw["method"]["name"], "plugin": shown,
            "title": raw.get("title", ""),
        })  # fmt: skip
    return rows


def _own_recipes() -> list[dict[str, Any]]:
    """Those for any dataset, which the split names."""
    from ssbench.recipe.compose import own_names, read_recipe

    rows = []
    for name in own_names():
        raw = read_recipe(name)[1].data
        rows.append({"recipe": name, "dataset": "any", "method": raw["method"]["name"], "plugin": "",
                     "title": raw.get("title", "")})  # fmt: skip
    return rows


def _runs(results: Path, damaged: dict[Path, DataError]) -> list[dict[str, Any]]:
    from ssbench.results.store import ResultStore

    store = ResultStore(results)
    rows = [
        {"recipe": r.recipe, "split": r.split, "seed": r.seed, "status": r.status, "metric": r.metric,
         "best": r.best, "last": r.last, "finished": r.finished}
        for r in store.records()
    ]  # fmt: skip
    damaged |= store.damaged
    return rows


def _stale_runs(data: Path, results: Path, damaged: dict[Path, DataError]) -> list[dict[str, Any]]:
    """Finished runs whose data or code are no longer the present ones: what changed, and the record's file."""
    from ssbench.results.stale import StaleCheck, stale_folders, stale_records
    from ssbench.results.store import ResultStore

    import_stand_ins()  # recipes are read; nothing is computed
    store = ResultStore(results)
    rows = [_stale_row(r, r.path, why) for r, why in stale_records(store, StaleCheck(data))]
    keys = {record.key for record in store.records()}
    rows += [_stale_row(head, path, why) for path, head, why in stale_folders(paths.runs_root(None), data, keys)]
    damaged |= store.damaged
    return rows


def _stale_row(run: Record | RunHead, path: Path, why: tuple[str, ...]) -> dict[str, Any]:
    names = {"recipe": run.recipe, "split": run.split, "seed": run.seed, "key": run.key}
    return {**names, "why": "; ".join(why), "file": str(path)}


def _show_matrix(also: Sequence[str], json: bool) -> None:
    """Print which methods can host which plug-ins: a grid at a terminal, one line a pair elsewhere, or JSON."""
    from ssbench.certify.matrix import matrix

    pairs = matrix(also)
    elsewhere = [{"method": m, "plugin": p, "tables": list(tables)} for (m, p), tables in pairs.elsewhere.items()]
    if json:
        print_json({"matrix": [pair.as_json() for pair in pairs.pairs.values()], "elsewhere": elsewhere})
        return
    if sys.stdout.isatty():
        _print_matrix(pairs)
    else:
        rows = [(p.method, p.plugin, p.state, " ".join(p.tables), p.note) for p in pairs.pairs.values()]
        print_rows("matrix", ("method", "plugin", "state", "tables", "note"), rows)
    if elsewhere:
        names = ", ".join(f"{pair['plugin']} on {pair['method']}" for pair in elsewhere)
        print(f"published, but not here yet: {names}", file=sys.stderr)


def _print_matrix(matrix: PluginMatrix) -> None:
    """Methods down, plug-ins across; a letter in a cell is a note below."""
    letters: dict[str, str] = {}
    rows = []
    for method in matrix.methods:
        cells = [(method, "")]
        for plugin in matrix.plugins:
            pair = matrix.pairs[method, plugin]
            letter = letters.setdefault(pair.note, chr(ord("a") + len(letters))) if pair.note else ""
            cells.append((f"{pair.state} {letter}".rstrip(), STYLES[pair.state]))
        rows.append(cells)
    notes = [f"{letter}  {note}" for note, letter in letters.items()]
    names = [Path(name).name if name.endswith(".py") else name for name in matrix.plugins]
    print_grid("method x plug-in", ("", *names), rows, notes)
