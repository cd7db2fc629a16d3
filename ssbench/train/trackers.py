"""Experiment trackers behind one small interface: TensorBoard, Weights & Biases, Trackio, MLflow.

Each class imports its package when it is made. Nothing leaves this machine unless the environment asks for it:
WANDB_MODE=online, TRACKIO_SPACE_ID, MLFLOW_TRACKING_URI. Without these all files stand below the runs folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

PROJECT = "ssbench"


@dataclass(frozen=True)
class TrackedRun:
    """Which run is tracked. name: for people; key: the run key; folder: its run folder; runs: the runs folder.

    settings: facts to search runs by: recipe, split, seed and the like.
    """

    name: str
    key: str
    folder: Path
    runs: Path
    settings: Mapping[str, str | int]


class Tracker(Protocol):
    """What an epoch is sent to. Any method may raise; whoever calls it goes on without the tracker."""

    def add(self, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray], epoch: int) -> None:
        """Numbers by name, and H W 3 uint8 pictures by name, of one epoch (from 1)."""

    def close(self) -> None:
        """Write what is not yet written."""


class TensorBoard:
    """Event files in `<run folder>/tensorboard`: `tensorboard --logdir runs` shows all runs."""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(run.folder / "tensorboard"))

    def add(self, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray], epoch: int) -> None:
        """See `Tracker`. Flushed at once: a run may be killed between two epochs."""
        writer = self._writer
        for name, value in scalars.items():
            writer.add_scalar(name, value, epoch)
        for name, picture in pictures.items():
            writer.add_image(name, picture, epoch, dataformats="HWC")
        writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WandB:
    """Weights & Biases, offline unless WANDB_MODE says otherwise; `wandb sync` sends offline runs later."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self._wandb: Any = wandb
        mode: Any = os.environ.get("WANDB_MODE", "offline")  # its own default asks for a login
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT), name=run.name, id=run.key, resume="allow",
            dir=str(run.folder), config=dict(run.settings), mode=mode,
        )  # fmt: skip

    def add(self, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray], epoch: int) -> None:
        """See `Tracker`."""
        images = {name: self._wandb.Image(picture) for name, picture in pictures.items()}
        self._run.log({**scalars, **images}, step=epoch)

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class Trackio:
    """Trackio, in `<runs>/trackio` unless TRACKIO_DIR says otherwise; in a Space where TRACKIO_SPACE_ID names one."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(run.runs.resolve() / "trackio"))  # read when it is imported
        import trackio

        self._trackio: Any = trackio
        space = os.environ.get("TRACKIO_SPACE_ID")
        self._run: Any = trackio.init(
            project=PROJECT, name=run.name, config=dict(run.settings), space_id=space, resume="allow", embed=False
        )

    def add(self, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray], epoch: int) -> None:
        """See `Tracker`."""
        images = {name: self._trackio.Image(picture) for name, picture in pictures.items()}
        self._trackio.log({**scalars, **images}, step=epoch)

    def close(self) -> None:
        """See `Tracker`."""
        self._trackio.finish()


class MLflow:
    """MLflow, in the files of `<runs>/mlruns` unless MLFLOW_TRACKING_URI says otherwise."""

    def __init__(self, run: TrackedRun) -> None:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow 3.7 and later refuse plain files without it
        from mlflow.tracking import MlflowClient

        uri = os.environ.get("MLFLOW_TRACKING_URI") or (run.runs.resolve() / "mlruns").as_uri()
        self._client: Any = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(PROJECT)
        known = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
        earlier = self._client.search_runs([known], f"tags.run_key = '{run.key}'", max_results=1)
        if earlier:  # a run that is resumed goes on in the tracker too
            self._id = earlier[0].info.run_id
            self._client.set_terminated(self._id, "RUNNING")
            return
        self._id = self._client.create_run(known, run_name=run.name, tags={"run_key": run.key}).info.run_id
        for name, value in run.settings.items():
            self._client.log_param(self._id, name, value)

    def add(self, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray], epoch: int) -> None:
        """See `Tracker`."""
        for name, value in scalars.items():
            self._client.log_metric(self._id, name, value, step=epoch)
        for name, picture in pictures.items():
            self._client.log_image(self._id, picture, f"{name}/epoch{epoch}.png")

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._id)


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "trackio": Trackio,
    "mlflow": MLflow,
}
"""By the names that `ssbench run --track` takes."""
