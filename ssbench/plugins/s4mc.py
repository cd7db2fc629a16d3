"""S4MC: a pixel's confidence is that of the event "this pixel or its best neighbour has the class".

Paper: "Semi-Supervised Semantic Segmentation via Marginal Contextual Information", Secs. 3.2.1-3.2.2, App. C (NeurIPS
2023 submission version). Checked against: s4mcontext/s4mc 63905af, `u2pl/utils/loss_helper.py` and `train_semi.py`
(CutMix-Seg host; the FixMatch host is not released).
variant: "paper" = full 3 x 3 window with distance weights, independent joint (Eq. 8), level falling by iteration;
"release" = 4 side neighbours, the class-conditional bound of App. C, level falling by epoch. Each part can be set
alone. Labels are never changed: they stay the arg-max of the raw probabilities (specs: s4mc A3).
Departures: E is estimated from the labelled split with in-image pairs only (the release hard-codes lists in which
pixels outside the image count as class 0; they are `agreement: published`). Padding is never kept and never a
neighbour (ours, specs: s4mc A8).
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from ssbench.errors import RecipeError
from ssbench.ops import neighbours, select
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import Plugin, PluginConfig, PrepareInputs

_SCORES = {"margin": select.margin, "max": select.max_score, "entropy": select.negative_entropy}

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
        """Settings."""

        name: Literal["s4mc"] = "s4mc"
        variant: Literal["paper", "release"] = "paper"
        alpha0: float = 0.4  # Sec. 3.2.2, Table 4b
        score: Literal["margin", "max", "entropy"] = "margin"  # Eq. 4, Table 5
        neighbour: Literal["max", "min", "random", "two_max"] = "max"  # Sec. 3.2.1, Table 4a
        size: Literal[3, 5, 7] = 3  # Table 4a
        connectivity: Literal[4, 8] | None = None  # paper 8, release 4; sizes 5 and 7 need 8
        joint: Literal["independent", "max_joint", "empirical_only"] | None = None  # Eq. 8; App. C
        schedule: Literal["iteration", "epoch"] | None = None  # Eq. 6; release
        agreement: Literal["estimated", "published"] = "estimated"  # E_c of App. C
        refine_scores: bool = True  # off: threshold schedule only ("baseline" of Fig. 4)
        dpa: bool = True  # off: `gamma` when given, else the host's own rule
        gamma: float | None = None  # a constant threshold on the score, with dpa off

    def __init__(self, cfg: Config, classes: int) -> None:
        super().__init__(cfg, classes)
        release = cfg.variant == "release"
        self.connectivity = cfg.connectivity or (4 if release and cfg.size == 3 else 8)
        self.joint = cfg.joint or ("max_joint" if release else "independent")
        self.by_epoch = (cfg.schedule or ("epoch" if release else "iteration")) == "epoch"
        if self.connectivity == 4 and cfg.size != 3:
            raise RecipeError(f"s4mc: size {cfg.size} with connectivity 4", "plugin", "use connectivity: 8")
        if not cfg.dpa and cfg.gamma is None and cfg.refine_scores:
            raise RecipeError("s4mc: refined scores need a threshold, and dpa is off", "plugin", "set gamma: 0.5, say")
        if cfg.dpa and cfg.gamma is not None:
            raise RecipeError(
                f"s4mc: dpa sets the threshold, so gamma {cfg.gamma} is unused", "plugin", "set dpa: false"
            )
        if cfg.agreement == "published" and classes not in PUBLISHED:
            raise RecipeError(f"s4mc: no published agreement for {classes} classes", "plugin", "agreement: estimated")
        start = PUBLISHED[classes] if cfg.agreement == "published" else [1.0] * classes
        self.register_buffer("agreement", torch.tensor(start))
        self.register_buffer("pair_agreement", torch.tensor(1.0))
        self.agreement: Tensor
        self.pair_agreement: Tensor

    def prepare(self, run: PrepareInputs) -> None:
        """Estimate from the labelled masks how often a neighbour has a pixel's label (App. C)."""
        known = self.joint == "max_joint" and self.cfg.agreement == "published"
        if self.joint == "independent" or known or not self.cfg.refine_scores:
            return
        equal, pairs = torch.zeros(self.classes, dtype=torch.int64), torch.zeros(self.classes, dtype=torch.int64)
        for id in run.progress(run.labeled, "label agreement of neighbours"):
            found = neighbours.label_agreement(torch.from_numpy(np.array(run.mask(id))), self.classes)
            equal, pairs = equal + found[0], pairs + found[1]
        self.pair_agreement.fill_(float(equal.sum() / pairs.sum().clamp(min=1)))
        if self.cfg.agreement == "estimated":  # a class the labels lack gets the mean over all pairs
            self.agreement.copy_(torch.where(pairs > 0, equal / pairs.clamp(min=1), self.pair_agreement.cpu()))

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        """Threshold from raw scores (Eq. 6), test on refined ones (Eq. 4)."""
        if not self.cfg.dpa and self.cfg.gamma is None:
            return pseudo
        score, probs = _SCORES[self.cfg.score], pseudo.soft
        gamma = self._gamma(score(probs), pseudo.valid, t)
        judged = self._refined(probs * pseudo.valid[:, None], t) if self.cfg.refine_scores else probs
        return replace(pseudo, keep=(score(judged) > gamma) & pseudo.valid)

    def _gamma(self, raw: Tensor, valid: Tensor, t: Progress) -> Tensor:
        """alpha_t-quantile of the raw scores of the batch, alpha_t = alpha0 (1 - t/T)."""
        if not self.cfg.dpa:
            return torch.as_tensor(self.cfg.gamma, dtype=raw.dtype, device=raw.device)
        done = t.epoch / t.epochs if self.by_epoch else t.fraction
        return select.quantile(raw, valid, self.cfg.alpha0 * (1 - done))

    def _refined(self, probs: Tensor, t: Progress) -> Tensor:
        """Eqs. 8-10: probs after the union with one neighbour, or with two in turn."""
        generator = t.generator("s4mc neighbour") if self.cfg.neighbour == "random" else None
        refined = probs
        for n, beta in neighbours.chosen(probs, self.cfg.size, self.connectivity, self.cfg.neighbour, generator):
            if self.joint == "empirical_only":
                refined = refined + beta * (n - self.pair_agreement)
            else:
                bound = self.agreement if self.joint == "max_joint" else None
                refined = neighbours.union(refined, n, beta, bound)
        return refined
