"""IPixMatch: the student spreads each class over the image as the teacher does.

Paper: "IPixMatch: Boost Semi-supervised Semantic Segmentation with Inter-Pixel Relation" (2024), Secs. III-B and IV.
The authors released no code that we could find, so nothing was checked against theirs, and there is one variant.
Readings that are ours, where the paper is silent (card: ipixmatch 2): the loss takes raw logits at image resolution,
per image, then averages; an image with fewer than two confident pixels counts as 0; padding takes no part; there is no
factor t^2; all strong views count, averaged, the feature-perturbed one does not; the teacher is the host's own.
Nearest interpolation, half batch and rate, seed and deterministic algorithms belong to the recipes of its tables.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from ssbench.errors import RecipeError, nearest
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import mean_of
from ssbench.ops.relation import relation_distance
from ssbench.ops.schedule import gaussian_ramp
from ssbench.plugins.base import Plugin, PluginConfig, Share, StepOutputs, StudentView, Weight

LOGITS = "ipixmatch_logits"
ViewName = Annotated[str, Field(pattern=r"^(s[1-9]|fp)$")]


class IPixMatch(Plugin):
    """L_sum = L_o + alpha(i) L_IPix (Eq. 6), between the student's logits and the teacher's, which are mixed alike."""

    zero: ClassVar = {"alpha": 0.0}
    quick: ClassVar = {"tau": 0.3, "warmup_epochs": 1}  # an untrained net is hardly surer; a quick run is as short

    class Config(PluginConfig):
        """Settings."""

        name: Literal["ipixmatch"] = "ipixmatch"
        alpha: Weight = 1.0  # Eq. 6; Sec. IV-C
        tau: Share = 0.8  # Eq. 3; Sec. III-B
        temperature: float = Field(4.0, gt=0)  # t of Eq. 4; Sec. III-B
        distance: Literal["kl", "corr"] = "kl"  # Sec. III-B; Eq. 5; Table I
        warmup_epochs: int = Field(5, ge=0)  # Sec. IV-C: VOC 5, Cityscapes 30
        warmup: bool = True  # Table II
        streams: Annotated[tuple[ViewName, ...], Field(min_length=1)] | None = None  # ours; null: every strong view

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Attach the teacher's logits, so that the host mixes them like the labels."""
        assert pseudo.logits is not None  # noqa: S101  hosts call `refine` before mixing, or on the mixed image's pass
        return pseudo.with_carry(**{LOGITS: pseudo.logits})

    def loss(self, outputs: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """alpha(i) times the mean of Eq. 2 over the views.

        Raises:
            RecipeError: `streams` names a view that the host does not have.
        """
        names = [view.name for view in outputs.views]
        for name in self.cfg.streams or () if names else ():
            if name not in names:
                raise RecipeError(f"no stream '{name}'; {nearest(name, names)}", "plugin.streams", f"one of {names}")
        views = [view for view in outputs.views if self._counts(view)]
        if not views or self.cfg.alpha == 0:
            return {}
        ramp = gaussian_ramp(t.step, self.cfg.warmup_epochs * t.steps_per_epoch) if self.cfg.warmup else 1.0
        each = [self._relation_loss(view) for view in views]
        return {"ipix": self.cfg.alpha * ramp * sum(each[1:], each[0]) / len(each)}  # Eq. 6

    def _counts(self, view: StudentView) -> bool:
        """Whether the loss acts on this view."""
        if self.cfg.streams is not None:
            return view.name in self.cfg.streams
        return view.name != "fp" and LOGITS in view.pseudo.carry

    def _relation_loss(self, view: StudentView) -> Tensor:
        """Eq. 2 of every image, averaged over the images of all processes."""
        teacher = view.pseudo.carry[LOGITS]  # B C H W
        confident = (teacher.softmax(1).amax(1) > self.cfg.tau) & view.pseudo.valid  # Omega of Eq. 3
        cfg = self.cfg
        each = relation_distance(teacher, view.out.logits, confident, cfg.temperature, cfg.distance)  # Eqs. 2, 4, 5
        return mean_of(each.sum(), len(each))
