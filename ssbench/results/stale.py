"""Which records are stale: made from data or by code that are not the present ones. None of them is deleted."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from ssbench.errors import DataError
from ssbench.recipe.identity import why_stale
from ssbench.recipe.stored import RunHead, read_run_head
from ssbench.results.record import Record
from ssbench.results.store import ResultStore

WhyStale = Callable[[Record], tuple[str, ...]]
"""Why the data or the code of a record are not the present ones; empty where they are."""


class StaleCheck:
    """A `WhyStale` that looks at each record once. data_root: where imported datasets are."""

    def __init__(self, data_root: Path | None = None) -> None:
        self._data_root = data_root
        self._reasons: dict[Path, tuple[str, ...]] = {}

    def __call__(self, record: Record) -> tuple[str, ...]:
        """Why a record is stale."""
        if record.path not in self._reasons:
            self._reasons[record.path] = () if record.quick else why_stale(record.path, self._data_root)
        return self._reasons[record.path]


def is_never_stale(record: Record) -> tuple[str, ...]:
    """A `WhyStale` for callers that only ask what there is."""
    return ()


def stale_folders(runs: Path, data_root: Path, listed: set[str]) -> Iterator[tuple[Path, RunHead, tuple[str, ...]]]:
    """(record in its run folder, its head, reasons) of finished runs below `runs` whose keys are not `listed`.

    These are runs whose records went to another store, or were deleted there.
    """
    for folder, below, files in os.walk(runs):
        if "record.json" in files:
            below.clear()  # what a run keeps inside its folder is not searched
            path = Path(folder) / "record.json"
            with suppress(DataError):  # a damaged one, or a quick run's
                head = read_run_head(path)
                if head.key not in listed and (reasons := why_stale(path, data_root)):
                    yield path, head, reasons


def stale_records(store: ResultStore, why: WhyStale) -> Iterator[tuple[Record, tuple[str, ...]]]:
    """The finished records of a store that are stale, with the reasons."""
    for record in store.records():
        if record.status == "done" and (reasons := why(record)):
            yield record, reasons
