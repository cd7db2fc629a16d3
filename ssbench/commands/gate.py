"""`gate`: new results against stored ones, for nightly jobs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssbench import paths
from ssbench.commands import common
from ssbench.errors import DataError, GateError, UsageError
from ssbench.paths import quoted
from ssbench.results.statistics import ALPHA, SLOWER
from ssbench.without_torch import import_stand_ins

if TYPE_CHECKING:
    from ssbench.results.baseline import BaselineRun, ScoredRun
    from ssbench.results.gate import ScoreGate, SpeedGate
    from ssbench.results.store import Place

Alpha = Annotated[
    float,
    typer.Option(
        "--alpha", min=1e-6, max=0.5, callback=common.finite, help="Probability of a false alarm in the whole gate."
    ),
]
Spread = Annotated[
    float | None,
    typer.Option(
        "--spread", min=0.001, callback=common.finite, help="Standard deviation of seeds where too few are stored."
    ),
]
Slower = Annotated[
    float,
    typer.Option(
        "--slower", min=0, max=0.99, callback=common.finite, help="Share of the stored images/s that may be missing."
    ),
]
GateTargets = Annotated[list[str] | None, typer.Argument(help="Tables and recipes (default: all that --against has).")]
GateAgainst = Annotated[
    Path | None, typer.Option("--against", help="Stored results: a folder, a record, or a file of --save.")
]
GateExact = Annotated[
    bool, typer.Option("--exact", help="Other numbers on the same kind of CPU and packages fail, too.")
]
GateMeasure = Annotated[
    bool, typer.Option("--measure", help="With --throughput: time ten steps of each here, instead of --results.")
]


def gate(
    targets: GateTargets = None,
    against: GateAgainst = None,
    plugin: common.Plugins = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Only these splits; repeatable.")] = None,
    overrides: common.Overrides = None,
    alpha: Alpha = ALPHA,
    spread: Spread = None,
    exact: GateExact = False,
    throughput: Annotated[bool, typer.Option("--throughput", help="Compare images/s instead, by machine.")] = False,
    measure: GateMeasure = False,
    slower: Slower = SLOWER,
    junit: Annotated[Path | None, typer.Option("--junit", help="Write JUnit XML to this file.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Only write --results to this file.")] = None,
    data_root: common.DataRoot = None,
    results: common.Results = None,
    json: common.Json = False,
) -> None:
    """Compare --results with stored ones within what seeds scatter; exit code 5 when something is worse or missing."""
    from ssbench.recipe.compose import with_plugins
    from ssbench.results import baseline
    from ssbench.results.gate import compare_scores, compare_speeds

    if measure and not throughput:
        raise UsageError("--measure times steps, which only --throughput compares", "--measure", "add --throughput")
    if not measure:
        import_stand_ins()  # recipes are read to tell stale records; nothing is computed
    data = paths.data_root(data_root)
    new_root, names = paths.results_root(results), with_plugins(targets or [], plugin or ())
    if (plugin or overrides) and not names:
        raise UsageError("--plugin and --set need a recipe or table", "arguments", "ssbench gate RECIPE --plugin NAME")
    selection = _GateTargets(tuple(names), tuple(split or ()), tuple(overrides or ()), data)
    damaged = dict[Path, DataError]()
    if save is not None:
        runs = _stored(new_root, selection, damaged)[0]
        common.print_damaged(damaged)
        baseline.save(runs, save)
        return
    if against is None:
        raise UsageError("gate needs stored results", "--against", _fix_first_save(selection, new_root))
    if against.resolve() == new_root.resolve() and not measure:
        what = f"'{against}' would be compared with itself"
        raise UsageError(what, "--results", _fix_first_save(selection, new_root))
    stored, not_stored = _stored(against, selection, damaged)
    places = {run.place for run in stored}
    if measure:
        new = _timed(stored, data, new_root)
    else:
        new = baseline.read_runs(new_root, places, data, damaged) if new_root.exists() else []
    common.print_damaged(damaged)
    outcome: ScoreGate | SpeedGate
    if throughput:
        outcome = compare_speeds(stored, new, slower)
    else:
        neighbours = _neighbours(against, stored)
        outcome = compare_scores(
            stored, new, alpha=alpha, spread=spread, exact=exact, neighbours=neighbours, not_stored=not_stored
        )
    _print(outcome, " ".join(names) or str(against), junit, json)
    _refuse_failures(outcome, damaged, _fix_failed(outcome, selection, against, new_root))


@dataclass(frozen=True)
class _GateTargets:
    """What is to be compared: recipes and tables, of these splits only, with `--set`."""

    names: tuple[str, ...]
    splits: tuple[str, ...]
    overrides: tuple[str, ...]
    data_root: Path

    @property
    def words(self) -> str:
        """As they stand in a command line, with a space behind them."""
        options = [("--split", split) for split in self.splits] + [("--set", text) for text in self.overrides]
        words = [*self.names, *(word for pair in options for word in pair)]
        return "".join(f"{quoted(word)} " for word in words)


def _refuse_failures(outcome: ScoreGate | SpeedGate, damaged: dict[Path, DataError], fix: str) -> None:
    if damaged:
        other = f"; {len(outcome.failures)} failures in the rest" if outcome.failures else "; the rest passes"
        path, error = next(iter(damaged.items()))
        what = f"a gate cannot pass over it: {error.what} (1 of {len(damaged)} damaged records{other})"
        raise DataError(what, str(path), error.fix)
    if outcome.failures:
        what = f"{len(outcome.failures)} of the gate's tests failed"
        raise GateError(what, "; ".join(outcome.failures[:8]), fix)


def _fix_first_save(targets: _GateTargets, results: Path) -> str:
    """Two commands: what is there becomes the stored side; new runs are then compared with it."""
    save = f"ssbench gate {targets.words}--results {quoted(results)} --save before.json"
    return f"{save}, and after the new runs: ssbench gate {targets.words}--against before.json"


def _fix_failed(outcome: ScoreGate | SpeedGate, targets: _GateTargets, against: Path, results: Path) -> str:
    """The command that does missing runs, where runs are missing; and the one that stores what is right."""
    from ssbench.results.gate import ScoreGate

    words = f"{targets.words}--results {quoted(results)}"
    missing = [cell for cell in outcome.cells if cell.verdict == "missing"]
    if missing and targets.names:
        # A recipe needs its splits; a table takes them, too.
        splits = [] if targets.splits else dict.fromkeys(cell.split for cell in missing)
        return f"ssbench run {words}" + "".join(f" --split {quoted(split)}" for split in splits)
    if missing:
        place = Path(missing[0].recipe) / missing[0].split.replace("/", "-")
        folders = [root / place for root in (against, *against.resolve().parents)]
        if (record := next((path for path in folders if path.is_dir()), None)) is not None:
            return f"ssbench run --from {quoted(min(record.glob('seed*.json')))} --results {quoted(results)}"
    if not isinstance(outcome, ScoreGate):
        return f"ssbench gate {targets.words}--throughput --against {quoted(against)} --measure times it again"
    target = quoted(against) if against.suffix == ".json" else "before.json"
    return f"look at what changed; if it is right, store it: ssbench gate {words} --save {target}"


def _timed(stored: list[BaselineRun], data: Path, results: Path) -> list[BaselineRun]:
    """The stored runs of this machine as their steps go now."""
    from ssbench.jobs.bench import timed_runs
    from ssbench.jobs.job import Places

    return timed_runs(stored, Places(data, paths.runs_root(None), results))


def _stored(
    source: Path, targets: _GateTargets, damaged: dict[Path, DataError]
) -> tuple[list[BaselineRun], tuple[Place, ...]]:
    """Results in `source` of these tables, recipes and splits; the cells of the tables it has nothing of."""
    from ssbench.results.baseline import read_runs

    places, splits = _places(targets, source), targets.splits
    stored_runs = read_runs(source, places, targets.data_root, damaged)
    runs = [run for run in stored_runs if not splits or run.split in splits]
    if not runs and not damaged:
        what = f"no stored result of {', '.join(targets.names) or 'anything'}" + (" on these splits" if splits else "")
        root = f" --results {quoted(source)}" if source.suffix != ".json" else ""
        fix = f"ssbench run {targets.words.rstrip() or 'toy/table1'}{root}"
        raise DataError(what, str(source), fix if not root else f"{fix}, then the same gate again")
    stored = {run.place for run in runs}
    lacking = (place for place in places or () if place[1] and place not in stored)
    return runs, tuple(place for place in lacking if not splits or place[1] in splits)


def _neighbours(source: Path, stored: list[BaselineRun]) -> list[ScoredRun]:
    """What else `source` has of the same datasets, to tell how seeds scatter; damaged records are passed over."""
    from ssbench.results.baseline import read_runs, scored
    from ssbench.results.store import ResultStore

    datasets = {run.split.partition("/")[0] for run in stored}
    if source.is_dir():
        return [scored(record) for record in ResultStore(source).records(datasets) if record.main]
    return [scored(run) for run in read_runs(source) if run.split.partition("/")[0] in datasets]


def _places(targets: _GateTargets, source: Path) -> dict[Place, None] | None:
    """(stored name, split) of every cell of the tables; a recipe has "" for all of its splits; None: everything."""
    from ssbench.recipe.recipe import is_table_name, read_recipe
    from ssbench.results.store import ResultStore
    from ssbench.tables.cell import stored_name
    from ssbench.tables.fill import fill
    from ssbench.tables.spec import PaperTable

    places: dict[Place, None] = {}
    for target in targets.names:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            table = PaperTable.read(target, targets.data_root)
            cells = fill(table, ResultStore(source), overrides=targets.overrides).runnable()
            places |= {(cell.stored or "", cell.split or ""): None for cell in cells}
        else:
            places[stored_name(read_recipe(target)[0].name, targets.overrides), ""] = None
    return places if targets.names else None


def _print(outcome: ScoreGate | SpeedGate, suite: str, junit: Path | None, json: bool) -> None:
    """As XML where a file is named; as JSON, or a line a cell on stdout and what holds for all of them on stderr."""
    from ssbench.console import say
    from ssbench.files import write_bytes
    from ssbench.results.gate import SpeedGate
    from ssbench.results.junit import document_of, gate_rows, gate_summary

    is_speed = isinstance(outcome, SpeedGate)
    if junit is not None:
        write_bytes(junit, document_of(outcome, f"{suite} {'images/s' if is_speed else 'scores'}"))
    if json:
        common.print_json(outcome.as_json())
        return
    common.print_rows("throughput" if is_speed else "gate", *gate_rows(outcome))
    if not isinstance(outcome, SpeedGate):
        for line in gate_summary(outcome):
            say(line)
