"""WPL: a pixel's strongest features, compared with its class's, weigh its pseudo-label; a detector vouches for classes.

Paper: "Weighting Pseudo-Labels via High-Activation Feature Index Similarity and Object Detection for Semi-Supervised
Segmentation", ECCV 2024, Secs. 3.3-3.4, supplement Secs. 1 and 5. Checked against: its release, repository
cvlab-stonybrook/Weighting-Pseudo-Labels (UniMatch host on Cityscapes only).
variant: "paper" = W = s / k, L_u divided by pixels (Eq. 5), one memory of 256 rows a class; "release" = W = s / k + 1,
divided by the sum of W, a memory each for labelled and unlabelled pixels. Each part can be set alone (card: wpl 5, 6).
Where the paper is silent, both variants have the release's: labelled pixels must be predicted right with more than
0.95, reliable ones need 0.95 whatever the host's threshold is, few random pixels an image go in, the host keeps its own
weight of L_u (card: wpl 3, 4). Readings that are ours (card: wpl 7): of equal features the first ranks higher; pasted
labelled pixels weigh most and enter no memory; without the detector prototypes come from labelled pixels alone.
Departures: one memory for all processes, fed by random pixels of the whole batch, so that their number changes nothing
(release: one a process, fed by its own images); weights see the memory as the step before left it (release: as this
step leaves it, two or three pixels an image and class newer); the detector has a fixed number of iterations and the
last weights count (release: 3000 epochs, the epoch of the lowest training loss); its boxes come from semantic
components on all data sets, as the paper says (release: from instance files for things).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from ssbench.errors import DataError, RecipeError
from ssbench.keyed import key
from ssbench.nets.precision import full
from ssbench.nets.segnet import Out, resize
from ssbench.ops import prototypes
from ssbench.ops.class_memory import Memory, quota, sample
from ssbench.ops.components import accuracy, component_boxes
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import (
    Count,
    LossScale,
    MixedView,
    Plugin,
    PluginConfig,
    PrepareInputs,
    Share,
    StepOutputs,
    Weight,
)
from ssbench.plugins.wpl_boxes import BoxMaps, DetectorAugment, DetectorExamples, ImageBoxes, in_own_box, rgb, tensor
from ssbench.plugins.wpl_detector import DetectorSchedule, DetectorStage, faster_rcnn, is_first_process, missing_weights

CITYSCAPES = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # supplement Sec. 1: lights, signs, people, riders, vehicles
CAMVID = (6, 8, 9, 10)  # ours, after Cityscapes': signs, cars, pedestrians, bicyclists
LABELED, UNLABELED = 0, 1  # banks of the memory
CHECKED_IMAGES = 500
"""Unlabelled images whose boxes are compared with their hidden labels; ours."""
BoxClasses = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]


class WPL(Plugin):
    """L_u = mean of W CE (Eqs. 5-6), W_i = |top_k(f_i) and top_k(prototype of the pseudo-label)| / k."""

    zero: ClassVar = {"rppi": False, "ppw": False}
    quick: ClassVar = {
        **{"detector": "small", "detector_weights": "random", "detector_iterations": 4, "detector_batch": 2},
        **{"detector_lr": 1e-3, "detector_resize": None, "detector_crop": None, "box_score": 0.05, "confidence": 0.3},
    }
    one_student: ClassVar = True

    class Config(PluginConfig):
        """Settings; None: as the variant has it."""

        added: ClassVar = {"box_edges": "centres"}
        name: Literal["wpl"] = "wpl"
        variant: Literal["paper", "release"] = "paper"
        rppi: bool = True  # Table 3: the detector; off: prototypes of labelled pixels alone (ours)
        ppw: bool = True  # Table 3: the weights
        k: Count = 5  # Sec. 4.1, Fig. 7
        similarity: Literal["rank", "cosine", "euclidean"] = "rank"  # Sec. 3.4; Fig. 6, supplement Fig. 3
        weight_offset: Weight | None = None  # Sec. 3.4: 0; release 1
        divisor: Literal["pixels", "weights"] | None = None  # Eq. 5: pixels; release: weights
        alpha: Weight = 1.0  # Eq. 7; release: the host's own weight of L_u; supplement Table 2: 0.4 is best
        memory_size: Count = 256  # supplement Table 4: rows of a class
        memory: Literal["one", "two"] | None = None  # supplement Sec. 5: one; release: labelled and unlabelled apart
        samples: Count | None = None  # pixels of a class and image a step; None: by the release's rule
        confidence: Share = 0.95  # release, whatever the host's threshold is
        features: Literal["full", "native"] = "full"  # release: upsampled to the image; native: ours, less memory
        box_score: Share = 0.85  # Sec. 4.1: VOC; Cityscapes 0.95
        box_edges: Literal["centres", "inclusive"] = "centres"  # pixels of a box; release: inclusive
        box_classes: BoxClasses | None = None  # supplement Sec. 1: Cityscapes' ten, VOC's twenty: see `things`
        min_area: int = Field(90, ge=0)  # release: components of so few pixels are dropped
        detector: Literal["resnet50_fpn", "small"] = "resnet50_fpn"  # release; small: ours, for toys
        detector_weights: Annotated[str, Field(min_length=1)] = "imagenet"  # release: encoder only; "random", or a file
        detector_iterations: Count = 90_000  # ours; release: 3000 epochs, 560,000 for 186 images
        detector_batch: Count = 1  # release
        detector_lr: float = Field(5e-5, gt=0)  # release: Adam, constant
        detector_decay: Weight = 5e-4  # release
        detector_resize: tuple[Count, Count] | None = None  # ours; release on Cityscapes: height 512, width 1024
        detector_crop: Count | None = 512  # release on Cityscapes; null: whole images
        detector_flip: Share = 0.7  # release
        detector_colour: Share = 0.6  # release: chance of another brightness and contrast

        @model_validator(mode="after")
        def _fits(self) -> WPL.Config:
            if self.rppi and not self.ppw:
                raise ValueError("reliable pixels (rppi) serve the weights (ppw) alone: --set plugin.rppi=false")
            if self.detector == "small" and self.detector_weights != "random":
                raise ValueError("the small detector has no weights to load: --set plugin.detector_weights=random")
            if self.box_classes and len(set(self.box_classes)) < len(self.box_classes):
                raise ValueError(f"box_classes {list(self.box_classes)} hold one twice")
            return self

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        release = cfg.variant == "release"
        self.offset = float(release) if cfg.weight_offset is None else cfg.weight_offset
        self.apart = (cfg.memory or ("two" if release else "one")) == "two"
        self.memory = Memory(1 + self.apart, classes, cfg.memory_size)
        self.samples = cfg.samples or 1
        self.things = things(cfg.box_classes, classes)

    @classmethod
    def missing_files(cls, cfg: Config) -> Iterator[DataError]:
        """The detector's encoder, where it is trained and starts from weights."""
        if cfg.rppi and cfg.detector != "small":
            yield from missing_weights(cfg.detector_weights)

    @classmethod
    def is_absolute(cls, cfg: Config) -> bool:
        """Eq. 5 divides by pixels, the release by the sum of the weights."""
        default = "weights" if cfg.variant == "release" else "pixels"
        return bool(cfg.ppw and (cfg.divisor or default) == "pixels")

    @classmethod
    def check(cls, cfg: Config, classes: int) -> None:
        """Some classes must have boxes, whether the detector is used or not."""
        if classes == 1:
            what = (
                "wpl looks for boxes of things before a background, and the dataset has one class: nothing to segment"
            )
            raise RecipeError(what, "plugin", "a dataset of two classes or more, or no plug-in")
        if not (chosen := things(cfg.box_classes, classes)) or max(chosen) >= classes:
            what = f"wpl: box_classes {list(chosen)}, and the dataset's classes are 0 to {classes - 1}"
            usual = ",".join(map(str, things(None, classes)))
            raise RecipeError(what, "plugin.box_classes", f"--set 'plugin.box_classes=[{usual}]'")

    def prepare(self, run: PrepareInputs) -> None:
        """Train the detector on the labelled split, find the boxes of the unlabelled images, hand them on as maps."""
        share = 1.0 if self.classes == 19 else self.classes / 3  # the release has a rule each for Cityscapes and VOC
        self.samples = self.cfg.samples or quota(self.cfg.memory_size, len(run.unlabeled), share)
        if not self.cfg.rppi:
            return
        stage = DetectorStage(run.folder / "detector", self._digest(run), self.memory.count.device, run.progress)
        if (boxes := stage.boxes()) is None:
            boxes = self._detect(run, stage) if is_first_process() else stage.wait_for_boxes()
        run.maps.append(BoxMaps(boxes, self.things, self.cfg.box_score, frozenset(run.labeled), self.cfg.box_edges))

    def _digest(self, run: PrepareInputs) -> str:
        """Hex digest of all that decides which boxes are found."""
        names = ("min_area", *(n for n in type(self.cfg).model_fields if n.startswith("detector")))
        facts = [{n: getattr(self.cfg, n) for n in names}, self.things, run.seed, [*run.labeled], [*run.unlabeled]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _detect(self, run: PrepareInputs, stage: DetectorStage) -> dict[str, ImageBoxes]:
        """Train the detector, run it over the unlabelled images, judge it; each continues where a kill stopped it."""
        cfg, of_labels = self.cfg, {}
        for id in run.progress(run.labeled, "boxes of labels"):
            of_labels[id] = component_boxes(np.array(run.mask(id)), self.things, cfg.min_area)
        shown = [id for id in run.labeled if len(of_labels[id])]
        if not shown:
            area, classes = cfg.min_area, list(self.things)
            what = f"wpl: no labelled image has a part of more than {area} pixels of classes {classes}"
            raise RecipeError(
                what, "plugin", "--set plugin.rppi=false, or other classes: --set 'plugin.box_classes=[...]'"
            )
        augment = DetectorAugment(cfg.detector_resize, cfg.detector_crop, cfg.detector_flip, cfg.detector_colour)
        examples = DetectorExamples(shown, of_labels, self.things, run.image, augment, cfg.detector_batch, run.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(run.seed, "weights", "detector"))
            model = faster_rcnn(cfg.detector, len(self.things), cfg.detector_weights)
        schedule = DetectorSchedule(cfg.detector_iterations, cfg.detector_lr, cfg.detector_decay, run.seed)
        stage.train(model, examples, schedule)
        boxes = stage.survey(model, run.unlabeled, lambda id: tensor(rgb(run.image(id))), self.things)
        stage.finish(boxes, self._accuracy(run, boxes))
        return boxes

    def _accuracy(self, run: PrepareInputs, boxes: dict[str, ImageBoxes]) -> dict[str, Any]:
        """For people: how many accepted boxes are right by the hidden labels, which nothing else here looks at."""
        pairs = []
        for id in run.progress(run.unlabeled[:CHECKED_IMAGES], "boxes against hidden labels"):
            rows = [row[:5] for row in boxes[id].rows if row[5] >= self.cfg.box_score]
            truth = component_boxes(np.array(run.mask(id)), self.things, self.cfg.min_area)
            pairs.append((np.array(rows).reshape(-1, 5), truth))
        counts = accuracy(pairs, self.things)
        by_class = {str(c): dict(zip(("boxes", "right"), n, strict=True)) for c, n in counts.items()}
        return {"images": len(pairs), "score": self.cfg.box_score, "iou": 0.8, "classes": by_class}

    def scale(self, t: Progress) -> LossScale:
        """alpha of Eq. 7."""
        return LossScale(unlabeled=self.cfg.alpha)

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Attach what of the teacher's features is compared, so that it is mixed along. Boxes come with the batch."""
        if not self.cfg.ppw or "penultimate" not in pseudo.feats:
            return pseudo
        return pseudo.with_carry(wpl=self._ranked(pseudo.feats["penultimate"], pseudo.label.shape[-2:]))

    @torch.no_grad()
    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """W of Eq. 6, B H W; the largest where pasted ground truth is (card: wpl 7)."""
        if not self.cfg.ppw:
            return None
        pseudo = mixed.pseudo
        ranked = pseudo.carry.get("wpl")
        if ranked is None:  # another plug-in's mix dropped it
            ranked = self._ranked(teach(mixed.weak).feats["penultimate"], pseudo.label.shape[-2:])
        likeness = self._likeness(ranked, pseudo.label).to(pseudo.conf.dtype)
        weight: Tensor = self.offset + torch.where(pseudo.trusted_mask(), 1.0, likeness)
        return weight

    @torch.no_grad()
    def loss(self, outputs: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """No term: the memory takes in labelled pixels, then reliable ones of each strong view (Secs. 3.3, 3.4)."""
        if not self.cfg.ppw:
            return {}
        conf, label = outputs.labeled.logits.softmax(1).max(1)
        sure = (label == outputs.batch.labeled.y) & (conf > self.cfg.confidence)
        self._insert(LABELED, outputs.labeled, label, sure, "labeled", t)
        for view in outputs.views if self.cfg.rppi else ():
            if view.name != "fp":  # the feature-perturbed view is no strong view (card: wpl 4)
                bank, reliable = UNLABELED if self.apart else LABELED, self._reliable(view.pseudo)
                self._insert(bank, view.out, view.pseudo.label, reliable, view.name, t)
        return {}

    def _reliable(self, pseudo: Pseudo) -> Tensor:
        """B H W bool: a box of the label's class covers the pixel, and the teacher is sure (criteria of Sec. 3.3)."""
        boxed, sure = in_own_box(pseudo.carry, pseudo.label, self.things), torch.ge(pseudo.conf, self.cfg.confidence)
        return boxed & sure & pseudo.valid & ~pseudo.trusted_mask()

    def _insert(self, bank: int, out: Out, label: Tensor, inside: Tensor, source: str, t: Progress) -> None:
        """Random pixels `inside` (B H W) of each class, in front of the bank's."""
        feats = full(out.feats["penultimate"])
        rows = sample(feats, label, inside, self.classes, self.samples, f"wpl memory {source}", t)
        self.memory.insert(bank, *rows)

    def _ranked(self, features: Tensor, size: Any) -> Tensor:
        """What of teacher features (B D h w) is compared, at image size: the places of the k largest (B k H W int16),
        or with other similarities the features themselves (B D H W)."""
        by_rank, features = self.cfg.similarity == "rank", full(features)
        if self.cfg.features == "native":
            ranked = prototypes.top_channels(features, self.cfg.k) if by_rank else features
            return resize(ranked.float(), size, "nearest").to(ranked.dtype)
        features = features.contiguous(memory_format=torch.channels_last)  # some ten times faster on a CPU
        wide = (resize(image[None], size) for image in features)  # one by one: D maps of image size are large
        return torch.cat([prototypes.top_channels(image, self.cfg.k) if by_rank else image for image in wide])

    def _likeness(self, ranked: Tensor, label: Tensor) -> Tensor:
        """B H W in [0, 1]: likeness to the prototype of the label, 0 where the class has none (Sec. 3.4)."""
        means, known = self.memory.means()
        if not means.numel():  # nothing has been stored yet
            return torch.zeros_like(label, dtype=torch.float32)
        if self.cfg.similarity == "rank":
            member = prototypes.prototype_channels(means, known, self.cfg.k)
            share: Tensor = prototypes.count_shared(ranked, label, member) / self.cfg.k  # s / k
            return share
        measure = prototypes.cosine if self.cfg.similarity == "cosine" else prototypes.euclidean
        return measure(ranked, label, means, known)


def things(box_classes: tuple[int, ...] | None, classes: int) -> tuple[int, ...]:
    """The classes that have boxes: as set, else Cityscapes' ten, VOC's twenty or CamVid's four by their number."""
    known = {19: CITYSCAPES, 11: CAMVID}.get(classes, tuple(range(1, classes)))
    return known if box_classes is None else box_classes
