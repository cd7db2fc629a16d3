"""U2PL's pixel contrast: which pixels are anchors and negatives of each class, and their InfoNCE loss.

All shapes are fixed: a list of the pixels of a mask would have a length that the host must wait for. Pixels are found
by their rank in a mask (`class_memory.nth`), and what does not exist is masked out at the end.
Letters besides those of `ssbench.ops`: N pixels, Q anchors a class, M negatives an anchor.
Source: U2PL ab3d2be u2pl/utils/loss_helper.py, as released and as published (card: u2pl 7, 8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.ops.class_memory import Bank, draw_indices
from ssbench.ops.losses import IGNORE


class FeatureGrid(NamedTuple):
    """Images on the grid of the representation.

    label: B h w int64, 255 = none. low, high: B h w bool, pixels of low and of high entropy. rep, key: B D h w, the
    student's and the teacher's. probs: B C h w, the teacher's.
    """

    label: Tensor
    low: Tensor
    high: Tensor
    rep: Tensor
    key: Tensor
    probs: Tensor

    @classmethod
    def of(cls, label: Tensor, low: Tensor, high: Tensor, rep: Tensor, key: Tensor, probs: Tensor) -> FeatureGrid:
        """From B H W label and masks, taken down to the grid by nearest neighbour (card: u2pl 7)."""
        small = [F.interpolate(x[:, None].float(), rep.shape[-2:])[:, 0] for x in (label, low, high)]
        return cls(small[0].long(), small[1].bool(), small[2].bool(), rep, key, probs)

    def joined_by_group(self, other: FeatureGrid, groups: int) -> list[FeatureGrid]:
        """Each group's images of this before its images of the other; `groups` divides the images of both."""
        mine, theirs = (zip(*(torch.chunk(x, groups) for x in grid), strict=True) for grid in (self, other))
        return [FeatureGrid(*map(torch.cat, zip(a, b, strict=True))) for a, b in zip(mine, theirs, strict=True)]


@dataclass(frozen=True)
class Rule:
    """Which pixels are anchors and negatives of a class (card: u2pl 7).

    anchor_above: an anchor's probability of its class. negative_below: a negative's probability of the class.
    low_rank, high_rank: the class is among a labelled negative's first `low_rank` guesses, or is an unlabelled
    negative's guess number `low_rank` to `high_rank - 1`, counted from 0.
    release: with the release's defects: labels are those of `release_one_hot`, and negatives of a class must also be
    labelled with it (card: u2pl 8).
    """

    anchor_above: float
    negative_below: float
    low_rank: int
    high_rank: int
    release: bool


@dataclass(frozen=True)
class Picked:
    """C N bool each, pixels in the order of `pixels`. valid: of low entropy; anchors: among them; negatives."""

    valid: Tensor
    anchors: Tensor
    negatives: Tensor


def pick(grid: FeatureGrid, labeled: int, rule: Rule) -> Picked:
    """The pixels each class contrasts; the first `labeled` images hold ground truth, the others pseudo-labels."""
    one_hot, classes, rank = release_one_hot if rule.release else label_planes, grid.probs.shape[1], ranks(grid.probs)
    own = torch.cat([one_hot(part, classes) for part in (grid.label[:labeled], grid.label[labeled:])])
    guessed = (rank[:labeled] < rule.low_rank) & ~own[:labeled]
    doubted = (rank[labeled:] >= rule.low_rank) & (rank[labeled:] < rule.high_rank)
    negatives = torch.cat([guessed, doubted]) & grid.high[:, None] & (grid.probs < rule.negative_below)
    if rule.release:
        negatives = negatives & own
    valid = own & grid.low[:, None]
    masks = (valid, valid & (grid.probs > rule.anchor_above), negatives)
    return Picked(*(mask.movedim(1, 0).flatten(1) for mask in masks))


def label_planes(label: Tensor, classes: int) -> Tensor:
    """B C h w bool: whether a pixel has the label (B h w, 255 = none)."""
    return label[:, None] == torch.arange(classes, device=label.device)[:, None, None]


def release_one_hot(label: Tensor, classes: int) -> Tensor:
    """`label_planes` as the release's `label_onehot` writes them for the images of one process (card: u2pl 8c).

    It scatters into C B h w with an index of B 1 h w, so that every image writes into the first one's planes. There a
    pixel has the labels of all images, and the others have none. 255 is written as class 0, and only the first image's
    own 255 clears the pixel.
    """
    written = label_planes(label.where(label != IGNORE, 0), classes)
    first = written.any(0, keepdim=True) & (label[:1, None] != IGNORE)
    return torch.cat([first, torch.zeros_like(written[1:])])


def ranks(probs: Tensor) -> Tensor:
    """Place of each class in the falling order of probabilities, 0 = most likely. B C h w -> the same, int64."""
    return probs.argsort(stable=True, dim=1, descending=True).argsort(dim=1)


def pixels(x: Tensor) -> Tensor:
    """B D h w -> N D, image by image and row by row."""
    return x.movedim(1, -1).flatten(0, 2)


def class_means(rows: Tensor, mask: Tensor) -> Tensor:
    """C D means of the rows (N D) in each class's mask (C N bool), 0 for a class without any."""
    return mask.to(rows.dtype) @ rows / mask.sum(1, keepdim=True).clamp(min=1)


def choose_banks(valid: Tensor, by_position: bool) -> tuple[Tensor, Tensor]:
    """Whose bank class c is contrasted with, C int64, and whether it takes part, C bool.

    by_position: the release's defect (b): with V valid classes, classes 0 .. V - 1 take part, valid or not, and
    class v reads the bank of the v-th valid class. Otherwise the valid classes take part and read their own.
    """
    order = torch.arange(len(valid), device=valid.device)
    if not by_position:
        return order, valid
    return (~valid).to(torch.uint8).argsort(stable=True), order < valid.sum()


def info_nce(anchors: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """C losses, means over anchors of -log softmax(cosine / temperature) at the positive.

    Args:
        anchors: C Q D, the only ones with a gradient. positive: C D. negatives: C Q M D; fp32 ones without a gradient
            are normalised in place, those of a bank in bf16 stay in it.
    """
    anchors = F.normalize(anchors, dim=-1)
    with torch.no_grad():
        positive = F.normalize(positive, dim=-1)
    like = torch.einsum("cqd,cd->cq", anchors, positive)[..., None]
    if negatives.dtype in (torch.bfloat16, torch.float16):
        unlike: Tensor = _LowSimilarities.apply(anchors, negatives)
    else:
        with torch.no_grad():
            lengths = negatives.norm(2, -1, keepdim=True).clamp_min_(1e-12)  # as F.normalize
            # In place where the caller has just drawn them: they are the largest tensor of the step.
            negatives = negatives / lengths if negatives.requires_grad else negatives.div_(lengths)
        unlike = torch.einsum("cqd,cqmd->cqm", anchors, negatives)
    logits = torch.cat([like, unlike], -1) / temperature
    return -logits.log_softmax(-1)[..., 0].mean(1)


class _LowSimilarities(torch.autograd.Function):
    """C Q M cosines, in fp32, of unit anchors (C Q D, fp32) with negatives (C Q M D) that are stored in bf16.

    One class at a time is widened, in both directions, so that the negatives take half of what they take in fp32.
    """

    @staticmethod
    def forward(ctx: Any, anchors: Tensor, negatives: Tensor) -> Tensor:
        ctx.save_for_backward(negatives)
        each = [
            torch.einsum("qd,qmd->qm", a, F.normalize(n.float(), dim=-1))
            for a, n in zip(anchors, negatives, strict=True)
        ]
        return torch.stack(each)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (negatives,) = ctx.saved_tensors
        each = [
            torch.einsum("qm,qmd->qd", g, F.normalize(n.float(), dim=-1))
            for g, n in zip(gradients[0], negatives, strict=True)
        ]
        return torch.stack(each), None


def contrastive_loss(
    grid: FeatureGrid, picked: Picked, bank: Bank, u: tuple[Tensor, Tensor], temperature: float, by_position: bool
) -> Tensor:
    """InfoNCE of a group of images summed over classes, divided by the number of valid ones; 0 unless two are valid.

    A class without anchors, or whose bank is empty, adds 0 but counts (card: u2pl 7).

    Args:
        u: C Q and C Q M uniform numbers in [0, 1), which choose anchors and negatives.
        by_position: see `choose_banks`.
    """
    valid = picked.valid.any(1)
    of, active = choose_banks(valid, by_position)
    anchors = pixels(grid.rep)[draw_indices(picked.anchors, u[0])]
    positive = class_means(pixels(grid.key), picked.valid)
    each = info_nce(anchors, positive, bank.draw(of, u[1]), temperature)
    able = active & picked.anchors.any(1) & (bank.filled().to(of.device)[of] > 0) & (valid.sum() > 1)
    return each.where(able, torch.zeros_like(each)).sum() / valid.sum().clamp(min=1)
