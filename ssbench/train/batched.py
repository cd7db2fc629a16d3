"""Sends many images through a network at once for scoring, with the labels that one image at a time gives.

A kernel may order its sums by the number of images, so scores of a batch can differ from those of one image alone in
their last bits (oneDNN does that on small maps, cuDNN may). `precision: exact` promises the labels of one image at a
time. So the first images of each shape go through the network both ways. Where all bits agree, batches are used. Where
they do not, the measured difference bounds what rounding can do: an image with a pixel whose two best classes are
nearer than that is computed again alone. Where that would be most images, that shape is not batched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

Predict = Callable[[Tensor], Tensor]
"""B C H W normalised images -> B K H W logits."""

PIXELS = {"cuda": 2**22, "cpu": 2**18}
"""Pixels that go through a network at once.

On a CPU more is slower: maps of a batch leave the caches, and glibc takes blocks of more than 32 MiB anew from the
system each time. On a GPU more gains little, and 21 classes of these are 350 MB of scores.
"""
SAFETY = 16
"""A pixel is safe where its two best classes are this many times further apart than batches were seen to differ."""
WORST_SHARE = 0.25
"""Of images that are computed again alone, above which batches of their shape cost more than they save."""


@dataclass
class _Agreement:
    """How batches of one shape agree with single images.

    difference: the largest seen, by the largest score beside it; 0: all bits agree. batched, again: images so far.
    """

    difference: float
    batched: int = 0
    again: int = 0

    @property
    def is_useful(self) -> bool:
        """False where too many images had to be computed again."""
        return self.batched < 64 or self.again <= WORST_SHARE * self.batched


@dataclass(frozen=True)
class BatchedPredictor:
    """A network's scores and labels for any number of images of one size.

    is_exact: labels are those of one image at a time, and so are the bits of what a call returns. Without it scores
    come from batches wherever images come in batches.
    """

    predict: Predict
    device: torch.device
    is_exact: bool = True
    agreements: dict[tuple[int, ...], _Agreement] = field(default_factory=dict)

    def limit(self, height: int, width: int) -> int:
        """How many images of this size go through the network at once; at least one."""
        return max(1, PIXELS.get(self.device.type, PIXELS["cpu"]) // (height * width))

    def __call__(self, x: Tensor) -> Tensor:
        """B K H W logits of images B C H W."""
        parts = [self._scores(part) for part in self._parts(x)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def labels(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """B H W int64 labels of images B C H W.

        Args:
            size: (height, width) that scores are resized to (bilinear) before the best is taken; None: as they are.
        """
        parts = [self._labels(part, size) for part in self._parts(x)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _parts(self, x: Tensor) -> Sequence[Tensor]:
        parts: tuple[Tensor, ...] = torch.split(x, self.limit(*x.shape[-2:]))
        return parts

    def _scores(self, x: Tensor) -> Tensor:
        if len(x) == 1 or not self.is_exact:
            return self.predict(x)
        agreement = self.agreements.get(tuple(x.shape))
        if agreement is None:
            return self._compare(x)
        return self.predict(x) if agreement.difference == 0 else self._one_by_one(x)

    def _labels(self, x: Tensor, size: Sequence[int] | None) -> Tensor:
        agreement = self.agreements.get(tuple(x.shape))
        is_certain = len(x) == 1 or not self.is_exact or agreement is None or agreement.difference == 0
        if is_certain or agreement is None or not agreement.is_useful:
            return best_class(_resized(self._scores(x), size))
        scores = self.predict(x)
        bound = SAFETY * agreement.difference * scores.abs().amax()
        scores = _resized(scores, size)
        labels = best_class(scores)
        # Written so that scores that are no numbers count as unsafe.
        unsafe = (~(margin(scores, labels) > bound)).flatten(1).any(1).nonzero().flatten().tolist()
        for k in unsafe:
            labels[k] = best_class(_resized(self.predict(x[k : k + 1]), size))[0]
        agreement.batched += len(x)
        agreement.again += len(unsafe)
        return labels

    def _one_by_one(self, x: Tensor) -> Tensor:
        return torch.cat([self.predict(part) for part in torch.split(x, 1)])

    def _compare(self, x: Tensor) -> Tensor:
        """The scores of single images, after comparing those of the batch with them."""
        single, together = self._one_by_one(x), self.predict(x)
        difference = 0.0
        if not torch.equal(single, together):
            difference = float((single - together).abs().amax() / single.abs().amax())
        self.agreements[tuple(x.shape)] = _Agreement(difference)
        return single


def best_class(scores: Tensor) -> Tensor:
    """The first of the best classes of scores B K H W: B H W int64, as `argmax(1)`.

    `max` finds the same some seven times faster than `argmax` on a CPU, whose kernel is not vectorised over pixels.
    """
    return scores.max(1).indices


def margin(scores: Tensor, labels: Tensor) -> Tensor:
    """How far the best class of scores B K H W lies above the second best: B H W."""
    best = scores.gather(1, labels[:, None])
    others = scores.scatter(1, labels[:, None], -torch.inf)
    return best[:, 0] - others.amax(1)


def grouped(sizes: Sequence[tuple[int, int]], at_once: Callable[[int, int], int]) -> Iterator[list[int]]:
    """Positions of equal sizes in groups of at most `at_once(height, width)`, each group when its first is due."""
    waiting: dict[tuple[int, int], list[int]] = {}
    for at, size in enumerate(sizes):
        waiting.setdefault(size, []).append(at)
    done: set[int] = set()
    for at, size in enumerate(sizes):
        if at in done:
            continue
        group = waiting[size][: at_once(*size)]
        del waiting[size][: len(group)]
        done.update(group)
        yield group


def _resized(scores: Tensor, size: Sequence[int] | None) -> Tensor:
    return scores if size is None else F.interpolate(scores, tuple(size), mode="bilinear", align_corners=False)
