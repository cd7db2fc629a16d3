"""Training in stages: several trainings in one run, and what is computed between them, each done once.

A method's `fit` runs from its top whenever a run is resumed. What is finished left files under `stages/` of the run's
folder and is passed over; what was cut off goes on where it was. Every training but the last keeps its checkpoints in
`stages/<name>/`; the last is the run itself. `stages/key` says whose files these are.

    <name>/best.pt, epoch<n>.pt, done.json   networks and history of a training
    <name>.json                              numbers measured image by image, or what became of the stored maps
    <map>/<id>.png                           stored maps
"""

from __future__ import annotations

import copy
import io
import json
import math
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssbench.data.plan import Mixture
from ssbench.errors import RecipeError
from ssbench.files import write_bytes, write_json, write_text
from ssbench.keyed import key
from ssbench.methods.base import Method
from ssbench.ops.confusion import confusion, mean_iou
from ssbench.train import checkpoint
from ssbench.train.keeper import Keeper
from ssbench.views.pipelines import eval_view
from ssbench.views.sample import Maps, Together

if TYPE_CHECKING:
    from ssbench.train.trainer import Trainer

AT_ONCE = 32
"""Images measured between two writes of the file of measurements."""


class Stages:
    """What `methods.base.StagedTraining` promises, for one trainer. Made before anything is trained or resumed."""

    def __init__(self, trainer: Trainer) -> None:
        if not isinstance(trainer.plan, Mixture):
            raise RecipeError("stages read mixtures, which this method's `needs` do not ask for", "method")
        self._trainer, self._plan, self._maps = trainer, trainer.plan, trainer.maps
        self._start = {name: value.detach().cpu().clone() for name, value in trainer.method.state_dict().items()}
        self.labeled, self.unlabeled = trainer.plan.labeled, trainer.plan.unlabeled
        self.epochs, self.folder = trainer.epochs, trainer.folder / "stages"
        if trainer.team.leads:
            self._claim()
        trainer.team.wait()

    def train(
        self, name: str, unlabeled: Sequence[str] = (), repeats: int = 1, maps: Maps | None = None,
        keep: Collection[int] = (), last: bool = False,
    ) -> None:  # fmt: skip
        """See `methods.base.StagedTraining`."""
        trainer, folder = self._trainer, self._trainer.folder if last else self.folder / name
        keeper = Keeper(folder, trainer.key, trainer.team, trainer.bars.write_line, frozenset(keep))
        done = folder / "done.json"
        if last or not self._finished(done):
            seed = key(trainer.seed, "stage", name)
            plan = replace(self._plan, unlabeled=tuple(unlabeled), repeats=repeats, seed=seed)
            both = [source for source in (self._maps, maps) if source is not None]
            trainer.method.load_state_dict(self._start)
            trainer.begin(name, plan, keeper, Together(both) if both else None)
            trainer.train()
            if not last:
                self._write(done, self._told_of(name, plan))
        if not last:
            keeper.forget()
            self._record(done)

    def network(self, stage: str, epoch: int | None = None) -> Callable[[Tensor], Tensor]:
        """See `methods.base.StagedTraining`."""
        name = "best.pt" if epoch is None else f"epoch{epoch}.pt"
        return _Frozen(self._trainer.method, self.folder / stage / name, self._trainer.team.device)

    def measure(self, name: str, ids: Sequence[str], value: Callable[[Tensor], float]) -> dict[str, float]:
        """See `methods.base.StagedTraining`."""
        path, team = self.folder / f"{name}.json", self._trainer.team
        known: dict[str, float] = json.loads(path.read_text())["values"] if path.is_file() else {}
        todo = [id for id in ids if id not in known]
        parts = [todo[at : at + AT_ONCE] for at in range(0, len(todo), AT_ONCE)]
        for part in self._trainer.watch(parts, name, len(parts)):
            found = torch.zeros(len(part), dtype=torch.float64, device=team.device)
            for k in range(team.rank, len(part), team.world):
                found[k] = value(self._image(part[k]))
            known |= dict(zip(part, team.sum(found).tolist(), strict=True))
            self._write(path, {"stage": name, "values": known})
        self._trainer.earlier.append({"stage": name, "images": len(ids), "mean": sum(known.values()) / len(known)})
        return {id: known[id] for id in ids}

    def store(
        self, name: str, ids: Sequence[str], maps: Sequence[str], draw: Callable[[Tensor], Mapping[str, Image.Image]]
    ) -> None:
        """See `methods.base.StagedTraining`."""
        done, team = self.folder / f"{name}.json", self._trainer.team
        if not self._finished(done):
            mine = ids[team.rank :: team.world]
            for id in self._trainer.watch(mine, name, len(mine)):
                if not all(self._png(kind, id).is_file() for kind in maps):
                    self._keep(id, draw(self._image(id)))
            team.wait()
            if team.leads:
                told = {"stage": name, "images": len(ids), "miou": self._against_truth(maps[0], ids)}
                write_json(done, told)
        self._record(done)

    def _claim(self) -> None:
        """Files of another run that stood here before are not taken for this one's; torn ones are removed."""
        trainer, owner = self._trainer, self.folder / "key"
        if not owner.is_file() or owner.read_text() != trainer.key:
            shutil.rmtree(self.folder, ignore_errors=True)
            trainer.keeper.forget()
            trainer.keeper.best.unlink(missing_ok=True)
            write_text(owner, trainer.key)
        for torn in self.folder.rglob(".*"):
            torn.unlink(missing_ok=True)

    def _finished(self, done: Path) -> bool:
        """Whether the file is there, as the leader sees it; all processes must ask."""
        return self._trainer.team.most(int(self._trainer.team.leads and done.is_file())) > 0

    def _record(self, done: Path) -> None:
        """What is written in `done`, handed on to the run's record."""
        self._trainer.team.wait()
        self._trainer.earlier.append(json.loads(done.read_text()))

    def _told_of(self, name: str, plan: Mixture) -> dict[str, Any]:
        """Facts of the training that has just ended."""
        trainer, best = self._trainer, self._trainer.state.best
        assert best is not None  # noqa: S101  the last epoch is always scored
        return {
            "stage": name,
            "labeled": len(plan.labeled),
            "repeats": plan.repeats,
            "unlabeled": len(plan.unlabeled),
            "steps": trainer.steps,
            "best": {"epoch": best["epoch"], "select": best["select"]},
            "history": trainer.state.history,
        }

    def _write(self, path: Path, value: Any) -> None:
        if self._trainer.team.leads:
            write_json(path, value)

    def _image(self, id: str) -> Tensor:
        x = eval_view(self._trainer.dataset.image(id), self._trainer.recipe.views)
        return x[None].to(self._trainer.team.device)

    def _png(self, kind: str, id: str) -> Path:
        return self.folder / kind / f"{id}.png"

    def _keep(self, id: str, drawn: Mapping[str, Image.Image]) -> None:
        """Write the maps of one image; those of mode P get the dataset's colours."""
        for kind, image in drawn.items():
            if image.mode == "P":
                image.putpalette([part for colour in self._trainer.dataset.palette for part in colour])
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            write_bytes(self._png(kind, id), buffer.getvalue())

    def _against_truth(self, kind: str, ids: Sequence[str]) -> float | None:
        """mIoU in percent of stored labels against the hidden ones, for the record alone."""
        dataset = self._trainer.dataset
        matrix = torch.zeros(len(dataset.classes), len(dataset.classes), dtype=torch.int64)
        for id in self._trainer.watch(ids, f"{kind} against the hidden labels", len(ids)):
            with Image.open(self._png(kind, id)) as stored:
                label = torch.from_numpy(np.array(stored))
            matrix += confusion(label, torch.from_numpy(np.array(dataset.mask(id))), len(dataset.classes))
        found = mean_iou(matrix, "left_out")
        return None if math.isnan(found) else found


class _Frozen:
    """Networks as a file has them, read when first used: B C H W images -> logits, in eval mode, without gradient."""

    def __init__(self, like: Method, path: Path, device: torch.device) -> None:
        self._like, self._path, self._device = like, path, device

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        return self._method.predict(x)

    @cached_property
    def _method(self) -> Method:
        made = copy.deepcopy(self._like).requires_grad_(False).eval()
        made.load_state_dict(checkpoint.load(self._path, self._device)["method"])
        return made
