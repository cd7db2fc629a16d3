"""A table filled from the store: which results count in a cell, and what must be said beside their mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ssbench.errors import DataError
from ssbench.recipe.compose import host_names, own_names, recipe_names
from ssbench.results.analysis import Analysis, read_analysis
from ssbench.results.record import Record
from ssbench.results.stale import WhyStale, is_never_stale
from ssbench.results.store import ResultStore
from ssbench.tables.cell import (
    CHANGED,
    CUSTOM,
    MIXED,
    OPEN,
    STALE,
    Cell,
    CellKey,
    CellState,
    Filled,
    cells_of,
    stored_name,
)
from ssbench.tables.claims import all_claims
from ssbench.tables.level import evidence, level_of
from ssbench.tables.spec import PaperTable
from ssbench.tables.verdict import judge

SCORINGS = {
    "whole": "on whole images",
    "sliding": "by sliding windows",
    "center": "on a central crop",
    "volume": "on volumes",
}


def fill(
    table: PaperTable,
    store: ResultStore,
    *,
    running: frozenset[tuple[str, str]] = frozenset(),
    division: Literal["closed", "open"] = "closed",
    settings: Mapping[str, str] | None = None,
    why_stale: WhyStale = is_never_stale,
    overrides: Sequence[str] = (),
) -> Filled:
    """Look every cell up in the store.

    A result counts when it is done, is of the asked division, is no quick run and has the cell's metric; with
    `division="open"` open runs count, marked, where there is no closed one. A result on the user's own list of that
    name counts, marked, only where there is none on the published list. One record a seed counts: one that is not
    stale, else a stale one; of these the last finished, or one with the settings of the recipe as it stands when these
    are given.

    Args:
        running: (stored name, split) of runs at work now.
        overrides: `--set` of every cell's run, beside its own.
        settings: stored name -> `store.settings_digest` of the recipe as it stands; results under others are marked.
        why_stale: results of other data or code than the present ones are marked with what it says.
    """
    recipes = {*recipe_names(), *own_names(), *host_names()}
    claims = evidence(all_claims(store.root, store.damaged))
    runs: dict[tuple[str, str], list[Record]] = {}
    cells: dict[CellKey, Cell] = {}
    for cell in cells_of(table):
        if overrides:
            cell = replace(cell, overrides=(*cell.overrides, *overrides))
        place = (cell.stored or "", cell.split or "")
        if all(place) and place not in runs:
            runs[place] = store.runs(*place)
        digest = (settings or {}).get(place[0])
        measured = _measured(cell, runs.get(place, []), division, digest, store, why_stale)
        state, level = _state(measured, place in running, recipes), level_of(measured, claims)
        cells[cell.row, cell.column] = replace(measured, state=state, level=level)
    return Filled(table, cells, judge(cells))


def _measured(
    cell: Cell, runs: list[Record], division: str, digest: str | None, store: ResultStore, why_stale: WhyStale
) -> Cell:
    """The cell with the scores, marks and reasons that `runs` give it, or their analyses in `store`."""
    left_out: Counter[str] = Counter()
    done: list[Record] = []
    for run in runs:
        reason = _left_out(cell, run, division)
        if reason:
            left_out[reason] += 1
        elif run.status == "done":
            done.append(run)
    # Runs of one kind count: on published lists in the closed division, else open ones, else on the user's own lists.
    kind = next((k for k in ("", OPEN, CUSTOM) if any(_kind(run) == k for run in done)), "")
    kept = [run for run in done if _kind(run) == kind]
    left_out.update(_kind(run) for run in done if _kind(run) != kind)
    analyses = _analyses(cell, kept, store)
    if cell.analysis:
        left_out["run without its analysis"] += sum(run.seed not in analyses for run in kept)
        kept = [run for run in kept if run.seed in analyses and analyses[run.seed].key == run.key]

    def rank(run: Record) -> tuple[bool, bool, str, bool, str]:
        return not why_stale(run), run.settings == digest, run.finished, run.main, run.path.name

    seeds = {r.seed: r for r in sorted(kept, key=rank)}
    left_out["earlier run of the same seed"] += len(kept) - len(seeds)
    chosen = [seeds[seed] for seed in sorted(seeds)]
    stated = {pair for run in chosen if run.identity for pair in run.identity.versions.items()}
    failed = [r for r in runs if r.status != "done" and r.seed not in seeds and not _left_out(cell, r, division)]
    return replace(
        cell,
        scores=tuple((r.seed, value) for r in chosen if (value := _score(cell, r, "best", analyses)) is not None),
        lasts=tuple(value for r in chosen if (value := _score(cell, r, "last", analyses)) is not None),
        marks=(
            *_marks(chosen, digest),
            *dict.fromkeys(f"{STALE}: {reason}" for run in chosen for reason in why_stale(run)),
        ),
        apart=_apart(cell, chosen),
        protocol=chosen[-1].protocol if chosen else "",
        why="; ".join(f"seed {r.seed}: {r.reason or r.status}" for r in failed),
        versions=tuple(sorted(pair for pair in stated if pair[1] > 1)),
        left_out=tuple(sorted((reason, n) for reason, n in left_out.items() if n)),
    )


def _left_out(cell: Cell, run: Record, division: str) -> str:
    """Why a result cannot count for this cell; "" when it can."""
    if run.quick:
        return "quick run"
    if run.division != division and run.division != "closed":
        return OPEN
    metric = "miou" if cell.metric == "iou" or cell.analysis else cell.metric
    return "" if run.metric == metric else f"scored by {run.metric}"


def _kind(run: Record) -> str:
    """What sets a run apart from the closed division on published lists; "" for nothing."""
    return CUSTOM if run.custom_split and not _is_asked_for(run) else OPEN if run.division == "open" else ""


def _is_asked_for(run: Record) -> bool:
    """Whether its list is the user's own by name, `NAME/custom/PART`: a cell that shows it asks for that list."""
    return run.split.split("/")[1:2] == ["custom"]


def _marks(chosen: list[Record], digest: str | None) -> tuple[str, ...]:
    """What the mean of these runs must not be shown without."""
    holds = {
        CUSTOM: any(r.custom_split and not _is_asked_for(r) for r in chosen),
        OPEN: any(r.division == "open" for r in chosen),
        MIXED: len({r.settings for r in chosen}) > 1,
        CHANGED: bool(digest) and any(r.settings != digest for r in chosen),
    }
    return tuple(mark for mark, is_true in holds.items() if is_true)


def _apart(cell: Cell, chosen: list[Record]) -> tuple[str, ...]:
    """Why the mean of these runs must not be set against the printed number: other lists, another protocol."""
    if cell.printed is None or not chosen:
        return ()
    reasons = [CUSTOM] if any(r.custom_split for r in chosen) else []
    if cell.printed_on and cell.split and cell.printed_on != cell.split.rpartition("/")[0]:
        reasons.append(f"the printed number is on the lists {cell.printed_on}")
    others = {r.protocol for r in chosen} - {cell.scored, ""} if cell.scored else set()
    reasons += [f"scored {SCORINGS.get(o, o)}, the printed number {SCORINGS[str(cell.scored)]}" for o in sorted(others)]
    return tuple(reasons)


def _analyses(cell: Cell, runs: list[Record], store: ResultStore) -> dict[int, Analysis]:
    """Seed -> the analysis of a cell's run that was made beside the run the table names. None for a cell of scores.

    A damaged analysis is passed over and noted, like a damaged record.
    """
    analyses: dict[int, Analysis] = {}
    for run in runs if cell.analysis else ():
        try:
            analysis = read_analysis(store.root, run.recipe, run.split, run.seed, cell.analysis or "patches")
        except DataError as error:
            store.note_damaged(error)
            continue
        beside = None if cell.beside is None else stored_name(cell.beside)
        if analysis and analysis.key == run.key and (analysis.beside or (None, ""))[0] == beside:
            analyses[run.seed] = analysis
    return analyses


def _score(cell: Cell, run: Record, which: Literal["best", "last"], analyses: Mapping[int, Analysis]) -> float | None:
    """The reported score of a run, the IoU of the column's class, or a number of its analysis (of the best epoch)."""
    if cell.analysis:
        return analyses[run.seed].value(cell.entry or "", cell.quantity) if which == "best" else None
    if cell.class_name is None:
        return run.best if which == "best" else run.last
    record = run.full()
    names = [_plain(name) for name in record.get("classes") or []]
    values = (record.get("per_class") or {}).get(which) or []
    name = _plain(cell.class_name)
    return values[names.index(name)] if name in names and len(values) == len(names) else None


def _plain(name: str) -> str:
    """ "TV/Monitor" and "tvmonitor" are one class."""
    return "".join(c for c in name.lower() if c.isalnum())


def _state(cell: Cell, running: bool, recipes: set[str]) -> CellState:
    if cell.role == "Q":
        return "quoted"
    if cell.scores:
        return "measured"
    if running:
        return "running"
    if cell.why:
        return "failed"
    if cell.dash:
        return "not printed"
    base = (cell.recipe or "").partition("+")[0]  # HOST+PLUGIN needs no file of its own
    has_recipe = cell.recipe is not None and (base in recipes or Path(cell.recipe).is_file())
    return "not run" if has_recipe else "not yet"
