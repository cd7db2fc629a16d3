"""`gate`: new results against stored ones, for nightly jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench import paths
from ssbench.commands.common import Json, Results, print_json, print_rows
from ssbench.errors import DataError, GateError, UsageError
from ssbench.results.gate import ALPHA, SPREAD
from ssbench.results.throughput import SLOWER

if TYPE_CHECKING:
    from ssbench.results.baseline import Entry, Place
    from ssbench.results.gate import Gate
    from ssbench.results.throughput import Pace


FIX = "ssbench gate --against results --results FOLDER_OF_NEW_ONES"


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
    from ssbench.results import baseline

    fresh, names = paths.results_root(results), targets or []
    if save is not None:
        baseline.save(_select(fresh, names, split or []).entries, save)
        return
    if against is None:
        raise UsageError("gate needs stored results", "--against", FIX)
    if against.resolve() == fresh.resolve():
        raise UsageError(f"'{against}' would be compared with itself", "--results", FIX)
    stored = _select(against, names, split or [])
    places = {entry.place for entry in stored.entries}
    new = baseline.entries(fresh, places=places) if fresh.exists() else []
    outcome: Gate | Pace
    if throughput:
        from ssbench.results.throughput import compare_pace

        outcome = compare_pace(stored.entries, new, slower)
    else:
        from ssbench.results.gate import compare

        outcome = compare(stored.entries, new, alpha=alpha, spread=spread, exact=exact,
                          seen=stored.every, not_stored=stored.lacking)  # fmt: skip
    _print(outcome, " ".join(names) or str(against), junit, json)
    if outcome.failures:
        what, fix = (
            f"{len(outcome.failures)} of the gate's tests failed",
            "look at what changed; if it is right, store it",
        )
        raise GateError(what, "; ".join(outcome.failures[:8]), fix)


@dataclass(frozen=True)
class _Selection:
    """Stored results to compare with.

    entries: those of the tables, recipes and splits asked for. lacking: cells of these tables without any result.
    every: all results of the source; the spread between seeds is learnt from all of them.
    """

    entries: list[Entry]
    lacking: tuple[Place, ...]
    every: list[Entry]


def _select(source: Path, targets: list[str], splits: list[str]) -> _Selection:
    """The results in `source` of these tables, recipes and splits (an empty list: all). DataError where it has none."""
    from ssbench.results.baseline import entries

    places = _places(targets, source)
    every = entries(source)
    chosen = [
        entry
        for entry in every
        if (places is None or entry.place in places or (entry.recipe, "") in places)
        and entry.split in (splits or [entry.split])
    ]
    if not chosen:
        what = f"no stored result of {', '.join(targets) or 'anything'}" + (" on these splits" if splits else "")
        raise DataError(what, str(source), "run it there first: ssbench run TABLE --results FOLDER")
    stored = {entry.place for entry in chosen}
    lacking = (place for place in places or {} if place[1] and place not in stored)
    return _Selection(chosen, tuple(place for place in lacking if place[1] in (splits or [place[1]])), every)


def _places(targets: list[str], source: Path) -> dict[Place, None] | None:
    """(stored name, split) of every cell of the tables; a recipe has "" for all of its splits; None: everything."""
    from ssbench.recipe.recipe import find_recipe, is_table_name
    from ssbench.results.store import ResultStore
    from ssbench.tables.spec import PaperTable

    places: dict[Place, None] = {}
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            cells = PaperTable.read(target).fill(ResultStore(source)).wanted()
            places |= {(cell.stored or "", cell.split or ""): None for cell in cells}
        else:
            places[find_recipe(target).name, ""] = None
    return places if targets else None


def _print(outcome: Gate | Pace, suite: str, junit: Path | None, json: bool) -> None:
    """Write JUnit XML if asked for; print JSON, or a line a cell on stdout and a summary on stderr."""
    from ssbench.console import say
    from ssbench.files import write_bytes
    from ssbench.results.gate_words import gate_rows, gate_summary, pace_rows
    from ssbench.results.junit import document_of
    from ssbench.results.throughput import Pace

    if junit is not None:
        write_bytes(junit, document_of(outcome, f"{suite} {'images/s' if isinstance(outcome, Pace) else 'scores'}"))
    if json:
        print_json(outcome.as_json())
    elif isinstance(outcome, Pace):
        print_rows("throughput", *pace_rows(outcome))
    else:
        print_rows("gate", *gate_rows(outcome))
        for line in gate_summary(outcome):
            say(line)
