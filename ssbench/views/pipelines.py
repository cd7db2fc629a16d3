"""Views of a sample: three pipelines that a recipe names, joined and carried out, then tensors.

The tables `weak.WEAK`, `strong.STRONG` and `regions.BOXES` are the whole list. A new pipeline is a new row in a table
(its settings class, its pieces), and its name in `settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from pydantic import ConfigDict

from ssbench.views import tensors
from ssbench.views.geometry import Resize, Size, Step
from ssbench.views.regions import BOXES, Region
from ssbench.views.sample import Draw, Picture, Sample
from ssbench.views.settings import Padded, ViewsConfig
from ssbench.views.ssd import ssd_colour
from ssbench.views.strong import STRONG
from ssbench.views.warp import eight_bit, move_picture, settle
from ssbench.views.weak import WEAK, Mask2FormerWeak

if TYPE_CHECKING:
    from torch import Tensor


def read_views(settings: Mapping[str, Any]) -> ViewsConfig:
    """The settings of a recipe's `views` section, or of a stored run; pydantic.ValidationError names what is wrong."""
    return views_class(settings).model_validate(settings)


def views_class(settings: Mapping[str, Any]) -> type[ViewsConfig]:
    """The settings class of the pipelines named. Where a name is unknown, a class that refuses the name."""
    if not isinstance(settings, Mapping):  # a section that is not a mapping is refused by its reader
        return ViewsConfig
    names = (settings.get("weak", ""), settings.get("strong", "none"), settings.get("box", "none"))
    tables: tuple[Mapping[str, Any], ...] = (WEAK, STRONG, BOXES)
    if not all(isinstance(name, str) and name in table for name, table in zip(names, tables, strict=True)):
        return _Unknown
    return _joined(*names)


@lru_cache(maxsize=64)
def _joined(weak: str, strong: str, box: str) -> type[ViewsConfig]:
    """One class with the settings of three pipelines; a default of the weak one's wins (`normalise` of ACDC)."""
    chosen: tuple[type[ViewsConfig], ...] = (WEAK[weak][0], STRONG[strong][0], BOXES[box][0])
    bases: tuple[type, ...] = (*(base for base in chosen if base is not ViewsConfig), _Pickled)
    return type("ViewsConfig", bases, {"__module__": __name__, "pipelines": f"weak {weak}, strong {strong}, box {box}"})


class _Unknown(ViewsConfig):
    """Refuses the unknown name alone: what else may be set depends on it."""

    model_config = ConfigDict(extra="ignore")


class _Pickled(ViewsConfig):
    """Pickles by the names of its pipelines: loader workers cannot import a class that was joined at run time."""

    def __reduce__(self) -> tuple[Any, ...]:
        return read_views, (self.model_dump(),)


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


def weak_steps(sample: Sample, cfg: ViewsConfig, draw: Draw) -> Sample:
    """The sample with the geometry of the weak pipeline of `cfg` drawn, and none of it carried out."""
    for piece in WEAK[cfg.weak][1]:
        sample = piece(sample, draw, cfg)
    return sample


def weaken(sample: Sample, cfg: ViewsConfig, draw: Draw) -> Sample:
    """The weak pipeline of `cfg`: geometry, carried out on every layer; of Mask2Former's mapper colours as well."""
    sample = weak_steps(sample, cfg, draw)
    settled = settle(sample, mean=isinstance(cfg, Padded) and cfg.padding == "mean")
    return ssd_colour(settled, draw, cfg) if isinstance(cfg, Mask2FormerWeak) else settled


def strengthen(sample: Sample, cfg: ViewsConfig, draw: Draw) -> Sample:
    """The strong (colour) pipeline of `cfg` on a settled sample; only cutout touches the mask."""
    for piece in STRONG[cfg.strong][1]:
        sample = piece(sample, draw, cfg)
    return sample


def finish(sample: Sample, cfg: ViewsConfig) -> LabeledView:
    """A settled sample as tensors with its own mask; `weaken`, something of one's own, `finish` makes a new view."""
    return LabeledView(
        x=tensors.view(sample, cfg),
        y=tensors.labels(sample, cfg.label_padding if isinstance(cfg, Padded) else 255),
        valid=tensors.layer(sample.valid).bool(),
        maps={name: tensors.layer(image) for name, image in sample.maps.items()},
        geometry=sample.geometry,
    )


def labeled_view(sample: Sample, cfg: ViewsConfig, draw: Draw) -> LabeledView:
    """The weak view of a labelled sample with its labels; padding is labelled as the recipe says."""
    return finish(weaken(sample, cfg, draw), cfg)


def strong_view(sample: Sample, cfg: ViewsConfig, draw: Draw) -> LabeledView:
    """A strong view with its own mask, for self-training on stored pseudo-labels; cut-out pixels are 255.

    Card: views 3.
    """
    return finish(strengthen(as_unlabeled(weaken(sample, cfg, draw)), cfg, draw.of("strong0")), cfg)


def unlabeled_view(sample: Sample, cfg: ViewsConfig, draw: Draw, strong: int) -> UnlabeledView:
    """One weak view and `strong` strong views of the same crop, each with its own colours and mixing region."""
    import torch

    settled = as_unlabeled(weaken(sample, cfg, draw))
    parts = [draw.of(f"strong{k}") for k in range(strong)]
    coloured = [strengthen(settled, cfg, part) for part in parts]
    plain, shape = tensors.view(settled, cfg), settled.size[::-1]
    return UnlabeledView(
        weak=plain,
        strong=tuple(plain if s is settled else tensors.view(s, cfg) for s in coloured),
        valid=tensors.layer(settled.valid).bool(),
        boxes=tuple(torch.from_numpy(region(cfg, part, shape)) for part in parts),
        erased=tuple(tensors.erased(s) for s in coloured),
        truth=tensors.labels(settled, 255),
        maps={name: tensors.layer(image) for name, image in settled.maps.items()},
        geometry=settled.geometry,
    )


def region(cfg: ViewsConfig, draw: Draw, shape: tuple[int, int]) -> Region:
    """The mixing region of one view of (height, width); empty for box "none"."""
    return BOXES[cfg.box][1](draw("box"), shape, cfg)


def eval_view(image: Picture, cfg: ViewsConfig, resize: tuple[int, int] | None = None) -> Tensor:
    """An evaluation image, normalised: float32 [C,H,W], at native size or scaled to fit `resize` (long, short side)."""
    if resize is not None:
        size = image.size if isinstance(image, Image.Image) else image.shape[1::-1]
        step = Resize((size[0], size[1]), scaled_size((size[0], size[1]), resize), "point")
        image = eight_bit(move_picture(image, [step]))
    return tensors.picture(image, cfg)


def scaled_size(size: Size, resize: tuple[int, int]) -> Size:
    """(width, height) with the ratio kept, as large as a long and a short side allow; halves up (mmcv's imrescale)."""
    factor = min(max(resize) / max(size), min(resize) / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def as_unlabeled(sample: Sample) -> Sample:
    """A float ("F") picture cut to 8 bits, as the ACDC release does for unlabelled slices only (card: views 9)."""
    image = sample.image
    if not (isinstance(image, Image.Image) and image.mode == "F"):
        return sample
    return replace(sample, image=Image.fromarray((np.asarray(image) * 255).astype(np.uint8)))
