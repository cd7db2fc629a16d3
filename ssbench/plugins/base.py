"""The contract between a plug-in and the method that hosts it: eight hooks, which change nothing by default.

A host calls the hooks in the order in which they stand here, and lists those it calls in `honours`. A plug-in overrides
the hooks it needs. A public method that is no hook fails at import, so a misspelt hook is never silently ignored.
`ssbench certify` checks the whole contract; `ssbench.methods.hosting` decides which host can have which plug-in.
Letters of shapes as in `ssbench.ops`: B images, C classes, H W pixels of the training crop, h w of a feature map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Union, get_args, get_origin

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from ssbench.data.batch import Batch
from ssbench.errors import DataError, RecipeError
from ssbench.nets.segnet import FrozenForward, Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import mean_one

Share = Annotated[float, Field(ge=0, le=1)]
"""A probability, a confidence, or a part of a whole."""
Weight = Annotated[float, Field(ge=0)]
"""A factor of a loss term; 0 leaves the term out."""
Count = Annotated[int, Field(ge=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
"""A share that cannot be the whole: a decay, a momentum, a rate of dropout."""


class Settings(BaseModel):
    """Settings of a method, a loss or a plug-in. Each has a default, a bound from its meaning, and a source.

    Unknown fields and wrong types are refused (`"0.9"` is no number, `1` is no switch), as are NaN and infinity.
    Validators refuse settings that contradict each other, so that a recipe which loads can also be built.

    added: fields younger than the first stored records, each with the value at which nothing changes. At that value the
    field is left out of the run key, so that old records stay valid.
    """

    added: ClassVar[Mapping[str, Any]] = {}
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_to_tuples(cls, values: Any) -> Any:
        """YAML and JSON know lists only; a strict tuple would refuse them."""
        if not isinstance(values, dict):
            return values
        tuples = {n for n, info in cls.model_fields.items() if _is_tuple(info.annotation)}
        return {n: tuple(v) if n in tuples and isinstance(v, list) else v for n, v in values.items()}

    def _refuse_unread(self, reason: str, *names: str) -> None:
        """Refuse fields that have no effect under other settings (`reason`) and are not at their default."""
        for name in names:
            if (value := getattr(self, name)) != type(self).model_fields[name].default:
                raise ValueError(f"{name}: {value} is never read with {reason}: leave it out")


class PluginConfig(Settings):
    """Settings of a plug-in."""

    @property
    def mixed_views(self) -> int | None:
        """Views that its `mix` gives under these settings; None: as many as the host's own."""
        return None


def _is_tuple(annotation: Any) -> bool:
    """Whether a field holds a tuple, perhaps or None, perhaps with bounds."""
    if (kind := get_origin(annotation)) in (Union, UnionType, Annotated):
        return any(_is_tuple(part) for part in get_args(annotation))
    return kind is tuple


@dataclass
class PrepareInputs:
    """What `prepare` gets: the images of the split, functions that load them, and a folder that outlives a kill.

    maps: `prepare` may append functions id -> named PIL images (mode "L" moves by nearest neighbour, "F" bilinearly).
    The loader calls them for every training image and crops, flips and resizes their maps like the image; the batch
    has them in `Labeled.maps` and `Unlabeled.maps`.
    """

    classes: int
    labeled: Sequence[str]
    unlabeled: Sequence[str]
    image: Callable[[str], Image.Image]
    mask: Callable[[str], Image.Image]
    folder: Path
    seed: int
    progress: Callable[[Iterable[Any], str], Iterable[Any]]
    maps: list[Callable[[str], Mapping[str, Image.Image]]] = field(default_factory=list)


@dataclass(frozen=True)
class MixedView:
    """What the student is trained on in one strong view: images (B 3 H W), their pseudo-labels, and the weak images.

    weak: B 3 H W, the weak images mixed exactly like `images`, for a teacher's pass on the mixed image.
    """

    images: Tensor
    pseudo: Pseudo
    weak: Tensor


@dataclass(frozen=True)
class StudentView:
    """One view of the unlabelled batch after the student's pass: its name, the `MixedView`'s fields, and the output.

    name: "s1", "s2", ... for strong views, "fp" for UniMatch's feature-perturbed weak view.
    """

    name: str
    images: Tensor
    out: Out
    pseudo: Pseudo
    weak: Tensor


@dataclass(frozen=True)
class StepOutputs:
    """All that a step computed before `loss` is called.

    labeled: the student's output on the labelled images. views: none where the host trains on labels alone (a warm-up).
    teach: a gradient-free eval-mode pass of the teacher on B 3 H W images.
    """

    batch: Batch
    labeled: Out
    views: tuple[StudentView, ...]
    net: SegNet
    teach: Callable[[Tensor], Out]


def first_stage(teach: Callable[[Tensor], Out], x: Tensor) -> Tensor:
    """`teach(x).feats["layer1"]`, by a pass that ends there where `teach` is a network's own."""
    return teach.first_stage(x) if isinstance(teach, FrozenForward) else teach(x).feats["layer1"]


@dataclass(frozen=True)
class LossScale:
    """Factors on the host's loss in one step: on the whole of it, and on its unlabelled terms besides.

    unlabeled: 0 leaves the unlabelled terms out.
    """

    host: float = 1.0
    unlabeled: float = 1.0


class Plugin(nn.Module):
    """A plug-in that changes nothing; the parent of all others.

    Keep state in buffers and modules: then it is saved, resumed and moved to the device with the method.
    """

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    needs: frozenset[str] = frozenset()
    """Of a class the hooks it overrides; of an instance those it uses under its settings."""
    zero: ClassVar[Mapping[str, Any]] = {}
    """Settings of strength zero: under them a run equals one without the plug-in, bit for bit."""
    quick: ClassVar[Mapping[str, Any]] = {}
    """Settings for a run of seconds (`--quick`, tests) in which the plug-in still changes something."""
    one_student: ClassVar[bool] = False
    """Whether it remembers one student's features, so that a host of two students cannot have it."""
    local_stage: ClassVar[bool] = False
    """Whether it judges the patch behind each cell of feats["layer1"], which some networks do not have."""
    behaviour: ClassVar[int] = 1
    """Version of the computation. Raise it when the computation changes: above 1 it enters the run key."""
    absolute: bool = False
    """Of a class the default of `is_absolute`; of an instance `is_absolute` under its settings."""

    def __init__(self, cfg: Any, classes: int) -> None:
        super().__init__()
        self.check(cfg, classes)
        self.cfg, self.classes = cfg, classes
        self.needs, self.absolute = self.uses(cfg), self.is_absolute(cfg)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Collect the hooks the subclass overrides.

        Raises:
            RecipeError: a public method is no hook.
        """
        super().__init_subclass__(**kwargs)
        own = {n for n, v in vars(cls).items() if callable(v) and not n.startswith("_") and not isinstance(v, type)}
        if unknown := own - HOOKS:
            raise RecipeError(
                f"{cls.__name__} defines {sorted(unknown)}, which no host calls",
                cls.__module__,
                f"hooks: {', '.join(sorted(HOOKS))}; start other names with '_'",
            )
        cls.needs = frozenset(own) | frozenset().union(*(getattr(b, "needs", frozenset()) for b in cls.__mro__[1:]))

    @classmethod
    def missing_files(cls, cfg: Any) -> Iterator[DataError]:
        """What a run under these settings would look for and this machine has not; no network is asked."""
        yield from ()

    @classmethod
    def uses(cls, cfg: Any) -> frozenset[str]:
        """The hooks a host must call under these settings: `needs` without those that the settings leave idle."""
        return cls.needs

    @classmethod
    def is_absolute(cls, cfg: Any) -> bool:
        """Whether its weights scale the loss: then they stay out of the divisor of the host's mean."""
        return cls.absolute

    @classmethod
    def behaviour_of(cls, cfg: Any) -> int:
        """`behaviour` under these settings: 1 where a later version computes the same as the first."""
        return cls.behaviour

    @classmethod
    def check(cls, cfg: Any, classes: int) -> None:
        """Called when a recipe is read, and again when the plug-in is built.

        Raises:
            RecipeError: the settings do not fit this number of classes.
        """

    def prepare(self, run: PrepareInputs) -> None:
        """Before training: estimate statistics, train a detector, hand on maps. A killed run calls it again."""

    def extras(self, net: SegNet) -> nn.ModuleDict:
        """Modules to train with the student, in the parameter group of its head."""
        return nn.ModuleDict()

    def scale(self, t: Progress) -> LossScale:
        """Factors on the host's loss and on its unlabelled terms."""
        return LossScale()

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Called after a teacher pass, before any mixing: may replace `keep` and attach maps to mix along. No gradient.

        Hosts whose confidence comes from a second pass on the mixed images (cutmix_seg, u2pl) call it on that pass.
        """
        return pseudo

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        """The strong views to train on: the host's own mix `host()`, or others. The host averages over the views.

        Maps in `weak.carry` must be mixed along. Where ground truth is pasted they are 0, and 255 in the map "truth".
        """
        return host()

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """B H W weights >= 0 of the pseudo-labels, for a weighted mean over valid pixels; None: all 1. No gradient.

        An `absolute` plug-in's weights stay out of the divisor: the mean is that of weight x loss over the pixels.
        """
        return None

    def loss(self, outputs: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """Weighted extra terms by name, scalars, added to the host's loss. Called last; may record and add none."""
        return {}

    def end_epoch(self, net: SegNet, is_best: bool, t: Progress) -> None:
        """After an epoch and its score, before the run is saved: may keep a copy of `net`. Not called between stages.

        Args:
            net: the network that labels the unlabelled images, the student or its teacher.
            is_best: its score on `eval.select` is above that of every epoch before; False where it was not scored.
            t: the epoch's last step.
        """


HOOKS = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss", "end_epoch"})


class Stack(Plugin):
    """Several plug-ins on one host, built from a list in the recipe; their hooks must not collide.

    Every hook calls them in the recipe's order. Only in `refine` does one see what another did: where two replace
    `keep`, the later one counts. Factors and weights multiply, terms add up, so order changes these by rounding alone.
    """

    def __init__(self, parts: Sequence[Plugin]) -> None:
        super().__init__(PluginConfig(), parts[0].classes if parts else 0)
        self.parts = nn.ModuleList(parts)
        self.needs = frozenset().union(*(p.needs for p in parts))
        self.one_student = any(p.one_student for p in parts)  # type: ignore[misc]
        self.absolute = any(p.absolute for p in parts)

    @property
    def _each(self) -> list[Plugin]:
        return [p for p in self.parts if isinstance(p, Plugin)]

    def prepare(self, run: PrepareInputs) -> None:
        """Each in turn."""
        for part in self._each:
            part.prepare(run)

    def extras(self, net: SegNet) -> nn.ModuleDict:
        """All modules, each name led by its plug-in's position."""
        return nn.ModuleDict({f"{i}_{name}": m for i, p in enumerate(self._each) for name, m in p.extras(net).items()})

    def scale(self, t: Progress) -> LossScale:
        """Products of the factors."""
        scales = [part.scale(t) for part in self._each]
        return LossScale(math.prod(s.host for s in scales), math.prod(s.unlabeled for s in scales))

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Each gets what the one before it returned."""
        for part in self._each:
            pseudo = part.refine(pseudo, t)
        return pseudo

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        """By the one plug-in that mixes (a recipe with two is refused when read), else by the host."""
        for part in self._each:
            if "mix" in part.needs:
                return part.mix(host, batch, weak, t)
        return host()

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """Product of the weights. Beside `absolute` ones, relative ones are scaled to a mean of 1."""
        total: Tensor | None = None
        for part in self._each:
            weight = part.weigh(mixed, teach, t)
            if weight is not None and self.absolute and not part.absolute:
                weight = mean_one(weight)
            if weight is not None:
                total = weight if total is None else total * weight
        return total

    def loss(self, outputs: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """All terms; the second of two equal names gets its plug-in's position."""
        terms: dict[str, Tensor] = {}
        for i, part in enumerate(self._each):
            for name, value in part.loss(outputs, t).items():
                terms[name if name not in terms else f"{name}_{i}"] = value
        return terms

    def end_epoch(self, net: SegNet, is_best: bool, t: Progress) -> None:
        """Each in turn."""
        for part in self._each:
            part.end_epoch(net, is_best, t)
