"""Finds the record of a run that is done, even where its data have gone."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ssbench.errors import SsbenchError
from ssbench.jobs.job import Job, Places
from ssbench.recipe.identity import version_changes
from ssbench.recipe.outside import last_change
from ssbench.recipe.recipe import Recipe, load, stored_name_of
from ssbench.results.record import Record
from ssbench.results.store import ResultStore, settings_digest
from ssbench.splits.manifest import dataset_of_split


def find_record(store: ResultStore, recipe: Recipe, split: str, split_sha256: str, seed: int) -> dict[str, Any] | None:
    """The stored record of a run, None where it is not done, or damaged: then the run is done again."""
    key, older = recipe.key(split_sha256, seed), recipe.older_key(split_sha256, seed)
    for record in store.runs(recipe.stored_name, split):
        is_same = record.key == key or (record.key == older and _was_unchanged(record, recipe))
        if is_same and record.status == "done" and (whole := store.whole(record)) is not None:
            return whole
    return None


def record_without_data(job: Job, places: Places) -> dict[str, Any] | None:
    """The record of a job whose dataset is not here; None where the dataset is here, or the job is not done.

    Recipe and code are those of the record. Its data and lists cannot be compared any more.
    """
    if job.quick:
        return None
    store = ResultStore(places.results)
    with suppress(SsbenchError):  # reading the recipe again as always gives the error
        split = _stored_split(job.split, places.data)
        if split is None or (places.data / split.partition("/")[0] / "ledger.json").is_file():
            return None
        records = store.runs(stored_name_of(job.recipe, job.overrides), split)
        for record in sorted(records, key=lambda record: record.finished, reverse=True):
            if (record.seed, record.status) == (job.seed, "done") and (whole := store.whole(record)) is not None:
                dataset, done = split.partition("/")[0], whole.get("resolved")
                recipe = load(job.recipe, job.overrides, False, job.division, places.data, False, dataset, done)
                is_same = record.settings == settings_digest(recipe.resolved())
                if is_same and _is_same_code(record, recipe):
                    return whole
    return None


def _stored_split(name: str, data_root: Path) -> str | None:
    """The name under which runs on a split are stored; None for a folder of lists of which the dataset is not known."""
    if not Path(name).is_dir():
        return name
    dataset = dataset_of_split(name, data_root)
    return None if dataset is None else f"{dataset}/custom/{Path(name).resolve().name}"


def _is_same_code(record: Record, recipe: Recipe) -> bool:
    """Whether a record's code, as far as it is stated, is the present one."""
    if record.identity is None:
        return record.split_sha256 is not None and recipe.older_key(record.split_sha256, record.seed) == record.key
    now = {file.role: file.sha256 for file in recipe.outside.files}
    is_changed = any(now.get(file.role) != file.sha256 for file in record.identity.files)
    return not is_changed and not any(version_changes(record.identity.versions, recipe.versions()))


def _was_unchanged(record: Record, recipe: Recipe) -> bool:
    """Whether data and code from outside are older than a record that does not state them.

    Records of older versions hold no digest of these. The time of the files is all there is to compare.
    """
    if record.identity is not None or not recipe.outside.key_part():
        return False
    try:
        finished = datetime.fromisoformat(record.finished.replace("Z", "+00:00")).timestamp()
    except ValueError:
        return False
    return last_change(recipe.outside, recipe.data.dataset, recipe.data_root) < finished
