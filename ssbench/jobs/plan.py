"""A plan: the runs behind some tables and recipes, each once, with its state, its cost and what it closes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ssbench.jobs.choose import Option, choose, closed, least, side_by_side
from ssbench.jobs.cost import Cost, Device, Work

State = Literal["done", "failed", "running", "partial", "missing"]
THERE: tuple[State, ...] = ("done", "running")
GIB = 2**30


@dataclass(frozen=True)
class Run:
    """One run. id: equal for runs that would compute the same; key: the run key, None while the split's lists are not
    known. cells: "table row/column" of what it fills. bases: ids of the baselines its gains are taken over, as often as
    there are gains. also: other names under which tables ask for the same run. left: share that is not done.
    """

    id: str
    recipe: str
    overrides: tuple[str, ...]
    split: str
    seed: int
    key: str | None
    state: State
    cells: tuple[str, ...]
    bases: tuple[str, ...]
    also: tuple[str, ...]
    work: Work | None
    cost: Cost
    left: float = 1.0
    note: str = ""
    chosen: bool = False

    @property
    def hours(self) -> float | None:
        """Hours that are left, None where nobody knows."""
        if self.state == "done":
            return 0.0
        return None if self.cost.hours is None else self.cost.hours * self.left

    def as_json(self) -> dict[str, Any]:
        """One entry of `runs` in the documented object of `ssbench plan --json`."""
        facts = {name: getattr(self, name) for name in ("recipe", "split", "seed", "key", "state", "chosen", "note")}
        lists = {name: list(getattr(self, name)) for name in ("overrides", "cells", "also")}
        cost = {"hours": self.hours, "basis": self.cost.basis, "measured": self.cost.measured}
        return {**facts, **lists, **cost, "work": asdict(self.work) if self.work else None}


@dataclass(frozen=True)
class Store:
    """A dataset the runs read: bytes it takes (of its archives, where it is not prepared), None where unknown."""

    name: str
    prepared: bool
    bytes: int | None


@dataclass(frozen=True)
class Plan:
    """Runs in the order to do them, those that are there first. not_yet: cells without a recipe, by table.

    closes: cells and gains. needed: the hours that a first run takes, where the budget is too small for any.
    """

    targets: tuple[str, ...]
    runs: tuple[Run, ...]
    not_yet: dict[str, int]
    datasets: tuple[Store, ...]
    device: Device
    free: int
    gpus: int = 1
    budget: float | None = None
    closes: tuple[int, int] = (0, 0)
    needed: float | None = None

    @property
    def todo(self) -> list[Run]:
        """The runs chosen to be done."""
        return [run for run in self.runs if run.chosen]

    @property
    def checkpoints(self) -> int:
        """Bytes the chosen runs leave in their folders."""
        return sum(run.work.checkpoint_bytes for run in self.todo if run.work)

    @property
    def wall(self) -> float:
        """Hours until the chosen runs are done, one a GPU."""
        return side_by_side([run.hours or 0.0 for run in self.todo], self.gpus)

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench plan --json`; `ssbench run --plan` does its chosen runs, in its order."""
        return {
            "plan": 1,
            "targets": list(self.targets),
            "assumed": {"tflops": self.device.tflops, "utilisation": self.device.utilisation},
            "budget_hours": self.budget,
            "gpus": self.gpus,
            "totals": {
                "runs": len(self.runs),
                **Counter(run.state for run in self.runs),
                "chosen": len(self.todo),
                "hours": sum(run.hours or 0.0 for run in self.todo),
                "hours_by_basis": by_basis(self.todo),
                "hours_unknown": sum(run.hours is None for run in self.todo),
                "wall_hours": self.wall,
                "cells_closed": self.closes[0],
                "gains_closed": self.closes[1],
            },
            "not_yet": self.not_yet,
            "disk": {
                "checkpoints": self.checkpoints,
                "free": self.free,
                "datasets": [asdict(d) for d in self.datasets],
            },
            "runs": [run.as_json() for run in self.runs],
        }


def by_basis(runs: Sequence[Run]) -> dict[str, float]:
    """Hours by what they rest on."""
    found: Counter[str] = Counter()
    for run in runs:
        found[run.cost.basis] += run.hours or 0.0  # type: ignore[assignment]
    return dict(found)


def decided(plan: Plan) -> Plan:
    """The plan with its runs chosen and in order (`choose`); those not chosen stand last."""
    options = [Option(r.id, r.seed, r.hours, len(_places(r)), r.state in THERE) for r in plan.runs]
    known = {run.id for run in plan.runs}
    gains = Counter((run.id, base) for run in plan.runs for base in run.bases if base in known)
    taken = choose(options, gains, plan.budget)
    rank = {id: at for at, id in enumerate(taken)}
    there = [run for run in plan.runs if run.state in THERE]
    chosen = sorted((replace(r, chosen=True) for r in plan.runs if r.id in rank), key=lambda r: rank[r.id])
    rest = [run for run in plan.runs if run.state not in THERE and run.id not in rank]
    needed = None if taken else least(options, gains)
    return replace(plan, runs=(*there, *chosen, *rest), closes=closed(taken, options, gains), needed=needed)


def _places(run: Run) -> set[str]:
    """Its cells, the columns of one class each as one (`choose`); a recipe of no table closes itself."""
    return {cell.partition("#")[0] for cell in run.cells} or {run.recipe}


ROW = ("recipe", "split", "seeds", "state", "hours", "basis", "cells")


def rows(plan: Plan) -> list[tuple[str, ...]]:
    """One line for each recipe and split, in the plan's order: what is left of its seeds, for people."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in plan.runs:
        groups.setdefault((run.recipe, *run.overrides, run.split), []).append(run)
    return [_row(some) for some in groups.values()]


def _row(some: Sequence[Run]) -> tuple[str, ...]:
    first, known = some[0], [run.hours for run in some if run.hours is not None]
    states = Counter(_state(run) for run in some)
    hours = _shown(sum(known)) if len(known) == len(some) else "?"
    basis = first.cost.basis if any(run.state != "done" for run in some) else ""
    return (
        " ".join([first.recipe, *first.overrides]),
        first.split,
        ",".join(str(run.seed) for run in some),
        ", ".join(f"{count} {state}" for state, count in states.items()),
        hours,
        basis,
        str(len(_places(first))),
    )


def _state(run: Run) -> str:
    return run.state if run.chosen or run.state in THERE else "left out"


def summary(plan: Plan) -> Iterator[str]:
    """What a person wants to know of the whole, a line each."""
    states = Counter(run.state for run in plan.runs)
    told = ", ".join(f"{states[state]} {state}" for state in ("done", "running", "partial", "failed", "missing"))
    shared = sum(len(run.also) for run in plan.runs)
    yield f"{len(plan.runs)} runs: {told}" + (f"; {shared} more are the same under another name" if shared else "")
    if plan.not_yet:
        yield f"{sum(plan.not_yet.values())} cells have no recipe yet: {', '.join(plan.not_yet)}"
    if plan.budget is not None:
        yield f"{len(plan.todo)} of them fit {plan.budget:g} hours; they close {_closes(plan)}"
    for basis, hours in by_basis(plan.todo).items():
        yield f"{_shown(hours)} hours: {basis}"
    yield f"{_shown(plan.wall)} hours on {plan.gpus} at a time" if plan.todo else "nothing is left to do"
    short = " (too little)" if plan.checkpoints > plan.free else ""
    yield f"{plan.checkpoints / GIB:.1f} GiB of checkpoints, {plan.free / GIB:.0f} GiB free{short}"
    for one in plan.datasets:
        yield _store(one)


def _closes(plan: Plan) -> str:
    cells, gains = plan.closes
    return f"{cells} cells and {gains} gains"


def _store(one: Store) -> str:
    if one.prepared:
        return f"{one.name}: prepared, {(one.bytes or 0) / GIB:.1f} GiB"
    size = "size not published" if one.bytes is None else f"{one.bytes / GIB:.1f} GiB of archives, twice with its files"
    size = size if one.bytes != 0 else "nothing to download"
    return f"{one.name}: not prepared ({size}): ssbench prepare {one.name}"


def _shown(hours: float) -> str:
    if 0 < hours < 0.01:
        return "<0.01"
    return f"{hours:.2f}" if hours < 1 else f"{hours:.1f}"
