"""What a method sees of the data in one step: labelled and unlabelled images as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ssbench.views.device import RawViews
    from ssbench.views.settings import ViewsConfig

T = TypeVar("T")


@dataclass(frozen=True)
class Labeled:
    """x: B 3 H W (ACDC: B 1 H W), y: B H W int64 (255 = ignore), ids of the B images, maps cropped with them.

    raw: what x is computed from on the device; x is empty until `Batch.computed`.
    """

    x: Tensor
    y: Tensor
    ids: tuple[str, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    raw: RawViews | None = None


@dataclass(frozen=True)
class Unlabeled:
    """weak: B 3 H W; strong: views of the same crop; boxes: B H W bool, one a strong view; valid: false on padding.

    truth: the hidden labels, B H W int64, for analysis and oracle ablations only; no method trains on it.
    raw: as in `Labeled`, of weak and strong.
    colour: where a method pastes before it colours (`data.loader.Colour`): (weak or pasted images, which copy) -> their
    strong view, and B H W bool, true where cutout put noise.
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    valid: Tensor
    boxes: tuple[Tensor, ...]
    truth: Tensor
    ids: tuple[str, ...]
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    colour: Callable[[Tensor, int], tuple[Tensor, Tensor]] | None = None
    raw: RawViews | None = None


@dataclass(frozen=True)
class Batch:
    """The images of one step.

    partner: a second draw of unlabelled images to paste from, where the method needs one.
    donor: for each labelled image another one to paste from; where none was drawn its labels are all 255. In a mixture
    it is for each unlabelled image a labelled one.
    """

    labeled: Labeled
    unlabeled: Unlabeled | None = None
    partner: Unlabeled | None = None
    donor: Labeled | None = None

    def to(self, device: torch.device) -> Batch:
        """The same on `device`, without waiting for the copy."""
        return map_tensors(self, lambda t: t.to(device, non_blocking=True))

    def computed(self, views: ViewsConfig) -> Batch:
        """The same with every picture that was handed over as bytes and draws."""
        labeled, unlabeled, partner = self.labeled, self.unlabeled, self.partner
        if labeled.raw is not None:
            labeled = dataclasses.replace(labeled, x=labeled.raw.weak(views)[0], raw=None)
        return dataclasses.replace(
            self, labeled=labeled, unlabeled=_computed(unlabeled, views), partner=_computed(partner, views)
        )

    def pin_memory(self) -> Batch:
        """The same in page-locked memory (the loader calls this)."""
        return map_tensors(self, lambda t: t.pin_memory())


def _computed(images: Unlabeled | None, views: ViewsConfig) -> Unlabeled | None:
    if images is None or images.raw is None:
        return images
    weak, strong = images.raw.views(views)
    return dataclasses.replace(images, weak=weak, strong=strong, raw=None)


def map_tensors(value: T, function: Callable[[Tensor], Tensor]) -> T:
    """`value` with `function` applied to every tensor inside nested dataclasses, tuples and mappings."""
    if isinstance(value, Tensor):
        return function(value)  # type: ignore[return-value]
    if isinstance(value, tuple):
        return tuple(map_tensors(v, function) for v in value)  # type: ignore[return-value]
    if isinstance(value, Mapping):
        return {k: map_tensors(v, function) for k, v in value.items()}  # type: ignore[return-value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        changed = {f.name: map_tensors(getattr(value, f.name), function) for f in dataclasses.fields(value)}
        return dataclasses.replace(value, **changed)
    return value
