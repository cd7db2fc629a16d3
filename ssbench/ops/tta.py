"""Test-time augmentation: probabilities of one picture at several scales, and of its mirror image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor


def summed(predict: Callable[[Tensor], Tensor], x: Tensor, scales: Sequence[float], flip: bool = True) -> Tensor:
    """B C H W sum of probabilities, one term a scale and, with `flip`, another of the mirror image, turned back.

    Every term is a softmax at its own size, resized to that of x. Sizes are truncated, resizing is bilinear with
    corners aligned (ST++ release, `model/semseg/base.py`).

    Args:
        predict: B 3 h w images -> B C h w logits, at any size.
        x: B 3 H W.
    """
    height, width = x.shape[-2:]
    terms: list[Tensor] = []
    for scale in scales:
        small = _resized(x, int(height * scale), int(width * scale))
        terms.append(_resized(predict(small).softmax(1), height, width))
        if flip:
            terms.append(_resized(predict(small.flip(-1)).softmax(1).flip(-1), height, width))
    return sum(terms[1:], terms[0])


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    if tuple(x.shape[-2:]) == (height, width):
        return x  # the identity
    return F.interpolate(x, (height, width), mode="bilinear", align_corners=True)
