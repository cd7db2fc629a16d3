"""A run from its first stage to its last: one training for most methods, several with work between them for some.

A method's `fit` starts at its top whenever a run is resumed. A stage that is finished has left files under `stages/` in
the run's folder and is skipped; a stage that was cut off goes on where it was. Every training but the last keeps its
checkpoints in `stages/<name>/`; the last one is the run itself. `stages/key` says which run these files are of.

    <name>/best.pt, epoch<n>.pt, done.json   networks and history of a training
    <name>.json                              a number for each image, or facts of the stored maps
    <map>/<id>.png                           stored maps
"""

from __future__ import annotations

import copy
import io
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel
from torch import Tensor

from ssbench.data.plan import Mixture
from ssbench.errors import DataError, RecipeError
from ssbench.files import read_model, write_bytes, write_json, write_text
from ssbench.keyed import key
from ssbench.methods.base import Method
from ssbench.ops.confusion import confusion, mean_iou
from ssbench.train.checkpoint import Checkpointer, Count, History, Percent, TrainingState, load_networks
from ssbench.train.evaluate import sliding
from ssbench.train.machine import deterministic_operations
from ssbench.train.precision import tf32_as_chosen
from ssbench.train.short_side import short_scores
from ssbench.train.trainer import Trainer
from ssbench.views.pipelines import eval_view
from ssbench.views.sample import Maps, Together

Model = TypeVar("Model", bound=BaseModel)

IMAGES_PER_WRITE = 32
"""Images measured between two writes of the file of measurements: what a kill can lose."""


class _StageScore(BaseModel):
    epoch: Count
    select: Percent


class _TrainingFacts(BaseModel):
    """`<name>/done.json`: a training that has ended."""

    stage: str
    labeled: Count
    repeats: Count
    unlabeled: Count
    steps: Count
    best: _StageScore
    history: History


class _Measurements(BaseModel):
    """`<name>.json` of `StageRunner.measure`. values: by image id."""

    stage: str
    values: dict[str, Percent]


class _MapFacts(BaseModel):
    """`<name>.json` of `StageRunner.store`. miou: of the first map against the hidden labels, percent."""

    stage: str
    images: Count
    miou: Percent | None


def fit(trainer: Trainer) -> TrainingState:
    """Run everything the method trains, from wherever the folder stands; the state of the last training.

    Raises:
        Stopped: a signal came; everything is saved.
        Diverged: a loss or a weight is not finite.
        DataError: a file that an earlier stage left is damaged.
    """
    deterministic = deterministic_operations(trainer.recipe.schedule.deterministic)
    with trainer.stop, deterministic, tf32_as_chosen(trainer.computation):
        trainer.prepare()
        trainer.method.fit(TrainingLoop(trainer))
    return trainer.state


class TrainingLoop:
    """What `methods.base.Loop` promises to a method's `fit`."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def train(self) -> None:
        """Train to the end of the schedule, from wherever the run stands."""
        self._trainer.train()

    @cached_property
    def stages(self) -> StageRunner:
        """For a method of several trainings; made before the first of them."""
        return StageRunner(self._trainer)


class StageRunner:
    """What `methods.base.StagedTraining` promises, for one trainer. Made before anything is trained or resumed.

    Raises:
        RecipeError: the method's `needs` do not ask for a mixture.
    """

    def __init__(self, trainer: Trainer) -> None:
        if not isinstance(trainer.plan, Mixture):
            raise RecipeError("stages read mixtures, which this method's `needs` do not ask for", "method")
        self._trainer, self._plan, self._maps = trainer, trainer.plan, trainer.maps
        self._start = {name: value.detach().cpu().clone() for name, value in trainer.method.state_dict().items()}
        self.labeled, self.unlabeled = trainer.plan.labeled, trainer.plan.unlabeled
        self.batch = trainer.plan.batch
        self.epochs, self.folder = trainer.epochs, trainer.folder / "stages"
        if trainer.team.leads:
            self._claim_folder()
        trainer.team.wait()

    def train(
        self, name: str, unlabeled: Sequence[str] = (), repeats: int = 1, maps: Maps | None = None,
        keep: Collection[int] = (), last: bool = False, steps: int | None = None,
    ) -> None:  # fmt: skip
        """See `methods.base.StagedTraining`."""
        trainer, folder = self._trainer, self._trainer.folder if last else self.folder / name
        warn, kept = trainer.bars.write_line, frozenset(keep)
        checkpointer = Checkpointer(folder, trainer.key, trainer.team, warn, kept, trainer.facts)
        done = folder / "done.json"
        if last or not self._is_finished(done):
            seed = key(trainer.seed, "stage", name)
            plan = replace(self._plan, unlabeled=tuple(unlabeled), repeats=repeats, seed=seed)
            sources = [source for source in (self._maps, maps) if source is not None]
            trainer.method.load_state_dict(self._start)
            epochs = self.epochs if steps is None else max(1, round(steps / plan.steps_per_epoch))
            trainer.begin_stage(name, plan, checkpointer, Together(sources) if sources else None, epochs)
            trainer.train()
            if not last:
                self._write(done, self._facts(name, plan))
        if not last:
            # After `done.json`: a kill in between leaves files that nothing reads, never a stage to do again.
            checkpointer.remove_states()
            self._add_to_record(done, _TrainingFacts)

    def network(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        """See `methods.base.StagedTraining`."""
        name = "best.pt" if epoch is None else f"epoch{epoch}.pt"
        return _StoredNetwork(self._trainer.method, self.folder / stage / name, self._trainer.team.device)

    def scorer(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        """See `methods.base.StagedTraining`."""
        net, recipe = self.network(stage, epoch), self._trainer.recipe

        @torch.no_grad()
        def scores(x: Tensor) -> Tensor:
            cfg = recipe.eval
            if cfg.protocol == "short" and cfg.crop is not None:
                return short_scores(net, x, cfg.crop, recipe.views)
            output = sliding(net, x, cfg) if cfg.protocol == "sliding" else net(x)
            return output if (cfg.protocol, cfg.summed) == ("sliding", "probabilities") else output.softmax(1)

        return scores

    def measure(self, name: str, ids: Sequence[str], value: Callable[[Tensor], float]) -> dict[str, float]:
        """See `methods.base.StagedTraining`."""
        path, team = self.folder / f"{name}.json", self._trainer.team
        known = self._read(path, _Measurements).values if path.is_file() else {}
        todo = [id for id in ids if id not in known]
        chunks = [todo[at : at + IMAGES_PER_WRITE] for at in range(0, len(todo), IMAGES_PER_WRITE)]
        for chunk in self._trainer.watch(chunks, name, len(chunks)):
            values = torch.zeros(len(chunk), dtype=torch.float64, device=team.device)
            for k in range(team.rank, len(chunk), team.world):
                values[k] = value(self._image(chunk[k]))
            known |= dict(zip(chunk, team.sum(values).tolist(), strict=True))
            self._write(path, {"stage": name, "values": known})
        mean = sum(known.values()) / len(known)
        self._trainer.earlier_stages.append({"stage": name, "images": len(ids), "mean": mean})
        return {id: known[id] for id in ids}

    def image_labels(self, ids: Sequence[str]) -> Callable[[str], frozenset[int]]:
        """See `methods.base.StagedTraining`."""
        dataset = self._trainer.dataset
        if unknown := sorted(dataset.unmasked().intersection(ids)):
            what = f"which classes are in an image is not known of {len(unknown)} of {len(ids)}, first '{unknown[0]}'"
            raise DataError(what, str(dataset.root), "--set method.image_labels=false, or import them with masks")
        always = frozenset(k for k, name in enumerate(dataset.classes) if name == "background")
        return lambda id: always | dataset.labels_in(id)

    def store(
        self, name: str, ids: Sequence[str], maps: Sequence[str],
        draw: Callable[[Tensor, str], Mapping[str, Image.Image]],
    ) -> None:  # fmt: skip
        """See `methods.base.StagedTraining`."""
        done, team = self.folder / f"{name}.json", self._trainer.team
        if not self._is_finished(done):
            mine = ids[team.rank :: team.world]
            for id in self._trainer.watch(mine, name, len(mine)):
                if not all(self._png(kind, id).is_file() for kind in maps):
                    self._write_maps(id, draw(self._image(id), id))
            team.wait()
            if team.leads:
                write_json(done, {"stage": name, "images": len(ids), "miou": self._hidden_miou(maps[0], ids)})
        self._add_to_record(done, _MapFacts)

    def _claim_folder(self) -> None:
        """Remove the files of another run that used this folder, and torn files of this one."""
        trainer, owner = self._trainer, self.folder / "key"
        if not owner.is_file() or owner.read_bytes() != trainer.key.encode():
            shutil.rmtree(self.folder, ignore_errors=True)
            trainer.checkpointer.remove_states()
            trainer.checkpointer.best.unlink(missing_ok=True)
            write_text(owner, trainer.key)
        for torn in self.folder.rglob(".*"):
            torn.unlink(missing_ok=True)

    def _is_finished(self, done: Path) -> bool:
        """Whether the leader sees the file: on a shared disk the others may see it later. All processes must call."""
        return self._trainer.team.any(self._trainer.team.leads and done.is_file())

    def _add_to_record(self, done: Path, model: type[BaseModel]) -> None:
        """Hand on what is written in `done` to the run's record."""
        self._trainer.team.wait()
        self._trainer.earlier_stages.append(self._read(done, model).model_dump(mode="json"))

    def _facts(self, name: str, plan: Mixture) -> dict[str, Any]:
        """Facts of the training that has just ended, as `_TrainingFacts` reads them."""
        trainer, best = self._trainer, self._trainer.state.best
        assert best is not None  # noqa: S101  the last epoch is always scored
        return {
            "stage": name,
            "labeled": len(plan.labeled),
            "repeats": plan.repeats,
            "unlabeled": len(plan.unlabeled),
            "steps": trainer.steps,
            "best": {"epoch": best.epoch, "select": best.select},
            "history": trainer.state.history,
        }

    def _read(self, path: Path, model: type[Model]) -> Model:
        return read_model(path, model, "file of a stage", "delete it and run again: its stage is done anew")

    def _write(self, path: Path, value: Any) -> None:
        if self._trainer.team.leads:
            write_json(path, value)

    def _image(self, id: str) -> Tensor:
        x = eval_view(self._trainer.dataset.image(id), self._trainer.recipe.views)
        return x[None].to(self._trainer.team.device)

    def _png(self, kind: str, id: str) -> Path:
        return self.folder / kind / f"{id}.png"

    def _write_maps(self, id: str, maps: Mapping[str, Image.Image]) -> None:
        """Write the maps of one image; those of mode P get the dataset's colours."""
        for kind, image in maps.items():
            if image.mode == "P":
                image.putpalette([value for colour in self._trainer.dataset.palette for value in colour])
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            write_bytes(self._png(kind, id), buffer.getvalue())

    def _hidden_miou(self, kind: str, ids: Sequence[str]) -> float | None:
        """mIoU in percent of stored labels against the hidden ones, for the record alone."""
        dataset = self._trainer.dataset
        matrix = torch.zeros(len(dataset.classes), len(dataset.classes), dtype=torch.int64)
        for id in self._trainer.watch(ids, f"{kind} against the hidden labels", len(ids)):
            with Image.open(self._png(kind, id), formats=("PNG",)) as stored:
                label = torch.from_numpy(np.array(stored))
            matrix += confusion(label, torch.from_numpy(np.array(dataset.mask(id))), len(dataset.classes))
        miou = mean_iou(matrix, "left_out")
        return None if math.isnan(miou) else miou


class _StoredNetwork:
    """Networks of a file, read at first use: B C H W images -> logits, in eval mode, without gradient."""

    def __init__(self, like: Method, path: Path, device: torch.device) -> None:
        self._like, self._path, self._device = like, path, device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self._method.predict(x)

    @cached_property
    def _method(self) -> Method:
        method = copy.deepcopy(self._like).requires_grad_(False).eval()
        method.load_state_dict(load_networks(self._path, self._device))
        return method
