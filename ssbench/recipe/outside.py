"""What a run reads from outside the package, as digests: an imported dataset, files of code, files of weights.

Published counts and digests fix the shipped datasets, behaviour versions the shipped code. Nothing but content fixes
what a user brings. So the content is part of the run key.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import BaseModel, ConfigDict

from ssbench import find
from ssbench.data.folder import CARD, read_card
from ssbench.data.ledger import NAME, Ledger
from ssbench.errors import SsbenchError
from ssbench.files import sha256
from ssbench.paths import PACKAGE
from ssbench.paths import data_root as data_root_of

NO_FILE = {"random", "imagenet", "clip", "dinov2", "package"}
"""Values of a `weights` setting that name no file."""


class OutsideFile(BaseModel):
    """A file that a run reads. role: what for ("plugin mine", "net.weights"); sha256: "" where it is not there."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    role: str
    path: str
    sha256: str


class Outside(BaseModel):
    """data: digest of an imported dataset; None for shipped data, and where the dataset is not there."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    data: str | None = None
    files: list[OutsideFile] = []

    def key_part(self) -> dict[str, Any]:
        """What enters the run key: contents and what they are for, never where they lie. Empty for a shipped recipe."""
        part: dict[str, Any] = {} if self.data is None else {"data": self.data}
        return part | ({"files": sorted([file.role, file.sha256] for file in self.files)} if self.files else {})


def data_digest(dataset: str, data_root: Path) -> str | None:
    """Digest of pictures, masks, subset lists and classes of an imported dataset, by its ledger.

    None for a shipped dataset, and where there is no dataset of this name.

    Raises:
        DataError: its ledger or its card is damaged.
    """
    root = data_root / dataset
    if dataset in find.names("dataset") or not os.path.isfile(root / NAME):  # noqa: PTH113  a name may be too long
        return None
    status = (root / NAME).stat()
    return _data_digest(root, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=32)
def _data_digest(root: Path, stamp: int, size: int) -> str | None:
    """`data_digest` of the folder whose ledger was written at the time `stamp`."""
    ledger = Ledger.read(root)
    if ledger is None:
        return None
    # The card also holds colours and counts, which change no score, so its facts enter and not its bytes.
    facts: list[Any] = []
    if (root / CARD).is_file():
        card = read_card(root)
        facts = [list(card.classes), card.channels, card.ignore]
    read = [f"{path} {digest}" for path, (_, digest) in sorted(ledger.files.items()) if _is_read(path)]
    return hashlib.sha256(json.dumps([facts, read]).encode()).hexdigest()


def _is_read(path: str) -> bool:
    """Whether a training reads this file of an imported folder: a picture, a mask or a subset's list."""
    return path.startswith(("images/", "masks/")) or ("/" not in path and path.endswith(".txt"))


def code_files(role: str, cls: type[Any]) -> Iterator[OutsideFile]:
    """The source of a class from outside the package, and of the modules beside it that it uses."""
    module = sys.modules.get(cls.__module__)
    if module is None or _source(module) is None or _is_ours(module):
        return
    folder = Path(str(module.__file__)).resolve().parent
    seen: dict[str, ModuleType] = {}
    todo = [module]
    while todo:
        current = todo.pop()
        if current.__name__ in seen or (path := _source(current)) is None or _is_ours(current):
            continue
        if not path.is_relative_to(folder):  # another package: its version is in the record
            continue
        seen[current.__name__] = current
        todo += list(_used_modules(current))
    for name, used in sorted(seen.items()):
        path = Path(str(used.__file__)).resolve()
        # A user's file is digested as it was imported: it may have been edited since, while a queue runs.
        digest = getattr(used, find.DIGEST, "") or digest_of(path)
        part = role if used is module else f"{role}: {name.rpartition('.')[2]}"
        yield OutsideFile(role=part, path=str(path), sha256=digest)


def weight_files(section: str, settings: Mapping[str, Any]) -> Iterator[OutsideFile]:
    """The files of weights that settings name."""
    for name, value in settings.items():
        if name.endswith("weights") and isinstance(value, str) and value not in NO_FILE:
            path = Path(value)
            yield OutsideFile(role=f"{section}.{name}", path=str(path.absolute()), sha256=digest_of(path))


def digest_of(path: Path) -> str:
    """SHA-256 of a file; "" where it cannot be read. A large file is read again only when it has changed."""
    try:
        status = path.stat()
        return _file_digest(path.resolve(), status.st_mtime_ns, status.st_size)
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return ""


@lru_cache(maxsize=256)
def _file_digest(path: Path, stamp: int, size: int) -> str:
    return sha256(path)


def changes(before: Outside, data_root: Path, dataset: str) -> Iterator[str]:
    """What has changed of the data and files that `before` names. What is not there any more has not changed."""
    try:
        now = data_digest(dataset, data_root)
    except SsbenchError:  # a damaged ledger: the command that reads the data says so
        now = None
    if now is not None and before.data is not None and now != before.data:
        yield f"the data of '{dataset}' have changed"
    for file in before.files:
        digest = digest_of(Path(file.path))
        if digest and file.sha256 and digest != file.sha256:
            yield f"{file.role}: {Path(file.path).name} has changed"


def last_change(outside: Outside, dataset: str, data_root: Path | None) -> float:
    """When the newest of these data and files was written, in seconds since 1970."""
    paths = [Path(file.path) for file in outside.files]
    if outside.data is not None:
        paths.append(data_root_of(data_root) / dataset / NAME)
    return max((path.stat().st_mtime for path in paths if path.is_file()), default=0.0)


def _used_modules(module: ModuleType) -> Iterator[ModuleType]:
    """Modules that a module's global names are, or come from."""
    for value in list(vars(module).values()):
        if inspect.ismodule(value):
            yield value
        elif isinstance(name := getattr(value, "__module__", None), str) and name in sys.modules:
            yield sys.modules[name]


def _source(module: ModuleType) -> Path | None:
    """The module's Python file; None where it has none."""
    path = getattr(module, "__file__", None)
    return Path(path).resolve() if isinstance(path, str) and path.endswith(".py") else None


def _is_ours(module: ModuleType) -> bool:
    return module.__name__.partition(".")[0] == PACKAGE.name
