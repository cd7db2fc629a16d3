"""Colours pictures into which a method has pasted, by the draws of the images they were."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssbench.views import tensors
from ssbench.views.pipelines import strengthen
from ssbench.views.sample import Draw, Sample
from ssbench.views.settings import ViewsConfig


class Colour:
    """The strong pipeline for the weak pictures of one batch, each by the draws of its own unlabelled image.

    It works on 8-bit pictures. Weak pictures are such before they are normalised, and so is what is pasted of them; a
    picture coloured here is therefore bit for bit the one that `views.strong_view` makes. Padding must be black
    (`padding: zero` is not undone).
    """

    def __init__(self, views: ViewsConfig, draws: Sequence[Draw]) -> None:
        self.views, self.draws = views, tuple(draws)

    def __call__(self, images: Tensor, copy: int = 0) -> tuple[Tensor, Tensor]:
        """Images B C H W, coloured, and B H W bool: where cutout put noise. Copies of a batch differ in their draws."""
        if not len(images):
            return images, images.new_zeros(images.shape[:1] + images.shape[2:], dtype=torch.bool)
        pairs = [self._colour(x, draw.of(f"strong{copy}")) for x, draw in zip(images.cpu(), self.draws, strict=True)]
        coloured, erased = (torch.stack(each).to(images.device) for each in zip(*pairs, strict=True))
        return coloured, erased

    def _colour(self, x: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
        sample = strengthen(Sample.of(draw.id, tensors.pixels(x, self.views)), self.views, draw)
        return tensors.view(sample, self.views), tensors.erased(sample)
