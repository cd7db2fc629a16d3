"""The sections every recipe has: typed, strict, bounded. Those of nets, methods, plug-ins and views stand with them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A block of a recipe; unknown fields and values of another type are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def facts(self) -> dict[str, Any]:
        """The fields as plain data, as a run's key and record have them."""
        return self.model_dump(mode="json")


class AboutConfig(Section):
    """What a recipe is for. departures: from the paper, in words. Printed scores stand in the tables alone."""

    paper: str | None = None
    title: str = ""
    division: Literal["closed", "open"] = "closed"
    departures: list[str] = []


class DataConfig(Section):
    """What is read: the dataset, and how many loader workers prepare it on each process.

    few: only the first so many images of each training list (`--quick` sets it; null: all).
    form: "grey_stacks" shows the toy data as one-channel stacks, so that recipes for volumes have a quick run.
    """

    dataset: str
    workers: Annotated[int, Field(ge=0)] = 4  # ours: changes the speed alone
    few: Count | None = None  # ours
    form: Literal["own", "grey_stacks"] = "own"  # ours

    @model_validator(mode="after")
    def _toy_only(self) -> DataConfig:
        if self.form == "grey_stacks" and self.dataset != "toy":
            raise ValueError(f"form grey_stacks is for the toy data, not for {self.dataset}")
        return self

    def facts(self) -> dict[str, Any]:
        """Workers change nothing; `few` and `form` count where they are set."""
        return _set(self.model_dump(mode="json", exclude={"workers"}), few=None, form="own")


class OptimConfig(Section):
    """Optimiser and learning-rate schedule; two parameter groups, the encoder at `lr`, the rest at `lr` x `head`.

    decay: what weight decay applies to; "weights" spares biases and batch-norm's affine parameters.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"  # all baselines but SemiVL
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    head: NotNegative = 1.0  # UniMatch on Cityscapes and ACDC; 10 on VOC
    momentum: Share = 0.9  # all baselines
    weight_decay: NotNegative = 1e-4  # all baselines
    decay: Literal["all", "weights"] = "all"  # all baselines but CPS
    power: NotNegative = 0.9  # all baselines
    lag: Literal[0, 1] = 1  # UniMatch sets the rate after the step (1), U2PL before it (0)

    def facts(self) -> dict[str, Any]:
        """`decay` counts where it is set."""
        return _set(self.model_dump(mode="json"), decay="all")


class ScheduleConfig(Section):
    """How long, and with what batches (totals over all processes).

    devices: the authors' process count, which fixes steps per epoch (`data.plan.Plan`).
    last: an epoch's last incomplete batch is left out, or filled with the epoch's first images.
    steps: where authors give every split the same number of steps: train the nearest number of whole epochs to it,
    whatever `epochs` says.
    deterministic: torch's deterministic operations wherever there are such; a warning for the others.
    checkpoint_minutes: besides every epoch's end.
    """

    epochs: Count
    steps: Count | None = None  # CPS only
    labeled_batch: Count
    unlabeled_batch: Annotated[int, Field(ge=0)] = 0  # supervised recipes read none
    devices: Count = 1  # ours
    last: Literal["drop", "fill"] = "drop"  # UniMatch; the supervised runs of AugSeg and U2PL keep it
    precision: Literal["exact"] = "exact"  # fp32, eager, the authors' operations
    deterministic: bool = False  # IPixMatch sets it, Sec. IV-B
    checkpoint_minutes: NotNegative = 10.0  # ours: changes no number

    def facts(self) -> dict[str, Any]:
        """How often a checkpoint is written changes nothing; `steps`, `last`, `deterministic` count where set."""
        facts = self.model_dump(mode="json", exclude={"checkpoint_minutes"})
        return _set(facts, steps=None, last="drop", deterministic=False)

    def epochs_of(self, steps_per_epoch: int) -> int:
        """Epochs of a run whose epoch has so many steps."""
        return self.epochs if self.steps is None else max(1, round(self.steps / steps_per_epoch))


class EvalConfig(Section):
    """The protocol of a score.

    whole: one forward at native size. sliding: windows of `crop`, steps of int(crop x 2/3), cut at the border,
    probabilities summed. center: central crop. volume: 3-D Dice of stacks, resized to `crop` and back.
    select: subset that picks the best epoch; report: subset whose score is printed. absent: what a class that
    occurs nowhere contributes to the mean. every: epochs from one score to the next; the last is always scored.
    few: only the first so many images or volumes (`--quick` sets it; null: all).
    """

    protocol: Literal["whole", "sliding", "center", "volume"] = "whole"  # UniMatch "original", on VOC
    crop: Annotated[int, Field(ge=2)] | None = None  # whole images need none
    select: str = "val"  # every paper
    report: str = "val"  # every paper
    absent: Literal["zero", "left_out"] = "zero"  # UniMatch util/utils.py: union + 1e-10
    every: Count = 1  # every released trainer
    few: Count | None = None  # ours

    @model_validator(mode="after")
    def _has_crop(self) -> EvalConfig:
        if self.protocol != "whole" and self.crop is None:
            raise ValueError(f"protocol '{self.protocol}' needs a crop")
        return self

    def facts(self) -> dict[str, Any]:
        """`few` counts where it is set."""
        return _set(self.model_dump(mode="json"), few=None)


PROTOCOLS: dict[str, dict[str, Any]] = {
    "whole": {"protocol": "whole"},
    "cityscapes/sliding-801": {"protocol": "sliding", "crop": 801},
    "cityscapes/center-801": {"protocol": "center", "crop": 801},
    "acdc/val+test": {"protocol": "volume", "crop": 256, "select": "val+test", "report": "val+test"},
    "acdc/test": {"protocol": "volume", "crop": 256, "select": "val", "report": "test"},
    "camvid/test": {"protocol": "whole", "select": "val", "report": "test"},
}
"""Named protocols, for `ssbench eval --protocol NAME` and as documentation of what the recipes use."""


def _set(facts: dict[str, Any], **usual: Any) -> dict[str, Any]:
    """`facts` without the fields that have their usual value, so that adding such a field changed no run's key."""
    return {name: value for name, value in facts.items() if name not in usual or value != usual[name]}
