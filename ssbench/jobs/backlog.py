"""The cells of one queue in line: those to do, and those another process works on, which are come back to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from ssbench.files import LOCK, is_locked

Cell = TypeVar("Cell")

LOOK_EVERY = 1.0
"""Seconds between two looks at runs of other processes, when nothing else is to do."""


def let_go(folder: Path) -> bool:
    """Whether nobody works in a run's folder."""
    return not is_locked(folder / LOCK)


class Line(Generic[Cell]):
    """Cells in their order; true while there are any. changed: told the cells in line whenever they are others."""

    def __init__(self, cells: Iterable[Cell], changed: Callable[[list[Cell]], None] | None = None) -> None:
        self._todo, self._changed = deque(cells), changed
        self._elsewhere: dict[Cell, Path] = {}
        self._told: set[Cell] = set()

    def __bool__(self) -> bool:
        return bool(self._todo or self._elsewhere)

    def next(self, free: Callable[[Path], bool] = let_go) -> Cell | None:
        """The cell to try now: the first of the line, else one whose folder is `free` again; None: wait."""
        found = self._todo.popleft() if self._todo else self._freed(free)
        if found is not None:
            self._tell()
        return found

    def later(self, cell: Cell, folder: Path) -> bool:
        """Another process works in the cell's folder. Whether a person has not been told so yet."""
        news = cell not in self._told
        self._told.add(cell)
        self._elsewhere[cell] = folder
        self._tell()
        return news

    def _freed(self, free: Callable[[Path], bool]) -> Cell | None:
        found = next((cell for cell, folder in self._elsewhere.items() if free(folder)), None)
        if found is not None:
            del self._elsewhere[found]
        return found

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed([*self._todo, *self._elsewhere])
