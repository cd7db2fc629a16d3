"""WPL: a pixel's strongest features, compared with its class's, weigh its pseudo-label; a detector vouches for classes.

Paper: "Weighting Pseudo-Labels via High-Activation Feature Index Similarity and Object Detection for Semi-Supervised
Segmentation", ECCV 2024, Secs. 3.3-3.4, supplement Secs. 1 and 5. Checked against: its release, repository
cvlab-stonybrook/Weighting-Pseudo-Labels (UniMatch host on Cityscapes only; specs: wpl 1-5, 7, 9).
variant: "paper" = W = s / k, L_u divided by pixels (Eq. 5), one memory of 256 rows a class; "release" = W = s / k + 1,
divided by the sum of W, a memory each for labelled and unlabelled pixels. Each part can be set alone.
Where the paper is silent, both variants have the release's: labelled pixels must be predicted right with more than
0.95, reliable ones need 0.95 whatever the host's threshold is, few random pixels an image go in, the host keeps its own
weight of L_u. Readings that are ours (specs: wpl 10): of equal features the first ranks higher (A2); pasted labelled
pixels weigh most and enter no memory (A3); without the detector prototypes come from labelled pixels alone (A5).
Departures: weights see the memory as the step before left it (release: as this step leaves it, two or three pixels an
image and class newer); the detector has a fixed number of iterations and the last weights count (release: 3000 epochs,
the epoch of the lowest training loss); its boxes come from semantic components on all data sets, as the paper says.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from ssbench.data.boxmaps import BoxMaps, agreed
from ssbench.data.detection import Augment, Examples, rgb, tensor
from ssbench.errors import RecipeError
from ssbench.files import write_json
from ssbench.keyed import key
from ssbench.nets.detector import faster_rcnn
from ssbench.nets.segnet import Out, resize
from ssbench.ops import prototypes
from ssbench.ops.class_memory import Memory, quota, sample
from ssbench.ops.components import accuracy, component_boxes
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin, PluginConfig, PrepareInputs, StepOutputs
from ssbench.plugins.wpl_detector import Course, Stage, leads

CITYSCAPES = (6, 7, 11, 12, 13, 14, 15, 16, 17, 18)  # supplement Sec. 1: lights, signs, people, riders, vehicles
CAMVID = (6, 8, 9, 10)  # ours, after Cityscapes': signs, cars, pedestrians, bicyclists
LABELED, UNLABELED = 0, 1
JUDGED = 500
"""Unlabelled images whose boxes are compared with their hidden labels; ours."""


class WPL(Plugin):
    """L_u = mean of W CE, W_i = |top_k(f_i) and top_k(prototype of the pseudo-label)| / k (Eqs. 5-6)."""

    zero: ClassVar = {"rppi": False, "ppw": False}
    quick: ClassVar = {
        **{"detector": "small", "detector_weights": "random", "detector_iterations": 4, "detector_batch": 2},
        **{"detector_lr": 1e-3, "detector_resize": None, "detector_crop": None, "box_score": 0.05, "confidence": 0.3},
    }
    one_student: ClassVar = True

    class Config(PluginConfig):
        """Settings; None: as the variant has it."""

        name: Literal["wpl"] = "wpl"
        variant: Literal["paper", "release"] = "paper"
        rppi: bool = True  # Table 3: the detector; off: prototypes of labelled pixels alone (specs: wpl A5)
        ppw: bool = True  # Table 3: the weights
        k: int = Field(5, ge=1)  # Sec. 4.1, Fig. 7
        similarity: Literal["rank", "cosine", "euclidean"] = "rank"  # Sec. 3.4; Fig. 6, supplement Fig. 3
        weight_offset: float | None = Field(None, ge=0)  # Sec. 3.4: 0; release 1
        divisor: Literal["pixels", "weights"] | None = None  # Eq. 5: pixels; release: weights
        alpha: float = Field(1.0, ge=0)  # release: the host's own weight of L_u; supplement Table 2: 0.4 is best
        memory_size: int = Field(256, ge=1)  # supplement Table 4: rows of a class
        memory: Literal["one", "two"] | None = None  # supplement Sec. 5: one; release: labelled and unlabelled apart
        samples: int | None = Field(None, ge=1)  # pixels of a class and image a step; None: by the release's rule
        confidence: float = 0.95  # release, whatever the host's threshold is
        features: Literal["full", "native"] = "full"  # release: upsampled to the image; native: ours, less memory
        box_score: float = 0.85  # Sec. 4.1: VOC; Cityscapes 0.95
        box_classes: tuple[int, ...] | None = None  # supplement Sec. 1: Cityscapes' ten, VOC's twenty: see `_things`
        min_area: int = 90  # release: components of so few pixels are dropped
        detector: Literal["resnet50_fpn", "small"] = "resnet50_fpn"  # release; small: ours, for toys
        detector_weights: str = "imagenet"  # release: encoder only; "random", or a file
        detector_iterations: int = Field(90_000, ge=1)  # ours; release: 3000 epochs, 560,000 for 186 images
        detector_batch: int = Field(1, ge=1)  # release
        detector_lr: float = 5e-5  # release: Adam, constant
        detector_decay: float = 5e-4  # release
        detector_resize: tuple[int, int] | None = None  # ours; release on Cityscapes: height 512, width 1024
        detector_crop: int | None = 512  # release on Cityscapes; null: whole images
        detector_flip: float = 0.7  # release
        detector_colour: float = 0.6  # release: chance of another brightness and contrast

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        if cfg.rppi and not cfg.ppw:
            raise RecipeError("wpl: reliable pixels (rppi) serve weights (ppw) alone", "plugin", "set rppi: false")
        release = cfg.variant == "release"
        self.offset = float(release) if cfg.weight_offset is None else cfg.weight_offset
        self.absolute = cfg.ppw and (cfg.divisor or ("weights" if release else "pixels")) == "pixels"
        self.apart = (cfg.memory or ("two" if release else "one")) == "two"
        self.memory = Memory(1 + self.apart, classes, cfg.memory_size)
        self.most = cfg.samples or 1
        self.things = self._things()

    def _things(self) -> tuple[int, ...]:
        """The classes that have boxes: as set, or known for this many classes, or all but the first."""
        known = {19: CITYSCAPES, 11: CAMVID}.get(self.classes, tuple(range(1, self.classes)))
        chosen: tuple[int, ...] = known if self.cfg.box_classes is None else self.cfg.box_classes
        if not chosen or not set(chosen) <= set(range(self.classes)):
            what = f"wpl: box_classes {list(chosen)} of {self.classes} classes"
            raise RecipeError(what, "plugin", f"choose from 0 to {self.classes - 1}, or set rppi: false")
        return chosen

    def prepare(self, run: PrepareInputs) -> None:
        """Train the detector on the labelled split, find the boxes of the unlabelled images, hand them on as maps."""
        share = 1.0 if self.classes == 19 else self.classes / 3  # the release has a rule each for Cityscapes and VOC
        self.most = self.cfg.samples or quota(self.cfg.memory_size, len(run.unlabeled), share)
        if not self.cfg.rppi:
            return
        stage = Stage(run.folder / "detector", self._made_from(run), self.memory.count.device, run.progress)
        if stage.found() is None and leads():
            self._detect(run, stage)
        run.maps.append(BoxMaps(stage.wait(), self.things, self.cfg.box_score, frozenset(run.labeled)))

    def _made_from(self, run: PrepareInputs) -> str:
        """A digest of all that decides which boxes are found."""
        names = ("min_area", *(n for n in type(self.cfg).model_fields if n.startswith("detector")))
        facts = [{n: getattr(self.cfg, n) for n in names}, self.things, run.seed, [*run.labeled], [*run.unlabeled]]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def _detect(self, run: PrepareInputs, stage: Stage) -> None:
        """The detector's training and its look at the unlabelled images; both go on where they were cut off."""
        cfg, boxes = self.cfg, {}
        for id in run.progress(run.labeled, "boxes of labels"):
            boxes[id] = component_boxes(np.array(run.mask(id)), self.things, cfg.min_area)
        shown = [id for id in run.labeled if len(boxes[id])]
        if not shown:
            what = (
                f"wpl: no labelled image has a part of more than {cfg.min_area} pixels of classes {list(self.things)}"
            )
            raise RecipeError(what, "plugin", "set rppi: false, or other box_classes")
        augment = Augment(cfg.detector_resize, cfg.detector_crop, cfg.detector_flip, cfg.detector_colour)
        examples = Examples(shown, boxes, self.things, run.image, augment, cfg.detector_batch, run.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(key(run.seed, "weights", "detector"))
            model = faster_rcnn(cfg.detector, len(self.things), cfg.detector_weights)
        stage.train(model, examples, Course(cfg.detector_iterations, cfg.detector_lr, cfg.detector_decay, run.seed))
        stage.survey(model, run.unlabeled, lambda id: tensor(rgb(run.image(id))), self.things)
        self._judge(run, stage)

    def _judge(self, run: PrepareInputs, stage: Stage) -> None:
        """For people: how many accepted boxes are right by the hidden labels, which nothing else here looks at."""
        found, pairs = stage.wait(), []
        for id in run.progress(run.unlabeled[:JUDGED], "boxes against hidden labels"):
            rows = [row[:5] for row in found[id]["rows"] if row[5] >= self.cfg.box_score]
            truth = component_boxes(np.array(run.mask(id)), self.things, self.cfg.min_area)
            pairs.append((np.array(rows).reshape(-1, 5), truth))
        told = {str(c): dict(zip(("boxes", "right"), n, strict=True)) for c, n in accuracy(pairs, self.things).items()}
        facts = {"images": len(pairs), "score": self.cfg.box_score, "iou": 0.8, "classes": told}
        write_json(run.folder / "detector" / "accuracy.json", facts)

    def scale(self, t: Progress) -> LossScale:
        """alpha of Eq. 7."""
        return LossScale(unlabeled=self.cfg.alpha)

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """What the teacher's features say of every pixel, to be mixed along; boxes come with the batch."""
        if not self.cfg.ppw or "penultimate" not in pseudo.feats:
            return pseudo
        return pseudo.with_carry(wpl=self._looked_at(pseudo.feats["penultimate"], pseudo.label.shape[-2:]))

    @torch.no_grad()
    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """W of Eq. 6; the largest where pasted ground truth is (specs: wpl 7)."""
        if not self.cfg.ppw:
            return None
        pseudo = mixed.pseudo
        looked = pseudo.carry.get("wpl")
        if looked is None:  # another plug-in's mix
            looked = self._looked_at(teach(mixed.weak).feats["penultimate"], pseudo.label.shape[-2:])
        alike = self._alike(looked, pseudo.label).to(pseudo.conf.dtype)
        weight: Tensor = self.offset + torch.where(pseudo.trusted_mask(), 1.0, alike)
        return weight

    @torch.no_grad()
    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """No term: the memory takes in labelled pixels, then reliable ones of each strong view (Sec. 3.3)."""
        if not self.cfg.ppw:
            return {}
        conf, label = seen.labeled.logits.softmax(1).max(1)
        sure = (label == seen.batch.labeled.y) & (conf > self.cfg.confidence)
        self._insert(LABELED, seen.labeled, label, sure, "labeled", t)
        for view in seen.views if self.cfg.rppi else ():
            if view.name != "fp":  # what is perturbed is no strong view (specs: wpl 4)
                bank, reliable = UNLABELED if self.apart else LABELED, self._reliable(view.pseudo)
                self._insert(bank, view.out, view.pseudo.label, reliable, view.name, t)
        return {}

    def _reliable(self, pseudo: Pseudo) -> Tensor:
        """B H W bool: a box of the label's class is there and the teacher is sure (Sec. 3.3)."""
        boxed, sure = agreed(pseudo.carry, pseudo.label, self.things), torch.ge(pseudo.conf, self.cfg.confidence)
        return boxed & sure & pseudo.valid & ~pseudo.trusted_mask()

    def _insert(self, bank: int, out: Out, label: Tensor, inside: Tensor, which: str, t: Progress) -> None:
        feats = out.feats["penultimate"]
        self.memory.insert(bank, *sample(feats, label, inside, self.classes, self.most, f"wpl memory {which}", t))

    def _looked_at(self, features: Tensor, size: Any) -> Tensor:
        """What of teacher features (B D h w) is compared, at image size: the places of the largest (B k H W int16), or
        the features themselves."""
        ranked = self.cfg.similarity == "rank"
        if self.cfg.features == "native":
            found = prototypes.top_channels(features, self.cfg.k) if ranked else features
            return resize(found.float(), size, "nearest").to(found.dtype)
        features = features.contiguous(memory_format=torch.channels_last)  # some ten times faster on a CPU
        wide = (resize(one[None], size) for one in features)  # one by one: D maps of image size are large
        return torch.cat([prototypes.top_channels(one, self.cfg.k) if ranked else one for one in wide])

    def _alike(self, looked: Tensor, label: Tensor) -> Tensor:
        """B H W in [0, 1]: likeness to the prototype of the label, 0 where there is none (Sec. 3.4)."""
        means, known = self.memory.means()
        if not means.numel():  # nothing has been stored yet
            return torch.zeros_like(label, dtype=torch.float32)
        if self.cfg.similarity == "rank":
            member = prototypes.prototype_channels(means, known, self.cfg.k)
            share: Tensor = prototypes.count_shared(looked, label, member) / self.cfg.k
            return share
        measure = prototypes.cosine if self.cfg.similarity == "cosine" else prototypes.euclidean
        return measure(looked, label, means, known)
