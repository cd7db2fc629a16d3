"""A first-in-first-out memory of pixel features for each class, fed by random pixels, all in fixed shapes.

Which pixels qualify is known on the device alone; nothing here asks for their number, which would wait for it.
Letters besides those of `ssbench.ops`: N pixels of a batch, M banks, S rows of a class, Q rows offered a class at most.
Source: WPL, supplement Sec. 5 (specs: wpl 4).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ssbench.ops.contrast import gathered
from ssbench.ops.progress import Progress

KEY_BITS = 40
"""Bits of a pixel's random number; two of 2^20 pixels share one with odds below a half, which changes nothing."""


class Memory(nn.Module):
    """M banks of C classes of up to S rows, newest first; state, so that it is saved and resumed.

    rows: M C S D, D = 0 until the first vectors come. count: M C int64, how many rows of a class are filled.
    """

    rows: Tensor
    count: Tensor

    def __init__(self, banks: int, classes: int, size: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(banks, classes, size, 0))
        self.register_buffer("count", torch.zeros(banks, classes, dtype=torch.int64))

    @torch.no_grad()
    def insert(self, bank: int, fresh: Tensor, arrived: Tensor) -> None:
        """Put each class's first `arrived` rows of `fresh` before its old ones; the oldest beyond S are lost.

        Args:
            fresh: C Q D, the newest first. arrived: C int64, at most Q.
        """
        self._widen(fresh.shape[-1])
        old, size = self.rows[bank], self.rows.shape[2]
        place = torch.arange(size, device=fresh.device)[None]
        from_old = fresh.shape[1] + place - arrived[:, None]
        at = torch.where(place < arrived[:, None], place.clamp(max=fresh.shape[1] - 1), from_old)
        both = torch.cat([fresh.to(old.dtype), old], 1)
        self.rows[bank] = both.gather(1, at[..., None].expand(-1, -1, both.shape[-1]))
        self.count[bank] = (self.count[bank] + arrived).clamp(max=size)

    def means(self) -> tuple[Tensor, Tensor]:
        """C D means over the rows of all banks, unweighted, and C bool: whether bank 0 has a row of the class."""
        filled = torch.arange(self.rows.shape[2], device=self.rows.device) < self.count[..., None]
        total = (self.rows * filled[..., None]).sum((0, 2))
        return total / self.count.sum(0).clamp(min=1)[:, None], self.count[0] > 0

    def _widen(self, width: int) -> None:
        if self.rows.shape[-1] != width:
            self.rows = self.rows.new_zeros(*self.rows.shape[:-1], width)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """The width of the vectors comes with the state."""
        if (rows := state_dict.get(f"{prefix}rows")) is not None:
            self._widen(rows.shape[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)


def quota(size: int, images: int, share: float) -> int:
    """How many pixels of a class an image may add: max(1, floor(share x round(size / images))) (specs: wpl 4).

    Args:
        images: length of the list the loader repeats. share: 1 on Cityscapes, classes / 3 on VOC.
    """
    return max(1, int(share * round(size / images)))


@torch.no_grad()
def sample(
    feats: Tensor, label: Tensor, inside: Tensor, classes: int, most: int, purpose: str, t: Progress
) -> tuple[Tensor, Tensor]:
    """Up to `most` random pixels a class and image, drawn from the whole batch of all processes without replacement.

    Args:
        feats: B D h w. label: B H W int64 in 0..C-1 where inside. inside: B H W bool, pixels that qualify.
        most: an image's; the batch may give that many times its images of a class.

    Returns:
        C Q D features, upsampled bilinearly to the pixel, and C int64: how many of the Q are filled.
    """
    everyone = len(label) * t.world * most
    order = _random(label, purpose, t)
    own = label.where(inside, classes).flatten()
    keys, at = torch.sort((own << KEY_BITS) + order)  # by class, in random order within it
    first = torch.searchsorted(keys, torch.arange(classes + 1, device=keys.device) << KEY_BITS)
    place = first[:-1, None] + torch.arange(everyone, device=keys.device)  # C Q
    held = place < first[1:, None]
    place = place.clamp(max=len(keys) - 1)
    rows = at_pixels(feats, at[place].flatten(), (label.shape[-2], label.shape[-1])).view(*place.shape, -1)
    if t.world == 1:
        return rows, held.sum(1)
    return _merged(rows, keys[place].where(held, (classes + 1) << KEY_BITS), everyone)


def at_pixels(feats: Tensor, index: Tensor, size: tuple[int, int]) -> Tensor:
    """n D: what bilinear upsampling of B D h w to `size` (corners aligned) has at flat pixel indices (n)."""
    (height, width), (low_height, low_width) = size, feats.shape[-2:]
    image, pixel = index // (height * width), index % (height * width)
    grid = feats.movedim(1, -1).flatten(0, 2)  # B h w, D
    taps = [
        (a * low_width + b, u * v)
        for a, u in _taps(pixel // width, height, low_height)
        for b, v in _taps(pixel % width, width, low_width)
    ]
    start = image * (low_height * low_width)
    parts = [grid[start + cell] * share[:, None].to(grid.dtype) for cell, share in taps]
    return parts[0] + parts[1] + parts[2] + parts[3]


def _taps(place: Tensor, size: int, low: int) -> list[tuple[Tensor, Tensor]]:
    """The two cells of `low` around each place of `size`, and their shares."""
    exact = place * ((low - 1) / max(size - 1, 1))
    first = exact.floor().clamp(max=max(low - 2, 0))
    second = exact - first
    return [(first.long(), 1 - second), ((first.long() + 1).clamp(max=low - 1), second)]


def _random(label: Tensor, purpose: str, t: Progress) -> Tensor:
    """A random number for each pixel of this process, drawn for those of all."""
    shape = (t.world, label.numel())
    drawn = torch.randint(1 << KEY_BITS, shape, generator=t.generator(purpose), device=label.device)
    return drawn[t.rank]


def _merged(rows: Tensor, keys: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Each class's `most` lowest keys among those of all processes, with their rows; keys of another class are none."""
    classes, width = len(rows), rows.shape[-1]
    every = gathered(keys.movedim(1, 0)).movedim(0, 1)  # C, world x Q
    found = gathered(rows.movedim(1, 0)).movedim(0, 1)
    low, at = every.sort(1)
    held = low[:, :most] < (torch.arange(1, classes + 1, device=low.device) << KEY_BITS)[:, None]
    return found.gather(1, at[:, :most, None].expand(-1, -1, width)), held.sum(1)
