"""IPixMatch: the student spreads each class over the image as the teacher does.

Paper: "IPixMatch: Boost Semi-supervised Semantic Segmentation with Inter-Pixel Relation" (2024), Secs. III-B, IV.
No code by the authors was found; nothing could be checked against a release, and there is one variant.
Readings that are ours, where the paper is silent (specs: ipixmatch 6): raw logits at image resolution, per image then
averaged (A1, A2); images with fewer than two confident pixels count as 0 (A3); padding takes no part (A4); no factor
t^2 (A6); all strong streams, averaged, not the feature-perturbed one (A7); the teacher is the host's (Sec. III-B says
EMA, Sec. IV-B that all else is UniMatch, which has none). Nearest interpolation, half batch and rate, the seed and
deterministic algorithms of its tables are settings of recipes, not of the plug-in.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from ssbench.errors import RecipeError, nearest
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import mean_of
from ssbench.ops.relation import gaussian_ramp, relation_distance
from ssbench.plugins.base import Plugin, PluginConfig, StepOutputs, StudentView

_LOGITS = "ipixmatch_logits"


class IPixMatch(Plugin):
    """L + alpha(i) * L_IPix; the teacher's logits follow the host's mixing."""

    zero: ClassVar = {"alpha": 0.0}
    quick: ClassVar = {"tau": 0.3, "warmup_epochs": 1}  # nets without training are hardly surer, and runs as short

    class Config(PluginConfig):
        """Settings."""

        name: Literal["ipixmatch"] = "ipixmatch"
        alpha: float = 1.0  # Sec. IV-C
        tau: float = 0.8  # Sec. IV-B, Eq. 3
        temperature: float = 4.0  # Sec. IV-B, Eq. 4
        distance: Literal["kl", "corr"] = "kl"  # Table I
        warmup_epochs: int = 5  # Sec. IV-C: VOC 5, Cityscapes 30
        warmup: bool = True  # Table II
        streams: tuple[str, ...] | None = None  # A7: [s1], or [s1, s2, fp]; null: every strong view of the host

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Hand the teacher's logits to the mixing."""
        assert pseudo.logits is not None  # noqa: S101  hosts call this on an un-mixed pass or on the mixed image's own
        return pseudo.with_carry(**{_LOGITS: pseudo.logits})

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """Mean over the streams of Eq. 2, ramped up.

        Raises:
            RecipeError: a stream the host does not have.
        """
        names = [view.name for view in seen.views]
        for wish in self.cfg.streams or () if names else ():
            if wish not in names:
                raise RecipeError(f"no stream '{wish}'; {nearest(wish, names)}", "plugin.streams", f"one of {names}")
        views = [view for view in seen.views if self._wanted(view)]
        if not views or self.cfg.alpha == 0:
            return {}
        ramp = gaussian_ramp(t.step, self.cfg.warmup_epochs * t.steps_per_epoch) if self.cfg.warmup else 1.0
        each = [self._of(view) for view in views]
        return {"ipix": self.cfg.alpha * ramp * sum(each[1:], each[0]) / len(each)}

    def _wanted(self, view: StudentView) -> bool:
        if self.cfg.streams is not None:
            return view.name in self.cfg.streams
        return view.name != "fp" and _LOGITS in view.pseudo.carry

    def _of(self, view: StudentView) -> Tensor:
        teacher = view.pseudo.carry[_LOGITS]
        inside = (teacher.softmax(1).amax(1) > self.cfg.tau) & view.pseudo.valid
        each = relation_distance(teacher, view.out.logits, inside, self.cfg.temperature, self.cfg.distance)
        return mean_of(each.sum(), len(each))
