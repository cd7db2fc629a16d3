"""Pixel contrast with class-wise memories: which pixels, first-in-first-out banks, InfoNCE, all of fixed shapes.

Nothing here lists the pixels of a mask, which would wait for the device: the n-th pixel of a mask is found in its
running count, a bank is rewritten whole, what is missing is masked out at the end.
Letters besides those of `ssbench.ops`: N pixels, Q anchors a class, M negatives an anchor, S slots of a bank.
Source: U2PL ab3d2be u2pl/utils/loss_helper.py (specs: u2pl 8, 12 Q1), in both readings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ssbench.ops import select
from ssbench.ops.reduce import world_size


class Grid(NamedTuple):
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
    def of(cls, label: Tensor, low: Tensor, high: Tensor, rep: Tensor, key: Tensor, probs: Tensor) -> Grid:
        """From B H W label and masks, taken down to the grid by nearest neighbour (specs: u2pl 8.1)."""
        small = [F.interpolate(x[:, None].float(), rep.shape[-2:])[:, 0] for x in (label, low, high)]
        return cls(small[0].long(), small[1].bool(), small[2].bool(), rep, key, probs)

    def joined(self, other: Grid, groups: int) -> list[Grid]:
        """Each group's images of this before its images of the other; `groups` divides the images of both."""
        mine, theirs = (zip(*(torch.chunk(x, groups) for x in grid), strict=True) for grid in (self, other))
        return [Grid(*map(torch.cat, zip(a, b, strict=True))) for a, b in zip(mine, theirs, strict=True)]


@dataclass(frozen=True)
class Rule:
    """Which pixels are anchors and negatives of a class (specs: u2pl 8.2).

    anchor_above: an anchor's probability of its class. negative_below: a negative's probability of the class.
    low_rank, high_rank: the class is among a labelled negative's first `low_rank` guesses, or is an unlabelled
    negative's guess number `low_rank` to `high_rank - 1`, counted from 0.
    own_negatives: the release's defect (Q1a): negatives of a class must also be labelled with it.
    """

    anchor_above: float
    negative_below: float
    low_rank: int
    high_rank: int
    own_negatives: bool


@dataclass(frozen=True)
class Picked:
    """C N bool each, pixels in the order of `pixels`. valid: of low entropy; anchors: among them; negatives."""

    valid: Tensor
    anchors: Tensor
    negatives: Tensor


def pick(grid: Grid, labeled: int, rule: Rule) -> Picked:
    """The pixels each class contrasts; the first `labeled` images hold ground truth, the others pseudo-labels."""
    classes = torch.arange(grid.probs.shape[1], device=grid.label.device)[:, None, None]
    own, rank = grid.label[:, None] == classes, ranks(grid.probs)
    guessed = (rank[:labeled] < rule.low_rank) & ~own[:labeled]
    doubted = (rank[labeled:] >= rule.low_rank) & (rank[labeled:] < rule.high_rank)
    negatives = torch.cat([guessed, doubted]) & grid.high[:, None] & (grid.probs < rule.negative_below)
    if rule.own_negatives:
        negatives = negatives & own
    valid = own & grid.low[:, None]
    masks = (valid, valid & (grid.probs > rule.anchor_above), negatives)
    return Picked(*(mask.movedim(1, 0).flatten(1) for mask in masks))


def ranks(probs: Tensor) -> Tensor:
    """Place of each class in the falling order of probabilities, 0 = most likely. B C h w -> the same, int64."""
    return probs.argsort(stable=True, dim=1, descending=True).argsort(dim=1)


def pixels(x: Tensor) -> Tensor:
    """B D h w -> N D, image by image and row by row."""
    return x.movedim(1, -1).flatten(0, 2)


def nth(mask: Tensor, place: Tensor) -> Tensor:
    """Index of the `place`-th true entry of each row, from 0; the last index where there are not so many.

    Args:
        mask: C N bool. place: C Q int64.
    """
    return torch.searchsorted(mask.cumsum(1), place + 1).clamp(max=mask.shape[1] - 1)


def drawn(mask: Tensor, u: Tensor) -> Tensor:
    """C Q indices, uniform over the true entries of each row with replacement; meaningless where a row has none.

    Args:
        mask: C N bool. u: C Q uniform numbers in [0, 1).
    """
    return nth(mask, _below(u, mask.sum(1, keepdim=True)))


def quantiles(values: Tensor, inside: Tensor, level: float, groups: int) -> Tensor:
    """B 1 1: the `level`-quantile of `values` where `inside` (B H W both), over each of `groups` groups of images."""
    pairs = zip(values.chunk(groups), inside.chunk(groups), strict=True)
    found = torch.stack([select.quantile(some, there, level) for some, there in pairs])
    return found.repeat_interleave(len(values) // groups)[:, None, None]


def class_means(rows: Tensor, mask: Tensor) -> Tensor:
    """C D means of the rows (N D) in each class's mask (C N bool), 0 for a class without any."""
    return mask.to(rows.dtype) @ rows / mask.sum(1, keepdim=True).clamp(min=1)


def banks_read(valid: Tensor, by_position: bool) -> tuple[Tensor, Tensor]:
    """Whose bank class c is contrasted with, C int64, and whether it takes part, C bool.

    by_position: the release's defect (Q1b): with V valid classes, classes 0 .. V - 1 take part, valid or not, and
    class v reads the bank of the v-th valid class. Otherwise the valid classes take part and read their own.
    """
    order = torch.arange(len(valid), device=valid.device)
    if not by_position:
        return order, valid
    return (~valid).to(torch.uint8).argsort(stable=True), order < valid.sum()


def info_nce(anchors: Tensor, positive: Tensor, negatives: Tensor, temperature: float) -> Tensor:
    """C losses, means over anchors of -log softmax(cosine / temperature) at the positive.

    Args:
        anchors: C Q D, the only ones with a gradient. positive: C D. negatives: C Q M D.
    """
    anchors = F.normalize(anchors, dim=-1)
    with torch.no_grad():
        positive, negatives = F.normalize(positive, dim=-1), F.normalize(negatives, dim=-1)
    like = torch.einsum("cqd,cd->cq", anchors, positive)[..., None]
    unlike = torch.einsum("cqd,cqmd->cqm", anchors, negatives)
    logits = torch.cat([like, unlike], -1) / temperature
    return -logits.log_softmax(-1)[..., 0].mean(1)


def contrastive_loss(
    grid: Grid, picked: Picked, bank: Bank, u: tuple[Tensor, Tensor], temperature: float, by_position: bool
) -> Tensor:
    """InfoNCE of a group of images summed over classes, divided by the number of valid ones; 0 unless two are valid.

    A class without anchors, or whose bank is empty, adds 0 but counts (specs: u2pl 8.3).

    Args:
        u: C Q and C Q M uniform numbers in [0, 1), which choose anchors and negatives.
        by_position: see `banks_read`.
    """
    valid = picked.valid.any(1)
    of, active = banks_read(valid, by_position)
    anchors = pixels(grid.rep)[drawn(picked.anchors, u[0])]
    positive = class_means(pixels(grid.key), picked.valid)
    each = info_nce(anchors, positive, bank.draw(of, u[1]), temperature)
    able = active & picked.anchors.any(1) & (bank.filled().to(of.device)[of] > 0) & (valid.sum() > 1)
    return each.where(able, torch.zeros_like(each)).sum() / valid.sum().clamp(min=1)


class Bank(nn.Module):
    """A first-in-first-out memory of vectors for each class; state, so that it is saved and resumed.

    sizes: slots of each class. on_cpu: the module stays on the CPU wherever its owner is moved, at the cost of waiting
    for the device at every use.
    """

    def __init__(self, sizes: Sequence[int], width: int, on_cpu: bool = False) -> None:
        super().__init__()
        self.sizes, self.on_cpu = list(sizes), on_cpu
        starts = [sum(self.sizes[:c]) for c in range(len(self.sizes))]
        self.register_buffer("keys", torch.zeros(sum(self.sizes), width))
        self.register_buffer("seen", torch.zeros(len(self.sizes), dtype=torch.int64))
        self.register_buffer("starts", torch.tensor(starts), persistent=False)
        self.register_buffer("limits", torch.tensor(self.sizes), persistent=False)
        self.keys: Tensor
        self.seen: Tensor
        self.starts: Tensor
        self.limits: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Bank:
        return self if self.on_cpu else super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def filled(self) -> Tensor:
        """C int64: how many vectors each class holds."""
        return torch.minimum(self.seen, self.limits)

    @torch.no_grad()
    def insert(self, rows: Tensor, masks: Tensor) -> None:
        """Append the rows (N D) in each class's mask (C N bool), oldest first; the oldest beyond the size are lost."""
        home, seen = self.keys.device, self.seen.to(rows.device)
        for c, keys in enumerate(torch.split(self.keys, self.sizes)):
            fresh, at = _arrivals(len(keys), seen[c], masks[c])
            keys.copy_(torch.where(fresh[:, None].to(home), rows[at].to(home, keys.dtype), keys))
        self.seen += masks.sum(1).to(home)

    @torch.no_grad()
    def draw(self, of: Tensor, u: Tensor) -> Tensor:
        """C Q M D vectors of the classes `of` (C int64), uniform with replacement; zeros where a class holds none.

        Args:
            u: C Q M uniform numbers in [0, 1).
        """
        home = self.keys.device
        count, start = (x[of.to(home)][:, None, None] for x in (self.filled(), self.starts))
        return self.keys[start + _below(u.to(home), count)].to(u.device)


def gathered(x: Tensor) -> Tensor:
    """The tensors of all processes joined along the first dimension, in the order of processes. No gradient."""
    if world_size() == 1:
        return x.detach()
    plain = x.detach().contiguous()
    sent = plain.view(torch.uint8) if plain.dtype is torch.bool else plain
    parts = [torch.empty_like(sent) for _ in range(world_size())]
    dist.all_gather(parts, sent)
    return torch.cat(parts).view(plain.dtype)


def _arrivals(slots: int, seen: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Of a ring of `slots` that `seen` vectors have gone into: which slots the masked rows overwrite, with which row.

    Row j of the mask goes to slot (seen + j) modulo the slots; of several the last one stays.
    """
    count = mask.sum()
    first = (torch.arange(slots, device=mask.device) - seen) % slots
    place = first + slots * ((count - 1 - first) // slots)
    return first < count, nth(mask[None], place.clamp(min=0)[None])[0]


def _below(u: Tensor, count: Tensor) -> Tensor:
    """Whole numbers 0 .. count - 1 from uniform ones in [0, 1); 0 where the count is 0."""
    return torch.minimum((u * count).long(), (count - 1).clamp(min=0))
