"""What a person sees of something long: rich bars on stderr at a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from ssbench.jobs.progress import ProgressFile

stderr = Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """One line for the person, on stderr."""
    stderr.print(text, markup=False, soft_wrap=True)


class Bars:
    """Progress of one run: a bar of steps and passing bars of other loops. No bars where stderr is no terminal.

    tell: where a line goes that a bar's note would have shown. file: told of everything that moves, while a run is on.
    """

    file: ProgressFile | None = None

    def __init__(self, show: bool = True, tell: Callable[[str], None] = say) -> None:
        self.tell = tell
        self.live = show and sys.stderr.isatty()
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=stderr,
            disable=not self.live,
            transient=True,
        )
        self.started = time.monotonic()

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def steps(self, label: str, total: int, done: int) -> StepBar:
        """A bar that a loop of its own moves."""
        return StepBar(self, label, total, done)

    def watch(self, items: Iterable[Any], label: str, total: int) -> Iterator[Any]:
        """`items`, with a bar while they pass."""
        task = self.progress.add_task(label, total=total, note="")
        try:
            for at, item in enumerate(items, 1):
                yield item
                self.progress.advance(task)
                if self.file is not None:
                    self.file.tick(f"{label} {at}/{total}")
        finally:
            self.progress.remove_task(task)


class StepBar:
    """A bar with a note (last score, speed)."""

    def __init__(self, bars: Bars, label: str, total: int, done: int) -> None:
        self.bars, self.label = bars, label
        self.task = bars.progress.add_task(label, total=total, completed=done, note="")

    def to(self, step: int) -> None:
        """Show `step` steps as done."""
        self.bars.progress.update(self.task, completed=step)
        if self.bars.file is not None:
            self.bars.file.tick()

    def note(self, text: str) -> None:
        """Show `text` beside the bar, or print it as a line where there is no bar."""
        self.bars.progress.update(self.task, note=text)
        if not self.bars.live:
            self.bars.tell(f"{self.label}: {text}")
