"""Where a patch classifier is right, and what its method gains there: MPMC's Table 4, image by image.

A patch is the window a cell of the stage-1 features sees. Readings that are ours (specs: mpmc 13): the student's
features are judged, on the whole image; patches without a known label count in the shares and have no mIoU.
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
from ssbench.train.distributed import Team
from ssbench.train.evaluate import Predict, scores

BINS = 10
Over = Literal["union", "all_classes"]


@runtime_checkable
class Judge(Protocol):
    """A trained module of a plug-in that says which classes are in the window of each cell."""

    def present(self, features: Tensor) -> Tensor:
        """Stage-1 features B D h w -> B C h w bool."""


@dataclass(frozen=True)
class Asked:
    """What to count. over: which classes the agreement is of (`ops.patch_stats.agreement`).

    baseline: a checkpoint the gain is over, and the recipe it was made by (None: the scored one's, without plug-in).
    """

    over: Over = "union"
    baseline: Path | None = None
    recipe: str | None = None


class PatchTable:
    """Told of every image with its labels; knows the share of patches in each tenth of agreement, and their mIoU.

    Raises:
        UsageError: no plug-in of the method judges patches.
    """

    def __init__(self, method: Method, classes: int, cfg: EvalConfig, over: Over, baseline: Predict | None) -> None:
        judges = [module for module in method.extras.values() if isinstance(module, Judge)]
        if not judges:
            what = f"no plug-in of this {type(method).__name__} judges patches"
            raise UsageError(what, "--patches", "a recipe and checkpoint with mpmc, or leave --patches out")
        self.judge, self.net, self.classes = judges[0], method.net, classes
        self.cfg, self.over, self.baseline = cfg, over, baseline
        self.sums = torch.zeros(4, BINS, dtype=torch.float64)  # patches, those with an mIoU, sum of it, of the baseline

    def __call__(self, x: Tensor, mask: Tensor, label: Tensor) -> None:
        """One image: x 1 3 H W, mask and label 1 H W. Waits for the device."""
        features = self.net(x).feats["layer1"]
        sight, grid = self.net.receptive_field(), (features.shape[-2], features.shape[-1])
        truth = mask.long()
        there = patch_labels(truth, self.classes, *sight, grid) > 0
        which = agreement_bins(self.judge.present(features), there, BINS, self.over).flatten().cpu()
        rows = [self._iou(label, truth, grid)]
        if self.baseline is not None:
            rows.append(self._iou(scores(self.baseline, x, self.cfg).argmax(1), truth, grid))
        known = ~rows[0].isnan()
        for k, weights in enumerate([torch.ones_like(known), known, *(row.where(known, 0) for row in rows)]):
            self.sums[k] += torch.bincount(which, weights.double(), BINS)

    def _iou(self, label: Tensor, truth: Tensor, grid: tuple[int, int]) -> Tensor:
        """The IoU of every patch, in percent, on the host: sums there do not depend on the order of threads."""
        return 100 * patch_iou(label, truth, self.classes, *self.net.receptive_field(), grid).flatten().cpu()

    def result(self, team: Team) -> dict[str, Any]:
        """Of all processes: window and stride in pixels, how many patches, and a row for each tenth, the best first."""
        half, stride = self.net.receptive_field()
        count, known, own, other = team.sum(self.sums.to(team.device)).cpu()
        bins = []
        for k in reversed(range(BINS)):
            mine = _mean(own[k], known[k])
            base = _mean(other[k], known[k]) if self.baseline is not None else None
            gain = None if mine is None or base is None else mine - base
            label = "90+" if k == BINS - 1 else f"{10 * k}-{10 * (k + 1)}"
            share = float(100 * count[k] / count.sum())
            row = {"agreement": label, "patches": int(count[k]), "share": share, "miou": mine}
            bins.append({**row, "baseline": base, "gain": gain})
        return {
            "window": 2 * half + 1, "stride": stride, "over": self.over, "patches": int(count.sum()),
            "known": int(known.sum()), "bins": bins,
        }  # fmt: skip


def _mean(total: Tensor, count: Tensor) -> float | None:
    return float(total / count) if count else None
