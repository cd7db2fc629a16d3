"""Pseudo-labels of a batch of images with all maps that belong to them, so that mixing moves them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ssbench.ops.mixing import paste


@dataclass(frozen=True)
class Pseudo:
    """A teacher's pseudo-labels of B images.

    label: B H W int64 in 0..C-1. conf: B H W largest probability. keep: B H W bool, the rule that lets a pixel into
    the loss. valid: B H W bool, false on padding. probs, logits: B C H W, of the un-mixed view only (None once mixed).
    images: B 3 H W, the weak images that were labelled (None once mixed, unless the mixed ones were labelled again).
    trusted: B H W bool, pixels that hold ground truth (pasted from labelled images) and pass every rule, or None.
    carry: maps a plug-in asked to be mixed along (B H W or B D H W each).
    """

    label: Tensor
    conf: Tensor
    keep: Tensor
    valid: Tensor
    logits: Tensor | None = None
    probs: Tensor | None = None
    images: Tensor | None = None
    trusted: Tensor | None = None
    feats: Mapping[str, Tensor] = field(default_factory=dict)
    carry: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, logits: Tensor, valid: Tensor, threshold: float, feats: Mapping[str, Tensor] | None = None,
        images: Tensor | None = None,
    ) -> Pseudo:  # fmt: skip
        """Arg-max labels of detached `logits`, kept where the largest probability is >= `threshold`."""
        logits = logits.detach()
        probs = logits.softmax(1)
        conf, label = probs.max(1)
        detached = {name: feat.detach() for name, feat in (feats or {}).items()}
        return cls(label, conf, conf >= threshold, valid, logits, probs, images, feats=detached)

    def pasted(self, other: Pseudo, region: Tensor) -> Pseudo:
        """These pseudo-labels with `other`'s inside `region` (B H W bool). Both must carry the same maps."""
        trusted = None
        if self.trusted is not None or other.trusted is not None:
            trusted = paste(self.trusted_mask(), other.trusted_mask(), region)
        return Pseudo(
            label=paste(self.label, other.label, region),
            conf=paste(self.conf, other.conf, region),
            keep=paste(self.keep, other.keep, region),
            valid=paste(self.valid, other.valid, region),
            trusted=trusted,
            carry={name: paste(value, other.carry[name], region) for name, value in self.carry.items()},
        )

    def permuted(self, order: Tensor | slice) -> Pseudo:
        """The same pseudo-labels with images reordered by index tensor `order` (B), or those of a slice (no copies)."""
        return Pseudo(
            label=self.label[order],
            conf=self.conf[order],
            keep=self.keep[order],
            valid=self.valid[order],
            logits=None if self.logits is None else self.logits[order],
            probs=None if self.probs is None else self.probs[order],
            images=None if self.images is None else self.images[order],
            trusted=None if self.trusted is None else self.trusted[order],
            feats={name: value[order] for name, value in self.feats.items()},
            carry={name: value[order] for name, value in self.carry.items()},
        )

    def with_carry(self, **maps: Tensor) -> Pseudo:
        """The same, with maps that follow the mixing."""
        return replace(self, carry={**self.carry, **maps})

    def trusted_mask(self) -> Tensor:
        """B H W bool: `trusted`, or all false."""
        return torch.zeros_like(self.keep) if self.trusted is None else self.trusted

    @property
    def counted(self) -> Tensor:
        """B H W bool: pixels that pass the rule, or hold ground truth; padding is not yet taken out."""
        return self.keep if self.trusted is None else self.keep | self.trusted

    @property
    def soft(self) -> Tensor:
        """`probs`, B C H W.

        Raises:
            ValueError: there are none, because the images have been mixed since the teacher saw them.
        """
        if self.probs is None:
            raise ValueError("pseudo-labels hold no probabilities once they are mixed")
        return self.probs
