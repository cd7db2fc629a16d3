"""`gate`: new results against stored ones, for nightly jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench.commands.common import Json, Results, print_json, print_rows
from ssbench.errors import DataError, GateError, UsageError
from ssbench.results.gate import ALPHA, SPREAD
from ssbench.results.throughput import SLOWER

if TYPE_CHECKING:
    from ssbench.results.baseline import Entry, Place
    from ssbench.results.gate import Gate
    from ssbench.results.throughput import Pace


FIX = "ssbench gate --against results --results FOLDER_OF_NEW_ONES"


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
    from ssbench.paths import results_root
    from ssbench.results import baseline

    fresh, names = results_root(results), targets or []
    if save is not None:
        baseline.save(_found(fresh, names, split or [])[0], save)
        return
    if against is None:
        raise UsageError("gate needs stored results", "--against", FIX)
    if against.resolve() == fresh.resolve():
        raise UsageError(f"'{against}' would be compared with itself", "--results", FIX)
    rule = _Rule(alpha, spread, exact, slower if throughput else None)
    made = rule.compared(against, fresh, names, split or [])
    _tell(made, " ".join(names) or str(against), junit, json)
    if made.failures:
        what, fix = f"{len(made.failures)} of the gate's tests failed", "look at what changed; if it is right, store it"
        raise GateError(what, "; ".join(made.failures[:8]), fix)


@dataclass(frozen=True)
class _Rule:
    """What decides; slower: of images/s, None where scores are compared."""

    alpha: float
    spread: float
    exact: bool
    slower: float | None

    def compared(self, against: Path, fresh: Path, targets: list[str], splits: list[str]) -> Gate | Pace:
        """New results below `fresh` with those in `against`."""
        from ssbench.results.baseline import entries
        from ssbench.results.gate import compare
        from ssbench.results.throughput import compare_pace

        stored, lacking, seen = _found(against, targets, splits)
        new = entries(fresh, places={entry.place for entry in stored}) if fresh.exists() else []
        if self.slower is not None:
            return compare_pace(stored, new, self.slower)
        return compare(
            stored, new, alpha=self.alpha, spread=self.spread, exact=self.exact, seen=seen, not_stored=lacking
        )


def _found(source: Path, targets: list[str], splits: list[str]) -> tuple[list[Entry], tuple[Place, ...], list[Entry]]:
    """Results in `source` of these tables, recipes and splits; cells it has nothing of; all of the same datasets."""
    from ssbench.results.baseline import entries

    asked = _places(targets, source)
    every = entries(source)
    found = [
        entry
        for entry in every
        if (asked is None or entry.place in asked or (entry.recipe, "") in asked)
        and entry.split in (splits or [entry.split])
    ]
    if not found:
        what = f"no stored result of {', '.join(targets) or 'anything'}" + (" on these splits" if splits else "")
        raise DataError(what, str(source), "run it there first: ssbench run TABLE --results FOLDER")
    there = {entry.place for entry in found}
    lacking = (place for place in asked or {} if place[1] and place not in there)
    return found, tuple(place for place in lacking if place[1] in (splits or [place[1]])), every


def _places(targets: list[str], source: Path) -> dict[Place, None] | None:
    """(stored name, split) of every cell asked for, a recipe with no split for all of its; None: everything."""
    from ssbench.recipe.recipe import find_recipe, is_table_name
    from ssbench.results.store import ResultStore
    from ssbench.tables.spec import PaperTable

    asked: dict[Place, None] = {}
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            cells = PaperTable.read(target).fill(ResultStore(source)).wanted()
            asked |= {(cell.stored or "", cell.split or ""): None for cell in cells}
        else:
            asked[find_recipe(target)[0], ""] = None
    return asked if targets else None


def _tell(made: Gate | Pace, suite: str, junit: Path | None, json: bool) -> None:
    """As XML where asked; as JSON, or a line a cell on stdout and what holds for all of them on stderr."""
    from ssbench.console import say
    from ssbench.files import write_bytes
    from ssbench.results.gate_words import gate_rows, gate_summary, pace_rows
    from ssbench.results.junit import document_of
    from ssbench.results.throughput import Pace

    if junit is not None:
        write_bytes(junit, document_of(made, f"{suite} {'images/s' if isinstance(made, Pace) else 'scores'}"))
    if json:
        print_json(made.as_json())
    elif isinstance(made, Pace):
        print_rows("throughput", *pace_rows(made))
    else:
        print_rows("gate", *gate_rows(made))
        for line in gate_summary(made):
            say(line)
