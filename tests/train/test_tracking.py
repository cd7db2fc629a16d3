"""What trackers receive of a run, read back from their own files; and that no run depends on them."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from running import ALONE, SPLIT, TINY, Job

from ssbench.commands.run import TrackerName
from ssbench.console import Bars
from ssbench.jobs import job as jobs
from ssbench.jobs.run import run, run_job
from ssbench.train.build import dataset_of
from ssbench.train.tracking import TRACKERS, TrackedRun

SHORT = (*TINY, "schedule.epochs=2")
Lines = list[str]


@pytest.fixture(scope="module")
def plain(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The record of the run without a tracker."""
    return Job(toy_data, tmp_path_factory.mktemp("plain"), SHORT).here()


@pytest.fixture
def lines() -> Lines:
    return []


@pytest.fixture
def bars(lines: Lines) -> Bars:
    return Bars(show=False, write_line=lines.append)


def tracked(job: Job, bars: Bars, *names: str) -> dict[str, Any]:
    return run(job.loaded, SPLIT, job.seed, job.places, ALONE, bars, track=names)[0]


def measured(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record[name] for name in ("key", "scores", "per_class", "confusion", "history")}


def test_tensorboard_holds_what_the_record_says(
    toy: Path, tmp_path: Path, plain: dict[str, Any], bars: Bars, lines: Lines
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = Job(toy, tmp_path, SHORT)
    record = tracked(job, bars, "tensorboard")
    assert measured(record) == measured(plain)  # a tracker changes nothing
    assert not [line for line in lines if "note" in line]
    events = EventAccumulator(str(job.folder / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    for name in record["history"][0]["terms"]:
        sent = {event.step: event.value for event in events.Scalars(f"terms/{name}")}
        assert sent == pytest.approx({e["epoch"] + 1: e["terms"][name] for e in record["history"]}, rel=1e-5)
    scores = [(event.step, event.value) for event in events.Scalars("score/val")]
    assert scores == [(e["epoch"] + 1, pytest.approx(e["select"], rel=1e-5)) for e in record["history"]]
    rates = [event.value for event in events.Scalars("lr/0")]
    assert rates[0] > rates[1] > 0
    assert all(0 <= event.value <= 100 for name in ("accuracy", "miou") for event in events.Scalars(f"pseudo/{name}"))
    assert len(tags["images"]) == 3
    (first, second) = events.Images(tags["images"][0])
    assert (first.step, second.step) == (1, 2)
    width, height = dataset_of(job.loaded, toy).image(tags["images"][0].removeprefix("pictures/")).size
    assert (first.width, first.height) == (3 * width, height)  # image, truth, prediction


class Breaking:
    """A tracker whose service goes away after the first epoch."""

    def __init__(self, run: TrackedRun) -> None:
        self.epochs: list[int] = []

    def add(self, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray], epoch: int) -> None:
        if epoch > 1:
            raise ConnectionError("the service is gone")

    def close(self) -> None:
        raise ConnectionError("still gone")


def test_a_tracker_that_fails_is_noted_once_and_fails_no_run(
    toy: Path, tmp_path: Path, plain: dict[str, Any], bars: Bars, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TRACKERS, "mlflow", Breaking)
    record = tracked(Job(toy, tmp_path, SHORT), bars, "mlflow")
    assert measured(record) == measured(plain)
    notes = [line for line in lines if line.startswith("note: ")]
    assert notes == ["note: tracker mlflow failed, the run goes on without it: ConnectionError: the service is gone"]


def test_a_package_that_is_not_installed_is_named(
    toy: Path, tmp_path: Path, bars: Bars, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert tracked(Job(toy, tmp_path, SHORT), bars, "wandb")["status"] == "done"
    (note,) = (line for line in lines if line.startswith("note: "))
    assert note.endswith("pip install 'ssbench[track]'")


def test_trackers_are_no_part_of_which_run_it_is(toy: Path, tmp_path: Path, plain: dict[str, Any], bars: Bars) -> None:
    """A job with trackers is the job without: it is not done twice, and its record has the same key."""
    pytest.importorskip("tensorboard")
    asked = jobs.Job("toy/none_unimatch", SPLIT, 0, SHORT)
    with_tracker = replace(asked, track=("tensorboard",))
    assert asked == with_tracker
    assert hash(asked) == hash(with_tracker)
    places = Job(toy, tmp_path, SHORT).places
    first = run_job(with_tracker, places, ALONE, bars)
    assert first.record is not None
    assert first.record["key"] == plain["key"]
    assert list(places.runs.rglob("tensorboard/events*"))
    assert run_job(asked, places, ALONE, bars).repeated


@pytest.mark.filterwarnings("ignore")  # of the packages' own imports
@pytest.mark.parametrize("name", ["mlflow", "trackio", "wandb"])
def test_local_stores_hold_two_epochs_over_a_restart(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # Trackio reads it when it is imported
    pytest.importorskip(name)
    for variable in ("WANDB_MODE", "TRACKIO_SPACE_ID", "MLFLOW_TRACKING_URI", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.delenv(variable, raising=False)
    about = {"recipe": "toy/x", "seed": 0}
    (tmp_path / "seed0").mkdir()
    for epoch in (1, 2):  # the second tracker is that of the resumed run
        tracker = TRACKERS[name](TrackedRun("toy/x seed 0", "abc123", tmp_path / "seed0", tmp_path, about))
        tracker.add({"score/val": 40.0 + epoch}, {"pictures/a": np.zeros((8, 24, 3), np.uint8)}, epoch)
        tracker.close()
    if name == "mlflow":
        (scores,) = (path for path in (tmp_path / "mlruns").rglob("score/val") if "metrics" in path.parts)
        assert [line.split()[1:] for line in scores.read_text().splitlines()] == [["41.0", "1"], ["42.0", "2"]]
        assert {path.name for path in tmp_path.rglob("epoch*.png")} == {"epoch1.png", "epoch2.png"}
    elif name == "trackio":
        with closing(sqlite3.connect(tmp_path / "trackio" / "ssbench.db")) as base:
            rows = base.execute("SELECT step, metrics FROM metrics ORDER BY step").fetchall()
        assert [(step, json.loads(metrics)["score/val"]) for step, metrics in rows] == [(1, 41.0), (2, 42.0)]
    else:
        assert len(list(tmp_path.rglob("offline-run-*/run-abc123.wandb"))) == 2


def test_the_command_takes_every_tracker_by_name() -> None:
    assert [name.value for name in TrackerName] == list(TRACKERS)
