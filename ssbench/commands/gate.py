"""`gate`: new results against stored ones, for nightly jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench.commands.common import Json, Results, print_json, print_rows
from ssbench.errors import DataError, GateError, UsageError
from ssbench.report.gate import ALPHA, SPREAD
from ssbench.report.pace import SLOWER

if TYPE_CHECKING:
    from ssbench.report.baseline import Entry, Place
    from ssbench.report.gate import Gate
    from ssbench.report.pace import Pace


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(gate)


def gate(
    targets: Annotated[
        list[str] | None, typer.Argument(help="Tables and recipes (default: all that --against has).")
    ] = None,
    against: Annotated[
        Path | None, typer.Option("--against", help="Stored results: a folder, a record, or a file of --save.")
    ] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only these splits; repeatable.")] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", min=1e-6, max=0.5, help="Probability of a false alarm in the whole gate.")
    ] = ALPHA,
    spread: Annotated[
        float, typer.Option("--spread", min=0.001, help="Standard deviation of seeds where too few are stored.")
    ] = SPREAD,
    exact: Annotated[
        bool, typer.Option("--exact", help="Other numbers on the same kind of CPU and packages fail, too.")
    ] = False,
    throughput: Annotated[bool, typer.Option("--throughput", help="Compare images/s instead, by machine.")] = False,
    slower: Annotated[
        float, typer.Option("--slower", min=0, max=0.99, help="Share of the stored images/s that may be missing.")
    ] = SLOWER,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Only write --results to this file.")] = None,
    results: Results = None,
    json: Json = False,
) -> None:
    """Compare --results with stored ones within what seeds scatter; exit code 5 when something is worse or missing."""
    from ssbench.io import write_bytes
    from ssbench.paths import results_root
    from ssbench.report import baseline
    from ssbench.report.gate import compare
    from ssbench.report.junit import junit as document
    from ssbench.report.pace import compare_pace

    fresh = results_root(results)
    if save is not None:
        baseline.save(_found(fresh, targets or [], split or [])[0], save)
        return
    if against is None:
        raise UsageError("gate needs stored results", "--against", "ssbench gate --against results")
    stored, lacking = _found(against, targets or [], split or [])
    new = baseline.entries(fresh, {entry.place for entry in stored}) if fresh.exists() else []
    seen = baseline.entries(against)
    made: Gate | Pace
    if throughput:
        made = compare_pace(stored, new, slower)
    else:
        made = compare(stored, new, alpha=alpha, spread=spread, exact=exact, seen=seen, not_stored=lacking)
    if junit:
        write_bytes(
            junit, document(made, f"{' '.join(targets or [str(against)])} {'images/s' if throughput else 'scores'}")
        )
    if json:
        print_json(made.as_json())
    else:
        _print(made)
    if made.failures:
        what = f"{len(made.failures)} of the gate's tests failed"
        raise GateError(
            what, "; ".join(made.failures[:8]), "look at what changed, or store the new results if they are right"
        )


def _found(source: Path, targets: list[str], splits: list[str]) -> tuple[list[Entry], tuple[Place, ...]]:
    """Results in `source` of these tables, recipes and splits; cells of tables it has nothing of."""
    from ssbench.report.baseline import entries

    asked = _places(targets, source)
    found = [
        entry
        for entry in entries(source)
        if (asked is None or entry.place in asked or (entry.recipe, "") in asked)
        and entry.split in (splits or [entry.split])
    ]
    if not found:
        what = f"no stored result of {', '.join(targets) or 'anything'}" + (" on these splits" if splits else "")
        raise DataError(what, str(source), "run it there first: ssbench run TABLE --results FOLDER")
    there = {entry.place for entry in found}
    lacking = [place for place in asked or {} if place[1] and place not in there and place[1] in (splits or [place[1]])]
    return found, tuple(lacking)


def _places(targets: list[str], source: Path) -> dict[Place, None] | None:
    """(stored name, split) of every cell asked for, a recipe with no split for all of its; None: everything."""
    from ssbench.recipe import find_recipe, is_table_name
    from ssbench.report.store import ResultStore
    from ssbench.report.table import PaperTable

    asked: dict[Place, None] = {}
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            cells = PaperTable.read(target).fill(ResultStore(source)).wanted()
            asked |= {(cell.stored or "", cell.split or ""): None for cell in cells}
        else:
            asked[find_recipe(target)[0], ""] = None
    return asked if targets else None


def _print(made: Gate | Pace) -> None:
    """A line a cell on stdout; what holds for all of them on stderr."""
    from ssbench.engine.console import say
    from ssbench.report.pace import Pace
    from ssbench.report.words import gate_rows, gate_summary, pace_rows

    if isinstance(made, Pace):
        print_rows("throughput", *pace_rows(made))
        return
    print_rows("gate", *gate_rows(made))
    for line in gate_summary(made):
        say(line)
