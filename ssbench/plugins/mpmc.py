"""MPMC: a multi-label classifier of patches on stage-1 features, whose doubts weigh the pseudo-labels.

Paper: "Beyond Pixels: Semi-Supervised Semantic Segmentation with a Multi-scale Patch-based Multi-Label Classifier",
ECCV 2024, Secs. 3.2-3.4. Checked against: cvlab-stonybrook/Beyond-Pixels a369bad (UniMatch host only; the script stops
with an error after its second epoch, so it is not the program of the tables).
variant: "paper" = asymmetric focal loss on labelled patches, softmax weights; "release" = binary cross-entropy weighted
by softmaxed class shares (window one pixel wider than the release's off-by-one 38), weights of 1 (the released
rejection of large losses never fires; specs: mpmc 6). The module is the release's in both.
Readings that are ours (specs: mpmc 12): softmax over the sigmoids (A1), weighted means (A2), pooled pseudo-labels as
patch targets (A3), weights between cell centres by bilinear interpolation (A4), means over patches instead of sums.
`teacher_module: ema` averages the classifier once a step, as hosts average their networks; the paper shares it.
Departure: labelled and perturbed features pass the classifier together, strong ones together; the release also passes
the unperturbed weak features, which enter no loss.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ssbench.nets.segnet import Out, SegNet, resize
from ssbench.ops import ema
from ssbench.ops.patch_stats import patch_labels, patch_shares
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import mean_of
from ssbench.plugins.base import LossScale, MixedView, Plugin, PluginConfig, StepOutputs, StudentView

STACK = ((1, 0), (3, 256), (1, 256), (3, 256), (3, 256), (1, 128), (3, 128), (3, 128), (1, 64), (3, 64))
"""Release: kernel and width of the ten convolutions; 0 = as wide as the input."""
PAPER_STACK = ((3, 256), (3, 256), (1, 256), (3, 256), (3, 256), (1, 128), (3, 128), (3, 128), (1, 64))


class PatchClassifier(nn.Module):
    """Stage-1 features (B D h w) -> B C h w logits, one row of class scores a patch (Sec. 3.2; release).

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
        """B (1 + kernels) D h w: the features and their local averages."""
        return torch.cat([features, *(F.avg_pool2d(features, k, 1, k // 2) for k in self.kernels)], 1)

    def forward(self, scales: Tensor) -> Tensor:
        """Logits of what `scales` returns."""
        logits: Tensor = self.head(self.stack(scales))
        return logits

    def present(self, features: Tensor) -> Tensor:
        """B C h w bool: the classes it finds in each patch, q >= 0.5 (Table 4)."""
        return self(self.scales(features)) >= 0  # type: ignore[no-any-return]


class MPMC(Plugin):
    """L = L_host(weighted by lam_s) + L^M_l + beta L^M_u."""

    zero: ClassVar = {"labelled": False, "unlabelled": False}
    quick: ClassVar = {"widest": 32}

    class Config(PluginConfig):
        """Settings."""

        added: ClassVar[Mapping[str, Any]] = {"normalise": "mean", "teacher_module": "shared", "ema": 0.99}
        name: Literal["mpmc"] = "mpmc"
        variant: Literal["paper", "release"] = "paper"
        labelled: bool = True  # Table 6
        unlabelled: bool = True  # Table 6
        kernels: tuple[Literal[7, 19], ...] = (7, 19)  # Sec. 3.2; Fig. 4
        arch: Literal["release", "paper"] = "release"  # ten convolutions; the paper's three blocks and one linear layer
        widest: int = Field(256, ge=16)  # release: channels of its widest convolutions; the others in proportion
        beta: float = 0.1  # release; the paper's 0.25 belongs to a segmentation stream there
        alpha: float = Field(1.0, ge=0)  # on the host's unlabelled terms: ours, they keep the host's own weight
        loss_form: Literal["code", "paper"] = "paper"  # "code": UniMatch's sum of all terms over 3.3
        warmup_epochs: int = 1  # release: epoch 0 trains on labelled images only
        lam: Literal["softmax_sigmoid", "softmax_logits", "sigmoid"] = "softmax_sigmoid"  # A1
        normalise: Literal["mean", "none"] = "mean"  # A2: weighted mean of the pixels; "none": Eq. 5 as printed
        patch_target: Literal["pooled", "soft"] = "pooled"  # A3; "soft": the teacher's q
        teacher_module: Literal["shared", "ema"] = "shared"  # Sec. 3.3: g and g-hat share their parameters
        ema: float = Field(0.99, ge=0, lt=1)  # with teacher_module ema: set it to the host's
        feature_drop: float = 0.5  # release: channel dropout on the perturbed stream

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        self.release, self.absolute = cfg.variant == "release", cfg.normalise == "none"
        self._made: list[PatchClassifier] = []  # in a list: the method owns and saves the module
        self.teacher: PatchClassifier | None = None
        self._step = -1
        self._sight: tuple[int, int] = (0, 1)
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def uses(cls, cfg: Config) -> frozenset[str]:
        """Without unlabelled patches no pseudo-label is weighed, so a host without any will do (Table 5)."""
        return cls.needs if cfg.unlabelled else cls.needs - {"weigh"}

    def extras(self, net: SegNet) -> nn.ModuleDict:
        """The patch classifier, with the receptive field of the encoder in use."""
        if not (self.cfg.labelled or self.cfg.unlabelled):
            return nn.ModuleDict()
        self._sight = net.receptive_field()
        cfg, channels = self.cfg, net.perturb_channels[0]
        self._made = [PatchClassifier(channels, self.classes, cfg.kernels, cfg.arch, cfg.widest)]
        if cfg.teacher_module == "ema" and cfg.unlabelled:
            self.teacher = copy.deepcopy(self._made[0]).requires_grad_(False)
        return nn.ModuleDict({"patches": self._made[0]})

    def scale(self, t: Progress) -> LossScale:
        """Labelled images only at first; then the host's half turned into 1 / 3.3 in the code's form."""
        if not self._made:
            return LossScale()
        if t.epoch < self.cfg.warmup_epochs:
            return LossScale(unlabeled=0.0)
        return LossScale(2 / 3.3 if self.cfg.loss_form == "code" else 1.0, self.cfg.alpha)

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        """lam_s: the teacher's class confidence of the patches around a pixel, at the pixel's pseudo-label (Eq. 4)."""
        if not self.cfg.unlabelled or (self.release and self.cfg.patch_target == "pooled"):
            return None
        self._begin(t)
        features = mixed.pseudo.feats.get("layer1")
        if features is None:  # windows straddle the borders of a mix, so the mixed image is looked at anew
            features = teach(mixed.weak).feats["layer1"]
        q, lam = self._judged(features)
        self._seen[id(mixed.pseudo)] = q, lam
        if self.release:
            return None
        wide = resize(lam, mixed.pseudo.label.shape[-2:])
        weight = wide.gather(1, mixed.pseudo.label[:, None])[:, 0]
        if mixed.pseudo.trusted is None or not weight.numel():  # a process may hold no unlabelled image of a batch
            return weight
        return weight.where(~mixed.pseudo.trusted, weight.amax())

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        """L^M_l, and beta L^M_u over the host's views."""
        if not self._made:
            return {}
        self._begin(t)
        module, warm = self._made[0], t.epoch < self.cfg.warmup_epochs
        views = seen.views if self.cfg.unlabelled and not warm else ()
        logits = self._logits(module, seen, views, t)
        code = self.cfg.loss_form == "code"
        terms: dict[str, Tensor] = {}
        if self.cfg.labelled:
            part = self._labelled(logits[0], seen.batch.labeled.y)
            terms["mpmc_l"] = part / (2.0 if warm else 3.3) if code else part
        if views:
            each = [self._unlabelled(z, view) for z, view in zip(logits[1:], views, strict=True)]
            total = sum(each[1:], each[0])
            terms["mpmc_u"] = self.cfg.beta * (total / 3.3 if code else total / len(each))
        return terms

    def _begin(self, t: Progress) -> None:
        """Once a step: forget the weights of the last, whose update of the classifier the EMA copy takes in now."""
        if self._step == t.step:
            return
        self._step = t.step
        self._seen.clear()
        if self.teacher is not None:
            decay = ema.capped_decay(max(t.step - 1, 0), self.cfg.ema)
            ema.update(self.teacher, self._made[0], decay, buffers=True)

    @torch.no_grad()
    def _judged(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """(q, lam), B C h w each: the teacher's class probabilities in eval mode, and weights of them (Eqs. 2-3)."""
        module = self.teacher or self._made[0]
        was = module.training
        module.eval()
        logits: Tensor = module(module.scales(features))
        module.train(was)
        q = logits.sigmoid()
        scores = logits if self.cfg.lam == "softmax_logits" else q
        return q, scores if self.cfg.lam == "sigmoid" else scores.softmax(1)

    def _logits(
        self, module: PatchClassifier, seen: StepOutputs, views: tuple[StudentView, ...], t: Progress
    ) -> list[Tensor]:
        """Labelled and perturbed features in one pass, strong ones in another; labelled first, then as `views`."""
        perturbed = [v for v in views if v.name == "fp"]
        strong = [v for v in views if v.name != "fp"]
        first = [module.scales(seen.labeled.feats["layer1"])]
        for view in perturbed:
            clean = module.scales(view.out.feats["layer1"])
            drop = t.channel_drop(len(clean), clean.shape[1], self.cfg.feature_drop, "mpmc drop")
            first.append(clean * drop[:, :, None, None])
        found = list(_together(module, first))
        if strong:
            second = _together(module, [module.scales(v.out.feats["layer1"]) for v in strong])
            return [found[0], *second, *found[1:]]
        return found

    def _labelled(self, logits: Tensor, mask: Tensor) -> Tensor:
        """Asymmetric focal loss with gamma+ 0 and gamma- 1 (Eq. 1), or the release's weighted cross-entropy."""
        half, stride = self._sight
        grid = (logits.shape[-2], logits.shape[-1])
        present = patch_labels(mask, self.classes, half, stride, grid)
        if self.release:
            weight = patch_shares(mask, self.classes, half, stride, grid).softmax(1)
            each = F.binary_cross_entropy_with_logits(logits, present, reduction="none") * weight
            return mean_of(each.sum(), weight.sum())
        each = asymmetric_focal(logits, present)
        return mean_of(each.sum(), each.numel())

    def _unlabelled(self, logits: Tensor, view: StudentView) -> Tensor:
        """Binary cross-entropy to the pooled pseudo-labels, weighted by lam_m (Eq. 6)."""
        told = self._seen.get(id(view.pseudo))
        target = self._target(view.pseudo, logits, None if told is None else told[0])
        each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        weight = torch.ones_like(each) if told is None or self.release else told[1]
        return mean_of((weight * each).sum(), weight.sum())

    def _target(self, pseudo: Pseudo, logits: Tensor, q: Tensor | None) -> Tensor:
        half, stride = self._sight
        if self.cfg.patch_target == "soft" and q is not None:
            return q
        sure = pseudo.counted & pseudo.valid
        mask = pseudo.label.where(sure, 255)
        return patch_labels(mask, self.classes, half, stride, (logits.shape[-2], logits.shape[-1]))


def asymmetric_focal(logits: Tensor, present: Tensor) -> Tensor:
    """-y log q - (1 - y) q log(1 - q), q = sigmoid(logits): easy negatives count little (Eq. 1, gamma 0 and 1)."""
    q = logits.sigmoid()
    return -present * F.logsigmoid(logits) - (1 - present) * q * F.logsigmoid(-logits)


def _together(module: PatchClassifier, parts: list[Tensor]) -> tuple[Tensor, ...]:
    """The module on all parts in one pass (one set of batch statistics), cut apart again."""
    return module(torch.cat(parts)).split([len(part) for part in parts])  # type: ignore[no-any-return]
