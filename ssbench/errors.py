"""Errors in three parts (what, where, what to do), each with the exit code of the command-line contract."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import Any

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""What a file or an argument may hold and a terminal would obey: moves of the cursor, colours, reversed text."""
UNUSABLE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EBUSY, errno.ELOOP}
"""Refusals of the file system that another path, or other permissions, would avoid."""


class SsbenchError(Exception):
    """An error a user can act on.

    `what` is wrong (with the value), `where` (file:line or path), `fix` (a command to paste or a thing to do).
    """

    code = 1

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.fix = what, where, fix

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle without the constructor, whose arguments differ by subclass: errors come from worker processes."""
        return _unpickled, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        parts = [self.what, f"  where: {self.where}" if self.where else "", f"  fix:   {self.fix}" if self.fix else ""]
        return printable("\n".join(part for part in parts if part))


def printable(text: str) -> str:
    """The text with control characters escaped; line ends and tabs stay."""
    return _CONTROL.sub(lambda match: ascii(match[0])[1:-1], text)


def _unpickled(cls: type[SsbenchError], args: tuple[Any, ...], state: dict[str, Any]) -> SsbenchError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class UsageError(SsbenchError):
    """An argument that cannot be: unknown name, impossible combination."""

    code = 2


class RecipeError(SsbenchError):
    """A recipe or table that cannot be read, or asks for what does not exist."""

    code = 3


class DataError(SsbenchError):
    """Data missing, truncated, changed, or not what a list says."""

    code = 4


class GateError(SsbenchError):
    """A stored result was not met."""

    code = 5


class RunsFailed(SsbenchError):  # noqa: N818  says what is the case
    """Some runs of a queue failed; the others are done."""

    code = 6


class HardwareError(SsbenchError):
    """The machine, or the budget given, is too small."""

    code = 7


class Stopped(SsbenchError):  # noqa: N818  asked for, so no fault
    """Stopped on request after a checkpoint; the same command goes on from there."""

    code = 75


class Interrupted(SsbenchError):  # noqa: N818  asked for, so no fault
    """Interrupted from the keyboard where nothing had to be saved."""

    code = 130


def refused_by_system(error: Exception) -> SsbenchError | None:
    """A refusal of the file system in three parts: the user can choose another place, or make room."""
    if not isinstance(error, OSError) or error.errno is None:
        return None
    where, what = str(error.filename or ""), (error.strerror or "").lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HardwareError(f"the disk is full: {what}", where, "free some space; the same command goes on")
    if error.errno == errno.ENAMETOOLONG:
        return UsageError(f"'{where[:60]}...' cannot be a path: {what}", "arguments", "give a shorter name")
    if error.errno in UNUSABLE:
        return UsageError(f"cannot use '{where}': {what}", where, "choose another place, or change its permissions")
    return None


def first_few(items: Sequence[object], most: int = 3) -> str:
    """The first of some items for a message, with "..." where there are more."""
    return ", ".join(map(str, items[:most])) + (", ..." if len(items) > most else "")


def nearest(name: str, known: list[str]) -> str:
    """A "did you mean" clause for `name` among `known`, or the list itself when nothing is close."""
    import difflib

    close = difflib.get_close_matches(name, known, n=2, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(f"'{c}'" for c in close) + "?"
    shown, rest = sorted(known)[:12], len(known) - 12
    return f"known: {', '.join(shown) or 'none'}" + (f" and {rest} more" if rest > 0 else "")
