"""What others say a cell scores: the method's own paper, its README, released training logs; each with its source.

Two places hold claims beside the tables' printed numbers:

* `recipes/claims/<method>.yaml`, shipped. Numbers stand as their source writes them, in groups that share a source:
  `parts` and `values` (one number a part, "-" for none), or `runs`, one line a training log: the part, then
  `epoch:score` for the epochs known of its curve; its score is the largest. `epochs`: how many such a run has.
* `<results>/claims/<name>.json`, written by `write_claim` (`ssbench import LOG`): the fields of `Claim`, `value` as a
  string, `curve` as [[epoch, score], ...].
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator

from ssbench.errors import DataError, RecipeError, nearest
from ssbench.files import read_model, write_json
from ssbench.paths import shipped
from ssbench.recipe.marks import read
from ssbench.results.record import Count, Percent, Text
from ssbench.tables.cell import Cell, Filled
from ssbench.tables.spec import Metric, Printed

ClaimKind = Literal["paper", "own paper", "readme", "log", "checkpoint"]
KINDS: tuple[ClaimKind, ...] = get_args(ClaimKind)
FROZEN = " (frozen)"
"""Behind the encoder's name, where its weights are kept: another run than the one that trains them."""
Curve = tuple[tuple[Count, Percent], ...]
"""(epoch from 0, score in percent), ..."""


@dataclass(frozen=True)
class Claim:
    """One published score. value, and the scores of `curve`, are percent.

    method, plugin: our names. split: `dataset/family/part`. backbone, crop (pixels): None where the source is silent.
    kind: who says it ("checkpoint": a released one, scored here). source: where it stands. note: what a reader must
    know before comparing, or "". epochs: of the whole run that a log is about, where it is known. departs: settings in
    which that run is not the one its authors released, or "".
    """

    method: Text
    plugin: Text | None
    split: Text
    backbone: Text | None
    crop: Count | None
    metric: Text
    value: Annotated[Decimal, Field(ge=-100, le=100, max_digits=20)]
    kind: ClaimKind
    source: Text
    note: Text = ""
    curve: Curve | None = None
    epochs: Count | None = None
    departs: Text = ""


class _ClaimFile(RootModel[Claim]):
    """An imported claim."""


class ClaimGroup(BaseModel):
    """Claims of one source in a shipped file; `Claim` says what the fields are.

    parts: of the split family, blank-separated; values: one a part. runs: log file -> "part epoch:score ...".
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    kind: ClaimKind
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
    epochs: int | None = None

    @model_validator(mode="after")
    def _one_value_a_part(self) -> ClaimGroup:
        if len(self.parts.split()) != len(self.values or []):
            raise ValueError(f"{len(self.values or [])} values for the parts '{self.parts}'")
        return self

    def claims(self, method: str) -> Iterator[Claim]:
        """One claim a number or log, in the order of the file."""

        def claim(part: str, value: Decimal, source: str, curve: Curve | None) -> Claim:
            split = f"{self.family}/{part}"
            return Claim(method, self.plugin, split, self.backbone, self.crop, self.metric, value, self.kind, source,
                         self.note, curve, self.epochs)  # fmt: skip

        for part, value in zip(self.parts.split(), self.values or [], strict=True):
            if value is not None:
                yield claim(part, value, self.source, None)
        for file, line in self.runs.items():
            part, *points = line.split()
            scores = [(int(epoch), Decimal(score)) for epoch, score in (point.split(":") for point in points)]
            curve = tuple((epoch, float(score)) for epoch, score in scores)
            yield claim(part, max(score for _, score in scores), f"{self.source}: {file}", curve)


class _ShippedClaims(BaseModel):
    """A shipped file: everything claimed about one method."""

    model_config = ConfigDict(extra="forbid", strict=True)

    method: str
    claims: list[ClaimGroup]


def backbone_of(net: Mapping[str, Any]) -> str:
    """How claims call the encoder of a resolved recipe's network.

    As papers do, ResNets with a deep stem (resnet101s) have the name of those without. " (frozen)" stands behind an
    encoder whose weights are kept.
    """
    encoder = str(net.get("encoder") or net.get("name"))
    name = encoder.removesuffix("s") if encoder.startswith("resnet") else encoder
    return name + (FROZEN if net.get("frozen") else "")


def claims_for(cell: Cell, claims: Sequence[Claim]) -> tuple[Claim, ...]:
    """Every claim about a cell among `claims`: the number its table prints first, then the others by kind.

    A claim is about a cell when method, plug-in, backbone, split and metric are the same; its crop may differ (papers
    state one crop for methods that have their own), so whoever shows it must show that too. Nobody but the tables
    claims the IoU of a single class.
    """
    run = (cell.method, cell.plugin, cell.backbone, cell.split, cell.metric)
    about = [c for c in claims if (c.method, c.plugin, c.backbone, c.split, c.metric) == run and not cell.class_name]
    about.sort(key=lambda claim: KINDS.index(claim.kind))
    if cell.printed is None or not cell.split or not cell.method:
        return tuple(about)
    printed = Claim(cell.method, cell.plugin, cell.split, cell.backbone, cell.crop, cell.metric, cell.printed, "paper",
                    "this table")  # fmt: skip
    return (printed, *about)


def claim_rows(filled: Filled, claims: Sequence[Claim]) -> list[dict[str, Any]]:
    """One dict a claim about a cell of the table, the printed number included, cell by cell."""
    rows, columns = {r.id: r for r in filled.table.rows}, {c.id: c for c in filled.table.columns}
    order = ("split", "method", "plugin", "backbone", "crop", "metric", "kind", "value", "source", "note")
    out = []
    for cell in filled.cells.values():
        column = columns[cell.column]
        place = {
            "table": filled.table.name,
            "row": rows[cell.row].label,
            "column": " ".join(word for word in (column.group, column.label) if word),
        }
        for claim in claims_for(cell, claims):
            about = vars(claim) | {"value": str(claim.value)}
            out.append(place | {name: about[name] for name in order})
    return out


def all_claims(root: Path, damaged: dict[Path, DataError] | None = None) -> tuple[Claim, ...]:
    """Shipped claims, then the imported ones under `root` (the results), each in the order of file names.

    Args:
        damaged: takes the error of each imported file that is no claim, which is passed over; without it the first is
            raised.
    """
    imported: list[Claim] = []
    for path in sorted((root / "claims").glob("*.json")):
        try:
            imported.append(read_claim(path))
        except DataError as error:
            if damaged is None:
                raise
            damaged[path] = error
    return (*shipped_claims(), *imported)


@cache
def shipped_claims() -> tuple[Claim, ...]:
    """Those of `recipes/claims/*.yaml`."""
    files = sorted((shipped("recipes") / "claims").glob("*.yaml"))
    return tuple(claim for path in files for claim in read_shipped(path))


def read_shipped(path: Path) -> list[Claim]:
    """The claims of one YAML file. RecipeError with file and line for anything that cannot be."""
    shown = f"recipes/claims/{path.name}"
    marked = read(path, shown)
    try:
        about_method = _ShippedClaims.model_validate(marked.data)
        return [claim for group in about_method.claims for claim in group.claims(about_method.method)]
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        what = f"{'.'.join(map(str, first['loc']))}: {first['msg']}".removeprefix(": ")
        if first["type"] == "extra_forbidden":
            field = str(first["loc"][-1])
            what = f"claims have no field '{field}'; {nearest(field, list(ClaimGroup.model_fields))}"
        raise RecipeError(what, str(marked.at(first["loc"])) or shown, "mend the line") from None
    except (ValueError, ArithmeticError) as error:
        raise RecipeError(f"a run is 'part epoch:score ...': {error}", shown, "mend it") from None


def write_claim(root: Path, claim: Claim) -> Path:
    """Keep a claim under `root` (the results); one of the same identity, kind and source is replaced."""
    stored = asdict(claim) | {"value": str(claim.value)}
    identity = json.dumps([v for k, v in stored.items() if k not in ("value", "note", "curve", "epochs", "departs")])
    words = (claim.method, claim.plugin, claim.split.replace("/", "-"), claim.backbone, claim.kind.replace(" ", "-"))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:8]
    path = root / "claims" / ("_".join(word for word in (*words, digest) if word) + ".json")
    write_json(path, stored)
    return path


def read_claim(path: Path) -> Claim:
    """An imported claim. DataError when the file is not one."""
    return read_model(path, _ClaimFile, "claim", f"mv {path} {path}.broken, then import it again").root
