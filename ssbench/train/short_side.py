"""Scores of images that are resized to a fixed short side for the test, as Mask2Former's authors test."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ssbench.train.batched import Predict
from ssbench.views import tensors
from ssbench.views.settings import ViewsConfig
from ssbench.views.weak import short_side_size


def short_scores(predict: Predict, x: Tensor, short: int, views: ViewsConfig) -> Tensor:
    """B K H W scores of images seen at a short side of `short`, resized back.

    They are exponentials of what `predict` returns, which for Mask2Former are its semantic scores.
    """
    scores = predict(short_side(x, short, views)).exp()
    return F.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=False)


def short_side(x: Tensor, short: int, views: ViewsConfig) -> Tensor:
    """Images B C H W as PIL resizes them, as 8-bit pictures: short side `short`, long side 4 `short` at most.

    Mask2Former's test resize (card: mask2former 7). A picture is the one that x was made of, bit for bit.
    """
    size = short_side_size((x.shape[-1], x.shape[-2]), short, 4 * short)
    resized = (tensors.pixels(image, views).resize(size, Image.Resampling.BILINEAR) for image in x.cpu())
    return torch.stack([tensors.picture(picture, views) for picture in resized]).to(x)
