"""Several runs after one another: what a recipe or a table asks for, done once each.

A run that another process works on is passed over and come back to: when that process is done, so is the run here.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from ssbench.errors import SsbenchError, Stopped, UsageError
from ssbench.jobs.backlog import LOOK_EVERY, Line, let_go
from ssbench.jobs.job import Busy, Cell, Done, Places
from ssbench.recipe.recipe import Division, load

__all__ = ["QUICK_SPLIT", "Cell", "Done", "cells", "do_one", "seats", "work"]

QUICK_SPLIT = "toy/ours/1_8"


def cells(
    targets: Sequence[str],
    splits: Sequence[str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    quick: bool,
    places: Places,
    division: Division | None = None,
) -> list[Cell]:
    """The runs behind recipes and tables, each once, in order.

    A recipe needs `--split`; a table knows its splits, of which `--split` selects some. Quick runs take the toy split.

    Raises:
        UsageError: a recipe without a split, an unknown split, or a table none of whose cells has a recipe yet.
        RecipeError: a recipe that is wrong, before any of them runs.
    """
    from ssbench.recipe.recipe import is_table_name

    if quick:
        _toy(places)
    wanted: list[Cell] = []
    for target in targets:
        if is_table_name(target.rpartition("/")[2].removesuffix(".yaml")):
            runs = _of_table(target, splits, places, quick)
        else:
            load(target, overrides, quick, division, places.data)
            runs = [(target, (), split) for split in _named(target, splits, places, quick)]
        wanted += [Cell(r, s, seed, (*own, *overrides), quick, division) for seed in seeds for r, own, s in runs]
    return list(dict.fromkeys(wanted))


def _named(target: str, splits: Sequence[str], places: Places, quick: bool) -> Sequence[str]:
    """The splits asked for, each of which must be there."""
    from ssbench.splits.manifest import Partition

    if not splits and not quick:
        raise UsageError(f"'{target}' needs a split", "--split", "ssbench list splits")
    for split in splits:
        Partition.read(split, places.data)
    return splits or [QUICK_SPLIT]


def seats(device: str | None) -> int:
    """Runs at a time when nobody says how many: one a GPU; one on a CPU, and where torchrun has shared the GPUs out."""
    import torch

    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    return max(torch.cuda.device_count(), 1) if alone and device in (None, "cuda") else 1


def work(
    wanted: Sequence[Cell], places: Places, device: str | None, jobs: int = 1, since: float | None = None,
    wait: bool = True,
) -> list[Done]:  # fmt: skip
    """Do the cells in order, `jobs` at a time; one failed run does not stop the others, a request to stop does.

    since: when the queue began, if not now. wait: for cells that other processes work on, else they come back `busy`.
    Raises:
        Stopped: a signal came (exit code 75).
    """
    from ssbench.jobs.local import side_by_side
    from ssbench.train.distributed import join

    began = time.time() if since is None else since
    with _in_line(wanted, places) as line:
        if jobs > 1 and len(wanted) > 1:
            found = side_by_side(line, len(wanted), places, device, jobs, began)
        else:
            found = _one_by_one(line, len(wanted), places, join(device), began, wait)
    return [found[cell] for cell in wanted]


@contextmanager
def _in_line(wanted: Sequence[Cell], places: Places) -> Iterator[Line[Cell]]:
    """The cells in line, which the board shows where there are several."""
    from ssbench.jobs.queue_file import posted
    from ssbench.train.distributed import first

    if len(wanted) == 1 or not first():
        yield Line(wanted)
        return
    entries = dict(_entries(wanted, places))
    with posted(places.runs) as show:
        yield Line(wanted, lambda cells: show([entries[cell] for cell in cells if cell in entries]))


def _entries(wanted: Sequence[Cell], places: Places) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """The cells for the board, without those whose recipes are wrong: they fail when it is their turn."""
    for cell in wanted:
        with suppress(SsbenchError):
            yield cell, cell.posted(places)


def _one_by_one(line: Line[Cell], total: int, places: Places, team: Any, since: float, wait: bool) -> dict[Cell, Done]:
    """All cells in this process, or in the processes of its team."""
    from ssbench.console import Bars, say

    tell, found = say if team.leads else _silent, dict[Cell, Done]()
    with Bars(show=team.leads, write_line=tell) as bars:
        while line:
            cell = line.next(lambda folder: team.any(team.leads and let_go(folder)))
            if cell is None:
                time.sleep(LOOK_EVERY)
                continue
            if total > 1:
                tell(f"[{len(found) + 1}/{total}] {cell}")
            done = do_one(cell, places, team, bars, since)
            if done.busy is None or not wait:
                found[cell] = done
            elif line.later(cell, done.busy):
                tell(f"{done}; going on when it has ended (Ctrl-C stops waiting)")
    return found


def _silent(_: str) -> None:
    """Where the lines of all processes but the first go."""


def do_one(cell: Cell, places: Places, team: Any, bars: Any, since: float = math.inf) -> Done:
    """One cell, its error caught; only Stopped passes, and with several processes what ended one of them alone."""
    import traceback

    from ssbench.console import say
    from ssbench.jobs.run import run
    from ssbench.train.distributed import ProcessFailed

    try:
        record, repeated = run(cell.loaded(places), cell.split, cell.seed, places, team, bars, since)
    except (Stopped, ProcessFailed):
        raise
    except Busy as busy:
        return Done(cell, busy=busy.folder, error=busy)
    except SsbenchError as error:
        say(f"error: {error}")
        return Done(cell, error=error)
    except Exception as error:  # a fault, or memory ran out: the other runs may still be done
        traceback.print_exc()
        what = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
        return Done(cell, error=SsbenchError(what, str(cell), "see the lines above; if it is a fault, report them"))
    return Done(cell, record, repeated=repeated)


def _of_table(name: str, splits: Sequence[str], places: Places, quick: bool) -> list[tuple[str, tuple[str, ...], str]]:
    """(recipe, overrides, split) of every run behind a table that we have a recipe for."""
    from ssbench.results.store import ResultStore
    from ssbench.tables.spec import PaperTable

    filled = PaperTable.read(name).fill(ResultStore(places.results))
    runs = [
        (cell.recipe, cell.overrides, QUICK_SPLIT if quick else cell.split)
        for cell in filled.wanted()
        if cell.recipe and cell.split and (not splits or cell.split in splits)
    ]
    if not runs:
        what = f"no cell of {name} has a recipe yet" + (" on these splits" if splits else "")
        raise UsageError(what, "table", f"ssbench table {name} shows the state of each cell")
    return list(dict.fromkeys(runs))


def _toy(places: Places) -> None:
    """Quick runs read the toy data, which are made where they are missing."""
    from ssbench.console import say
    from ssbench.prepare.prepare import prepare

    if not (places.data / "toy" / "ledger.json").is_file():
        say("making the toy data, once")
        prepare("toy", places.data)
