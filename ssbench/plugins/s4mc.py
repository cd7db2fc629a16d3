"""S4MC: a pixel's confidence is that of the event "this pixel or its best neighbour has the class".

Paper: "Semi-Supervised Semantic Segmentation via Marginal Contextual Information" (NeurIPS 2023 submission version),
Secs. 3.1-3.2, App. C. Checked against: s4mcontext/s4mc 63905af, `s4mc_utils/utils/loss_helper.py` and `train_semi.py`
(CutMix-Seg host; the FixMatch host is not released).
variant: "paper" = full 3 x 3 window with distance weights, independent joint (Eq. 8), quantile of the whole batch,
level falling by iteration; "release" = 4 side neighbours, a class-conditional bound of the joint, quantile of the one
image of a process, level falling by epoch. Each part can be set alone (card: s4mc 2, 3, 4).
Labels never change: they stay the arg-max of the raw probabilities, as released (Eq. 4 leaves it open).
Departures: E and the scalar of Eq. 15 are estimated from the labelled split, from pairs inside the image (the release
hard-codes lists in which pixels outside count as class 0: `agreement: published`). Padding is never kept and no
neighbour, nor is what lies outside the image.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import model_validator
from torch import Tensor

from ssbench.errors import RecipeError
from ssbench.ops import confidence, neighbours
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.ops.reduce import gather_rows
from ssbench.plugins.base import Count, Plugin, PluginConfig, PrepareInputs, Share

SCORES = {
    "margin": confidence.margin,  # Eq. 5
    "max": confidence.max_score,  # Eq. 11
    "entropy": confidence.negative_entropy,  # Eq. 12
}

PUBLISHED: dict[int, tuple[float, ...]] = {  # release, hard-coded by the authors, 4 decimals
    21: (0.9981, 0.9860, 0.9556, 0.9888, 0.9862, 0.9895, 0.9928, 0.9900, 0.9940, 0.9724, 0.9815, 0.9922, 0.9921, 0.9904,
         0.9877, 0.9891, 0.9772, 0.9866, 0.9878, 0.9948, 0.9933),
    19: (0.9964, 0.9862, 0.9612, 0.8320, 0.9734, 0.9764, 0.9915, 0.9967, 0.9878, 0.9840, 0.9906, 0.9906, 0.9848, 0.9843,
         0.9517, 0.9894, 0.9713, 0.9448, 0.9545),
}  # fmt: skip


class S4MC(Plugin):
    """keep = kappa(refined) > quantile of kappa(raw); replaces the host's threshold, leaves labels alone."""

    zero: ClassVar = {"refine_scores": False, "dpa": False}

    class Config(PluginConfig):
        """Settings; None: as the variant has it."""

        added: ClassVar = {"group": None}
        name: Literal["s4mc"] = "s4mc"
        variant: Literal["paper", "release"] = "paper"
        alpha0: Share = 0.4  # Sec. 3.2.2, Table 4b
        score: Literal["margin", "max", "entropy"] = "margin"  # Eq. 5, Table 5
        neighbour: Literal["max", "min", "random", "two_max"] = "max"  # Eq. 9, Table 4a
        size: Literal[3, 5, 7] = 3  # Table 4a
        connectivity: Literal[4, 8] | None = None  # paper 8, release 4; sizes 5 and 7 need 8
        joint: Literal["independent", "bound", "class_bound", "empirical_only"] | None = None  # see `_joint`
        schedule: Literal["iteration", "epoch"] | None = None  # Eq. 6; release
        group: Count | Literal["batch"] | None = None  # images of one quantile; Sec. 3.1.2: batch; release: 1
        agreement: Literal["estimated", "published"] = "estimated"  # E_c of `class_bound`
        refine_scores: bool = True  # off: threshold schedule only ("baseline" of Fig. 4)
        dpa: bool = True  # off: `gamma` when given, else the host's own rule
        gamma: float | None = None  # a constant threshold on the score, with dpa off

        @model_validator(mode="after")
        def _fits(self) -> S4MC.Config:
            if self.connectivity == 4 and self.size != 3:
                raise ValueError(f"size {self.size} with connectivity 4: set connectivity: 8")
            if not self.dpa and self.gamma is None and self.refine_scores:
                raise ValueError("refined scores need a threshold, and dpa is off: set gamma: 0.5, say")
            if self.dpa:
                self._refuse_unread("dpa: true", "gamma")
            else:
                self._refuse_unread("dpa: false", "alpha0", "schedule", "group")
            if self.joint_used != "class_bound":
                self._refuse_unread(f"joint: {self.joint_used}", "agreement")
            low, high = (-math.inf, 0.0) if self.score == "entropy" else (0.0, 1.0)
            if self.gamma is not None and not low <= self.gamma <= high:
                raise ValueError(f"gamma {self.gamma} is no {self.score} score: those are {low} to {high}")
            return self

        @property
        def joint_used(self) -> str:
            """`joint`, or the variant's."""
            return self.joint or ("class_bound" if self.variant == "release" else "independent")

    agreement: Tensor
    pair_agreement: Tensor

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        release = cfg.variant == "release"
        self.connectivity = cfg.connectivity or (4 if release and cfg.size == 3 else 8)
        self.joint = cfg.joint_used
        self.by_epoch = (cfg.schedule or ("epoch" if release else "iteration")) == "epoch"
        self.group = cfg.group or (1 if release else "batch")  # release config: batch_size 1 on each GPU
        start = PUBLISHED[classes] if cfg.agreement == "published" else [1.0] * classes
        self.register_buffer("agreement", torch.tensor(start))  # E_c, C
        self.register_buffer("pair_agreement", torch.tensor(1.0))  # p^2 of Eq. 15

    @classmethod
    def check(cls, cfg: Config, classes: int) -> None:
        """Two classes at least, whose probabilities differ. The authors' lists exist for VOC and Cityscapes."""
        if classes < 2:
            what = "s4mc compares the two most probable classes, and the dataset has one: nothing to segment"
            raise RecipeError(what, "plugin", "a dataset of two classes or more, or no plug-in")
        if cfg.agreement == "published" and classes not in PUBLISHED:
            raise RecipeError(
                f"s4mc: no published agreement for {classes} classes", "plugin", "--set plugin.agreement=estimated"
            )

    @classmethod
    def behaviour_of(cls, cfg: Config) -> int:
        """2: quantiles by group (release), the neighbour of Eq. 9 under a bound, no neighbour outside the image."""
        concerned = cfg.variant == "release" or cfg.neighbour == "min" or cfg.joint not in (None, "independent")
        return 2 if concerned else 1

    def prepare(self, run: PrepareInputs) -> None:
        """Estimate from the labelled masks how often a neighbour has a pixel's label (Eq. 15; by class as released)."""
        known = self.joint == "class_bound" and self.cfg.agreement == "published"
        if self.joint == "independent" or known or not self.cfg.refine_scores:
            return
        equal, pairs = torch.zeros(self.classes, dtype=torch.int64), torch.zeros(self.classes, dtype=torch.int64)
        for id in run.progress(run.labeled, "label agreement of neighbours"):
            equal_here, pairs_here = neighbours.label_agreement(torch.from_numpy(np.array(run.mask(id))), self.classes)
            equal, pairs = equal + equal_here, pairs + pairs_here
        self.pair_agreement.fill_(float(equal.sum() / pairs.sum().clamp(min=1)))  # Eq. 15
        if self.cfg.agreement == "estimated":  # a class the labels lack gets the mean over all pairs
            self.agreement.copy_(torch.where(pairs > 0, equal / pairs.clamp(min=1), self.pair_agreement.cpu()))

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Replace `keep`: threshold from raw scores (Eq. 6), test on refined ones (Eq. 4, Sec. 3.2.2)."""
        if not self.cfg.dpa and self.cfg.gamma is None:
            return pseudo
        score, probs = SCORES[self.cfg.score], pseudo.soft  # B C H W
        gamma = self._gamma(score(probs), pseudo.valid, t)
        judged = self._refined(probs, pseudo.valid, t) if self.cfg.refine_scores else probs
        return replace(pseudo, keep=(score(judged) > gamma) & pseudo.valid)  # Eq. 4

    def _gamma(self, raw: Tensor, valid: Tensor, t: Progress) -> Tensor:
        """alpha_t-quantile of the raw scores (B H W) of the whole batch, or of every group; a scalar or B 1 1."""
        if not self.cfg.dpa:
            return torch.as_tensor(self.cfg.gamma, dtype=raw.dtype, device=raw.device)
        done = t.epoch / t.epochs if self.by_epoch else t.fraction
        level = self.cfg.alpha0 * (1 - done)  # Eq. 6
        if self.group == "batch":  # of all processes, so that their number changes nothing
            return confidence.quantile(gather_rows(raw), gather_rows(valid), level)
        if len(raw) % (size := min(self.group, len(raw))):
            what = f"{len(raw)} unlabelled images a process do not form groups of {self.group}"
            raise RecipeError(what, "plugin.group", f"--set plugin.group={math.gcd(len(raw), size)}, or batch")
        return confidence.group_quantiles(raw, valid, level, len(raw) // size)

    def _refined(self, probs: Tensor, valid: Tensor, t: Progress) -> Tensor:
        """Eqs. 8-10: the probabilities (B C H W) of the union with the chosen neighbour, not normalised again."""
        generator = t.generator("s4mc neighbour") if self.cfg.neighbour == "random" else None
        inside = probs * valid[:, None]
        choice, size = self.cfg.neighbour, self.cfg.size
        return neighbours.united(inside, valid, self._joint, size, self.connectivity, choice, generator)

    def _joint(self, p: Tensor, n: Tensor) -> Tensor:
        """The probability that a pixel (p) and its neighbour (n) both have the class, B C H W."""
        if self.joint == "empirical_only":
            return self.pair_agreement  # Eq. 15 alone; the paper reports that it diverges
        independent = p * n  # Eqs. 8 and 14
        if self.joint == "bound":
            return torch.maximum(independent, self.pair_agreement)  # Eq. 16
        if self.joint == "class_bound":
            return torch.maximum(independent, p * self.agreement.view(1, -1, 1, 1))  # release: E_c by class
        return independent
