"""Views of a sample: named pipelines of small pieces, then tensors.

A piece is a pure function (sample, draw, cfg) -> sample; a pipeline is a tuple of pieces, and the tables WEAK and
STRONG are the whole list. A new pipeline is a new tuple (and its name in `viewsconfig`). Weak pieces only draw
geometry, which `settle` then carries out on image, mask, valid and maps at once; strong pieces work on the settled
picture.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ssbench.views import regions as boxes
from ssbench.views import strong as colour
from ssbench.views import tensors, weak
from ssbench.views.geometry import Step
from ssbench.views.sample import Draw, Picture, Sample
from ssbench.views.settings import ViewsConfig
from ssbench.views.warp import settle

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Draw",
    "LabeledView",
    "Sample",
    "UnlabeledView",
    "ViewsConfig",
    "eval_view",
    "finish",
    "labeled_view",
    "strengthen",
    "strong_view",
    "unlabeled_view",
    "weaken",
]

WEAK: dict[str, tuple[weak.Piece, ...]] = {
    "none": (),
    "unimatch": (weak.resize_long_side, weak.crop_corner, weak.flip),  # unimatch 2
    "stpp": (weak.resize_long_side, weak.crop_corner, weak.flip),  # stpp 3
    "augseg": (weak.resize_augseg, weak.flip, weak.crop_corner),  # augseg 3.1
    "u2pl": (weak.resize_halves, weak.flip, weak.crop_centred),  # u2pl 3, ael 3.1
    "cps": (weak.flip, weak.resize_choice, weak.crop_overrun),  # cps 2
    "cutmix_seg": (weak.crop_scaled, weak.flip),  # cutmix_seg 4
    "acdc": (weak.turn_or_rotate, weak.zoom),  # unimatch 4
}
STRONG: dict[str, tuple[weak.Piece, ...]] = {
    "none": (),
    "unimatch": (colour.jitter, colour.grey, colour.blur),  # unimatch 2
    "stpp": (colour.jitter, colour.grey, colour.blur, colour.cutout),  # stpp 3
    "augseg": (colour.pool,),  # augseg 3.2
    "cutmix_seg": (colour.jitter, colour.grey),  # cutmix_seg 4
    "acdc": (colour.jitter, colour.blur),  # unimatch 4
}


@dataclass(frozen=True)
class LabeledView:
    """x: float32 [C,H,W]; y: int64 [H,W], train ids, 255 = ignore; valid: bool [H,W], False in padding.

    maps: the sample's maps by name, [H,W] bool, uint8 or float32; geometry: what was done, for `geometry.move_boxes`.
    """

    x: Tensor
    y: Tensor
    valid: Tensor
    maps: dict[str, Tensor]
    geometry: tuple[Step, ...]


@dataclass(frozen=True)
class UnlabeledView:
    """weak: float32 [C,H,W]; strong: that many [C,H,W], same crop as weak, colours differ.

    boxes: bool [H,W] per strong view, True where the partner's pixels go; erased: bool [H,W] per strong view, True
    where cutout put noise (the label there is to be ignored); valid: bool [H,W], False in padding; truth: int64 [H,W],
    the hidden labels (255 in padding), for analysis only; maps and geometry as in `LabeledView`. A strong view in which
    nothing happened (pipeline "none", or all coins fell so) is the weak tensor itself: copy before writing into it.
    """

    weak: Tensor
    strong: tuple[Tensor, ...]
    valid: Tensor
    boxes: tuple[Tensor, ...]
    erased: tuple[Tensor, ...]
    truth: Tensor
    maps: dict[str, Tensor]
    geometry: tuple[Step, ...]


def weaken(sample: Sample, cfg: ViewsConfig, draw: Draw) -> Sample:
    """The weak (geometric) pipeline of `cfg`, carried out on every layer."""
    for piece in WEAK[cfg.weak]:
        sample = piece(sample, draw, cfg)
    return settle(sample, cfg.padding)


def strengthen(sample: Sample, cfg: ViewsConfig, draw: Draw) -> Sample:
    """The strong (colour) pipeline of `cfg` on a settled sample; only cutout touches the mask."""
    for piece in STRONG[cfg.strong]:
        sample = piece(sample, draw, cfg)
    return sample


def finish(sample: Sample, cfg: ViewsConfig) -> LabeledView:
    """A settled sample as tensors with its own mask; `weaken`, something of one's own, `finish` makes a new view."""
    return LabeledView(
        x=tensors.view(sample, cfg),
        y=tensors.labels(sample, cfg.label_padding),
        valid=tensors.layer(sample.valid).bool(),
        maps={name: tensors.layer(image) for name, image in sample.maps.items()},
        geometry=sample.geometry,
    )


def labeled_view(sample: Sample, cfg: ViewsConfig, draw: Draw) -> LabeledView:
    """The weak view of a labelled sample with its labels; padding is labelled `cfg.label_padding`."""
    return finish(weaken(sample, cfg, draw), cfg)


def strong_view(sample: Sample, cfg: ViewsConfig, draw: Draw) -> LabeledView:
    """A strong view with its own mask, for self-training on stored pseudo-labels (stpp 3): cut-out pixels are 255."""
    return finish(strengthen(_as_unlabeled(weaken(sample, cfg, draw)), cfg, draw.of("strong0")), cfg)


def unlabeled_view(sample: Sample, cfg: ViewsConfig, draw: Draw, strong: int) -> UnlabeledView:
    """One weak view and `strong` strong views of the same crop, each with its own colours and mixing region."""
    import torch

    settled = _as_unlabeled(weaken(sample, cfg, draw))
    parts = [draw.of(f"strong{k}") for k in range(strong)]
    made = [strengthen(settled, cfg, part) for part in parts]
    plain, shape = tensors.view(settled, cfg), settled.size[::-1]
    return UnlabeledView(
        weak=plain,
        strong=tuple(plain if s is settled else tensors.view(s, cfg) for s in made),
        valid=tensors.layer(settled.valid).bool(),
        boxes=tuple(torch.from_numpy(boxes.region(cfg, part, shape)) for part in parts),
        erased=tuple(tensors.erased(s) for s in made),
        truth=tensors.labels(settled, 255),
        maps={name: tensors.layer(image) for name, image in settled.maps.items()},
        geometry=settled.geometry,
    )


def eval_view(image: Picture, cfg: ViewsConfig) -> Tensor:
    """An evaluation image, only normalised, at native size: float32 [C,H,W]."""
    return tensors.picture(image, cfg)


def _as_unlabeled(sample: Sample) -> Sample:
    """A float ("F") picture cut to 8 bits, as the ACDC release does for unlabelled slices only (unimatch 4)."""
    image = sample.image
    if not (isinstance(image, Image.Image) and image.mode == "F"):
        return sample
    return replace(sample, image=Image.fromarray((np.asarray(image) * 255).astype(np.uint8)))
