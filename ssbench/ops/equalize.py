"""AEL's class bank, and what it decides: classes to paste, regions to mix, pixels to count (card: ael 4 to 8).

A bank holds one number per class in [0, 1), how well the class is doing. On the host (numpy) it decides which classes
are pasted and which image comes in; on the device which pixels of a pseudo-label count. The authors work per process
on two labelled images; here a `group` of images stands for such a process, so that the number of devices changes
nothing.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssbench.ops.losses import IGNORE
from ssbench.ops.reduce import global_sum, mean_of, world_size

Chances: TypeAlias = NDArray[np.float64]
Slices: TypeAlias = tuple[slice, slice]


def class_probabilities(bank: NDArray[np.float32], power: float, without: Collection[int] = ()) -> Chances:
    """C probabilities: softmax of (1 - bank)^power over the classes not in `without`, 0 for those.

    power 0.5 for the class that is pasted, 1 for the class that chooses a CutMix partner (card: ael 5, 6).

    Raises:
        ValueError: no class is left.
    """
    left = np.array([c not in without for c in range(len(bank))])
    if not left.any():
        raise ValueError(f"no class is left to draw from: all {len(bank)} are excluded")
    raised = np.exp(np.maximum(1 - bank.astype(np.float64), 0) ** power) * left
    return np.asarray(raised / raised.sum(), np.float64)


def class_region(y: Tensor, chosen: Tensor) -> Tensor:
    """B H W bool: pixels whose label is a chosen class of their image.

    Args:
        y: B H W int64, 255 = none.
        chosen: B C bool.
    """
    labelled = y != IGNORE
    index = torch.where(labelled, y, torch.zeros_like(y)).flatten(1)
    return chosen.gather(1, index).view_as(y) & labelled


def class_confidence(logits: Tensor, y: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """(confidence, present), each G C: mean softmax probability of class c over pixels of class c, by group of images.

    Absent classes have confidence 0. Carries no gradient.

    Args:
        logits: B C H W. y: B H W int64, 255 = ignore. group: images in a group; the last may be smaller.
    """
    with torch.no_grad():
        classes = logits.shape[1]
        safe = torch.where(y != IGNORE, y, torch.zeros_like(y))
        true = logits.softmax(1).gather(1, safe[:, None])[:, 0]
        total = torch.stack([(true * (y == c)).flatten(1).sum(1) for c in range(classes)], 1)  # B C
        count = _pixels(y, classes)  # sums in a fixed order, unlike a scatter on a GPU
        totals = torch.stack([part.sum(0) for part in torch.split(total, group)])  # G C
        counts = torch.stack([part.sum(0) for part in torch.split(count, group)])
        return totals / counts.clamp(min=1), counts > 0


def update_bank(
    bank: Tensor, confidence: Tensor, present: Tensor, momentum: float, absent: Literal["zero", "skip"]
) -> Tensor:
    """The bank moved towards the mean measurement over the groups of all processes.

    absent: "zero" counts a class missing from a group as confidence 0, so the bank measures rarity as well (release);
    "skip" leaves it out, and leaves the bank alone where no group has the class.

    Args:
        bank: C. confidence, present: G C, as `class_confidence` gives them.
    """
    total = global_sum(confidence.sum(0))
    if absent == "zero":
        return momentum * bank + (1 - momentum) * total / (len(confidence) * world_size())
    groups = global_sum(present.sum(0))
    moved = momentum * bank + (1 - momentum) * total / groups.clamp(min=1)
    return torch.where(groups > 0, moved, bank)


def keep_map(predicted: Tensor, bank: Tensor, power: float, field: Tensor) -> Tensor:
    """B H W bool: pixels kept with probability ((1 - b) / max(1 - b))^power of their predicted class.

    Args:
        predicted: B H W int64. bank: C. field: C H W uniform numbers in [0, 1), one plane a class, shared by the
            images (card: ael 8).
    """
    gap = 1 - bank
    share = (gap / gap.amax()) ** power
    return field.gather(0, predicted) > 1 - share[predicted]


def weighted_mean(ce: Tensor, weight: Tensor, counted: Tensor, group: int, over: Literal["all", "counted"]) -> Tensor:
    """Mean over groups of sum(weight x CE) / sum(weight), CE 0 where not counted; a scalar over all processes.

    Args:
        ce, weight: B H W. counted: B H W bool, pixels with a target.
        over: what the divisor sums over; "all" includes pixels without a target (release; card: ael 8).
    """
    below = weight if over == "all" else weight * counted
    above = (weight * ce * counted).flatten(1).sum(1)
    sums = zip(torch.split(above, group), torch.split(below.flatten(1).sum(1), group), strict=True)
    each = torch.stack([a.sum() / (b.sum() + 1e-12) for a, b in sums])
    return mean_of(each.sum(), len(each))


def presence(label: Tensor, classes: int, share: float) -> Tensor:
    """B C bool: whether a class covers at least `share` of an image's pixels. label: B H W int64."""
    return _pixels(label, classes) >= share * label[0].numel()


def component_box(mask: NDArray[np.bool_], area: float, rng: np.random.Generator) -> Slices | None:
    """Rows and columns of the bounding box of a connected component of `mask` larger than `area` x its pixels.

    Pixels are connected at sides or corners (8 neighbours), and components are tried in random order. None where none
    is large enough, or where the mask is full (card: ael 6). On the host: torch cannot label connected components.

    Args:
        mask: H W bool.
    """
    from scipy import ndimage

    if mask.all() or not mask.any():
        return None
    components, count = ndimage.label(mask, np.ones((3, 3), np.int64))
    sizes, boxes = np.bincount(components.ravel(), minlength=count + 1), ndimage.find_objects(components)
    for k in rng.permutation(count):
        if sizes[k + 1] > area * mask.size:
            rows, columns = boxes[k]
            return rows, columns
    return None


def _pixels(label: Tensor, classes: int) -> Tensor:
    """B C int64: pixels of each class. label: B H W."""
    return torch.stack([(label == c).flatten(1).sum(1) for c in range(classes)], 1)
