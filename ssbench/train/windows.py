"""Where a network looks when an image is scored by windows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ssbench.recipe.recipe import EvalConfig


@dataclass(frozen=True)
class SlidingWindow:
    """Where a network looks: rows and columns of the image."""

    rows: slice
    columns: slice

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.rows.stop - self.rows.start), int(self.columns.stop - self.columns.start)

    @property
    def area(self) -> int:
        """Pixels."""
        return self.size[0] * self.size[1]


def window_step(cfg: EvalConfig) -> int:
    """Pixels from one window to the next: `step`, or two thirds of `crop`, rounded as `stride` says."""
    crop = cfg.crop or 0  # a protocol with windows has one
    return cfg.step or (2 * crop // 3 if cfg.stride == "floor" else -(-2 * crop // 3))


def windows(
    height: int, width: int, crop: int, border: Literal["cut", "shift"] = "cut", step: int | None = None
) -> Iterator[SlidingWindow]:
    """The windows of `sliding`, row by row.

    Args:
        border: "cut": a window starts at every step inside the image and ends at its border (card: unimatch 7; card:
            augseg 10). "shift": the last one is moved back to be whole (card: u2pl 11; card: ael 11; card: cps 6).
        step: pixels from one window to the next; None: two thirds of `crop`, rounded down.
    """
    step = step or 2 * crop // 3
    for rows in _intervals(height, crop, step, border):
        for columns in _intervals(width, crop, step, border):
            yield SlidingWindow(rows, columns)


def _intervals(side: int, crop: int, step: int, border: Literal["cut", "shift"]) -> Iterator[slice]:
    if border == "cut":
        yield from (slice(start, min(start + crop, side)) for start in range(0, side, step))
        return
    for k in range(max(0, -(-(side - crop) // step)) + 1):
        stop = min(k * step + crop, side)
        yield slice(max(stop - crop, 0), stop)
