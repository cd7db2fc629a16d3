"""`table`: a paper's layout, printed beside measured."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ssbench import paths
from ssbench.commands import common
from ssbench.errors import UsageError
from ssbench.paths import quoted
from ssbench.without_torch import import_stand_ins

if TYPE_CHECKING:
    from ssbench.results.stale import WhyStale
    from ssbench.results.store import ResultStore
    from ssbench.tables.cell import Filled
    from ssbench.tables.claims import Claim
    from ssbench.tables.spec import PaperTable

Format = Literal["rich", "md", "csv", "latex", "html"]
LONG = ("paper", "table", "group", "row", "column", "split", "recipe", "metric", "printed", "measured", "sd", "n",
        "difference", "state", "last_epoch", "seeds", "marks", "why", "verdict", "noise", "spread",
        "level")  # fmt: skip


def table(
    name: Annotated[str | None, typer.Argument(help="paper/table1, or a YAML file.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every shipped table.")] = False,
    format: Annotated[Format, typer.Option("--format", help="How it is written.")] = "rich",
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Instead: every record of this dataset, one row a recipe.")
    ] = None,
    overrides: common.Overrides = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A folder: one file a table, e.g. results/tables.")
    ] = None,
    claims: Annotated[bool, typer.Option("--claims", help="Every published number, each with its source.")] = False,
    long: Annotated[bool, typer.Option("--long", help="CSV, one row a cell (with --claims: a claim).")] = False,
    data_root: common.DataRoot = None,
    runs: common.Runs = None,
    results: common.Results = None,
    json: common.Json = False,
) -> None:
    """Print a table: what the paper printed, what was measured (mean, sd, n), the difference, the state.

    A verdict for each measured cell: reproduced ✓, within noise ≈, short ▼ or better ▲, at 95 % by the spread between
    seeds. The rule in full: python -m pydoc ssbench.tables.verdict
    """
    from ssbench.results.stale import StaleCheck
    from ssbench.results.store import ResultStore
    from ssbench.tables.claims import all_claims

    store = ResultStore(paths.results_root(results))
    names = _names(name, every, dataset)
    import_stand_ins()  # recipes are read to tell stale records; nothing is computed
    root = paths.data_root(data_root)
    why_stale = StaleCheck(root)
    if out is not None:
        if long or json or claims:
            raise UsageError("--out writes the tables alone", "--out", "leave out --long, --json and --claims")
        if dataset is not None:
            fix = f"ssbench table --dataset {quoted(dataset)} --format {format} > FILE"
            raise UsageError("--out writes tables that have a name", "--dataset", fix)
        _write(names, store, out, format, why_stale, root, overrides or ())
        return
    if claims and format in ("csv", "latex") and not (long or json):
        raise UsageError(f"--claims has no place in {format}", "--format", "rich, md or html; or --long, --json")
    published = all_claims(store.root, store.damaged) if claims else None
    if dataset is not None:
        filled = [_filled_dataset(dataset, store, paths.runs_root(runs), why_stale, overrides)]
    else:
        filled = [filled_table(n, store, paths.runs_root(runs), why_stale, root, overrides or ()) for n in names]
    damaged = common.print_damaged(store.damaged)
    if json:
        objects = [_object(f, published) for f in filled]
        common.print_json(({"tables": objects} if every else objects[0]) | damaged)
    elif long:
        _print_long(filled, published)
    else:
        for at, f in enumerate(filled):
            print(end="\n" if at else "")
            common.print_table(f, format, published)
        if not every and dataset is None:
            _say_other_settings(filled[0], store, tuple(overrides or ()))


def _say_other_settings(filled: Filled, store: ResultStore, given: tuple[str, ...]) -> None:
    """Name stored runs of the table's rows under other settings, on stderr."""
    from ssbench.console import say
    from ssbench.tables.variants import notes

    for note in notes(filled, store, given):
        say(f"note: {note}")


def _names(name: str | None, every: bool, dataset: str | None) -> Sequence[str]:
    from ssbench.tables.spec import table_names

    if (name is not None) + every + (dataset is not None) != 1:
        raise UsageError("give a table, --all or --dataset", "ssbench table", "ssbench list tables shows them")
    return table_names() if every else [name] if name is not None else []


def _filled_dataset(
    dataset: str, store: ResultStore, runs: Path, why_stale: WhyStale, overrides: Sequence[str] | None
) -> Filled:
    """Every record of a dataset as a table. Its rows name their `--set` themselves."""
    from ssbench.tables.fill import fill
    from ssbench.tables.own import dataset_table

    if overrides:
        raise UsageError("--dataset shows every record as it is", "--set", "leave out --set")
    table = dataset_table(dataset, store)
    return fill(table, store, running=_running(table, runs), why_stale=why_stale, division="open")


def filled_table(
    name: str,
    store: ResultStore,
    runs: Path,
    why_stale: WhyStale,
    data_root: Path | None = None,
    overrides: Sequence[str] = (),
) -> Filled:
    """The table `name` from the records of `store`; runs that hold their folder under `runs` are at work.

    Args:
        data_root: where the tables of imported datasets are. overrides: `--set` of every cell's run.
    """
    from ssbench.tables.fill import fill
    from ssbench.tables.spec import PaperTable

    table = PaperTable.read(name, data_root)
    at_work = _running(table, runs, overrides)
    return fill(table, store, running=at_work, why_stale=why_stale, overrides=overrides)


def _write(
    names: Sequence[str], store: ResultStore, out: Path, how: Format, why_stale: WhyStale, data_root: Path,
    overrides: Sequence[str],
) -> None:  # fmt: skip
    """Files, and a line on stderr for each that is new or has changed."""
    from ssbench.tables.render import write_tables

    written = [
        path for path, is_changed in write_tables(names, store, out, how, why_stale, data_root, overrides) if is_changed
    ]
    common.print_damaged(store.damaged)
    for path in written:
        print(path, file=sys.stderr)
    print(f"{len(written)} of {len(names)} tables written to {out}, the others were up to date", file=sys.stderr)


def _object(filled: Filled, claims: Sequence[Claim] | None) -> dict[str, Any]:
    from ssbench.tables.claims import claim_rows
    from ssbench.tables.render import long_rows

    table = filled.table
    fields = {"table": table.name, "title": table.title, "paper": table.paper, "cells": long_rows(filled)}
    return fields if claims is None else fields | {"claims": claim_rows(filled, claims)}


def _print_long(tables: Sequence[Filled], claims: Sequence[Claim] | None) -> None:
    """CSV with one row a cell (the columns of the contract, then why a number is what it is) or a claim."""
    from ssbench.tables.claims import claim_rows
    from ssbench.tables.render import long_rows

    writer = csv.writer(sys.stdout, lineterminator="\n")
    rows = [row for f in tables for row in (long_rows(f) if claims is None else claim_rows(f, claims))]
    fields = LONG if claims is None else tuple(rows[0]) if rows else ()
    writer.writerow(fields)
    for row in rows:
        values = (row[field] for field in fields)
        writer.writerow([" ".join(map(str, value)) if isinstance(value, list) else value for value in values])


def _running(table: PaperTable, root: Path, overrides: Sequence[str] = ()) -> frozenset[tuple[str, str]]:
    """(stored name, split) of cells whose run some process holds now."""
    from ssbench.files import is_locked
    from ssbench.tables.cell import cells_of, stored_name

    cells = [cell for cell in cells_of(table) if cell.recipe and cell.split]
    places = {(stored_name(str(cell.recipe), (*cell.overrides, *overrides)), cell.split) for cell in cells}
    return frozenset(
        (recipe, split)
        for recipe, split in places
        if recipe and split and any(map(is_locked, root.joinpath(recipe, split.replace("/", "-")).glob("seed*/lock")))
    )
