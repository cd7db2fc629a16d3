"""What others say a cell scores: the method's own paper, its README, released training logs; each with its source.

Two places hold claims beside the tables' printed numbers:

* `recipes/claims/<method>.yaml`, shipped. Numbers stand as their source writes them, in groups that share a source:
  `parts` and `values` (one number a part, "-" for none), or `runs`, one line a training log: the part, then
  `epoch:score` for the epochs known of its curve; its score is the largest.
* `<results>/claims/<name>.json`, written by `write_claim` (`ssbench import LOG`): the fields of `Claim`, `value` as a
  string, `curve` as [[epoch, score], ...].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ssbench.errors import DataError, RecipeError, nearest
from ssbench.files import write_json
from ssbench.paths import shipped
from ssbench.recipe.marks import read
from ssbench.tables.spec import Metric, Printed

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from ssbench.tables.cell import Cell, Filled

Kind = Literal["paper", "own paper", "readme", "log", "checkpoint"]
KINDS: tuple[Kind, ...] = ("paper", "own paper", "readme", "log", "checkpoint")
_STRICT = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True)
class Claim:
    """One published score. value, and the scores of `curve` ((epoch from 0, score), ...), are percent.

    method, plugin: our names. split: `dataset/family/part`. backbone, crop (pixels): None where the source is silent.
    kind: who says it ("checkpoint": a released one, scored here). source: where it stands. note: what a reader must
    know before comparing, or "".
    """

    method: str
    plugin: str | None
    split: str
    backbone: str | None
    crop: int | None
    metric: str
    value: Decimal
    kind: Kind
    source: str
    note: str = ""
    curve: tuple[tuple[int, float], ...] | None = None


_ONE = TypeAdapter(Claim)


class Group(BaseModel):
    """Claims of one source in a shipped file; `Claim` says what the fields are.

    parts: of the split family, blank-separated; values: one a part. runs: log file -> "part epoch:score ...".
    """

    model_config = _STRICT

    kind: Kind
    source: str
    family: str = Field(pattern=r"^[^/]+/[^/]+$")
    backbone: str | None = None
    crop: int | None = None
    plugin: str | None = None
    metric: Metric = "miou"
    note: str = ""
    parts: str = ""
    values: Printed = None
    runs: dict[str, str] = {}

    @model_validator(mode="after")
    def _one_value_a_part(self) -> Group:
        if len(self.parts.split()) != len(self.values or []):
            raise ValueError(f"{len(self.values or [])} values for the parts '{self.parts}'")
        return self

    def claims(self, method: str) -> Iterator[Claim]:
        """One claim a number or log, in the order of the file."""
        for part, value in zip(self.parts.split(), self.values or [], strict=True):
            if value is not None:
                yield self._claim(method, part, value, self.source, None)
        for file, line in self.runs.items():
            part, *points = line.split()
            known = [point.split(":") for point in points]
            curve = tuple((int(epoch), float(score)) for epoch, score in known)
            yield self._claim(method, part, max(Decimal(s) for _, s in known), f"{self.source}: {file}", curve)

    def _claim(
        self, method: str, part: str, value: Decimal, source: str, curve: tuple[tuple[int, float], ...] | None
    ) -> Claim:
        return Claim(method, self.plugin, f"{self.family}/{part}", self.backbone, self.crop, self.metric, value,
                     self.kind, source, self.note, curve)  # fmt: skip


class Groups(BaseModel):
    """A shipped file: everything claimed about one method."""

    model_config = _STRICT

    method: str
    claims: list[Group]


def claims_for(cell: Cell, claims: Path | Sequence[Claim]) -> tuple[Claim, ...]:
    """Every claim about a cell: the number its table prints first, then the others by kind.

    A claim is about a cell when method, plug-in, backbone, split and metric are the same; its crop may differ (papers
    state one crop for methods that have their own), so whoever shows it must show that too.

    Args:
        claims: the root of the results, or what `all_claims` gave for it (for many cells).
    """
    known = all_claims(claims) if isinstance(claims, Path) else claims
    wanted = (cell.method, cell.plugin, cell.backbone, cell.split, cell.metric)
    found = [c for c in known if (c.method, c.plugin, c.backbone, c.split, c.metric) == wanted]
    if cell.class_name is not None:
        found = []  # nobody but the tables claims a single class
    found.sort(key=lambda c: KINDS.index(c.kind))
    if cell.printed is None or not cell.split or not cell.method:
        return tuple(found)
    own = Claim(cell.method, cell.plugin, cell.split, cell.backbone, cell.crop, cell.metric, cell.printed, "paper",
                "this table")  # fmt: skip
    return (own, *found)


def claim_rows(filled: Filled, claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """One dict a claim about a cell of the table, the printed number included, cell by cell."""
    rows, columns = {r.id: r for r in filled.table.rows}, {c.id: c for c in filled.table.columns}
    return [
        {
            "table": filled.table.name,
            "row": rows[cell.row].label,
            "column": " ".join(w for w in (columns[cell.column].group, columns[cell.column].label) if w),
            "split": claim.split,
            "method": claim.method,
            "plugin": claim.plugin,
            "backbone": claim.backbone,
            "crop": claim.crop,
            "metric": claim.metric,
            "kind": claim.kind,
            "value": str(claim.value),
            "source": claim.source,
            "note": claim.note,
        }
        for cell in filled.cells.values()
        for claim in claims_for(cell, claims)
    ]


def all_claims(root: Path) -> tuple[Claim, ...]:
    """Shipped claims, then the imported ones under `root`, each in the order of file names.

    DataError names an imported file that is not one, RecipeError the line of a shipped one.
    """
    return (*shipped_claims(), *(read_claim(path) for path in sorted((root / "claims").glob("*.json"))))


@cache
def shipped_claims() -> tuple[Claim, ...]:
    """Those of `recipes/claims/*.yaml`."""
    files = sorted((shipped("recipes") / "claims").glob("*.yaml"))
    return tuple(claim for path in files for claim in read_shipped(path))


def read_shipped(path: Path) -> list[Claim]:
    """The claims of one YAML file. RecipeError with file and line for anything that cannot be."""
    marked = read(path, f"recipes/claims/{path.name}")
    try:
        groups = Groups.model_validate(marked.data)
        return [claim for group in groups.claims for claim in group.claims(groups.method)]
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        raise RecipeError(_complaint(first), str(marked.at(first["loc"])), "mend the line") from None
    except (ValueError, ArithmeticError) as error:
        raise RecipeError(f"a run is 'part epoch:score ...': {error}", str(marked.at(())), "mend it") from None


def write_claim(root: Path, claim: Claim) -> Path:
    """Keep a claim under `root` (the results); one of the same identity, kind and source is replaced."""
    fields = asdict(claim) | {"value": str(claim.value)}
    identity = json.dumps([v for k, v in fields.items() if k not in ("value", "note", "curve")])
    words = (claim.method, claim.plugin, claim.split.replace("/", "-"), claim.backbone, claim.kind.replace(" ", "-"))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    path = root / "claims" / ("_".join(word for word in (*words, digest) if word) + ".json")
    write_json(path, fields)
    return path


def read_claim(path: Path) -> Claim:
    """An imported claim. DataError when the file is not one."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        return _ONE.validate_python(fields)
    except (OSError, ValueError) as error:
        what = _complaint(error.errors()[0]) if isinstance(error, ValidationError) else str(error)
        fix = f"mv {path} {path}.broken, then import it again"
        raise DataError(f"not a claim: {what}", str(path), fix) from None


def _complaint(error: ErrorDetails) -> str:
    """A field and what is wrong with it."""
    if error["type"] == "extra_forbidden":
        return f"claims have no field '{error['loc'][-1]}'; {nearest(str(error['loc'][-1]), list(Group.model_fields))}"
    return f"{'.'.join(map(str, error['loc']))}: {error['msg']}".removeprefix(": ")
