"""Which records are stale: made from data or by code that are not the present ones. None of them is deleted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ssbench.recipe.identity import why_stale
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


def stale_records(store: ResultStore, why: WhyStale) -> Iterator[tuple[Record, tuple[str, ...]]]:
    """The finished records of a store that are stale, with the reasons."""
    for record in store.records():
        if record.status == "done" and (reasons := why(record)):
            yield record, reasons
