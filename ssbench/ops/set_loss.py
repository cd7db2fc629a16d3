"""The set loss of Mask2Former: targets from label maps, Hungarian matching on random points, losses of matched masks.

Source: facebookresearch/Mask2Former 9b0651c6, modeling/matcher.py and modeling/criterion.py (card: mask2former 4). The
random points are drawn in the order of that code: a generator seeded alike gives the same points. Two things are done
otherwise and change no value: points of all outputs are drawn before the first is matched, so that one transfer brings
all matching costs to the host; and with several processes every process draws the points of the whole batch and uses
its own, so that the number of processes changes nothing.

Letters as in `ssbench.ops`; Q queries, O outputs of the network, N masks of the batch, P points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssbench.ops.losses import IGNORE
from ssbench.ops.reduce import global_sum, mean_of, world_size


@dataclass(frozen=True)
class QueryOutput:
    """One output of the network: classes B Q C+1 (the last is "no object") and masks B Q h w, both logits."""

    classes: Tensor
    masks: Tensor


@dataclass(frozen=True)
class SetLossConfig:
    """Constants of the loss (card: mask2former 4). Weights also weigh the matching costs."""

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1  # weight of "no object" in the cross-entropy
    points: int = 12_544  # 112 x 112
    oversample: float = 3.0
    uncertain: float = 0.75  # share of the points that are the most uncertain of `oversample` times as many

    @property
    def drawn(self) -> int:
        """Points among which the most uncertain are chosen."""
        return int(self.points * self.oversample)

    @property
    def chosen(self) -> int:
        """How many of them are chosen; the rest of `points` is uniform."""
        return int(self.uncertain * self.points)


@dataclass(frozen=True)
class MaskTargets:
    """The masks of a batch, in the order of its images and, within one, of their classes.

    masks: N H W float, one for each class of an image. classes: N int64. images: N int64, the image of a mask.
    whole_counts: masks of each image of the whole batch, over all processes. places: where this process's images stand
    in it, ascending.
    """

    masks: Tensor
    classes: Tensor
    images: Tensor
    whole_counts: tuple[int, ...]
    places: tuple[int, ...]

    @property
    def counts(self) -> tuple[int, ...]:
        """Masks of each image of this process."""
        return tuple(self.whole_counts[place] for place in self.places)

    @property
    def total(self) -> int:
        """Masks of the whole batch."""
        return sum(self.whole_counts)


@dataclass(frozen=True)
class PointDraws:
    """Random points of one output, x and y in [0, 1].

    matching: B P 2 of this process's images. candidates: N drawn 2, and uniform: N (points - chosen) 2, of its matched
    masks: image by image, and within an image in ascending order of the matched queries.
    """

    matching: Tensor
    candidates: Tensor
    uniform: Tensor


def mask_targets(labels: Tensor, classes: int, rank: int = 0) -> MaskTargets:
    """A binary mask for each class present in each image; pixels of 255 are in none, and so outside of all.

    Waits for the device once: how many masks there are decides the size of tensors. With several processes image i of
    process r is image r + i x processes of the whole batch, as `data.loader.MixtureSteps` deals them.

    Args:
        labels: B H W int64, 255 = ignore.
    """
    present = torch.stack([(labels == c).flatten(1).any(1) for c in range(classes)], 1)  # B C
    world, own = world_size(), len(labels)
    batch = own if world == 1 else int(global_sum(torch.tensor(own, device=labels.device)))
    places = tuple(range(rank, batch, world)) if world > 1 else tuple(range(own))
    whole = present
    if world > 1:
        whole = present.new_zeros(batch, classes, dtype=torch.int64)
        whole[list(places)] = present.long()
        whole = global_sum(whole) > 0
    table = whole.cpu().numpy()
    listed = [(image, int(c)) for image, place in enumerate(places) for c in np.flatnonzero(table[place])]
    images, own_classes = (_on(labels.device, [pair[k] for pair in listed]) for k in range(2))
    return MaskTargets(
        masks=(labels[images] == own_classes[:, None, None]).float(),
        classes=own_classes,
        images=images,
        whole_counts=tuple(int(count) for count in table.sum(1)),
        places=places,
    )


def draw_points(
    targets: MaskTargets, outputs: int, queries: int, cfg: SetLossConfig, generator: torch.Generator | None = None
) -> list[PointDraws]:
    """The points of all outputs, in the authors' order: for each output, one draw an image, then two for all masks.

    Args:
        queries: of the network; masks beyond them are matched with none and have no points.
        generator: on the device of the targets, in the same state on every process; None: torch's global one.
    """
    device, images = targets.masks.device, range(len(targets.whole_counts))
    pairs = [min(count, queries) for count in targets.whole_counts]
    first = np.cumsum([0, *pairs])
    rows = [int(first[place]) + k for place in targets.places for k in range(pairs[place])]

    def uniform(count: int, points: int) -> Tensor:
        return torch.rand(count, points, 2, generator=generator, device=device)

    draws = []
    for _ in range(outputs):
        matching = [uniform(1, cfg.points) for _ in images]
        candidates = uniform(sum(pairs), cfg.drawn)
        rest = uniform(sum(pairs), cfg.points - cfg.chosen)
        mine = torch.cat([matching[place] for place in targets.places])
        draws.append(PointDraws(mine, candidates[rows], rest[rows]))
    return draws


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """B D h w maps, bilinear at B P 2 points (x, y in [0, 1], corners not aligned, zero outside). -> B D P."""
    grid = 2.0 * points.to(maps.dtype)[:, :, None] - 1.0
    return F.grid_sample(maps, grid, align_corners=False)[..., 0]


@torch.no_grad()
def matching_costs(output: QueryOutput, targets: MaskTargets, points: Tensor, cfg: SetLossConfig) -> Tensor:
    """B Q M costs of giving a query one of its image's masks; M is the largest number of masks of an image.

    Args:
        points: B P 2, shared by all masks of an image.
    """
    logits = sample(output.masks, points)  # B Q P
    truth, classes = _padded(targets, points)  # B M P, B M
    truth = truth.to(logits.dtype)
    share = 1 / logits.shape[-1]
    inside, outside = -F.logsigmoid(logits) * share, -F.logsigmoid(-logits) * share  # cross-entropy with 1, with 0
    mask = inside @ truth.mT + outside @ (1 - truth).mT
    probs = logits.sigmoid()
    overlap = 2 * (probs @ truth.mT)
    dice = 1 - (overlap + 1) / (probs.sum(-1)[:, :, None] + truth.sum(-1)[:, None] + 1)
    named = output.classes.softmax(-1).gather(2, classes[:, None].expand(-1, logits.shape[1], -1))
    return cfg.mask_weight * mask - cfg.class_weight * named + cfg.dice_weight * dice


def match(costs: Sequence[Tensor], counts: Sequence[int]) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Hungarian matching of every output and image: (queries, masks) in ascending order of the queries.

    Waits for the device once. More masks than queries leave masks unmatched. Costs that are no number count as 0, so
    that a diverged network ends in a loss that is not finite, which the trainer reports.

    Args:
        costs: for each output B Q M; only the first `counts[b]` masks of an image exist.
    """
    from scipy.optimize import linear_sum_assignment  # here: `ssbench check` reads this module and computes nothing

    table = torch.stack(list(costs)).double().nan_to_num(0.0).clamp(-1e10, 1e10).cpu().numpy()

    return [[linear_sum_assignment(image[:, :count]) for image, count in zip(o, counts, strict=True)] for o in table]


def set_loss(
    outputs: Sequence[QueryOutput], targets: MaskTargets, cfg: SetLossConfig, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """The weighted terms "class", "mask" and "dice", each summed over all outputs.

    Args:
        outputs: the final one first, then the auxiliary ones from the first.
        generator: as in `draw_points`.
    """
    draws = draw_points(targets, len(outputs), outputs[0].classes.shape[1], cfg, generator)
    costs = [matching_costs(o, targets, d.matching, cfg) for o, d in zip(outputs, draws, strict=True)]
    pairs = match(costs, targets.counts)
    terms = [_output_loss(*each, targets, cfg) for each in zip(outputs, draws, pairs, strict=True)]
    return {name: sum((term[name] for term in terms[1:]), terms[0][name]) for name in terms[0]}


def _output_loss(
    output: QueryOutput, draws: PointDraws, pairs: Sequence[tuple[np.ndarray, np.ndarray]], targets: MaskTargets,
    cfg: SetLossConfig,
) -> dict[str, Tensor]:  # fmt: skip
    """The weighted terms of one output; `pairs` as `match` returns them for it."""
    first = np.cumsum([0, *targets.counts])
    chosen = [(b, int(q), int(first[b] + m)) for b, pair in enumerate(pairs) for q, m in zip(*pair, strict=True)]
    image, query, mask = (_on(targets.masks.device, [c[k] for c in chosen]) for k in range(3))
    no_object = output.classes.shape[-1] - 1
    target = output.classes.new_full(output.classes.shape[:2], no_object, dtype=torch.int64)
    target = target.index_put((image, query), targets.classes[mask])
    source, truth = output.masks[image, query][:, None], targets.masks[mask][:, None].to(output.masks.dtype)
    points = _uncertain_points(source, draws.candidates, draws.uniform, cfg)
    logits, inside = sample(source, points)[:, 0], sample(truth, points)[:, 0]  # N P
    probs = logits.sigmoid()
    bce = F.binary_cross_entropy_with_logits(logits, inside, reduction="none").mean(1)
    dice = 1 - (2 * (probs * inside).sum(-1) + 1) / (probs.sum(-1) + inside.sum(-1) + 1)
    scale = world_size() / max(targets.total, 1)  # gradients are averaged over processes
    return {
        "class": cfg.class_weight * _class_loss(output.classes, target, cfg.no_object),
        "mask": cfg.mask_weight * scale * bce.sum(),
        "dice": cfg.dice_weight * scale * dice.sum(),
    }


def _class_loss(logits: Tensor, target: Tensor, no_object: float) -> Tensor:
    """Weighted mean cross-entropy of B Q C+1 logits over all queries of the whole batch."""
    weights = torch.ones(logits.shape[-1], dtype=logits.dtype, device=logits.device)
    weights[-1:] = no_object
    total = F.cross_entropy(logits.flatten(0, 1), target.flatten(), weights, reduction="sum")
    return mean_of(total, weights[target].sum())


@torch.no_grad()
def _uncertain_points(source: Tensor, candidates: Tensor, uniform: Tensor, cfg: SetLossConfig) -> Tensor:
    """N P 2 points: the candidates whose logits lie nearest to 0, then the uniform ones. source: N 1 h w."""
    unsure = -sample(source, candidates)[:, 0].abs()
    best = unsure.topk(cfg.chosen, dim=1).indices
    return torch.cat([candidates.gather(1, best[:, :, None].expand(-1, -1, 2)), uniform], 1)


def _padded(targets: MaskTargets, points: Tensor) -> tuple[Tensor, Tensor]:
    """The masks at an image's points, B M P, and their classes, B M; zeros where an image has fewer masks."""
    most = max(targets.counts, default=0)
    slot = _on(points.device, [m for count in targets.counts for m in range(count)])
    dtype = targets.masks.dtype
    values = sample(targets.masks[:, None], points.to(dtype)[targets.images])[:, 0]  # N P
    truth = values.new_zeros(len(points), most, points.shape[1]).index_put((targets.images, slot), values)
    classes = slot.new_zeros(len(points), most).index_put((targets.images, slot), targets.classes)
    return truth, classes


def _on(device: torch.device, values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def pad_labels(labels: Tensor, height: int, width: int) -> Tensor:
    """B H W labels with 255 on the right and below, up to the size of a padded image."""
    return F.pad(labels, (0, width - labels.shape[-1], 0, height - labels.shape[-2]), value=IGNORE)
