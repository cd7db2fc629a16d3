"""Sends every epoch of a run to experiment trackers: terms, learning rates, scores, pseudo-label quality, pictures.

The trainer calls this once an epoch, after the epoch is saved. Numbers of the training come from the history; nothing
is asked of the device between two steps. The quality of pseudo-labels and the pictures are computed here, on a few
images, by the network that is evaluated. A tracker that fails is noted once and left out; the run does not notice.

The class of each tracker imports its package when it is made. Nothing leaves this machine unless the environment asks
for it: WANDB_MODE=online, TRACKIO_SPACE_ID, MLFLOW_TRACKING_URI. Without these all files stand below the runs folder.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ssbench.data.dataset import IGNORE
from ssbench.ops.confusion import confusion, mean_iou
from ssbench.train.evaluate import label_image
from ssbench.train.precision import tf32_as_chosen
from ssbench.train.trainer import Trainer

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


PICTURES = 3
"""Images of the select subset that are shown."""
PSEUDO_LABELED = 8
"""Unlabelled images that pseudo-labels are compared with the hidden masks on."""


@contextmanager
def tracking(trainer: Trainer, names: Sequence[str], runs: Path) -> Iterator[None]:
    """Send the epochs of a trainer to the trackers of these names, inside the block."""
    if not names:
        yield
        return
    sender = _EpochSender(trainer, names, runs)
    trainer.on_epoch.append(sender.send)
    try:
        yield
    finally:
        trainer.on_epoch.remove(sender.send)
        sender.close()


class _EpochSender:
    """The trackers of one run; each is dropped at its first error."""

    def __init__(self, trainer: Trainer, names: Sequence[str], runs: Path) -> None:
        self._trainer = trainer
        self._trackers: dict[str, Tracker] = {}
        recipe, split, seed = trainer.recipe, trainer.partition.name, trainer.seed
        plugin = "+".join(plugin.name for plugin in recipe.plugins) or "none"
        settings = {"recipe": recipe.stored_name, "split": split, "seed": seed, "method": recipe.method.name}
        title = f"{recipe.stored_name} {split} seed {seed}"
        run = TrackedRun(title, trainer.key, trainer.folder, runs, settings | {"plugin": plugin})
        for name in dict.fromkeys(names):
            self._guarded(name, partial(self._open, name, run))

    def send(self, entry: dict[str, Any]) -> None:
        """Send one entry of the history. Never raises an error of a tracker."""
        if not self._trackers:
            return
        epoch, scalars = entry["epoch"] + 1, _scalars(self._trainer, entry)
        pictures: dict[str, np.ndarray] = {}
        try:
            quality, pictures = self._looked_at()
            scalars |= quality
        except Exception as error:  # what is only shown must not end a run
            self._note(f"pictures and pseudo-label quality of epoch {epoch} are left out: {_brief(error)}")
        prefix = f"{entry['stage']}/" if "stage" in entry else ""
        scalars = {prefix + name: value for name, value in scalars.items()}
        shown = {prefix + name: picture for name, picture in pictures.items()}
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, partial(tracker.add, scalars, shown, epoch))

    def close(self) -> None:
        """Close every tracker that is left."""
        for name, tracker in list(self._trackers.items()):
            self._guarded(name, tracker.close)

    def _open(self, name: str, run: TrackedRun) -> None:
        self._trackers[name] = TRACKERS[name](run)

    def _guarded(self, name: str, act: Callable[[], None]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # Trackio prints where to look; stdout is for the results of a command
                act()
        except Exception as error:  # packages raise what they like; a run must outlive them
            broken = self._trackers.pop(name, None)
            fix = "; pip install 'ssbench[track]'" if isinstance(error, ImportError) else ""
            self._note(f"tracker {name} failed, the run goes on without it: {_brief(error)}{fix}")
            if broken is not None:
                with suppress(Exception):
                    broken.close()

    def _note(self, text: str) -> None:
        self._trainer.bars.write_line(f"note: {text}")

    def _looked_at(self) -> tuple[dict[str, float], dict[str, np.ndarray]]:
        """Pseudo-label quality in percent, and pictures by image, with the networks as they are evaluated."""
        method = self._trainer.method
        was_training = method.training
        method.eval()
        try:
            with tf32_as_chosen(self._trainer.computation):
                return _pseudo_quality(self._trainer), _pictures(self._trainer)
        finally:
            method.train(was_training)


def _scalars(trainer: Trainer, entry: dict[str, Any]) -> dict[str, float]:
    """Terms, learning rates and the score of an epoch, by name."""
    scalars = {f"terms/{name}": float(value) for name, value in entry["terms"].items()}
    for at, group in enumerate(trainer.optimizer.param_groups):
        scalars[f"lr/{at}"] = float(group["lr"])
    if "select" in entry:
        scalars[f"score/{trainer.recipe.eval.select}"] = float(entry["select"])
    return scalars


def _spread(ids: Sequence[str], count: int) -> list[str]:
    """`count` of the ids, evenly spread; all where there are fewer."""
    return [ids[(2 * k + 1) * len(ids) // (2 * count)] for k in range(count)] if len(ids) > count else list(ids)


def _labels(trainer: Trainer, id: str) -> np.ndarray:
    recipe = trainer.recipe
    return label_image(trainer.method.predict, trainer.dataset.image(id), recipe.eval, recipe.views, trainer.team)


def _pseudo_quality(trainer: Trainer) -> dict[str, float]:
    """Accuracy and mIoU of predicted labels against the hidden masks of a few unlabelled images; {} without masks."""
    dataset, classes = trainer.dataset, len(trainer.dataset.classes)
    unmasked = dataset.unmasked()
    ids = _spread([id for id in trainer.partition.unlabeled if id not in unmasked], PSEUDO_LABELED)
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for id in ids:
        truth = torch.from_numpy(np.array(dataset.mask(id)))
        matrix += confusion(torch.from_numpy(_labels(trainer, id)), truth, classes)
    total = int(matrix.sum())
    if not total:
        return {}
    return {"pseudo/accuracy": 100 * int(matrix.trace()) / total, "pseudo/miou": mean_iou(matrix)}


def _pictures(trainer: Trainer) -> dict[str, np.ndarray]:
    """Image, truth and prediction side by side, H 3W 3, for a few images of the select subset."""
    dataset, colours = trainer.dataset, np.full((256, 3), 224, dtype=np.uint8)
    colours[: len(dataset.palette)] = dataset.palette
    colours[IGNORE] = 224
    pictures = {}
    for id in _spread(dataset.ids(trainer.recipe.eval.select), PICTURES):
        image = np.array(dataset.image(id).convert("RGB"))
        parts = [image, colours[np.array(dataset.mask(id))], colours[_labels(trainer, id)]]
        pictures[f"pictures/{id}"] = np.concatenate(parts, axis=1)
    return pictures


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
