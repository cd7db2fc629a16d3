"""Checkpoints: files that are never half written, and the set of them in a run's folder from which the run resumes.

`<name>.pt` is the newest file, `<name>.prev.pt` the one before. A file that does not load (a damaged disk, a machine
that lost power) is skipped for the one before, with a warning.
"""

from __future__ import annotations

import io
import os
import sys
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Annotated, Any, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from torch import Tensor

from ssbench.errors import DataError
from ssbench.files import as_model, write_bytes
from ssbench.recipe.stored import RunHead
from ssbench.train.distributed import Team

Count = Annotated[int, Field(ge=0, strict=True)]
Percent = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Colour = Annotated[int, Field(ge=0, le=255)]
FIX = "delete it and run again: the run resumes from what is left"


class _Epoch(BaseModel):
    """One entry of a history. volumes: per-volume Dice in percent by class, where the data are volumes."""

    epoch: Count
    terms: dict[str, float]
    stage: str | None = None
    select: Percent | None = None
    volumes: dict[str, list[Percent | None]] | None = None


def _checked(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for entry in history:
        _Epoch.model_validate(entry)
    return history


History = Annotated[list[dict[str, Any]], AfterValidator(_checked)]
"""Entries stay plain dictionaries: fields that a run does not have are absent from its record, not null."""


class BestEpoch(BaseModel):
    """The best epoch so far: its number from 0, the step it ended with, and its scores on the `select` subset."""

    model_config = ConfigDict(frozen=True)

    epoch: Count
    step: Count
    select: Percent
    per_class: list[Percent | None]
    matrix: list[list[int]] | None


class TrainingState(BaseModel):
    """What a checkpoint holds besides tensors. step: updates done; history: one entry for each finished epoch."""

    step: Count = 0
    history: History = []
    best: BestEpoch | None = None


class CheckpointFacts(BaseModel):
    """What a checkpoint of ours says of itself, so that it can be used without recipe and data.

    run: which run wrote it, with every setting. dataset, classes, palette, channels, ignore: what it was trained on;
    an output's index is its label value. mean, std: what the values of an image in [0, 1] are normalised by. networks:
    names of the networks in "method", the prefixes of their tensors.
    """

    model_config = ConfigDict(extra="ignore")

    run: RunHead
    dataset: str
    classes: Annotated[list[str], Field(min_length=1, max_length=255)]
    palette: list[tuple[Colour, Colour, Colour]]
    channels: Annotated[int, Field(ge=1, le=4)]
    ignore: Colour
    mean: list[float]
    std: list[float]
    networks: list[str]


class _Networks(BaseModel):
    """The content of `best.pt` and `epoch<n>.pt`. key: of the run that wrote it; method: state of its modules.

    about: None in a file of an older version.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    key: str
    epoch: Count
    method: dict[str, Any]
    about: CheckpointFacts | None = None


class Snapshot(BaseModel):
    """The content of `checkpoint.pt`: everything a run needs to go on as if it had not been cut off.

    sums: by term of the loss, [sum over the epoch's steps so far, number of steps].
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    key: str
    method: dict[str, Any]
    optimizer: dict[str, Any]
    state: TrainingState
    sums: dict[str, Tensor]


Content = TypeVar("Content", _Networks, Snapshot)


class Checkpointer:
    """Writes and reads the checkpoints of one run: `checkpoint.pt`, `best.pt` and the file before each.

    The state says which epoch is the best, that epoch's networks are in another file, and a kill may fall between the
    two writes. So the state is written first. Where it names an epoch whose networks are not yet in `best.pt`, they are
    the state's own. Only the leading process writes.

    Args:
        key: the run's key. Files of another run in the same folder are ignored, and overwritten in time.
        about: written into every file.
        kept_epochs: epochs (from 1) whose networks stay, in `epoch<n>.pt`.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        team: Team,
        warn: Callable[[str], None],
        kept_epochs: Collection[int] = (),
        about: CheckpointFacts | None = None,
    ) -> None:
        self._about = {} if about is None else {"about": about.model_dump(mode="json")}
        self.newest, self.best = folder / "checkpoint.pt", folder / "best.pt"
        self.folder, self.key, self.team, self.warn, self.kept_epochs = folder, key, team, warn, kept_epochs

    def save(self, snapshot: Snapshot) -> None:
        """Write the newest state."""
        if self.team.leads:
            save(self.newest, {**dict(snapshot), "state": snapshot.state.model_dump(), **self._about})

    def save_best(self, epoch: int, method: dict[str, Any]) -> None:
        """Write the best epoch's networks. Call `save` first."""
        if self.team.leads:
            save(self.best, {"key": self.key, "epoch": epoch, "method": method, **self._about})

    def save_epoch(self, epoch: int, method: dict[str, Any]) -> None:
        """Write the networks of an epoch (from 0) if they are to stay. Call it before `save`, or a kill loses them."""
        if self.team.leads and epoch + 1 in self.kept_epochs:
            content = {"key": self.key, "epoch": epoch, "method": method, **self._about}
            save(self.folder / f"epoch{epoch + 1}.pt", content, keep_previous=False)

    def remove_states(self) -> None:
        """Remove the files that only a resumed training would read."""
        if self.team.leads:
            for path in (self.newest, previous(self.newest), previous(self.best)):
                path.unlink(missing_ok=True)

    def load(self) -> Snapshot | None:
        """The newest state whose best epoch's networks are readable, or None: the run starts from the beginning."""
        if self.team.leads:
            for torn in self.folder.glob(".*"):  # what a killed process was writing; safe: the run's lock is ours
                torn.unlink(missing_ok=True)
            self._repair()
        self.team.wait()
        return self._read(self.newest, Snapshot)

    def load_best(self) -> dict[str, Any]:
        """State of the best epoch's modules.

        Raises:
            DataError: missing or damaged.
        """
        self.team.wait()
        return load_networks(self.best, self.team.device)

    def _repair(self) -> None:
        """Leave either a readable state and its best epoch, each under its own name, or nothing."""
        snapshot = self._newest_readable()
        if snapshot is None or snapshot.state.best is None or self._holds(self.best, snapshot.state.best.epoch):
            return
        best = snapshot.state.best
        if self._holds(previous(self.best), best.epoch):  # the state is the one before, and so is the best epoch
            previous(self.best).replace(self.best)
        elif best.step == snapshot.state.step:  # killed between the two writes
            self.save_best(best.epoch, snapshot.method)
        else:
            self.warn(f"the networks of the best epoch ({best.epoch + 1}) are lost; starting from the beginning")
            for path in (self.newest, previous(self.newest)):
                path.unlink(missing_ok=True)

    def _newest_readable(self) -> Snapshot | None:
        """The newest readable state; where that is the one before, it takes the damaged one's name."""
        snapshot = self._read(self.newest, Snapshot)
        if snapshot is None and (snapshot := self._read(previous(self.newest), Snapshot)) is not None:
            previous(self.newest).replace(self.newest)
        return snapshot

    def _read(self, path: Path, model: type[Content]) -> Content | None:
        """The content of `path`; None where it is missing, unreadable (with a warning) or another run's."""
        if not path.is_file():
            return None
        try:
            content = as_model(load(path, self.team.device), model, str(path), "checkpoint", FIX)
        except DataError as error:
            self.warn(f"{error.what}; trying the one before")
            return None
        return content if content.key == self.key else None

    def _holds(self, path: Path, epoch: int) -> bool:
        """Whether `path` has this run's networks of that epoch."""
        content = self._read(path, _Networks)
        return content is not None and content.epoch == epoch


def load_networks(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """State of the modules in a `best.pt` or `epoch<n>.pt`.

    Raises:
        DataError: missing or damaged.
    """
    return as_model(load(path, device), _Networks, str(path), "checkpoint", FIX).method


def read_key(path: Path) -> str:
    """The key of the run that wrote a `best.pt` or `epoch<n>.pt`; errors as of `load_networks`."""
    return as_model(load(path), _Networks, str(path), "checkpoint", FIX).key


def read_facts(path: Path) -> CheckpointFacts | None:
    """What a checkpoint says of itself; None for a file of others, and for one of an older version.

    Raises:
        DataError: missing, or facts that are damaged.
    """
    try:
        content = load(path)
    except DataError:
        if not path.is_file():
            raise
        return None  # whoever reads the networks says what is damaged
    return facts_of(content, path)


def facts_of(content: object, path: Path) -> CheckpointFacts | None:
    """`read_facts` of the content of `path`."""
    if not (isinstance(content, dict) and "key" in content and "about" in content):
        return None
    return as_model(content["about"], CheckpointFacts, str(path), "checkpoint", FIX)


def save(path: Path, content: Any, keep_previous: bool = True) -> None:
    """Write `content` to `path`; the file that was there becomes `<name>.prev.pt`."""
    data = to_bytes(content)
    if keep_previous and path.is_file():
        # A second name for the old file, renamed into place: at no moment is there neither file.
        spare = path.with_name(f".{path.name}.link")
        spare.unlink(missing_ok=True)
        os.link(path, spare)
        spare.replace(previous(path))
    write_bytes(path, data)


def to_bytes(content: Any) -> bytes:
    """`content` as torch.save writes it; equal contents give equal bytes."""
    buffer = io.BytesIO()
    torch.save(_canonical(content), buffer)
    return buffer.getvalue()


def previous(path: Path) -> Path:
    """Where the checkpoint before `path` is kept."""
    return path.with_name(f"{path.stem}.prev{path.suffix}")


def load(path: Path, device: torch.device | str = "cpu") -> Any:
    """The content of `path`: tensors and plain data only, so that no code in a stranger's file runs.

    Raises:
        DataError: missing, damaged, or holding anything but tensors and plain data.
    """
    try:
        if zipfile.is_zipfile(path):  # torch does not compare the checksums of its archive
            with zipfile.ZipFile(path) as archive:
                if (name := archive.testzip()) is not None:
                    raise ValueError(f"bad checksum of {name}")
        return torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise DataError(f"no checkpoint '{path.name}'", str(path), "ssbench run RECIPE makes it") from None
    except Exception as error:  # the unpickler raises anything at all on a damaged file
        reason = str(error).partition("\n")[0][:160]
        raise DataError(f"checkpoint '{path.name}' cannot be read: {reason}", str(path), FIX) from None


def _canonical(value: Any) -> Any:
    """The same nested data, with no container or string shared except that equal strings are one object.

    pickle writes a reference where it meets an object again. Strings that were loaded and strings of the program are
    equal but not one object, so without this a resumed run's file would differ from an uninterrupted run's.
    """
    if isinstance(value, dict):
        return {_canonical(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_canonical(v) for v in value)
    return sys.intern(value) if type(value) is str else value
