"""One result record as it is read: the head that tables need, or the whole file, both checked.

Top-level fields stand one a line and those of the head first (`HEAD`), so ten thousand records are read in well under a
second without parsing histories and confusion matrices. Types and ranges of every field that is used are checked, by
pydantic's own JSON parser, which is faster than `json` and bounds the depth. Unknown fields, of older or newer
versions, are kept.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError
from pydantic_core import from_json

from ssbench.errors import DataError
from ssbench.files import MAX_BYTES, model_error
from ssbench.recipe.stored import Identity

HEAD = (
    *("schema", "key", "recipe", "paper", "method", "plugin", "split", "split_sha256", "custom_split", "seed"),
    *("division", "quick", "status", "reason", "finished", "settings", "metric", "scores", "protocol", "identity"),
)
_END_OF_HEAD = b'\n "resolved":'

Text = Annotated[str, Field(max_length=1000)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Percent = Annotated[float, Field(ge=0, le=100.001, allow_inf_nan=False)]  # .001: a sum of shares may round up
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


_Blank = BeforeValidator(lambda value: "" if value is None else value)


class _EpochScore(_Strict):
    epoch: Count | None = None
    select: Percent | None = None
    report: Percent | None = None


class _Scores(_Strict):
    best: _EpochScore | None = None
    last: _EpochScore | None = None


_NO_SCORE, _NO_SCORES = _EpochScore(), _Scores()  # a failed run has null there


class _Protocol(_Strict):
    protocol: Text | None = None
    select: Text | None = None


class Record(_Strict):
    """What a table needs of one run; `full()` reads the rest.

    settings: fingerprint of the resolved recipe; finished: ISO time, or "". reason: why it failed, or "".
    """

    key: Text
    recipe: Text
    split: Text
    split_sha256: Text | None = None
    custom_split: bool
    seed: Count
    method: Text
    plugins: Text | list[Text] | None = Field(default=None, alias="plugin")
    division: Text
    quick: bool
    status: Text
    reason: Annotated[str, Field(max_length=100_000), _Blank] = ""
    finished: Annotated[Text, _Blank] = ""
    settings: Annotated[Text, _Blank] = ""
    metric: Text
    scores: _Scores | None = None
    scoring: _Protocol | None = Field(default=None, alias="protocol")
    identity: Identity | None = None
    _path: Path = PrivateAttr()

    @property
    def path(self) -> Path:
        """Its file."""
        return self._path

    @property
    def plugin(self) -> str | None:
        """The plug-in, or several joined by "+"; None for a baseline."""
        return "+".join(self.plugins) if isinstance(self.plugins, list) else self.plugins

    @property
    def best(self) -> float | None:
        """Reported score of the best-on-val epoch, percent; None where the run failed."""
        return ((self.scores or _NO_SCORES).best or _NO_SCORE).report

    @property
    def best_epoch(self) -> int | None:
        """The best-on-val epoch."""
        return ((self.scores or _NO_SCORES).best or _NO_SCORE).epoch

    @property
    def last(self) -> float | None:
        """Reported score of the last epoch, percent; None where the run failed."""
        return ((self.scores or _NO_SCORES).last or _NO_SCORE).report

    @property
    def last_epoch(self) -> int | None:
        """The last epoch."""
        return ((self.scores or _NO_SCORES).last or _NO_SCORE).epoch

    @property
    def protocol(self) -> str:
        """How it was scored: whole, sliding, ..., or ""."""
        return (self.scoring and self.scoring.protocol) or ""

    @property
    def main(self) -> bool:
        """Whether it is the run as its recipe stands."""
        return is_main(self._path)

    def full(self) -> dict[str, Any]:
        """Every field of the file. DataError when it is damaged; see `ResultStore.whole`."""
        return read_whole(self._path)


class _HistoryEpoch(_Strict):
    epoch: Count
    select: Percent | None = None
    stage: Text | None = None
    terms: dict[Text, Number | None] = {}


class _Hardware(_Strict):
    device: Text = ""
    name: Text = ""
    processor: Text = ""
    devices: Count = 1
    cores: Count | None = None
    threads: Count = 1


class _Computation(_Strict):
    precision: Text = ""
    dtype: Text = ""
    compile: bool = False


class _Throughput(_Strict):
    images_per_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    seconds_per_step: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    waiting_share: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None


class _Whole(Record):
    """Every field that is used."""

    resolved: dict[str, Any] | None = None
    classes: list[Text] | None = None
    departures: list[Annotated[str, Field(max_length=10_000)]] | None = None
    computation: _Computation | None = None
    hardware: _Hardware | None = None
    packages: dict[Text, Text | None] | None = None
    git: dict[Text, Text | bool | None] | None = None
    per_class: dict[Text, list[Percent | None] | None] | None = None
    confusion: dict[Text, list[list[Count]] | None] | None = None
    history: list[_HistoryEpoch] | None = None
    timings: dict[Text, Number | None] | None = None
    throughput: _Throughput | None = None
    memory: dict[Text, Number | None] | None = None
    batch_ids: list[Text] | None = None


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"this record is larger than {MAX_BYTES:,} bytes", str(path), _fix(path))
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"this record cannot be read: {error.strerror}", str(path), _fix(path)) from None


def is_main(path: Path) -> bool:
    """Whether a record has the plain name `seed<k>.json`."""
    return path.name.count(".") == 1


def read_record(path: Path) -> Record:
    """The head of the record in `path`. DataError when it cannot be read, or is damaged."""
    data = _bytes(path)
    end = data.find(_END_OF_HEAD)
    if end > 0 and data.endswith(b"\n}\n") and b'\n "scores":' in data[:end]:
        data = data[: end - 1] + b"}"
    return parse_record(path, data)  # whole where it was not written by `add`, or was cut off


def read_whole(path: Path) -> dict[str, Any]:
    """Every field of the record in `path`, unknown ones too. DataError when it cannot be read, or is damaged."""
    try:
        whole: dict[str, Any] = from_json(_bytes(path), allow_inf_nan=False)
        _Whole.model_validate(whole)
    except ValidationError as problem:
        raise model_error(problem, str(path), "record", _fix(path)) from None
    except ValueError as problem:
        raise DataError(f"this record is damaged: invalid JSON: {problem}", str(path), _fix(path)) from None
    return whole  # not the model: it keeps ints, order and unknown fields as they are


def parse_record(path: Path, data: bytes) -> Record:
    """The head of the record that `data` holds; `path` is where it stands, or what an error calls it."""
    try:
        record = Record.model_validate_json(data)
    except ValidationError as problem:
        raise model_error(problem, str(path), "record", _fix(path)) from None
    record._path = path
    return record


def _fix(path: Path) -> str:
    return f"mv {path} {path}.broken, then run it again"
