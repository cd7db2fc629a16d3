"""MPMC: a multi-label classifier of patches on stage-1 features, whose doubts weigh the pseudo-labels.

Paper: "Beyond Pixels: Semi-Supervised Semantic Segmentation with a Multi-scale Patch-based Multi-Label Classifier",
ECCV 2024, Secs. 3.1 and 3.3. Checked against: cvlab-stonybrook/Beyond-Pixels a369bad (UniMatch host only; the script
stops with an error after its second epoch, so it is not the program of the tables).
variant: "paper" = asymmetric focal loss on labelled patches, softmax weights of patches and pixels. "release" = binary
cross-entropy weighted by softmaxed class shares; weights of 1, because the released rejection of large losses never
fires; unsure pixels leave the divisor of the host's loss as well; padding counts in the patch targets; the classifier
also sees the clean weak and the perturbed labelled features, from the first epoch on (card: mpmc 4, 5, 6). In both the
module is the release's.
Readings that are ours (card: mpmc 7): softmax over the sigmoids, weighted means, pooled pseudo-labels as patch targets,
weights between cell centres by bilinear interpolation, means over patches instead of sums.
`teacher_module: ema` averages the classifier once a step, as hosts average their networks; the paper shares it.
Departures: class shares take a window one pixel wider than the release's 38 (an off-by-one). In "paper" no features
pass the classifier that enter no loss, so its batch statistics differ from those of the release.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from ssbench.nets.precision import FormattedModule
from ssbench.nets.segnet import Out, SegNet, resize
from ssbench.ops import ema
from ssbench.ops.patch_stats import patch_labels, patch_shares
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import mean_of
from ssbench.plugins.base import (
    BelowOne,
    LossScale,
    MixedView,
    Plugin,
    PluginConfig,
    StepOutputs,
    StudentView,
    Weight,
    first_stage,
)

STACK = ((1, 0), (3, 256), (1, 256), (3, 256), (3, 256), (1, 128), (3, 128), (3, 128), (1, 64), (3, 64))
"""Release: kernel and width of the ten convolutions; 0 = as wide as the input."""
PAPER_STACK = ((3, 256), (3, 256), (1, 256), (3, 256), (3, 256), (1, 128), (3, 128), (3, 128), (1, 64))


class PatchClassifier(FormattedModule):
    """Stage-1 features (B D h w) -> B C h w logits: a score for each class in each patch (Eq. 2 before its sigmoid).

    The features beside their averages over `kernels` (zero padding counted), a stack of convolutions, a small head.
    """

    def __init__(self, channels: int, classes: int, kernels: tuple[int, ...], arch: str, widest: int = 256) -> None:
        super().__init__()
        self.kernels = kernels
        width = channels * (1 + len(kernels))
        layers: list[nn.Module] = []
        for kernel, out in STACK if arch == "release" else PAPER_STACK:
            wide = out * widest // 256 or width
            conv = nn.Conv2d(width, wide, kernel, padding=kernel // 2, bias=False)
            layers += [conv, nn.BatchNorm2d(wide), nn.ReLU(inplace=True)]
            width = wide
        self.stack = nn.Sequential(*layers)
        hidden = [nn.Conv2d(width, 32, 1), nn.ReLU(inplace=True), nn.Dropout(0.2), nn.Conv2d(32, classes, 1)]
        self.head = nn.Sequential(*(hidden if arch == "release" else [nn.Conv2d(width, classes, 1)]))

    def scales(self, features: Tensor) -> Tensor:
        """B D' h w, D' = (1 + kernels) D: the features and their local averages (Sec. 3.3, multi-scale)."""
        return torch.cat([features, *(F.avg_pool2d(features, k, 1, k // 2) for k in self.kernels)], 1)

    def forward(self, scales: Tensor) -> Tensor:
        """B C h w logits of what `scales` returns."""
        logits: Tensor = self.head(self.stack(scales))
        return logits

    def present(self, features: Tensor) -> Tensor:
        """B C h w bool: the classes found in each patch, q >= 0.5 (Table 4)."""
        return self(self.scales(features)) >= 0  # type: ignore[no-any-return]


class MPMC(Plugin):
    """L = L_l + L^M_l + alpha L_u(weighted by lam_s) + beta L^M_u (Eq. 7), L_l and L_u being the host's."""

    zero: ClassVar = {"labelled": False, "unlabelled": False}
    quick: ClassVar = {"widest": 32}
    local_stage: ClassVar = True

    class Config(PluginConfig):
        """Settings."""

        added: ClassVar[Mapping[str, Any]] = {"normalise": "mean", "teacher_module": "shared", "ema": 0.99}
        name: Literal["mpmc"] = "mpmc"
        variant: Literal["paper", "release"] = "paper"
        labelled: bool = True  # Table 6
        unlabelled: bool = True  # Table 6
        kernels: Annotated[tuple[Literal[7, 19], ...], Field(min_length=1)] = (7, 19)  # Sec. 3.3; Fig. 4
        arch: Literal["release", "paper"] = "release"  # ten convolutions; the paper's three blocks and one linear layer
        widest: int = Field(256, ge=16)  # release: channels of its widest convolutions; the others in proportion
        beta: Weight = 0.1  # release; the paper's 0.25 (Eq. 7) belongs to a segmentation stream there
        alpha: Weight = 1.0  # on the host's unlabelled terms: ours, they keep the host's own weight; Eq. 7: 0.1
        loss_form: Literal["code", "paper"] = "paper"  # "code": UniMatch's sum of all terms over 3.3
        warmup_epochs: int = Field(1, ge=0)  # release: epoch 0 trains on labelled images only
        lam: Literal["softmax_sigmoid", "softmax_logits", "sigmoid"] = "softmax_sigmoid"  # Sec. 3.3; ours
        normalise: Literal["mean", "none"] = "mean"  # ours: weighted means; "none": Eqs. 5 and 6 as printed
        patch_target: Literal["pooled", "soft"] = "pooled"  # release; "soft": the teacher's q, as Eq. 6 reads
        teacher_module: Literal["shared", "ema"] = "shared"  # Sec. 3.3: g and g-hat share their parameters
        ema: BelowOne = 0.99  # with teacher_module ema: set it to the host's
        feature_drop: BelowOne = 0.5  # release: channel dropout on the perturbed stream

        @model_validator(mode="after")
        def _fits(self) -> MPMC.Config:
            if len(set(self.kernels)) < len(self.kernels):
                raise ValueError(f"kernels {list(self.kernels)} hold one twice")
            if self.variant == "release":  # its weights are 1
                self._refuse_unread("variant: release", "normalise", "lam")
            if self.teacher_module == "shared":
                self._refuse_unread("teacher_module: shared", "ema")
            return self

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        self.release = cfg.variant == "release"
        self.teacher: PatchClassifier | None = None
        self._classifier: list[PatchClassifier] = []  # in a list: the method owns and saves the module
        self._window: tuple[int, int] = (0, 1)  # half width and stride of the patches, in pixels
        self._step = -1
        self._judgements: dict[int, tuple[Tensor, Tensor]] = {}  # of this step, by identity of the pseudo-labels

    @classmethod
    def uses(cls, cfg: Config) -> frozenset[str]:
        """Without unlabelled patches no pseudo-label is weighed, so a host without any will do (Table 5)."""
        return cls.needs if cfg.unlabelled else cls.needs - {"weigh"}

    @classmethod
    def is_absolute(cls, cfg: Config) -> bool:
        """Eq. 5 as printed divides by pixels, not by weights."""
        return bool(cfg.normalise == "none" and cfg.unlabelled)

    @classmethod
    def behaviour_of(cls, cfg: Config) -> int:
        """2: the release's divisor, targets and batch statistics; Eq. 6 as printed with `normalise: none`."""
        return 2 if cfg.variant == "release" or cls.is_absolute(cfg) else 1

    def extras(self, net: SegNet) -> nn.ModuleDict:
        """The patch classifier, with the receptive field of the encoder in use."""
        if not (self.cfg.labelled or self.cfg.unlabelled):
            return nn.ModuleDict()
        self._window = net.receptive_field()
        cfg, channels = self.cfg, net.perturb_channels[0]
        self._classifier = [PatchClassifier(channels, self.classes, cfg.kernels, cfg.arch, cfg.widest)]
        if cfg.teacher_module == "ema" and cfg.unlabelled:
            self.teacher = copy.deepcopy(self._classifier[0]).requires_grad_(False)
        return nn.ModuleDict({"patches": self._classifier[0]})

    def scale(self, t: Progress) -> LossScale:
        """Labelled images only at first; then alpha, and the host's half turned into 1 / 3.3 in the code's form."""
        if not self._classifier:
            return LossScale()
        if t.epoch < self.cfg.warmup_epochs:
            return LossScale(unlabeled=0.0)
        return LossScale(2 / 3.3 if self.cfg.loss_form == "code" else 1.0, self.cfg.alpha)  # Eq. 7

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """lam_s of Eq. 5, B H W: the teacher's class confidence around a pixel, at the pixel's pseudo-label.

        Release: 1 for pixels that are kept and 0 for others, so that these leave the divisor too.
        """
        if not self.cfg.unlabelled:
            return None
        pseudo = mixed.pseudo
        if not self.release or self.cfg.patch_target == "soft":
            self._start_step(t)
            features = pseudo.feats.get("layer1")
            if features is None:  # patches straddle the borders of a mix, so the teacher looks at the mixed image
                features = first_stage(teach, mixed.weak)
            self._judgements[id(pseudo)] = self._judge(features)
        if self.release:
            return (pseudo.keep | pseudo.trusted_mask()).to(pseudo.conf.dtype)
        lam = resize(self._judgements[id(pseudo)][1], pseudo.label.shape[-2:])  # B C H W
        weight = lam.gather(1, pseudo.label[:, None])[:, 0]
        if pseudo.trusted is None or not weight.numel():  # a process may hold no unlabelled image of a batch
            return weight
        return weight.where(~pseudo.trusted, weight.amax())

    def loss(self, outputs: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """L^M_l (Eq. 4), and beta L^M_u (Eq. 6) over the host's views."""
        if not self._classifier:
            return {}
        self._start_step(t)
        in_warmup = t.epoch < self.cfg.warmup_epochs
        views = outputs.views if self.cfg.unlabelled and not in_warmup else ()
        labeled, *of_views = self._logits(outputs, views, t)
        code = self.cfg.loss_form == "code"
        terms: dict[str, Tensor] = {}
        if self.cfg.labelled:
            part = self._labelled(labeled, outputs.batch.labeled.y)
            terms["mpmc_l"] = part / (2.0 if in_warmup else 3.3) if code else part
        if views:
            each = [self._unlabelled(logits, view) for logits, view in zip(of_views, views, strict=True)]
            total = sum(each[1:], each[0])
            terms["mpmc_u"] = self.cfg.beta * (total / 3.3 if code else total / len(each))
        return terms

    def _start_step(self, t: Progress) -> None:
        """Once a step: forget the last step's judgements, and let the EMA copy take in its update of the classifier."""
        if self._step == t.step:
            return
        self._step = t.step
        self._judgements.clear()
        if self.teacher is not None:
            decay = ema.capped_decay(max(t.step - 1, 0), self.cfg.ema)
            ema.update(self.teacher, self._classifier[0], decay, buffers=True)

    @torch.no_grad()
    def _judge(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(q, lam), B C h w each: the teacher's class probabilities in eval mode (Eq. 2), and weights made of them."""
        module = self.teacher or self._classifier[0]
        was_training = module.training
        module.eval()
        logits: Tensor = module(module.scales(features))
        module.train(was_training)
        q = logits.sigmoid()  # Eq. 2
        scores = logits if self.cfg.lam == "softmax_logits" else q
        return q, scores if self.cfg.lam == "sigmoid" else scores.softmax(1)  # lam of Sec. 3.3

    def _logits(self, outputs: StepOutputs, views: tuple[StudentView, ...], t: Progress) -> list[Tensor]:
        """The student's patch logits (B C h w each) of the labelled images, then of each of `views`.

        Labelled and weak features pass the classifier together, then the strong ones, each with batch statistics of
        their own. The release's first pass has four groups: labelled and weak, clean, then both with channels dropped.
        """
        module = self._classifier[0]
        weak = next((v for v in (outputs.views if self.release else views) if v.name == "fp"), None)
        strong = [v for v in views if v.name != "fp"]
        clean = module.scales(outputs.labeled.feats["layer1"])
        groups = [clean]
        if weak is not None:
            of_weak = module.scales(weak.out.feats["layer1"])
            groups += [of_weak, self._dropped(clean, "mpmc drop labeled", t)] if self.release else []
            groups += [self._dropped(of_weak, "mpmc drop", t)]
        first = _together(module, groups)
        second = iter(_together(module, [module.scales(v.out.feats["layer1"]) for v in strong]) if strong else ())
        return [first[0], *(first[-1] if v.name == "fp" else next(second) for v in views)]

    def _dropped(self, scales: Tensor, purpose: str, t: Progress) -> Tensor:
        """B D' h w with channels dropped image by image (release)."""
        drop = t.channel_drop(len(scales), scales.shape[1], self.cfg.feature_drop, purpose)
        return scales * drop[:, :, None, None]

    def _labelled(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Eq. 4 of patch logits (B C h w) against labels (B H W): asymmetric focal, or the release's cross-entropy."""
        grid = (logits.shape[-2], logits.shape[-1])
        present = patch_labels(mask, self.classes, *self._window, grid)
        if self.release:
            weight = patch_shares(mask, self.classes, *self._window, grid).softmax(1)
            each = F.binary_cross_entropy_with_logits(logits, present, reduction="none") * weight
            return mean_of(each.sum(), weight.sum())
        each = asymmetric_focal(logits, present)
        return mean_of(each.sum(), each.numel())  # Eq. 4, over patches as a mean

    def _unlabelled(self, logits: Tensor, view: StudentView) -> Tensor:
        """Eq. 6: binary cross-entropy of patch logits (B C h w) to the target, weighted by lam_m."""
        q, lam = self._judgements.get(id(view.pseudo), (None, None))
        target = self._target(view.pseudo, logits, q)
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        weight = torch.ones_like(each) if lam is None or self.release else lam
        return mean_of((weight * each).sum(), each.numel() if self.absolute else weight.sum())

    def _target(self, pseudo: Pseudo, logits: Tensor, q: Tensor | None) -> Tensor:
        """B C h w: the teacher's q, or which classes the kept pseudo-labels of a patch have."""
        if self.cfg.patch_target == "soft" and q is not None:
            return q
        sure = pseudo.keep | pseudo.trusted_mask()
        if not self.release:  # there, what the teacher says of padding counts
            sure = sure & pseudo.valid
        mask = pseudo.label.where(sure, 255)
        return patch_labels(mask, self.classes, *self._window, (logits.shape[-2], logits.shape[-1]))


def asymmetric_focal(logits: Tensor, present: Tensor) -> Tensor:
    """-y log q - (1 - y) q log(1 - q), q = sigmoid(logits): easy negatives count little (Eq. 3, gamma 0 and 1)."""
    q = logits.sigmoid()
    return -present * F.logsigmoid(logits) - (1 - present) * q * F.logsigmoid(-logits)  # Eq. 3


def _together(module: PatchClassifier, groups: list[Tensor]) -> tuple[Tensor, ...]:
    """The module on all groups in one pass (one set of batch statistics), cut apart again."""
    return module(torch.cat(groups)).split([len(group) for group in groups])  # type: ignore[no-any-return]
