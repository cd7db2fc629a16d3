"""Waiting for a queue that Slurm has: what jobs say of their end, and what Slurm says of those that cannot."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from ssbench.errors import (
    DataError,
    HardwareError,
    Interrupted,
    RecipeError,
    RunsFailed,
    SsbenchError,
    Stopped,
    UsageError,
)
from ssbench.files import LOCK, is_locked
from ssbench.jobs import progress as progress_file
from ssbench.jobs import queue_file as board
from ssbench.jobs import slurm
from ssbench.jobs.job import Cell, Done, Places
from ssbench.jobs.launch import Handed, Placed, living
from ssbench.jobs.run import Order
from ssbench.jobs.slurm_job import outcome_file
from ssbench.jobs.status import survey
from ssbench.jobs.status_view import View

SOON, SELDOM = 2.0, 30.0
"""Seconds between two questions to Slurm: after news, and in the long run."""
KINDS = {kind.code: kind for kind in (UsageError, RecipeError, DataError, RunsFailed, HardwareError)}


class Asked:
    """What Slurm last said of jobs."""

    def __init__(self) -> None:
        self.states: dict[str, slurm.JobState] = {}
        self._over = Counter[str]()
        self._due, self._pause = 0.0, SOON

    def again(self, jobs: Collection[str]) -> None:
        """Ask, if it is time to."""
        if time.monotonic() < self._due:
            return
        try:
            found = slurm.states(sorted(jobs))
        except HardwareError:  # a controller that restarts; the runs do not need it meanwhile
            self._due = time.monotonic() + SELDOM
            return
        self._pause = SOON if found != self.states else min(1.5 * self._pause, SELDOM)
        self._due, self.states = time.monotonic() + self._pause, found
        for job in jobs:
            lives = job in found and found[job].lives
            self._over[job] = 0 if lives else self._over[job] + 1

    def over(self, job: str) -> bool:
        """Whether a job has ended: asked twice, for what it wrote last may reach this machine late."""
        return self._over[job] > 1


def wait_for(handed: Handed, view: View) -> list[Done]:
    """What becomes of the cells, in order, shown in `view` meanwhile.

    Raises:
        Interrupted: from the keyboard; the jobs go on.
    """
    found, left, asked = dict(handed.over), dict(handed.placed), Asked()
    runs = handed.places.runs
    folders = [str(place.folder.relative_to(runs)) for place in handed.placed.values()]
    try:
        while left:
            asked.again({place.job for place in left.values()})
            for cell, place in list(left.items()):
                if (done := _end(cell, place, handed.places, asked)) is not None:
                    del left[cell]
                    found[cell] = done
                    view.line(f"[{len(found)}/{len(handed.cells)}] {done}")
            view.show(survey(runs, folders, lambda _: asked.states))
            time.sleep(1 if left else 0)
    except KeyboardInterrupt:
        raise _left_alone(handed, list(left.values())) from None
    with suppress(HardwareError), board.alone(runs):
        living(runs)  # takes what has ended off the board
    return [found[cell] for cell in handed.cells]


def _left_alone(handed: Handed, left: list[Placed]) -> Interrupted:
    what = f"no longer waiting; {len(left)} of {len(handed.cells)} runs are still with Slurm"
    where = f"Slurm jobs {', '.join(dict.fromkeys(place.job for place in left))}"
    cancel = f"scancel {' '.join(handed.arrays)}"
    return Interrupted(what, where, f"the same command waits on, ssbench status shows them, {cancel} ends them")


def _end(cell: Cell, place: Placed, places: Places, asked: Asked) -> Done | None:
    """What became of a cell, once that is known."""
    told = _told(place)
    if told.get("state") == "failed":
        kind = KINDS.get(told["code"], SsbenchError)
        return Done(cell, error=kind(told["what"], told["where"], told["fix"]))
    if not told and not asked.over(place.job):
        return None
    record = Order.of(cell.loaded(places), cell.split, cell.seed, places).recorded()
    if record is not None:
        return Done(cell, record, repeated=told.get("state") in ("was done", "elsewhere"))
    if told.get("state") == "elsewhere" and is_locked(place.folder / LOCK):
        return None
    return Done(cell, error=_lost(place, asked.states.get(place.job)))


def _told(place: Placed) -> dict[str, Any]:
    """What the job says of the cell; nothing before its end."""
    try:
        cells = json.loads(outcome_file(place.logs, place.job).read_text(encoding="utf-8"))["cells"]
    except OSError:
        return {}
    found: dict[str, Any] = cells[place.at]
    return found


def _lost(place: Placed, state: slurm.JobState | None) -> SsbenchError:
    """Why a job ended without a word of its own: it was stopped and can go on, or something is wrong."""
    told, log = progress_file.read(place.folder), place.logs / f"{place.job}_0_log.err"
    word = f"Slurm job {place.job} ended: {state or 'Slurm has forgotten how'}"
    if told.get("job") == place.job and told.get("state") == "failed":
        return RunsFailed(told["why"], str(log), "mend that and run it again")
    if told.get("state") == "stopped" or (state is not None and state.word in slurm.RESUMABLE):
        return Stopped(word, str(log), "run the same command again")
    return SsbenchError(word, str(log), "see the log; the same command tries again")
