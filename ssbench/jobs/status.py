"""The state of every run below a runs folder, from files and locks there, as rows and as text for people.

Slurm is asked for its own jobs. A row is documented by `ssbench status --json`, see `FIELDS`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ssbench.console import say
from ssbench.errors import SsbenchError
from ssbench.files import LOCK, is_locked
from ssbench.jobs import slurm
from ssbench.jobs.progress import RunProgress, read_progress
from ssbench.jobs.queue_file import FOLDER, QueueEntry, QueueFile, read_queues
from ssbench.jobs.slurm import JobState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

Row = dict[str, Any]
AskSlurm = Callable[[Sequence[str]], Mapping[str, JobState]]
STATES = ("running", "waiting", "stopped", "failed", "done")
"""stopped: by a request or a kill; the command that began the run resumes it."""
FIELDS = (
    "recipe", "split", "seed", "quick", "state", "why", "host", "pid", "job", "device", "stage", "doing", "step",
    "steps", "epoch", "epochs", "metric", "score", "best", "images_per_s", "eta_s", "starts", "started", "updated",
    "folder", "band",
)  # fmt: skip
"""Of a row: `progress.RunProgress` explains them. folder: below the runs folder. None where nothing is known."""
KILLED = "its process ended without a message; the same command resumes it"
COLUMNS = ("run", "state", "where", "step", "epoch", "score", "images/s", "left", "note")
STYLES = {"running": "bold", "failed": "red", "stopped": "yellow", "done": "green"}


def survey(
    runs: Path,
    folders: Iterable[str] | None = None,
    ask_slurm: AskSlurm | None = None,
    report: Callable[[str], None] = say,
) -> list[Row]:
    """A row for each run: running ones first, then those that wait, in the order they will be done in.

    Args:
        folders: names below `runs` to look at, instead of all.
        ask_slurm: a replacement for the question to squeue.
        report: called with the error of each damaged file, which is then ignored.
    """
    chosen = None if folders is None else set(folders)
    paths = _run_folders(runs) if chosen is None else (runs / f for f in chosen if (runs / f / LOCK).is_file())
    rows = {row["folder"]: row for row in (row_of(path, runs, report) for path in paths)}
    queues = read_queues(runs, report)
    slurm_queues = [queue for queue in queues if queue.launcher == "slurm"]
    for entry, why in [*_waiting_here(queues), *_waiting_in_slurm(slurm_queues, ask_slurm or slurm.job_states)]:
        if chosen is None or entry.folder in chosen:
            _add_waiting(rows, entry, why)
    return sorted(rows.values(), key=lambda row: STATES.index(row["state"]))


def counts(rows: list[Row]) -> dict[str, int]:
    """How many runs are in each state."""
    counted = Counter(row["state"] for row in rows)
    return {state: counted[state] for state in STATES}


def row_of(folder: Path, runs: Path, report: Callable[[str], None] = say) -> Row:
    """The row of one run folder."""
    progress, below = read_progress(folder, report), folder.relative_to(runs)
    known = {**_from_path(below), **progress.model_dump(exclude_none=True), "folder": str(below)}
    row = {name: known.get(name) for name in FIELDS}
    if is_locked(folder / LOCK):
        return {**row, "state": "running", "why": ""}
    if progress == RunProgress():
        return {**row, "state": "done" if (folder / "record.json").is_file() else "stopped", "why": ""}
    if row["state"] in ("running", None):  # its process would hold the lock
        return {**row, "state": "stopped", "why": KILLED, "doing": "", "eta_s": None}
    return row


def _run_folders(runs: Path) -> Iterator[Path]:
    """Folders with a lock file. The folders inside a run's own are not searched."""
    for folder, below, files in os.walk(runs):
        if LOCK in files:
            below.clear()
            yield Path(folder)
        below[:] = sorted(set(below) - ({FOLDER, "slurm"} if Path(folder) == runs else set()))


def _from_path(below: Path) -> Row:
    """Recipe, split (with dashes) and seed from the folder's name, for a run without a progress file."""
    is_quick = below.parts[:1] == ("quick",)
    parts = below.parts[is_quick:]
    seed = parts[-1].removeprefix("seed") if parts else ""
    recipe, split = "/".join(parts[:-2]), parts[-2] if len(parts) > 1 else ""
    number = int(seed) if seed.isdecimal() and len(seed) < 10 else None
    return {"recipe": recipe, "split": split, "seed": number, "quick": is_quick}


def _add_waiting(rows: dict[str, Row], entry: QueueEntry, why: str) -> None:
    """A job that a queue has before it is waiting, unless some process works on it or has done it."""
    known = entry.model_dump()
    row = rows.get(entry.folder) or {name: known.get(name) for name in FIELDS} | {"state": "waiting"}
    if row["state"] in ("waiting", "stopped", "failed"):
        rows[entry.folder] = {**row, "state": "waiting", "why": why, "job": entry.job or row["job"]}


def _waiting_here(queues: list[QueueFile]) -> Iterator[tuple[QueueEntry, str]]:
    """Jobs of queues of this and other machines, and which queue has them."""
    for queue in queues:
        for entry in queue.cells if queue.launcher == "local" else ():
            yield entry, f"in line, process {queue.pid} on {queue.host}"


def _waiting_in_slurm(queues: list[QueueFile], ask_slurm: AskSlurm) -> Iterator[tuple[QueueEntry, str]]:
    """Jobs that Slurm still has, and their states there. Where Slurm does not answer, each job says so."""
    if not queues:
        return
    states, problem = dict[str, JobState](), ""
    try:
        states.update(ask_slurm(sorted({entry.job for queue in queues for entry in queue.cells if entry.job})))
    except SsbenchError as error:
        problem = error.what
    for queue in queues:
        for entry in queue.cells:
            state = states.get(entry.job or "")
            if problem or (state is not None and state.is_alive):
                yield entry, f"Slurm job {entry.job}: {state or problem}"


# For people


def texts(row: Row) -> tuple[str, ...]:
    """A row's texts, in the order of COLUMNS; empty where nothing is known."""
    running = row["state"] == "running"
    return (
        _name(row),
        row["state"],
        _where(row),
        _share(row["step"], row["steps"]) + (f" {row['stage']}" if row["stage"] else ""),
        _share(row["epoch"], row["epochs"]),
        _score(row),
        f"{row['images_per_s']:.1f}" if running and row["images_per_s"] else "",
        str(timedelta(seconds=round(row["eta_s"]))) if running and row["eta_s"] is not None else "",
        row["why"] or row["band"] or row["doing"] or "",
    )


def summary(rows: list[Row]) -> str:
    """How many runs are in each state, as a line."""
    return ", ".join(f"{n} {state}" for state, n in counts(rows).items() if n) or "no runs yet"


class StatusView:
    """Rows as they change: a table redrawn in place at a terminal, elsewhere a line for each change."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._shown: dict[str, tuple[str, float | None]] = {}
        self._warnings: set[str] = set()

    def __enter__(self) -> StatusView:
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
        """Show the rows as they are now."""
        if self._live is not None:
            self._live.update(_table(rows), refresh=True)
            return
        for row in rows:
            change = (row["state"], row["score"])  # not the step: in a log file that would be a line every second
            if self._shown.get(row["folder"]) != change:
                self._shown[row["folder"]] = change
                self.print_line(f"{_name(row)}: {_brief(row)}")

    def warn(self, text: str) -> None:
        """Print a line that stays, once however often it comes: the same files are read again every second."""
        if text not in self._warnings:
            self._warnings.add(text)
            self.print_line(text)

    def print_line(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _table(rows: list[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(*COLUMNS, caption=summary(rows), caption_justify="left")
    for row in rows:
        table.add_row(*(Text(text) for text in texts(row)), style=STYLES.get(row["state"], ""))
    return table


def _name(row: Row) -> str:
    """As commands name the run."""
    return f"{'quick ' if row['quick'] else ''}{row['recipe']} {row['split']} seed {row['seed']}"


def _brief(row: Row) -> str:
    parts = [row["state"], _where(row) if row["state"] == "running" else "", row["why"] or ""]
    epoch = f"epoch {_share(row['epoch'], row['epochs'])} {_score(row)}" if row["score"] is not None else ""
    return ", ".join(part for part in (*parts, epoch.strip(), row["band"] or "") if part)


def _where(row: Row) -> str:
    if row["host"] is None and row["job"] is None:
        return ""
    machine = f"{row['host']} {row['device'] or ''}".strip() if row["host"] else ""
    process = f"Slurm {row['job']}" if row["job"] else f"process {row['pid']}"
    return f"{process}, {machine}" if machine else process


def _share(done: int | None, of: int | None) -> str:
    return f"{done}/{of}" if done is not None and of is not None else ""


def _score(row: Row) -> str:
    if row["score"] is None:
        return ""
    best = f" (best {row['best']:.2f})" if row["best"] is not None and row["best"] != row["score"] else ""
    return f"{row['score']:.2f}{best}"
