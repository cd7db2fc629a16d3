"""The one progress display: rich bars on stderr at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

T = TypeVar("T")

stderr = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Print one line on stderr. Square brackets are printed, not read as rich's markup."""
    stderr.print(text, markup=False, soft_wrap=True)


class Bars:
    """Progress bars of one command or run; a context manager. Without a terminal on stderr no bar is drawn.

    Args:
        show: False draws no bar at all.
        write_line: prints a line of text. A note of a bar goes there when no bar is drawn.
        leave: finished bars stay on the screen. By default they disappear.

    Attributes:
        on_progress: called whenever a bar moves, with what is being done ("evaluate 3/40"; "" for the steps of a run).
            A run sets it to keep its progress file fresh; this module knows no such file.
    """

    def __init__(self, show: bool = True, write_line: Callable[[str], None] = say, leave: bool = False) -> None:
        self.write_line, self.leave = write_line, leave
        self.on_progress: Callable[[str], None] | None = None
        self.is_live = show and sys.stderr.isatty()
        columns = (TextColumn("{task.description}"), BarColumn(), _AmountColumn(), TextColumn("{task.fields[note]}"))
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=stderr, disable=not self.is_live, transient=not leave
        )

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def bar(self, label: str, total: int | None, done: int = 0, *, in_bytes: bool = False) -> Bar:
        """A new bar, `done` of `total` steps long; a `total` of None is unknown. `in_bytes`: a step is a byte."""
        return Bar(self, label, total, done, in_bytes)

    @contextmanager
    def stage(self, label: str, total: int | None, *, in_bytes: bool = False) -> Iterator[Bar]:
        """A bar for the length of a block, whether the block ends well or with an error."""
        bar = self.bar(label, total, in_bytes=in_bytes)
        try:
            yield bar
        finally:
            bar.close()

    def watch(self, items: Iterable[T], label: str, total: int) -> Iterator[T]:
        """`items` one by one, with a bar that moves when the caller has finished with each."""
        with self.stage(label, total) as bar:
            for number, item in enumerate(items, 1):
                yield item
                bar.advance(doing=f"{label} {number}/{total}")


class Bar:
    """One bar, with a note beside it (the last score). May be moved from any thread."""

    def __init__(self, bars: Bars, label: str, total: int | None, done: int = 0, in_bytes: bool = False) -> None:
        self.bars, self.label = bars, label
        self._task = bars.progress.add_task(label, total=total, completed=done, note="", in_bytes=in_bytes)

    def move_to(self, step: int) -> None:
        """Show `step` steps as done."""
        self.bars.progress.update(self._task, completed=step)
        self._report("")

    def advance(self, steps: int = 1, doing: str = "") -> None:
        """Show `steps` more steps as done."""
        self.bars.progress.advance(self._task, steps)
        self._report(doing)

    def restart(self, total: int | None, done: int = 0) -> None:
        """Begin again at `done` (a download resumes, or another mirror serves it); a `total` of None is not changed."""
        self.bars.progress.reset(self._task, total=total, completed=done)

    def note(self, text: str) -> None:
        """Show `text` beside the bar, or print it as a line when no bar is drawn."""
        self.bars.progress.update(self._task, note=text)
        if not self.bars.is_live:
            self.bars.write_line(f"{self.label}: {text}")

    def close(self) -> None:
        """Remove the bar, or leave it as it is where finished bars stay."""
        if self.bars.leave:
            self.bars.progress.stop_task(self._task)
        else:
            self.bars.progress.remove_task(self._task)

    def _report(self, doing: str) -> None:
        if self.bars.on_progress is not None:
            self.bars.on_progress(doing)


class _AmountColumn(ProgressColumn):
    """How much is done: "3/40" of things, "1.2/3.4 GB 5 MB/s" of bytes, "3/?" where the total is unknown."""

    def __init__(self) -> None:
        super().__init__()
        self._things, self._bytes, self._speed = MofNCompleteColumn(), DownloadColumn(), TransferSpeedColumn()

    def render(self, task: Task) -> Text:
        """The text for one bar."""
        if not task.fields["in_bytes"]:
            return self._things.render(task)
        return Text(" ").join([self._bytes.render(task), self._speed.render(task)])
