"""What stands around the charts: how much is measured, where the numbers were made, what failed."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssbench.page.runs import Failure, Line, Run, given
from ssbench.tables.cell import Filled
from ssbench.tables.verdict import SIGNS, WORDS

PACKAGES = ("python", "ssbench", "torch", "torchvision", "timm", "numpy", "pillow", "scipy")


@dataclass(frozen=True)
class Grid:
    """A plain table. numbers: positions of columns that hold numbers."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: tuple[int, ...] = ()


@dataclass(frozen=True)
class Standing:
    """A table in the overview. measured: "14 of 30" cells; verdicts and states: what they came to, in words."""

    name: str
    measured: str
    verdicts: str
    states: str


def standing(filled: Filled) -> Standing:
    """How far a table is; cells that nobody runs (quoted, not printed) do not count."""
    states = Counter(c.state for c in filled.cells.values() if c.state not in ("quoted", "not printed"))
    words = Counter(v.word for v in filled.verdicts.values())
    verdicts = ", ".join(f"{words[w]} {w} {SIGNS[w]}".strip() for w in WORDS if words[w])
    others = ", ".join(f"{states[s]} {s}" for s in ("running", "failed", "not run", "not yet") if states[s])
    return Standing(filled.table.name, f"{states['measured']} of {states.total()}", verdicts, others)


def environments(lines: Iterable[Line]) -> tuple[Grid, dict[tuple[str, ...], str]]:
    """(one row for each machine and software that made a number, its letter by identity)."""
    found = Counter(environment(run.whole) for line in lines for run in line.runs)
    letters = {key: _letter(at) for at, key in enumerate(sorted(found))}
    rows = tuple((letters[key], *key, str(found[key])) for key in sorted(found))
    heads = ("", "commit", "hardware", "packages", "runs")
    return Grid("Where the numbers were made", heads, rows, (4,)), letters


def environment(whole: Mapping[str, Any]) -> tuple[str, ...]:
    """(commit, hardware, packages) of a record, in words."""
    git, hardware, packages = (whole.get(name) or {} for name in ("git", "hardware", "packages"))
    commit = str(git.get("commit") or "unknown")[:12] + (" with uncommitted changes" if git.get("dirty") else "")
    devices = f"{hardware.get('devices', 1)} x " if hardware.get("devices", 1) != 1 else ""
    machine = f"{devices}{hardware.get('name', 'unknown')} ({hardware.get('device', '?')}"
    machine += f", {hardware['threads']} thread{'s'[: hardware['threads'] > 1]})" if "threads" in hardware else ")"
    return commit, machine, ", ".join(f"{name} {packages[name]}" for name in PACKAGES if name in packages)


def runs_grid(lines: Iterable[Line], letters: Mapping[tuple[str, ...], str]) -> Grid:
    """One row a run: what it scored, what it cost, where it was made."""
    scored = ("run", "split", "seed", "best epoch", "last epoch")
    cost = ("steps", "minutes", "images/s", "peak memory")
    heads = (*scored, *cost, "made in", "division", "finished", "key")
    rows = tuple(_run_row(line, run, letters) for line in lines for run in line.runs)
    return Grid("Runs", heads, rows, (2, 3, 4, 5, 6, 7, 8))


def splits_grid(lines: Iterable[Line]) -> Grid:
    """One row a split: the digest of its lists, and how many runs used them."""
    used = Counter(
        (line.split, str(run.whole.get("split_sha256") or "unknown"), "own" if run.record.custom_split else "published")
        for line in lines
        for run in line.runs
    )
    rows = tuple((*key, str(n)) for key, n in sorted(used.items()))
    return Grid("Splits", ("split", "SHA-256 of its lists", "list", "runs"), rows, (3,))


def departures_grid(lines: Iterable[Line]) -> Grid:
    """Where runs depart from what their recipe's paper states."""
    told = dict.fromkeys(
        (line.recipe, line.split, str(text))
        for line in lines
        for run in line.runs
        for text in run.whole.get("departures") or []
    )
    return Grid("Departures from the papers", ("recipe", "split", "departure"), tuple(told))


@dataclass(frozen=True)
class Failed:
    """A failed run in words. again: the command that tries it again."""

    title: str
    reason: str
    images: tuple[str, ...]
    again: str
    finished: str


def failures(failed: Sequence[Failure]) -> list[Failed]:
    """Every failed run, why, on which images where that is known, and how to try again."""
    return [
        Failed(
            f"{f.record.recipe}, {f.record.split}, seed {f.record.seed}",
            f.record.reason or "no reason was recorded",
            tuple(map(str, f.whole.get("batch_ids") or ())),
            run_command(f.record.recipe, f.record.split, f.record.seed, f.whole),
            f.record.finished,
        )
        for f in failed
    ]


def run_command(recipe: str, split: str, seed: int, whole: Mapping[str, Any], *more: str) -> str:
    """The command that does a stored run; a recipe of one's own is named by its file, which a record does not know."""
    name = recipe.partition("+")[0]
    if name.startswith("custom/"):
        name = f"{name.removeprefix('custom/')}.yaml"
    settings = [word for text in given(whole.get("departures") or ()) for word in ("--set", text)]
    claim = ["--division", "open"] if whole.get("division") == "open" else []
    return shlex.join(["ssbench", "run", name, *settings, "--split", split, "--seed", str(seed), *claim, *more])


def _run_row(line: Line, run: Run, letters: Mapping[tuple[str, ...], str]) -> tuple[str, ...]:
    r, whole = run.record, run.whole
    timings, memory = whole.get("timings") or {}, (whole.get("memory") or {}).get("peak_bytes")
    speed = (whole.get("throughput") or {}).get("images_per_s")
    seconds = sum(timings.get(k, 0.0) for k in ("train_s", "score_s"))
    return (
        f"{line.label} ({line.recipe})" if line.label != line.recipe else line.recipe,
        line.split,
        str(r.seed),
        _scored(r.best, r.best_epoch),
        _scored(r.last, r.last_epoch),
        str(timings.get("steps", "")),
        f"{seconds / 60:.1f}" if timings else "",
        f"{speed:.1f}" if speed else "",
        f"{memory / 2**30:.2f} GiB" if memory else "",
        letters[environment(whole)],
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
