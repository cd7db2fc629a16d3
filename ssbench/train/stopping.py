"""Being asked to stop: a signal is noted, and the loop ends where everything can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""The last is how Slurm warns that time is nearly up (`sbatch --signal`; submitit's choice too)."""


class StopRequest:
    """`with StopRequest() as stop:` notes the signals in `stop.asked`; a second SIGINT interrupts at once.

    A signal that is ignored stays so (`nohup`, a worker of `run --jobs`), and outside the main thread, where Python
    lets nobody handle signals, nothing is noted. Nested uses are one; of two requests one inside the other each hears
    what the other heard.
    """

    def __init__(self) -> None:
        self.asked = False
        self._depth = 0
        self._old: dict[signal.Signals, Any] = {}
        self._outer: StopRequest | None = None

    def __enter__(self) -> StopRequest:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in ASKING:
                if (before := signal.getsignal(number)) not in (signal.SIG_IGN, None):
                    self._hear(getattr(before, "__self__", None))
                    self._old[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        while self._depth == 0 and self._old:
            signal.signal(*self._old.popitem())
        if self._depth == 0 and self._outer is not None:
            self._outer.asked |= self.asked

    def _hear(self, outer: object) -> None:
        """What the request around this one has heard, if there is one."""
        if isinstance(outer, StopRequest):
            self._outer = outer
            self.asked |= outer.asked

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = True
