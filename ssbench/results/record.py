"""One result record as it is read: the head that tables need, or the whole file, both checked.

Top-level fields stand one a line and those of the head first (`HEAD`), so ten thousand records are read in well under a
second without parsing histories and confusion matrices. Types and ranges of every field that is used are checked, by
pydantic's own JSON parser, which is faster than `json` and bounds the depth. Unknown fields, of older or newer
versions, are kept.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssbench.errors import DataError
from ssbench.files import MAX_BYTES, model_error

HEAD = (
    *("schema", "key", "recipe", "paper", "method", "plugin", "split", "split_sha256", "custom_split", "seed"),
    *("division", "quick", "status", "reason", "finished", "settings", "metric", "scores", "protocol"),
)
_END_OF_HEAD = b'\n "resolved":'

Text = Annotated[str, Field(max_length=1000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100.001, allow_inf_nan=False)]  # .001: a sum of shares may round up
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True)


class _EpochScore(_Strict):
    epoch: Count | None = None
    select: Percent | None = None
    report: Percent | None = None


class _Scores(_Strict):
    best: _EpochScore | None = None
    last: _EpochScore | None = None


class _Protocol(_Strict):
    protocol: Text | None = None
    select: Text | None = None


class _Head(_Strict):
    """The fields of `HEAD` that are used."""

    key: Text
    recipe: Text
    split: Text
    split_sha256: Text | None = None
    custom_split: bool
    seed: Count
    method: Text
    plugin: Text | list[Text] | None = None
    division: Text
    quick: bool
    status: Text
    reason: Annotated[str, Field(max_length=100_000)] | None = None
    finished: Text | None = None
    settings: Text | None = None
    metric: Text
    scores: _Scores | None = None
    protocol: _Protocol | None = None


class _HistoryEpoch(_Strict):
    epoch: Count
    select: Percent | None = None
    stage: Text | None = None
    terms: dict[Text, Number | None] = {}


class _Throughput(_Strict):
    images_per_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class _Whole(_Head):
    """Every field that is used."""

    resolved: dict[str, Any] | None = None
    classes: list[Text] | None = None
    departures: list[Annotated[str, Field(max_length=10_000)]] | None = None
    hardware: dict[Text, Text | int | None] | None = None
    packages: dict[Text, Text | None] | None = None
    git: dict[Text, Text | bool | None] | None = None
    per_class: dict[Text, list[Percent | None] | None] | None = None
    confusion: dict[Text, list[list[Count]] | None] | None = None
    history: list[_HistoryEpoch] | None = None
    timings: dict[Text, Number | None] | None = None
    throughput: _Throughput | None = None
    memory: dict[Text, Number | None] | None = None
    batch_ids: list[Text] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """What a table needs of one run; `full()` reads the rest.

    best, last: reported score in percent of the best-on-val and of the last epoch; None where the run failed.
    settings: fingerprint of the resolved recipe; finished: ISO time, or "". protocol: whole, sliding, ..., or "".
    """

    path: Path
    key: str
    recipe: str
    split: str
    seed: int
    method: str
    plugin: str | None
    status: str
    reason: str
    division: str
    quick: bool
    custom_split: bool
    settings: str
    finished: str
    metric: str
    best: float | None
    best_epoch: int | None
    last: float | None
    last_epoch: int | None
    protocol: str

    @property
    def main(self) -> bool:
        """Whether it has the plain name `seed<k>.json`."""
        return self.path.name.count(".") == 1

    def full(self) -> dict[str, Any]:
        """Every field of the file. DataError when it is damaged; see `ResultStore.whole`."""
        return read_whole(self.path)


Checked = TypeVar("Checked", bound=_Strict)


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"this record is larger than {MAX_BYTES:,} bytes", str(path), _fix(path))
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"this record cannot be read: {error.strerror}", str(path), _fix(path)) from None


def read_record(path: Path) -> Record:
    """The head of the record in `path`. DataError when it cannot be read, or is damaged."""
    data = _bytes(path)
    end = data.find(_END_OF_HEAD)
    if end > 0 and data.endswith(b"\n}\n") and b'\n "scores":' in data[:end]:
        data = data[: end - 1] + b"}"
    return parse_record(path, data)  # whole where it was not written by `add`, or was cut off


def read_whole(path: Path) -> dict[str, Any]:
    """Every field of the record in `path`, unknown ones too. DataError when it cannot be read, or is damaged."""
    data = _bytes(path)
    _checked(_Whole, data, path)
    whole: dict[str, Any] = json.loads(data)  # not the model: keeps ints, order and unknown fields as they are
    return whole


def parse_record(path: Path, data: bytes) -> Record:
    """The head of the record that `data` holds; `path` is where it stands, or what an error calls it."""
    head = _checked(_Head, data, path)
    scores = head.scores or _Scores()
    best, last = scores.best or _EpochScore(), scores.last or _EpochScore()
    return Record(
        path=path,
        key=head.key,
        recipe=head.recipe,
        split=head.split,
        seed=head.seed,
        method=head.method,
        plugin="+".join(head.plugin) if isinstance(head.plugin, list) else head.plugin,
        status=head.status,
        reason=head.reason or "",
        division=head.division,
        quick=head.quick,
        custom_split=head.custom_split,
        settings=head.settings or "",
        finished=head.finished or "",
        metric=head.metric,
        best=best.report,
        best_epoch=best.epoch,
        last=last.report,
        last_epoch=last.epoch,
        protocol=(head.protocol and head.protocol.protocol) or "",
    )


def _checked(model: type[Checked], data: bytes, path: Path) -> Checked:
    try:
        return model.model_validate_json(data)
    except ValidationError as problem:
        raise model_error(problem, str(path), "record", _fix(path)) from None


def _fix(path: Path) -> str:
    return f"mv {path} {path}.broken, then run it again"
