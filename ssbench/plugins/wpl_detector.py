"""Training a detector and asking it about images, as a step of a run that may be cut off anywhere and goes on there.

What is learned and found is data in one folder: `detector.pt` (tensors only) and `boxes.json`. Both name what they were
made from, so files of another run that stand there are made anew. The first of several processes works, the others
wait for its boxes.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchvision.models.detection import FasterRCNN

from ssbench.errors import DataError, RunsFailed, Stopped
from ssbench.files import write_bytes, write_text
from ssbench.keyed import key
from ssbench.nets.detector import detect

Examples = Callable[[int], Sequence[tuple[Tensor, Tensor, Tensor]]]
Watch = Callable[[Iterable[Any], str], Iterable[Any]]
SAVE_EVERY = 60.0
"""Seconds between two writes of what a kill would lose; they change no number."""


@dataclass(frozen=True)
class Course:
    """How long and how fast: Adam at a constant rate."""

    iterations: int
    lr: float
    decay: float
    seed: int


@dataclass(frozen=True)
class Stage:
    """One detector of one run. made_from: a digest of all that decides the outcome. device: where it computes."""

    folder: Path
    made_from: str
    device: torch.device
    watch: Watch

    @property
    def _weights(self) -> Path:
        return self.folder / "detector.pt"

    @property
    def _boxes(self) -> Path:
        return self.folder / "boxes.json"

    def train(self, model: FasterRCNN, examples: Examples, course: Course) -> None:
        """Train `model` in place to the end of the course, from wherever the folder stands.

        Raises:
            Stopped: asked to; all is saved. RunsFailed: a loss is not finite. DataError: a damaged file.
        """
        model.to(self.device).train()
        optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], course.lr, weight_decay=course.decay
        )
        done, saved = self._resume(model, optimizer), time.monotonic()
        if done == course.iterations:
            return
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                for step in self.watch(range(done, course.iterations), "detector"):
                    torch.manual_seed(key(course.seed, step, "detector"))  # torchvision samples from the global stream
                    self._step(model, optimizer, examples(step), step)
                    done = step + 1
                    if time.monotonic() - saved > SAVE_EVERY:
                        self._save(model, optimizer, done)
                        saved = time.monotonic()
        except Stopped:
            self._save(model, optimizer, done)
            raise
        self._save(model, None, done)

    def survey(
        self, model: FasterRCNN, ids: Sequence[str], image: Callable[[str], Tensor], classes: Sequence[int]
    ) -> None:
        """Find the boxes of all images `ids` (3 H W in [0, 1] each) and store them, from wherever the folder stands.

        Raises:
            Stopped: asked to; all is saved.
        """
        found, saved = self._stored(), time.monotonic()
        model.to(self.device)
        try:
            for id in self.watch([id for id in ids if id not in found], "boxes"):
                x = image(id)
                found[id] = {"size": [x.shape[2], x.shape[1]], "rows": _rows(detect(model, x.to(self.device)), classes)}
                if time.monotonic() - saved > SAVE_EVERY:
                    self._keep(found, complete=False)
                    saved = time.monotonic()
        except Stopped:
            self._keep(found, complete=False)
            raise
        self._keep(found, complete=True)

    def found(self) -> dict[str, dict[str, Any]] | None:
        """id -> {"size": [width, height], "rows": [[x0, y0, x1, y1, class, score], ...]} once all are found."""
        told = _told(self._boxes)
        return told["images"] if told.get("made_from") == self.made_from and told["complete"] else None

    def wait(self) -> dict[str, dict[str, Any]]:
        """`found`, once the first process has found all boxes. No collective: those give up after minutes."""
        while (found := self.found()) is None:
            time.sleep(1)
        return found

    def _step(
        self, model: FasterRCNN, optimizer: torch.optim.Optimizer, views: Sequence[tuple[Tensor, ...]], step: int
    ) -> None:
        """One update; none where no view shows a box."""
        if not views:
            return
        targets = [{"boxes": boxes.to(self.device), "labels": labels.to(self.device)} for _, boxes, labels in views]
        losses = model([x.to(self.device) for x, _, _ in views], targets)
        loss = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(loss):
            raise RunsFailed(f"the detector's loss of step {step} is not finite", str(self.folder), "lower its rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def _resume(self, model: FasterRCNN, optimizer: torch.optim.Optimizer) -> int:
        """Steps done; model and optimiser as they were then."""
        if not self._weights.is_file():
            return 0
        try:
            state = torch.load(self._weights, map_location=self.device, weights_only=True)
        except Exception as error:  # a damaged archive raises anything
            fix = f"rm '{self._weights}', then run it again"
            raise DataError(f"the detector cannot be read: {error}"[:200], str(self._weights), fix) from error
        if state["made_from"] != self.made_from:
            return 0
        model.load_state_dict(state["model"])
        if state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
        return int(state["step"])

    def _save(self, model: FasterRCNN, optimizer: torch.optim.Optimizer | None, step: int) -> None:
        buffer = io.BytesIO()
        moments = None if optimizer is None else optimizer.state_dict()
        state = {"made_from": self.made_from, "step": step, "model": model.state_dict(), "optimizer": moments}
        torch.save(state, buffer)
        write_bytes(self._weights, buffer.getvalue())

    def _stored(self) -> dict[str, dict[str, Any]]:
        told = _told(self._boxes)
        return dict(told["images"]) if told.get("made_from") == self.made_from else {}

    def _keep(self, found: Mapping[str, Any], complete: bool) -> None:
        told = {"made_from": self.made_from, "complete": complete, "images": found}
        write_text(self._boxes, json.dumps(told, separators=(",", ":")))


def leads() -> bool:
    """Whether this process is the first of those that share the run, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _told(path: Path) -> dict[str, Any]:
    """A stored JSON object; empty where there is none, or none that can be read (it is then found anew)."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _rows(found: tuple[Tensor, Tensor, Tensor], classes: Sequence[int]) -> list[list[float]]:
    """Rows of one image, best first; four decimals are plenty of a pixel and of a score."""
    boxes, labels, scores = (value.tolist() for value in found)
    return [
        [*(round(edge, 4) for edge in box), classes[label - 1], round(score, 4)]
        for box, label, score in zip(boxes, labels, scores, strict=True)
    ]
