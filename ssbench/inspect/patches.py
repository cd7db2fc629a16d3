"""MPMC's Table 4 for a checkpoint: where its patch classifier is right, and what the method gains on those patches.

A patch is the window that a cell of the stage-1 features sees. The paper leaves open what exactly is counted; ours: the
student's features are judged, on the whole image, and patches without a known label count in the shares but have no
mIoU.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ssbench.errors import UsageError
from ssbench.methods.base import Method
from ssbench.ops.patch_stats import agreement_bins, patch_iou, patch_labels
from ssbench.recipe.recipe import EvalConfig
from ssbench.train.batched import Predict
from ssbench.train.distributed import Team
from ssbench.train.evaluate import image_labels

BINS = 10
Over = Literal["union", "all_classes"]


@runtime_checkable
class PatchJudge(Protocol):
    """A trained module of a plug-in that says which classes are in the window of each cell."""

    def present(self, features: Tensor) -> Tensor:
        """Stage-1 features B D h w -> B C h w bool."""


@dataclass(frozen=True)
class PatchOptions:
    """What to count. over: which classes the agreement is of (`ops.patch_stats.agreement_bins`).

    baseline: a checkpoint to take the gain over. recipe: what it was made by (None: the scored one, without plug-in).
    """

    over: Over = "union"
    baseline: Path | None = None
    recipe: str | None = None


class PatchTable:
    """Share of patches in each tenth of agreement, and their mIoU; called with each image as it is scored.

    Raises:
        UsageError: no plug-in of the method judges patches.
    """

    def __init__(self, method: Method, classes: int, cfg: EvalConfig, over: Over, baseline: Predict | None) -> None:
        judges = [module for module in method.extras.values() if isinstance(module, PatchJudge)]
        if not judges:
            what = f"no plug-in of this {type(method).__name__} judges patches"
            raise UsageError(what, "--patches", "a recipe and checkpoint with mpmc, or leave --patches out")
        self.judge, self.net, self.classes = judges[0], method.net, classes
        self.cfg, self.over, self.baseline = cfg, over, baseline
        # Rows: patches, patches with an mIoU, sum of that mIoU, sum of the baseline's.
        self.sums = torch.zeros(4, BINS, dtype=torch.float64)

    def __call__(self, x: Tensor, mask: Tensor, labels: Tensor) -> None:
        """Count one image: x 1 3 H W, mask and labels 1 H W. Waits for the device."""
        features = self.net.first_stage(x)
        field, grid = self.net.receptive_field(), (features.shape[-2], features.shape[-1])
        truth = mask.long()
        is_there = patch_labels(truth, self.classes, *field, grid) > 0
        bins = agreement_bins(self.judge.present(features), is_there, BINS, self.over).flatten().cpu()
        rows = [self._miou(labels, truth, grid)]
        if self.baseline is not None:
            rows.append(self._miou(image_labels(self.baseline, x, self.cfg), truth, grid))
        is_known = ~rows[0].isnan()
        for k, weights in enumerate([torch.ones_like(is_known), is_known, *(row.where(is_known, 0) for row in rows)]):
            self.sums[k] += torch.bincount(bins, weights.double(), BINS)

    def _miou(self, labels: Tensor, truth: Tensor, grid: tuple[int, int]) -> Tensor:
        """mIoU of every patch in percent, on the host: sums there do not depend on the order of threads."""
        return 100 * patch_iou(labels, truth, self.classes, *self.net.receptive_field(), grid).flatten().cpu()

    def result(self, team: Team) -> dict[str, Any]:
        """Of all processes: window and stride in pixels, numbers of patches, and a row for each tenth, best first."""
        half, stride = self.net.receptive_field()
        count, known, own, other = team.sum(self.sums.to(team.device)).cpu()
        rows = []
        for k in reversed(range(BINS)):
            miou = float(own[k] / known[k]) if known[k] else None
            base = float(other[k] / known[k]) if known[k] and self.baseline is not None else None
            rows.append({
                "agreement": "90+" if k == BINS - 1 else f"{10 * k}-{10 * (k + 1)}",
                "patches": int(count[k]),
                "share": float(100 * count[k] / count.sum()),
                "miou": miou,
                "baseline": base,
                "gain": None if miou is None or base is None else miou - base,
            })  # fmt: skip
        return {
            "window": 2 * half + 1, "stride": stride, "over": self.over, "patches": int(count.sum()),
            "known": int(known.sum()), "bins": rows,
        }  # fmt: skip
