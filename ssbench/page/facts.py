"""Facts around the charts as plain tables: how much is measured, where the numbers were made, what failed."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssbench.page.runs import Experiment, StoredRun
from ssbench.tables.cell import Filled
from ssbench.tables.verdict import SIGNS, WORDS

PACKAGES = ("python", "ssbench", "torch", "torchvision", "timm", "numpy", "pillow", "scipy")


@dataclass(frozen=True)
class PlainTable:
    """Headings and rows of text. numbers: positions of columns that hold numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class TableSummary:
    """A table in the overview. measured: "14 of 30" cells; verdicts, states: how many of each, in words."""

    name: str
    measured: str
    verdicts: str
    states: str


def table_summary(filled: Filled) -> TableSummary:
    """How far a table is; cells that nobody runs (quoted, not printed) do not count."""
    states = Counter(c.state for c in filled.cells.values() if c.state not in ("quoted", "not printed"))
    words = Counter(v.word for v in filled.verdicts.values())
    verdicts = ", ".join(f"{words[w]} {w} {SIGNS[w]}".strip() for w in WORDS if words[w])
    others = ", ".join(f"{states[s]} {s}" for s in ("running", "failed", "not run", "not yet") if states[s])
    return TableSummary(filled.table.name, f"{states['measured']} of {states.total()}", verdicts, others)


def environments(experiments: Iterable[Experiment]) -> tuple[PlainTable, dict[tuple[str, ...], str]]:
    """(one row for each machine and software that made a number, its letter by identity)."""
    counts = Counter(environment(run.fields) for e in experiments for run in e.runs)
    letters = {key: _letter(at) for at, key in enumerate(sorted(counts))}
    rows = tuple((letters[key], *key, str(counts[key])) for key in sorted(counts))
    heads = ("", "commit", "hardware", "packages", "runs")
    return PlainTable("Where the numbers were made", heads, rows, (4,)), letters


def environment(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """(commit, hardware, packages) of a record, in words."""
    git, hardware, packages = (fields.get(name) or {} for name in ("git", "hardware", "packages"))
    commit = str(git.get("commit") or "unknown")[:12] + (" with uncommitted changes" if git.get("dirty") else "")
    devices = f"{hardware.get('devices', 1)} x " if hardware.get("devices", 1) != 1 else ""
    machine = f"{devices}{hardware.get('name', 'unknown')} ({hardware.get('device', '?')}"
    machine += f", {hardware['threads']} thread{'s'[: hardware['threads'] > 1]})" if "threads" in hardware else ")"
    return commit, machine, ", ".join(f"{name} {packages[name]}" for name in PACKAGES if name in packages)


def runs_table(experiments: Iterable[Experiment], letters: Mapping[tuple[str, ...], str]) -> PlainTable:
    """One row a run: what it scored, what it cost, where it was made."""
    scored = ("run", "split", "seed", "best epoch", "last epoch")
    cost = ("steps", "minutes", "images/s", "peak memory")
    heads = (*scored, *cost, "made in", "division", "finished", "key")
    rows = tuple(_run_row(e, run, letters) for e in experiments for run in e.runs)
    return PlainTable("Runs", heads, rows, (2, 3, 4, 5, 6, 7, 8))


def splits_table(experiments: Iterable[Experiment]) -> PlainTable:
    """One row a split: the digest of its lists, and how many runs used them."""
    used = Counter(
        (e.split, str(run.fields.get("split_sha256") or "unknown"), "own" if run.record.custom_split else "published")
        for e in experiments
        for run in e.runs
    )
    rows = tuple((*key, str(n)) for key, n in sorted(used.items()))
    return PlainTable("Splits", ("split", "SHA-256 of its lists", "list", "runs"), rows, (3,))


def departures_table(experiments: Iterable[Experiment]) -> PlainTable:
    """Where runs depart from what their recipe's paper states."""
    rows = dict.fromkeys(
        (e.recipe, e.split, str(text))
        for e in experiments
        for run in e.runs
        for text in run.fields.get("departures") or []
    )
    return PlainTable("Departures from the papers", ("recipe", "split", "departure"), tuple(rows))


@dataclass(frozen=True)
class FailedRun:
    """A failed run in words. images: ids of its last batch, where known; again: the command that repeats it."""

    title: str
    reason: str
    images: tuple[str, ...]
    again: str
    finished: str


def failures(failed: Sequence[StoredRun]) -> list[FailedRun]:
    """Every failed run, why, on which images where that is known, and how to try again."""
    return [
        FailedRun(
            f"{run.record.recipe}, {run.record.split}, seed {run.record.seed}",
            run.record.reason or "no reason was recorded",
            tuple(map(str, run.fields.get("batch_ids") or ())),
            run_command(run),
            run.record.finished,
        )
        for run in failed
    ]


def run_command(run: StoredRun, *options: str) -> str:
    """The command that repeats a stored run; of a recipe of one's own its file, whose folder a record does not know."""
    record = run.record
    # A name may be HOST+PLUGIN; only behind overrides it ends in their hash.
    name = record.recipe.rpartition("+")[0] if run.settings else record.recipe
    if name.startswith("custom/"):
        name = f"{name.removeprefix('custom/')}.yaml"
    settings = [word for text in run.settings for word in ("--set", text)]
    division = ["--division", "open"] if record.division == "open" else []
    return shlex.join(
        ["ssbench", "run", name, *settings, "--split", record.split, "--seed", str(record.seed), *division, *options]
    )


def _run_row(experiment: Experiment, run: StoredRun, letters: Mapping[tuple[str, ...], str]) -> tuple[str, ...]:
    r, fields = run.record, run.fields
    timings, memory = fields.get("timings") or {}, (fields.get("memory") or {}).get("peak_bytes")
    speed = (fields.get("throughput") or {}).get("images_per_s")
    seconds = sum(timings.get(k, 0.0) for k in ("train_s", "score_s"))
    return (
        f"{experiment.label} ({r.recipe})" if experiment.label != r.recipe else r.recipe,
        r.split,
        str(r.seed),
        _scored(r.best, r.best_epoch),
        _scored(r.last, r.last_epoch),
        str(timings.get("steps", "")),
        f"{seconds / 60:.1f}" if timings else "",
        f"{speed:.1f}" if speed else "",
        f"{memory / 2**30:.2f} GiB" if memory else "",
        letters[environment(fields)],
        r.division,
        r.finished,
        r.key,
    )


def _scored(value: float | None, epoch: int | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if epoch is None else f"{value:.2f} (epoch {epoch + 1})"


def _letter(at: int) -> str:
    """A, B ... Z, AA ..."""
    return ("" if at < 26 else _letter(at // 26 - 1)) + chr(ord("A") + at % 26)
