"""The splits a user drew: `<data root>/splits/<dataset>/custom/<part>`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from ssbench.errors import DataError
from ssbench.splits.manifest import Partition, own_splits


def custom_splits(dataset: str, data_root: Path) -> tuple[Partition, ...]:
    """The readable custom splits of a dataset, fewest labelled images first; a damaged one is left out."""
    partitions = []
    for name in own_splits(data_root, dataset):
        with suppress(DataError):
            partitions.append(Partition.read(name, data_root))
    return tuple(sorted(partitions, key=lambda partition: (len(partition.labeled), partition.name)))
