"""Requests to stop: a signal sets a flag, and the loop ends at the next place where everything can be saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)
"""SIGUSR2 is Slurm's warning that the time limit is near (`sbatch --signal`; submitit uses it, too)."""


class StopRequest:
    """`with StopRequest() as stop:` sets `stop.is_requested` on a signal; a second SIGINT interrupts at once.

    A signal that is ignored stays ignored (under `nohup`, in a worker of `run --jobs`). Outside the main thread Python
    lets nobody handle signals, so nothing is noted there. One object may be entered several times. Of two objects, one
    inside the other, each learns of the other's signals: the inner one when it starts, the outer one when that ends.
    """

    def __init__(self) -> None:
        self.is_requested = False
        self._depth = 0
        self._former_handlers: dict[signal.Signals, Any] = {}
        self._outer: StopRequest | None = None

    def __enter__(self) -> StopRequest:
        self._depth += 1
        if self._depth == 1 and threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                if (former := signal.getsignal(number)) in (signal.SIG_IGN, None):
                    continue
                outer = getattr(former, "__self__", None)  # of our own handler, a bound method
                if isinstance(outer, StopRequest):
                    self._outer = outer
                    self.is_requested |= outer.is_requested
                self._former_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        while self._depth == 0 and self._former_handlers:
            signal.signal(*self._former_handlers.popitem())
        if self._depth == 0 and self._outer is not None:
            self._outer.is_requested |= self.is_requested

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.is_requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.is_requested = True
