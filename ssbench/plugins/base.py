"""The whole contract of a plug-in: hooks that change nothing, so a host needs no `if plugin`.

A host calls the hooks in the order they stand here; it lists those it calls in `honours`. A plug-in overrides what it
needs; a public method that is no hook fails at import, so a misspelt hook cannot be silently ignored. `ssbench certify`
holds a plug-in to all of this; `ssbench.recipe.hosting` decides which host can have it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from PIL import Image
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from ssbench.data.batch import Batch
from ssbench.errors import RecipeError
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import mean_one


class PluginConfig(BaseModel):
    """Settings of a plug-in, each with a default and its source in a comment; unknown fields are refused.

    added: fields younger than the first stored records, with the value that changes nothing; at it a run's key leaves
    them out, so that the records stand.
    """

    added: ClassVar[Mapping[str, Any]] = {}
    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


@dataclass
class PrepareInputs:
    """What `prepare` is given: the split, its data, a folder to keep artefacts in, and where maps are handed on.

    maps: functions id -> named PIL maps ("L" nearest, "F" bilinear), loaded with every training image and cropped,
    flipped and resized with it; they arrive in `Labeled.maps` and `Unlabeled.maps`.
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
class StudentView:
    """One student view of the unlabelled batch: its name ("s1", "fp"), images, the student's output, the targets.

    weak: the weak images mixed exactly like `images` (B 3 H W), for a teacher pass on the mixed image.
    """

    name: str
    images: Tensor
    out: Out
    pseudo: Pseudo
    weak: Tensor


@dataclass(frozen=True)
class StepOutputs:
    """All a step saw, for `loss`. labeled: the student's output on the labelled images; teach: a teacher forward."""

    batch: Batch
    labeled: Out
    views: tuple[StudentView, ...]
    net: SegNet
    teach: Callable[[Tensor], Out]


@dataclass(frozen=True)
class LossScale:
    """What a plug-in asks of the host's total this step: a factor on it, and one on its unlabelled terms.

    unlabeled: 0 (or False) leaves these terms out.
    """

    host: float = 1.0
    unlabeled: float = 1.0


@dataclass(frozen=True)
class MixedView:
    """What the student is trained on for one strong view: images, targets, and the weak images mixed alike."""

    images: Tensor
    pseudo: Pseudo
    weak: Tensor


class Plugin(nn.Module):
    """The identity plug-in. State lives in buffers and modules, so it is saved, resumed and moved with the method."""

    Config: ClassVar[type[PluginConfig]] = PluginConfig
    needs: frozenset[str] = frozenset()
    """The hooks a class overrides; of an instance, those it uses under its settings."""
    zero: ClassVar[Mapping[str, Any]] = {}
    """Settings at which the plug-in must equal none, bit for bit."""
    quick: ClassVar[Mapping[str, Any]] = {}
    """Settings of a run of seconds, for `--quick` and tests."""
    one_student: ClassVar[bool] = False
    """Whether it keeps what one student's features look like, so that a host may not train two."""
    absolute: bool = False
    """Whether its weights scale the loss: they then stay out of the divisor of the host's mean."""

    def __init__(self, cfg: Any, classes: int) -> None:
        super().__init__()
        self.cfg, self.classes = cfg, classes
        self.needs = self.uses(cfg)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Collect the hooks the subclass overrides; refuse public methods that are none."""
        super().__init_subclass__(**kwargs)
        own = {n for n, v in vars(cls).items() if callable(v) and not n.startswith("_") and not isinstance(v, type)}
        if strange := own - HOOKS:
            raise RecipeError(
                f"{cls.__name__} defines {sorted(strange)}, which no host calls",
                cls.__module__,
                f"hooks: {', '.join(sorted(HOOKS))}; start other names with '_'",
            )
        cls.needs = frozenset(own) | frozenset().union(*(getattr(b, "needs", frozenset()) for b in cls.__mro__[1:]))

    @classmethod
    def uses(cls, cfg: Any) -> frozenset[str]:
        """The hooks a host must call under these settings: `needs`, less those that some settings leave idle."""
        return cls.needs

    def prepare(self, run: PrepareInputs) -> None:
        """Before training, resumable: estimate statistics, train a detector, hand on maps."""

    def extras(self, net: SegNet) -> nn.ModuleDict:
        """Modules trained with the student in the head's parameter group."""
        return nn.ModuleDict()

    def scale(self, t: Progress) -> LossScale:
        """Factors on the host's loss and on its unlabelled terms."""
        return LossScale()

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """After a teacher pass and before any mixing: replace `keep`, attach maps that follow the mix. No gradient.

        Hosts whose confidence comes from a second pass on the mixed images (cutmix_seg, u2pl) call it on that pass.
        """
        return pseudo

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        """What the student sees: the host's own mix, or another (which may hold more views, averaged by the host).

        The maps `weak` carries go along; where ground truth is pasted they are 0, the hidden labels "truth" 255.
        """
        return host()

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """B H W weights of the pseudo-labels in a weighted mean over valid pixels; None = plain mean. No gradient.

        With `absolute` the mean is that of weight x loss, divided by the number of pixels.
        """
        return None

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """Extra terms, weighted, added to the host's total; called last, may only record."""
        return {}


HOOKS = frozenset({"prepare", "extras", "scale", "refine", "mix", "weigh", "loss"})


class Stack(Plugin):
    """Several plug-ins on one host, for hooks that do not collide; built from a list in the recipe.

    Every hook goes through them in the recipe's order. Only `refine` lets one see what another did: of two that replace
    `keep` the later one's stands. Factors and weights multiply, terms add up, so their order matters by rounding alone.
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
        """All modules, by plug-in position."""
        made = {f"{i}_{name}": m for i, p in enumerate(self._each) for name, m in p.extras(net).items()}
        return nn.ModuleDict(made)

    def scale(self, t: Progress) -> LossScale:
        """Factors multiply."""
        paces = [part.scale(t) for part in self._each]
        return LossScale(math.prod(p.host for p in paces), math.prod(p.unlabeled for p in paces))

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Each sees what the one before left."""
        for part in self._each:
            pseudo = part.refine(pseudo, t)
        return pseudo

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        """The one plug-in that mixes (two are refused when the recipe is read), else the host."""
        for part in self._each:
            if "mix" in part.needs:
                return part.mix(host, batch, weak, t)
        return host()

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """Product of the weights given; beside `absolute` ones the others are scaled to a mean of 1."""
        total: Tensor | None = None
        for part in self._each:
            weight = part.weigh(mixed, teach, t)
            if weight is not None and self.absolute and not part.absolute:
                weight = mean_one(weight)
            if weight is not None:
                total = weight if total is None else total * weight
        return total

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """All terms; equal names are kept apart by position."""
        terms: dict[str, Tensor] = {}
        for i, part in enumerate(self._each):
            for name, value in part.loss(seen, t).items():
                terms[name if name not in terms else f"{name}_{i}"] = value
        return terms


EXCLUSIVE = frozenset({"mix"})
"""Hooks two stacked plug-ins cannot both use: each would decide alone what the student sees."""
