"""Files on disk: written whole or not at all, locked by one process at a time, read back against a schema.

Writing goes through a temporary file beside the target and a rename, so a killed process leaves the old file or the
new one, never half of one. Locks are the system's (`flock`): they end with the process that holds them, however it
ends, and they hold between machines wherever the file system shares them (NFS and Lustre do when mounted so).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from ssbench.errors import DataError, SsbenchError

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar("Model", bound=BaseModel)

MAX_BYTES = 256 * 1024 * 1024
"""Largest JSON file that is read back. A record of a run is below 1 MB; a ledger of COCO is about 40 MB."""
MAX_YAML_BYTES = 1024 * 1024
"""Largest YAML file that is read back. The split manifest is about 40 kB."""
MAX_DEPTH = 64
"""Deepest nesting that is read back. What the suite writes nests below 12; Python's parser fails near 1,000."""
UNBUILDABLE = (ValueError, ArithmeticError, LookupError, TypeError, AttributeError)
"""What PyYAML raises, besides its own errors, for a value that is not what its tag says: `!!bool x`, `!!timestamp x`, a
date that does not exist, a number with thousands of digits."""


def write_bytes(path: Path, data: bytes, flush: bool = True) -> None:
    """Replace `path` by `data` atomically. The folder is created where it is missing.

    Args:
        flush: wait until the disk has the bytes. A preparation writes 100,000 small files without it: one `os.sync`
            before its ledger is written serves all of them.
    Raises:
        OSError: the file cannot be written; `filename` is set, so that the caller can say which disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    fresh = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            if flush:
                os.fsync(file.fileno())
        fresh.chmod(0o666 & ~_umask())  # mkstemp gives 0600; a shared results folder needs the usual mode
        fresh.replace(path)
    except BaseException as error:
        fresh.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk: name the file that did not fit
            error.filename = str(path)
        raise


def write_text(path: Path, text: str) -> None:
    """`write_bytes` of UTF-8 text."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """`write_bytes` of indented JSON with a final newline; key order is kept."""
    write_text(path, _json_text(value))


def holds_json(path: Path, value: Any) -> bool:
    """Whether `path` is, byte for byte, what `write_json` writes for `value`: a marker of an unfinished run, say."""
    try:
        return path.read_bytes() == _json_text(value).encode()
    except OSError:
        return False


def walk_files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Relative path and status of every file below `folder`, sorted; names that begin with a dot are left out."""
    for entry in sorted(os.scandir(folder), key=lambda e: e.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from ((f"{entry.name}/{path}", status) for path, status in walk_files(Path(entry.path)))
        else:
            yield entry.name, entry.stat()


def remove_temporary(folder: Path, keep: str = "") -> None:
    """Delete the temporary files that a killed `write_bytes` left below `folder`; a file called `keep` stays."""
    for here, _, names in os.walk(folder):
        for name in names:
            if name.startswith(".") and name != keep:
                (Path(here) / name).unlink(missing_ok=True)


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says of a disk, a quota or a file system that has no room."""
_FIXES = {
    errno.ENAMETOOLONG: "give the file or its folder a shorter name",
    errno.EACCES: "check the permissions of the file and of its folder",
    errno.EPERM: "check the permissions of the file and of its folder",
    errno.EROFS: "choose a place that can be written to",
}


@contextmanager
def readable_errors(where: Path) -> Iterator[None]:
    """Turn an OSError of the block into a DataError that names the file; a full disk tells what is free."""
    try:
        yield
    except OSError as error:
        path = Path(os.fsdecode(error.filename) if isinstance(error.filename, bytes | str) else where)
        if error.errno in FULL:
            raise disk_full(path) from error
        fix = _FIXES.get(error.errno or 0, "check the path and the disk, then run the command again")
        raise DataError(f"{shown(path.name)}: {error.strerror or error}", shown(path), fix) from error


def disk_full(path: Path, needed: int | None = None) -> DataError:
    """The error for a disk (or quota) that is full at `path`; `needed` bytes, when known, beside what is free."""
    folder = next(p for p in (path, *path.parents) if p.is_dir())
    free = format_bytes(shutil.disk_usage(folder).free)
    need = f"{format_bytes(needed)} more needed, " if needed is not None else ""
    fix = "free some space, or choose another disk with --data-root, and run the command again: it goes on from here"
    return DataError(f"the disk is full: {need}{free} free", str(path), fix)


def format_bytes(count: int) -> str:
    """A number of bytes for people: 1.4 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def shown(name: str | Path) -> str:
    """A path or name that can be printed: bytes of it that are no UTF-8 stand as `\\udcff`."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(
    path: Path, kind: str, fix: str, error: type[SsbenchError] = DataError, max_bytes: int = MAX_BYTES
) -> str:
    """The UTF-8 text in `path`, of at most `max_bytes`; a byte order mark is dropped. For the rest see `read_json`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a device or a pipe may never end
            raise error(f"this {kind} is no regular file", shown(path), fix)
        if status.st_size > max_bytes:
            raise error(f"this {kind} is {status.st_size:,} bytes; at most {max_bytes:,} are read", shown(path), fix)
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise error(f"this {kind} is not there: {shown(path.name)}", shown(path), fix) from None
    except OSError as problem:
        raise error(f"this {kind} cannot be read: {problem.strerror or problem}", shown(path), fix) from None
    except UnicodeDecodeError as problem:
        raise error(f"this {kind} is not UTF-8 text: {problem.reason}", shown(path), fix) from None


def read_yaml(
    path: Path, kind: str, fix: str, error: type[SsbenchError] = DataError, max_bytes: int = MAX_YAML_BYTES
) -> Any:
    """The YAML value in `path`, of bounded size and depth, without aliases. For the rest see `read_json`.

    Aliases are refused because a few of them, nested, stand for more memory than a machine has.
    """
    import yaml

    text, depth = read_text(path, kind, fix, error, max_bytes), 0
    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        for event in yaml.parse(text, Loader=loader):
            if isinstance(event, yaml.AliasEvent):
                raise error(f"this {kind} uses the alias *{event.anchor}", str(path), fix)
            starts, ends = isinstance(event, yaml.CollectionStartEvent), isinstance(event, yaml.CollectionEndEvent)
            depth += starts - ends
            if depth > MAX_DEPTH:  # before loading: the loader itself ends in a RecursionError
                raise error(f"this {kind} is nested deeper than {MAX_DEPTH} levels", str(path), fix)
        return yaml.load(text, Loader=loader)  # noqa: S506  a safe loader, the fast one where PyYAML has it
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise error(f"this {kind} is not YAML: {getattr(problem, 'problem', None) or problem}", where, fix) from None
    except UNBUILDABLE as problem:
        raise error(f"this {kind} is not YAML: {problem}", str(path), fix) from None


def read_json(
    path: Path,
    kind: str,
    fix: str,
    error: type[SsbenchError] = DataError,
    hook: Callable[[dict[str, Any]], Any] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """The JSON value in `path`, of bounded size and depth. NaN and Infinity are refused: they are not JSON.

    Args:
        kind: what the file should be, for the message ("record", "ledger").
        fix: what the user can do about a damaged one.
        hook: called for every object, as `json.loads` calls its `object_hook`.
    Raises:
        SsbenchError: of the class `error`: no such file, unreadable, too large, too deep, or not JSON.
    """
    text = read_text(path, kind, fix, error, max_bytes)
    return parse_json(text, str(path), kind, fix, error, hook)


def parse_json(
    text: str,
    where: str,
    kind: str,
    fix: str,
    error: type[SsbenchError] = DataError,
    hook: Callable[[dict[str, Any]], Any] | None = None,
) -> Any:
    """`read_json` for text at hand; `where` is what the error names."""
    if _depth(text) > MAX_DEPTH:  # before parsing: the parser itself ends in a RecursionError
        raise error(f"this {kind} is nested deeper than {MAX_DEPTH} levels", where, fix)
    try:
        value = json.loads(text, object_hook=hook, parse_constant=_refuse_constant)
        if _SURROGATE.search(text):  # half a character, which no message and no file of UTF-8 can hold
            json.dumps(value, ensure_ascii=False, default=str).encode()
        return value
    except json.JSONDecodeError as problem:
        raise error(f"this {kind} is not JSON: {problem.msg}", f"{where}:{problem.lineno}", fix) from None
    except (ValueError, RecursionError) as problem:  # NaN, or a number with thousands of digits
        raise error(f"this {kind} is not JSON: {problem}", where, fix) from None


def read_model(
    path: Path,
    model: type[Model],
    kind: str,
    fix: str,
    error: type[SsbenchError] = DataError,
    max_bytes: int = MAX_BYTES,
) -> Model:
    """The JSON file `path` as `model`: the typed way to read back anything the suite wrote, or a stranger sent.

    Raises:
        SsbenchError: of the class `error`, naming the file, the field and the fix.
    """
    return as_model(read_json(path, kind, fix, error, max_bytes=max_bytes), model, str(path), kind, fix, error)


def as_model(
    value: Any, model: type[Model], where: str, kind: str, fix: str, error: type[SsbenchError] = DataError
) -> Model:
    """`value` (parsed JSON or YAML) as `model`; pydantic's first complaint becomes an error that names the field."""
    from pydantic import ValidationError

    try:
        return model.model_validate(value)
    except ValidationError as problem:
        raise model_error(problem, where, kind, fix, error) from None
    except RecursionError:
        raise error(f"this {kind} is nested too deep", where, fix) from None


def model_error(
    problem: ValidationError, where: str, kind: str, fix: str, error: type[SsbenchError] = DataError
) -> SsbenchError:
    """pydantic's first complaint as an error of three parts that names the field."""
    first = problem.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    message = first["msg"].removeprefix("Value error, ")
    of = f", field '{field}'" if field else ""
    return error(f"this {kind} is damaged{of}: {message[:1].lower()}{message[1:]}", where, fix)


LOCK = "lock"
"""Name of the lock file in a run's folder."""


def open_lock(path: Path) -> IO[str]:
    """The lock file `path`, opened; it and its folder are created where missing. Closing it gives the lock up."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+")


def take_lock(file: IO[str], note: str = "") -> str | None:
    """Try to lock an opened lock file. None when it succeeded, else the holder's note.

    Args:
        note: what others are told; the process number by default.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return file.read().strip() or "unknown"
    file.truncate(0)
    file.write(note or str(os.getpid()))
    file.flush()
    return None


def is_locked(path: Path) -> bool:
    """Whether some process has locked the file `path`. False where it does not exist."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as file:  # a pipe would wait for its writer
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


@contextmanager
def locked(path: Path, busy: Callable[[str], SsbenchError], note: str = "") -> Iterator[None]:
    """Hold the lock `path` for the block; `busy(holder's note)` is raised at once where another process has it."""
    with open_lock(path) as file:
        holder = take_lock(file, note)
        if holder is not None:
            raise busy(holder)
        yield


_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*+"|[\[\]{}]')  # a string as one token, so that brackets in it do not count


_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _depth(text: str) -> int:
    """Deepest nesting of brackets outside strings."""
    deepest = depth = 0
    for token in _BRACKETS.finditer(text):
        if token[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif token[0] in "]}":
            depth -= 1
    return deepest


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
