"""What a plan holds: its request, its runs and analyses, the disk of its datasets; also as its file has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ssbench.data.ledger import Ledger
from ssbench.jobs.choose import hours_side_by_side
from ssbench.jobs.cost import Amount, Device, Work
from ssbench.jobs.targets import AnalysisJob
from ssbench.prepare.prepare import known, source_spec
from ssbench.results.analysis import AnalysisKind

RunState = Literal["done", "failed", "running", "partial", "missing"]
THERE = ("done", "running")
FURTHEST: tuple[RunState, ...] = ("done", "running", "partial", "failed", "missing")


@dataclass(frozen=True)
class PlanRequest:
    """What to plan for. splits: of tables, only these. seeds: how many, from 0. budget: GPU hours.

    hardware: only speeds stored on machines whose name contains this. measure: speeds that were timed over some steps
    come before those of stored runs.
    """

    targets: Sequence[str]
    splits: Sequence[str] = ()
    seeds: int = 1
    gpus: int = 1
    budget: float | None = None
    device: Device = Device()
    hardware: str | None = None
    measure: bool = False


class PlannedRun(BaseModel):
    """One run of a plan, and its entry in the plan's file, which also says how it is read back.

    key: the run key, None while the split's lists are not known. cells: "table row/column" of what it fills. also:
    other names under which tables ask for the same run. hours: left to do, None where nobody knows. id: equal for runs
    that would compute the same. bases: ids of the baselines its gains are taken over, as often as there are gains.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    recipe: str
    split: str
    seed: Annotated[int, Field(ge=0, le=2**53)]
    key: str | None = None
    state: RunState = "missing"
    chosen: bool = True
    note: str = ""
    overrides: list[str] = []
    cells: list[str] = []
    also: list[str] = []
    hours: Amount | None = None
    basis: str = ""
    measured: bool = False
    work: Work | None = None
    id: str = Field(default="", exclude=True)
    bases: list[str] = Field(default=[], exclude=True)

    @property
    def name(self) -> str:
        """Recipe and overrides."""
        return " ".join([self.recipe, *self.overrides])

    @property
    def closes(self) -> int:
        """Cells it fills, the columns of one class each as one. A recipe of no table counts as one cell."""
        return len({cell.partition("#")[0] for cell in self.cells} or {self.recipe})


class PlannedAnalysis(BaseModel):
    """An analysis that a table of the plan shows (`targets.AnalysisJob`), and whether it is stored."""

    model_config = ConfigDict(strict=True, frozen=True)

    table: str
    kind: AnalysisKind
    recipe: str
    overrides: list[str] = []
    split: str
    beside: str | None = None
    seed: Annotated[int, Field(ge=0, le=2**53)]
    state: Literal["done", "missing"] = "missing"

    @property
    def job(self) -> AnalysisJob:
        """As a job."""
        fields = self.model_dump(exclude={"state"})
        return AnalysisJob(**{**fields, "overrides": tuple(self.overrides)})


@dataclass(frozen=True)
class DatasetDisk:
    """A dataset the runs read: bytes it takes (of its archives, where it is not prepared), None where unknown."""

    name: str
    prepared: bool
    bytes: int | None


@dataclass(frozen=True)
class RunPlan:
    """Runs in the order to do them: those that are there first, those not chosen last. not_yet: as in `TargetRuns`.

    free: bytes where runs are kept. closes: cells and gains. needed: the hours that a first run takes, where the budget
    is too small for any.
    """

    request: PlanRequest
    runs: list[PlannedRun]
    not_yet: dict[str, int] = field(default_factory=dict)
    datasets: list[DatasetDisk] = field(default_factory=list)
    free: int = 0
    closes: tuple[int, int] = (0, 0)
    needed: float | None = None
    analyses: list[PlannedAnalysis] = field(default_factory=list)

    @property
    def todo(self) -> list[PlannedRun]:
        """The runs chosen to be done."""
        return [run for run in self.runs if run.chosen]

    @property
    def checkpoints(self) -> int:
        """Bytes the chosen runs leave in their folders."""
        return sum(run.work.checkpoint_bytes for run in self.todo if run.work)

    @property
    def wall_hours(self) -> float:
        """Hours until the chosen runs are done, one a GPU."""
        return hours_side_by_side([run.hours or 0.0 for run in self.todo], self.request.gpus)

    @property
    def hours_by_basis(self) -> dict[str, float]:
        """Hours of the chosen runs, by what the hours rest on."""
        hours: dict[str, float] = {}
        for run in self.todo:
            hours[run.basis] = hours.get(run.basis, 0.0) + (run.hours or 0.0)
        return hours

    def as_json(self) -> dict[str, Any]:
        """The documented object of `ssbench plan --json`; `ssbench run --plan` does its chosen runs, in its order."""
        return {
            "plan": 1,
            "targets": list(self.request.targets),
            "assumed": asdict(self.request.device),
            "budget_hours": self.request.budget,
            "gpus": self.request.gpus,
            "totals": {
                "runs": len(self.runs),
                **Counter(run.state for run in self.runs),
                "chosen": len(self.todo),
                "hours": sum(run.hours or 0.0 for run in self.todo),
                "hours_by_basis": self.hours_by_basis,
                "hours_unknown": sum(run.hours is None for run in self.todo),
                "wall_hours": self.wall_hours,
                "cells_closed": self.closes[0],
                "gains_closed": self.closes[1],
            },
            "not_yet": self.not_yet,
            "disk": {
                "checkpoints": self.checkpoints,
                "free": self.free,
                "datasets": [asdict(d) for d in self.datasets],
            },
            "runs": [run.model_dump(mode="json") for run in self.runs],
            **({"analyses": [a.model_dump(mode="json") for a in self.analyses]} if self.analyses else {}),
        }


def disk_of(name: str, data_root: Path) -> DatasetDisk:
    """Of a dataset that is not prepared, the bytes to download."""
    ledger = Ledger.read(data_root / name)
    if ledger is not None:
        return DatasetDisk(name, True, ledger.bytes)
    archives = source_spec(name).archives if name in known() else None
    sizes = None if archives is None else [archive.size for archive in archives if not archive.optional]
    is_known = sizes is not None and None not in sizes
    return DatasetDisk(name, False, sum(size or 0 for size in sizes or ()) if is_known else None)
