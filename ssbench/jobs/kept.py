"""Finds the record of a run that is done, even where its data have gone."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from ssbench.errors import SsbenchError
from ssbench.jobs.job import Job, Places
from ssbench.recipe.identity import version_changes
from ssbench.recipe.outside import last_change
from ssbench.recipe.recipe import Recipe, load
from ssbench.results.record import Record
from ssbench.results.store import ResultStore, settings_digest


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
    try:
        recipe = load(job.recipe, job.overrides, job.quick, job.division, places.data, is_checked=False)
    except SsbenchError:
        return None  # reading it again as always gives the error
    if (places.data / recipe.data.dataset / "ledger.json").is_file():
        return None
    store, settings = ResultStore(places.results), settings_digest(recipe.resolved())
    records = store.runs(recipe.stored_name, job.split)
    for record in sorted(records, key=lambda record: record.finished, reverse=True):
        is_same = (record.seed, record.status, record.settings) == (job.seed, "done", settings)
        if is_same and _is_same_code(record, recipe) and (whole := store.whole(record)) is not None:
            return whole
    return None


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
