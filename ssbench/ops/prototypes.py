"""Similarity of a pixel's feature and its class's prototype: shared largest channels (WPL), cosine, distance.

Letters besides those of `ssbench.ops`: k largest entries. Source: WPL, Sec. 3.4 (card: wpl 5); Fig. 6 compares the
three measures.
"""

from __future__ import annotations

import torch
from torch import Tensor


def top_channels(features: Tensor, k: int) -> Tensor:
    """B k h w int16: channels of the k largest entries of B D h w, by signed value; of equal ones the first.

    torch.topk does not define the order of ties, and features after a ReLU are full of equal zeros (card: wpl 5). To
    take the largest k times is also faster, with a pixel's channels side by side in memory.
    """
    left, channels = features.movedim(1, -1).clone(memory_format=torch.contiguous_format), []
    for _ in range(min(k, features.shape[1])):
        best = left.argmax(-1, keepdim=True)
        channels.append(best)
        left.scatter_(-1, best, -torch.inf)
    return torch.cat(channels, -1).movedim(-1, 1).short()


def prototype_channels(prototypes: Tensor, known: Tensor, k: int) -> Tensor:
    """C D bool: the k largest entries of each prototype (C D); none where there is no prototype (known: C bool)."""
    at = top_channels(prototypes[..., None, None], k)[..., 0, 0].long()
    return torch.zeros_like(prototypes, dtype=torch.bool).scatter_(1, at, value=True) & known[:, None]


def count_shared(ranks: Tensor, label: Tensor, member: Tensor) -> Tensor:
    """B H W int64 in 0..k: how many of a pixel's channels (ranks, B k H W) are its class's (member, C D bool)."""
    return member.flatten()[(label * member.shape[1])[:, None] + ranks].sum(1)


def cosine(features: Tensor, label: Tensor, prototypes: Tensor, known: Tensor) -> Tensor:
    """B H W in [0, 1]: max(0, cosine) of features (B D H W) and the prototype of the label; 0 where there is none."""
    like = torch.einsum("bdhw,cd->bchw", features, prototypes)
    size = features.square().sum(1, keepdim=True) * prototypes.square().sum(1)[None, :, None, None]
    return _of_class(like / size.sqrt().clamp(min=1e-8), label, known).clamp(min=0)


def euclidean(features: Tensor, label: Tensor, prototypes: Tensor, known: Tensor) -> Tensor:
    """B H W in [0, 1]: exp(-distance) to the prototype of the label; 0 where there is none."""
    like = torch.einsum("bdhw,cd->bchw", features, prototypes)
    sizes = features.square().sum(1, keepdim=True) + prototypes.square().sum(1)[None, :, None, None]
    return _of_class((-(sizes - 2 * like).clamp(min=0).sqrt()).exp(), label, known)


def _of_class(each: Tensor, label: Tensor, known: Tensor) -> Tensor:
    """B H W: the plane of each pixel's class out of B C H W."""
    return (each * known[None, :, None, None]).gather(1, label[:, None])[:, 0]
