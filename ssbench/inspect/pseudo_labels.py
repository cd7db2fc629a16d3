"""WPL's supplement Table 1: boxes of the detector, and pseudo-labels by class in three groups, against hidden labels.

The accuracy of a class is the share of right ones among those that are said to be of it. Pixels whose label is unknown
(255) count nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssbench.ops.components import accuracy, component_boxes
from ssbench.plugins.wpl_boxes import BoxMaps, Edges, ImageBoxes, in_own_box

GROUPS: Final = ("confident", "agreed", "unboxed")


@dataclass
class ClassBoxes:
    """Detected boxes of each class, and how many of them are right: IoU of at least `overlap` with a true box.

    classes: those that have boxes. score: boxes below it do not count. min_area: of the components that boxes are drawn
    around (supplement Sec. 1).
    """

    classes: Sequence[int]
    score: float
    min_area: int
    overlap: float = 0.8
    counts: dict[int, list[int]] = field(default_factory=dict)

    def add(self, boxes: ImageBoxes, mask: NDArray[Any]) -> None:
        """Count one image: the boxes detected in it, and its labels H W."""
        rows = np.array([row[:5] for row in boxes.rows if row[5] >= self.score]).reshape(-1, 5)
        truth = component_boxes(mask, self.classes, self.min_area)
        for c, (count, right) in accuracy([(rows, truth)], self.classes, self.overlap).items():
            total = self.counts.setdefault(c, [0, 0])
            total[0] += count
            total[1] += right

    def result(self, names: Sequence[str]) -> dict[str, Any]:
        """Values and counts of an analysis, by class."""
        pairs = {names[c]: self.counts.get(c, [0, 0]) for c in self.classes}
        return {
            "values": {name: {"accuracy": _share(right, boxes)} for name, (boxes, right) in pairs.items()},
            "counts": {name: {"boxes": boxes, "right": right} for name, (boxes, right) in pairs.items()},
        }


class PixelGroups:
    """Confident pseudo-labels of each class, how many are right; so for those inside a box of their class, and not.

    Called with each image; keeps whole numbers on the host.
    """

    def __init__(self, classes: int, things: Sequence[int], score: float, confidence: float, edges: Edges) -> None:
        self.classes, self.things, self.score = classes, tuple(things), score
        self.confidence, self.edges = confidence, edges
        self.counts = torch.zeros(len(GROUPS), 2, classes, dtype=torch.int64)

    def add(self, logits: Tensor, boxes: ImageBoxes, mask: NDArray[Any]) -> None:
        """Count one image: scores C H W, boxes, labels H W. Waits for the device."""
        conf, label = logits.softmax(0).max(0)
        conf, label = conf.cpu(), label.cpu()
        truth = torch.from_numpy(mask.astype(np.int64))
        sure = (conf >= self.confidence) & (truth < self.classes)
        layers = BoxMaps({"": boxes}, self.things, self.score, edges=self.edges)("")
        maps = {name: torch.from_numpy(np.array(layer))[None] for name, layer in layers.items()}
        boxed = in_own_box(maps, label[None], self.things)[0]
        for k, group in enumerate((sure, sure & boxed, sure & ~boxed)):
            self.counts[k, 0] += torch.bincount(label[group], minlength=self.classes)
            self.counts[k, 1] += torch.bincount(label[group & (label == truth)], minlength=self.classes)

    def result(self, names: Sequence[str]) -> dict[str, Any]:
        """Values and counts of an analysis, by class. A class without boxes has the first group alone."""
        values: dict[str, dict[str, float | None]] = {}
        counts: dict[str, dict[str, int]] = {}
        for c, name in enumerate(names):
            groups = GROUPS if c in self.things else GROUPS[:1]
            pairs = {group: self.counts[k, :, c].tolist() for k, group in enumerate(groups)}
            values[name] = {group: _share(right, pixels) for group, (pixels, right) in pairs.items()}
            counts[name] = {group: pixels for group, (pixels, _) in pairs.items()}
            counts[name] |= {f"{group}, right": right for group, (_, right) in pairs.items()}
        return {"values": values, "counts": counts}


def _share(part: int, whole: int) -> float | None:
    """Percent; None of nothing."""
    return 100 * part / whole if whole else None
