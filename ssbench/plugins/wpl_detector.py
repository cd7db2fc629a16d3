"""WPL's detector: a Faster R-CNN, trained and run over images as a stage of a run that may be killed at any time.

Its results lie in one folder: `detector.pt` (tensors only), `accuracy.json` and `boxes.json`. They name the digest of
all that decides them, so files of another run that lie there are made anew. `boxes.json` says "complete" and is written
last: the stage is done only when all its files are. The first of several processes works, the others wait.
"resnet50_fpn" is what torchvision's builder of that name makes (as WPL's release calls it), but for the source of the
encoder's weights: as everywhere in the suite a file, ImageNet's by name, or none; never those of a detector.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn
from torchvision.models import resnet50
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.rpn import AnchorGenerator, RPNHead
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from ssbench.errors import DataError, RunsFailed, Stopped
from ssbench.files import read_model, write_bytes, write_json, write_text
from ssbench.keyed import key
from ssbench.nets.pretrained import missing_weights as missing_of_encoder
from ssbench.nets.weights import load_encoder
from ssbench.plugins.wpl_boxes import ImageBoxes

Views = Sequence[tuple[Tensor, Tensor, Tensor]]
FROZEN = ("conv1.", "bn1.", "layer1.")
"""What torchvision's builder does not train of a pretrained encoder (its default of three trainable stages)."""
DETECTOR = "resnet50"
"""Its encoder (release: torchvision's Faster R-CNN)."""
SAVE_EVERY = 60.0
"""Seconds between two writes of what a kill would lose; they change no number."""


def faster_rcnn(kind: Literal["resnet50_fpn", "small"], classes: int, weights: str) -> FasterRCNN:
    """A detector of `classes` classes (labels 1..classes, 0 = none), randomly initialised but for its encoder.

    Takes images 3 H W in [0, 1]. weights: "random", "imagenet" (timm, downloads once), or a file. The kind "small" is
    ours, for pictures of about 100 pixels, and always starts from random weights.

    Raises:
        DataError: the weights are absent or misfit.
    """
    if kind == "small":
        return _small(classes)
    body = _pretrained(weights) if weights != "random" else resnet50()
    stages = {f"layer{n}": str(n - 1) for n in (1, 2, 3, 4)}
    return FasterRCNN(BackboneWithFPN(body, stages, [256, 512, 1024, 2048], 256), classes + 1)


def _pretrained(weights: str) -> nn.Module:
    """ResNet-50 with fixed batch norm, its first stage fixed."""
    holder = nn.Module()
    plain = resnet50()
    plain.fc = nn.Identity()
    holder.backbone = plain
    try:
        load_encoder(holder, weights, DETECTOR)
    except DataError as error:  # its own fix is about net.weights, which does not reach the detector
        raise _no_weights(error) from error
    body: nn.Module = resnet50(norm_layer=FrozenBatchNorm2d)
    body.fc = nn.Identity()
    body.load_state_dict(plain.state_dict())
    for name, value in body.named_parameters():
        value.requires_grad_(not name.startswith(FROZEN))
    return body


def missing_weights(weights: str) -> Iterator[DataError]:
    """What a run would look for of the encoder's weights and this machine has not; no network is asked."""
    if (missing := missing_of_encoder(DETECTOR, weights)) is not None:
        yield _no_weights(missing)


def _no_weights(missing: DataError) -> DataError:
    """The error with the detector's own setting: `net.weights` does not reach it."""
    # What is missing says where its file lies; of a path that the user gave there is no such place.
    source = f" (a download of {missing.where})" if missing.where != "net.weights" else ""
    fix = f"--set plugin.detector_weights=FILE{source}, or --set plugin.detector_weights=random"
    return type(missing)(f"wpl's detector: {missing.what}", "plugin.detector_weights", fix)


class _SmallBackbone(nn.Module):
    """x [B, 3, H, W] -> one map [B, 96, H / 8, W / 8]."""

    out_channels = 96

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for wide, out, stride in ((3, 24, 2), (24, 48, 2), (48, 96, 2), (96, 96, 1)):
            conv = nn.Conv2d(wide, out, 3, stride, 1, bias=False)
            layers += [conv, nn.GroupNorm(8, out), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x)
        return out


def _small(classes: int) -> FasterRCNN:
    """Pictures of 96 pixels (the short side), one map, small heads and samples."""
    anchors = AnchorGenerator(sizes=((16, 32, 48, 64),), aspect_ratios=((0.5, 1.0, 2.0),))
    wide = _SmallBackbone.out_channels
    return FasterRCNN(
        _SmallBackbone(),
        min_size=96,
        max_size=256,
        rpn_anchor_generator=anchors,
        rpn_head=RPNHead(wide, anchors.num_anchors_per_location()[0]),
        rpn_pre_nms_top_n_train=300,
        rpn_post_nms_top_n_train=100,
        rpn_pre_nms_top_n_test=300,
        rpn_post_nms_top_n_test=100,
        rpn_batch_size_per_image=64,
        box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
        box_head=TwoMLPHead(wide * 25, 128),
        box_predictor=FastRCNNPredictor(128, classes + 1),
        box_batch_size_per_image=64,
    )


@torch.no_grad()
def detect(model: FasterRCNN, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n 4 boxes in the image's pixels, n labels, n scores in [0, 1]) of one image 3 H W, in eval mode, on the CPU.

    torchvision's own rules: scores above 0.05, NMS at 0.5, at most 100 boxes, best first.
    """
    model.eval()
    result = model([image])[0]
    return result["boxes"].cpu(), result["labels"].cpu(), result["scores"].cpu()


class BoxesFile(BaseModel):
    """`boxes.json`: the boxes of every image looked at so far, and the digest of what decided them."""

    model_config = ConfigDict(extra="forbid")
    made_from: str
    complete: bool
    images: dict[str, ImageBoxes]


@dataclass(frozen=True)
class DetectorSchedule:
    """How long and how fast a detector trains: Adam at a constant rate."""

    iterations: int
    lr: float
    decay: float
    seed: int


@dataclass(frozen=True)
class DetectorStage:
    """The detector of one run. made_from: digest of all that decides the outcome. device: where it computes."""

    folder: Path
    made_from: str
    device: torch.device
    progress: Callable[[Iterable[Any], str], Iterable[Any]]

    @property
    def _weights(self) -> Path:
        return self.folder / "detector.pt"

    @property
    def _boxes(self) -> Path:
        return self.folder / "boxes.json"

    @property
    def _accuracy(self) -> Path:
        return self.folder / "accuracy.json"

    def train(self, model: FasterRCNN, views: Callable[[int], Views], schedule: DetectorSchedule) -> None:
        """Train `model` in place to the end of the schedule, from wherever the folder stands.

        Args:
            views: training step -> views 3 H W in [0, 1] with n 4 boxes and n labels; may be empty.

        Raises:
            Stopped: all is saved. RunsFailed: a loss is not finite. DataError: a damaged file.
        """
        model.to(self.device).train()
        optimizer = torch.optim.Adam(
            [p for p in model.parameters() if p.requires_grad], schedule.lr, weight_decay=schedule.decay
        )
        done, saved = self._resume(model, optimizer), time.monotonic()
        if done == schedule.iterations:
            return
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                for step in self.progress(range(done, schedule.iterations), "detector"):
                    torch.manual_seed(key(schedule.seed, step, "detector"))  # torchvision draws from the global stream
                    self._step(model, optimizer, views(step), step)
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
    ) -> dict[str, ImageBoxes]:
        """The boxes of all images `ids` (3 H W in [0, 1] each), stored, from wherever the folder stands.

        Raises:
            Stopped: all is saved.
        """
        file = self._read()
        boxes, saved = dict(file.images) if file else {}, time.monotonic()
        model.to(self.device)
        try:
            for id in self.progress([id for id in ids if id not in boxes], "boxes"):
                x = image(id)
                rows = _rows(detect(model, x.to(self.device)), classes)
                boxes[id] = ImageBoxes.model_validate({"size": (x.shape[2], x.shape[1]), "rows": rows})
                if time.monotonic() - saved > SAVE_EVERY:
                    self._write(boxes, complete=False)
                    saved = time.monotonic()
        except Stopped:
            self._write(boxes, complete=False)
            raise
        self._write(boxes, complete=False)
        return boxes

    def finish(self, boxes: Mapping[str, ImageBoxes], accuracy: Mapping[str, Any]) -> None:
        """Write `accuracy.json`, then the boxes as complete: a kill between the two repeats only this."""
        write_json(self._accuracy, accuracy)
        self._write(boxes, complete=True)

    def boxes(self) -> dict[str, ImageBoxes] | None:
        """The boxes of every image by id; None while the stage is not done."""
        file = self._read()
        return file.images if file and file.complete and self._accuracy.is_file() else None

    def wait_for_boxes(self) -> dict[str, ImageBoxes]:
        """`boxes`, once the first process is done. No collective: those give up after minutes."""
        while (boxes := self.boxes()) is None:
            time.sleep(1)
        return boxes

    def _step(self, model: FasterRCNN, optimizer: torch.optim.Optimizer, views: Views, step: int) -> None:
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
            if state["made_from"] != self.made_from:
                return 0
            model.load_state_dict(state["model"])
            if state["optimizer"] is not None:
                optimizer.load_state_dict(state["optimizer"])
            return int(state["step"])
        except Exception as error:  # a damaged archive raises anything
            fix = f"rm '{self._weights}', then run it again"
            raise DataError(f"the detector cannot be read: {error}"[:200], str(self._weights), fix) from error

    def _save(self, model: FasterRCNN, optimizer: torch.optim.Optimizer | None, step: int) -> None:
        buffer = io.BytesIO()
        moments = None if optimizer is None else optimizer.state_dict()
        state = {"made_from": self.made_from, "step": step, "model": model.state_dict(), "optimizer": moments}
        torch.save(state, buffer)
        write_bytes(self._weights, buffer.getvalue())

    def _read(self) -> BoxesFile | None:
        """The boxes stored so far; None where there are none, or none of this detector, or a damaged file."""
        if not self._boxes.is_file():
            return None
        try:
            file = read_model(self._boxes, BoxesFile, "file of boxes", "none: it is written anew")
        except DataError:  # boxes follow from the detector, so they are sought again
            return None
        return file if file.made_from == self.made_from else None

    def _write(self, boxes: Mapping[str, ImageBoxes], complete: bool) -> None:
        images = {id: image.model_dump() for id, image in boxes.items()}
        content = {"made_from": self.made_from, "complete": complete, "images": images}
        write_text(self._boxes, json.dumps(content, separators=(",", ":")))


def is_first_process() -> bool:
    """Whether this process is the first of those that share the run, or the only one."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _rows(result: tuple[Tensor, Tensor, Tensor], classes: Sequence[int]) -> list[tuple[float, ...]]:
    """Rows of one image, best first; four decimals are enough for a pixel and for a score."""
    boxes, labels, scores = (value.tolist() for value in result)
    return [
        (*(round(edge, 4) for edge in box), classes[label - 1], round(score, 4))
        for box, label, score in zip(boxes, labels, scores, strict=True)
    ]
