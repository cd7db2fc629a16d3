"""Sections that every recipe has: typed, strict, bounded. Settings of a net, method or plug-in stand beside it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A block of a recipe; unknown fields and values of another type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def facts(self) -> dict[str, Any]:
        """The fields as plain data, as a run's key and record have them."""
        return self.model_dump(mode="json")


class LoggedSpeed(Section):
    """What the authors' own log says of a step: its seconds, and on how many devices of an unnamed kind."""

    seconds_per_step: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    devices: Count


class AboutConfig(Section):
    """What a recipe is for. departures: from the paper, in words. Printed scores stand in the tables alone.

    logged: the speed in a released log, from which `ssbench plan` takes the hours while no run of ours is stored.
    """

    paper: str | None = None
    title: str = ""
    division: Literal["closed", "open"] = "closed"
    departures: list[str] = []
    logged: LoggedSpeed | None = None


class DataConfig(Section):
    """What is read: the dataset, and how many loader workers prepare it on each process.

    few: only the first so many images of each training list (`--quick` sets it; null: all).
    unlabeled: the prepared dataset of the unlabelled images, where it is another ("coco" beside voc; null: the same).
    form: "grey_stacks" shows the toy data as one-channel stacks, so that recipes for volumes have a quick run.
    allow_leak: run although the split trains on images of val or test (`ssbench run --allow-leak` sets it).
    """

    dataset: str
    workers: Annotated[int, Field(ge=0)] = 4  # ours: changes the speed alone
    few: Count | None = None  # ours
    form: Literal["own", "grey_stacks"] = "own"  # ours
    unlabeled: str | None = None  # UPC Table 4 only
    allow_leak: bool = False  # ours

    @model_validator(mode="after")
    def _toy_only(self) -> DataConfig:
        if self.form == "grey_stacks" and self.dataset != "toy":
            raise ValueError(f"form grey_stacks is for the toy data, not for {self.dataset}")
        return self

    def facts(self) -> dict[str, Any]:
        """Workers change nothing; the other settings count where they are set."""
        return _set(
            self.model_dump(mode="json", exclude={"workers"}), few=None, form="own", unlabeled=None, allow_leak=False
        )


class OptimConfig(Section):
    """Optimiser and learning-rate schedule; two parameter groups, the encoder at `lr`, the rest at `lr` x `head`.

    decay: what weight decay applies to; "weights" spares biases and batch-norm's affine parameters, "modules" all
    parameters of normalisations and embeddings, but no other bias.
    clip: largest norm of all gradients together; null: they are not clipped.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"  # all baselines but SemiVL
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    head: NotNegative = 1.0  # UniMatch on Cityscapes and ACDC; 10 on VOC
    momentum: Share = 0.9  # all baselines
    weight_decay: NotNegative = 1e-4  # all baselines
    decay: Literal["all", "weights", "modules"] = "all"  # all baselines but CPS and Mask2Former
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None  # Mask2Former only
    power: NotNegative = 0.9  # all baselines
    lag: Literal[0, 1] = 1  # UniMatch sets the rate after the step (1), U2PL before it (0)

    def facts(self) -> dict[str, Any]:
        """`decay` and `clip` count where they are set."""
        return _set(self.model_dump(mode="json"), decay="all", clip=None)


class ScheduleConfig(Section):
    """How long, and with what batches (totals over all processes).

    devices: the authors' process count, which fixes steps per epoch (`data.plan.Plan`).
    last: an epoch's last incomplete batch is left out, or filled with the epoch's first images.
    steps: where authors give every split the same number of steps: train the nearest number of whole epochs to it,
    whatever `epochs` says.
    precision: "fast" computes passes of networks in bf16 where the processor multiplies it, with channels innermost in
    memory and a fused optimiser (`nets.precision`); such a run is of the open division.
    compile: whether `torch.compile` makes the networks' kernels (fast only). "auto": where a measurement on this
    machine shows a gain (`train.compiling`).
    deterministic: torch's deterministic operations wherever there are such; a warning for the others.
    checkpoint_minutes: besides every epoch's end.
    """

    epochs: Count
    steps: Count | None = None  # CPS, and SemiVL on Cityscapes
    epochs_for: Literal["nearest", "up"] = "nearest"  # CPS; SemiVL rounds up
    labeled_batch: Count
    unlabeled_batch: Annotated[int, Field(ge=0)] = 0  # supervised recipes read none
    devices: Count = 1  # ours
    last: Literal["drop", "fill"] = "drop"  # UniMatch; the supervised runs of AugSeg and U2PL keep it
    precision: Literal["exact", "fast"] = "exact"  # fp32, eager, the authors' operations
    compile: Literal["auto", "on", "off"] = "auto"  # ours
    deterministic: bool = False  # IPixMatch sets it, Sec. IV-B
    checkpoint_minutes: NotNegative = 10.0  # ours: changes no number

    added: ClassVar[dict[str, Any]] = {
        "steps": None,
        "epochs_for": "nearest",
        "last": "drop",
        "deterministic": False,
        "compile": "auto",
    }
    """Fields younger than the first stored records. At these values neither key nor record has them."""

    @field_validator("compile", mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        """YAML reads the bare words on and off as true and false."""
        return {True: "on", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _compiles(self) -> ScheduleConfig:
        if self.precision == "exact" and self.compile != "auto":
            raise ValueError(f"compile: {self.compile} is never read with precision: exact: leave it out")
        return self

    @property
    def behaviour(self) -> int:
        """2: images that fill up an epoch's last batch are augmented afresh, not as at the epoch's start."""
        return 2 if self.last == "fill" else 1

    def facts(self) -> dict[str, Any]:
        """How often a checkpoint is written changes nothing; the fields of `added` count where they are set."""
        return _set(self.model_dump(mode="json", exclude={"checkpoint_minutes"}), **self.added)

    def epochs_of(self, steps_per_epoch: int) -> int:
        """Epochs of a run whose epoch has so many steps."""
        if self.steps is None:
            return self.epochs
        whole = -(-self.steps // steps_per_epoch) if self.epochs_for == "up" else round(self.steps / steps_per_epoch)
        return max(1, whole)


class EvalConfig(Section):
    """The protocol of a score.

    whole: one forward at native size. short: of the image resized to a short side of `crop`, the scores resized back.
    sliding: windows of `crop` at steps of two thirds of it. center: central crop.
    volume: 3-D Dice of stacks, resized to `crop` and back.
    select: subset that picks the best epoch; report: subset whose score is printed. absent: what a class that
    occurs nowhere contributes to the mean. every: epochs from one score to the next; the last is always scored.
    few: only the first so many images or volumes (`--quick` sets it; null: all).
    Of windows: border: cut those at the border, or shift the last one back so that it is whole. summed: what is summed
    where windows overlap. stride: how two thirds of `crop` are rounded.
    step: pixels from one window to the next, in place of two thirds of `crop`. resize: the longest and the shortest
    side that an image is scaled to before it is scored (whole and sliding alone); scores are brought back to the size
    of its labels, corners aligned. scored: which of every `every` epochs.
    padding: of an image smaller than `crop`, which stands in the middle of the mean colour. ignored: the padding is not
    scored. class_0: it is scored as class 0 (center only).
    """

    protocol: Literal["whole", "short", "sliding", "center", "volume"] = "whole"  # UniMatch "original", on VOC
    crop: Annotated[int, Field(ge=2)] | None = None  # whole images need none
    select: str = "val"  # every paper
    report: str = "val"  # every paper
    absent: Literal["zero", "left_out"] = "zero"  # UniMatch util/utils.py: union + 1e-10
    every: Count = 1  # every released trainer
    few: Count | None = None  # ours
    border: Literal["cut", "shift"] = "cut"  # UniMatch, AugSeg; U2PL, AEL and CPS shift
    summed: Literal["probabilities", "logits"] = "probabilities"  # UniMatch, AugSeg, AEL; U2PL and CPS sum logits
    stride: Literal["floor", "ceil"] = "floor"  # UniMatch, AugSeg; U2PL, AEL and CPS round up
    padding: Literal["none", "ignored", "class_0"] = "none"  # UniMatch, AugSeg; CPS ignored, U2PL and AEL class_0
    step: Count | None = None  # SemiVL: 426 of 512; null: two thirds of `crop`
    resize: Annotated[tuple[Count, Count], Strict(False)] | None = None  # SemiVL on VOC: [2048, 512]
    scored: Literal["last", "first"] = "last"  # of every so many epochs; SemiVL on Cityscapes scores the first

    added: ClassVar[dict[str, Any]] = {
        "border": "cut",
        "summed": "probabilities",
        "stride": "floor",
        "padding": "none",
        "step": None,
        "resize": None,
        "scored": "last",
    }
    """Fields younger than the first stored records. At these values neither key nor record has them."""

    behaviours: ClassVar[dict[str, int]] = {"whole": 1, "short": 1, "sliding": 1, "center": 1, "volume": 1}
    """Version of what each protocol computes. Raise it when a score changes: above 1 it enters the run key."""

    @property
    def behaviour(self) -> int:
        """Version of this protocol."""
        return self.behaviours[self.protocol]

    @model_validator(mode="after")
    def _fits_protocol(self) -> EvalConfig:
        if self.protocol != "whole" and self.crop is None:
            raise ValueError(f"protocol '{self.protocol}' needs a crop")
        for name in ("border", "summed", "stride", "step"):
            if self.protocol != "sliding" and getattr(self, name) != self.added[name]:
                raise ValueError(f"'{name}' is a setting of windows; protocol '{self.protocol}' has none")
        if self.resize is not None and self.protocol not in ("whole", "sliding"):
            raise ValueError(f"protocol '{self.protocol}' scores images at their own size: leave `resize` out")
        if self.padding != "none" and self.protocol not in ("sliding", "center"):
            raise ValueError(f"protocol '{self.protocol}' pads nothing; padding is for sliding and center")
        if self.padding == "class_0" and self.protocol != "center":
            raise ValueError("padding 'class_0' is for center; windows cut their padding off again: 'ignored'")
        return self

    def facts(self) -> dict[str, Any]:
        """`few` and the fields of `added` count where they are set."""
        return _set(self.model_dump(mode="json"), few=None, **self.added)

    def is_scored(self, epoch: int, epochs: int) -> bool:
        """Whether an epoch (from 0) of so many is scored; the last one always is."""
        place = epoch + 1 if self.scored == "last" else epoch
        return epoch + 1 == epochs or place % self.every == 0

    def stated(self) -> dict[str, Any]:
        """The protocol as a record states it: `facts`, and `few` in any case."""
        return {**self.facts(), "few": self.few}


_SHIFTED = {"protocol": "sliding", "border": "shift", "stride": "ceil"}

PROTOCOLS: dict[str, dict[str, Any]] = {
    "whole": {"protocol": "whole"},
    "cityscapes/sliding-801": {"protocol": "sliding", "crop": 801},
    "cityscapes/center-801": {"protocol": "center", "crop": 801},
    "acdc/val+test": {"protocol": "volume", "crop": 256, "select": "val+test", "report": "val+test"},
    "acdc/test": {"protocol": "volume", "crop": 256, "select": "val", "report": "test"},
    "mask2former/voc": {"protocol": "short", "crop": 512},
    "camvid/test": {"protocol": "whole", "select": "val", "report": "test"},
    # The authors' own evaluations, where they differ from UniMatch's.
    "u2pl/voc": {"protocol": "center", "crop": 513, "padding": "class_0", "absent": "zero"},
    "u2pl/cityscapes": {**_SHIFTED, "crop": 769, "summed": "logits", "absent": "zero"},
    "u2pl/cityscapes-training": {"protocol": "center", "crop": 769, "padding": "class_0", "absent": "zero"},
    "ael/voc": {"protocol": "center", "crop": 513, "padding": "class_0", "absent": "zero"},
    "ael/cityscapes": {**_SHIFTED, "crop": 769, "summed": "probabilities", "absent": "zero"},
    "augseg/cityscapes": {"protocol": "sliding", "crop": 800, "absent": "zero"},
    "semivl/voc": {
        "protocol": "sliding",
        "crop": 512,
        "step": 426,
        "border": "shift",
        "summed": "logits",
        "resize": [2048, 512],
        "absent": "zero",
    },
    "semivl/coco": {
        "protocol": "sliding",
        "crop": 512,
        "step": 426,
        "border": "shift",
        "summed": "logits",
        "absent": "zero",
    },
    "unimatch_v2/cityscapes": {"protocol": "sliding", "crop": 798, "border": "shift", "absent": "zero"},
    "cps/voc": {**_SHIFTED, "crop": 512, "summed": "logits", "padding": "ignored", "absent": "left_out"},
    "cps/cityscapes": {**_SHIFTED, "crop": 800, "summed": "logits", "padding": "ignored", "absent": "left_out"},
}
"""Named protocols, for `ssbench eval --protocol NAME` and as documentation of what the recipes use.

U2PL and AEL choose the best epoch by a central crop (`u2pl/cityscapes-training`), and on VOC report that score. Their
Cityscapes numbers come from a script of their own (eval.py), run once on the chosen checkpoint. CPS scores by windows
(furnace/engine/evaluator.py), which on VOC images, of at most 500 pixels, is one forward of the padded image.
CutMix-Seg's score is `whole`, and so is UniMatch V2's but on Cityscapes: its network resizes images to whole patches.
Mask2Former resizes images for the test (release ADE20K configuration).
"""


def _set(facts: dict[str, Any], **usual: Any) -> dict[str, Any]:
    """`facts` without the fields that have their usual value, so that adding such a field changed no run's key."""
    return {name: value for name, value in facts.items() if name not in usual or value != usual[name]}
