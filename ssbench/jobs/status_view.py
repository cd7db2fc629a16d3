"""How runs stand, for people: a table that is drawn anew in place, or a line for each change."""

from __future__ import annotations

from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ssbench.jobs.status import Row, counts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

COLUMNS = ("run", "state", "where", "step", "epoch", "score", "images/s", "left", "note")
STYLES = {"running": "bold", "failed": "red", "stopped": "yellow", "done": "green"}


def name(row: Row) -> str:
    """As commands name it."""
    return f"{'quick ' if row['quick'] else ''}{row['recipe']} {row['split']} seed {row['seed']}"


def cells(row: Row) -> tuple[str, ...]:
    """A row's cells, in the order of COLUMNS; empty where nothing is known."""
    running = row["state"] == "running"
    return (
        name(row),
        row["state"],
        _where(row),
        _share(row["step"], row["steps"]) + (f" {row['stage']}" if row["stage"] else ""),
        _share(row["epoch"], row["epochs"]),
        _score(row),
        f"{row['images_per_s']:.1f}" if running and row["images_per_s"] else "",
        str(timedelta(seconds=round(row["eta_s"]))) if running and row["eta_s"] is not None else "",
        row["why"] or row["doing"] or "",
    )


def summary(rows: list[Row]) -> str:
    """How many runs are in each state."""
    return ", ".join(f"{n} {state}" for state, n in counts(rows).items() if n) or "no runs yet"


def table(rows: list[Row]) -> Table:
    """For a terminal."""
    from rich.table import Table
    from rich.text import Text

    made = Table(*COLUMNS, caption=summary(rows), caption_justify="left")
    for row in rows:
        made.add_row(*(Text(cell) for cell in cells(row)), style=STYLES.get(row["state"], ""))
    return made


class View:
    """Rows as they change, on one console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._shown: dict[str, tuple[str, float | None]] = {}

    def __enter__(self) -> View:
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, rows: list[Row]) -> None:
        """The rows as they are now."""
        if self._live is not None:
            self._live.update(table(rows), refresh=True)
            return
        for row in rows:
            news = (row["state"], row["score"])
            if self._shown.get(row["folder"]) != news:
                self._shown[row["folder"]] = news
                self.line(f"{name(row)}: {_brief(row)}")

    def line(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _brief(row: Row) -> str:
    """What a line says of a run: no numbers that change all the time."""
    parts = [row["state"], _where(row) if row["state"] == "running" else "", row["why"]]
    epoch = f"epoch {_share(row['epoch'], row['epochs'])} {_score(row)}" if row["score"] is not None else ""
    return ", ".join(part for part in (*parts, epoch.strip()) if part)


def _where(row: Row) -> str:
    if row["host"] is None and row["job"] is None:
        return ""
    at = f"{row['host']} {row['device'] or ''}".strip() if row["host"] else ""
    by = f"Slurm {row['job']}" if row["job"] else f"process {row['pid']}"
    return f"{by}, {at}" if at else by


def _share(done: Any, of: Any) -> str:
    return f"{done}/{of}" if done is not None and of is not None else ""


def _score(row: Row) -> str:
    if row["score"] is None:
        return ""
    best = f" (best {row['best']:.2f})" if row["best"] is not None and row["best"] != row["score"] else ""
    return f"{row['score']:.2f}{best}"
