"""First-in-first-out memories of pixel features for each class: U2PL's (`Bank`) and WPL's (`Memory`).

Which pixels qualify is known on the device alone, and asking for their number would wait for it. All shapes are
therefore fixed: the n-th pixel of a mask is found in its running count, and a memory is rewritten as a whole.
Letters besides those of `ssbench.ops`: N pixels of a batch, M banks, S rows of a class, Q rows offered a class at most.
Sources: U2PL ab3d2be u2pl/utils/utils.py `dequeue_and_enqueue` (card: u2pl 7); WPL, supplement Sec. 5 (card: wpl 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssbench.ops.progress import Progress
from ssbench.ops.reduce import gather_rows

KEY_BITS = 40
"""Bits of a pixel's random number; two of 2^20 pixels share one with odds below a half, which changes nothing."""


def nth(mask: Tensor, place: Tensor) -> Tensor:
    """Index of the `place`-th true entry of each row, from 0; the last index where there are not so many.

    Args:
        mask: C N bool. place: C Q int64.
    """
    return torch.searchsorted(mask.cumsum(1), place + 1).clamp(max=mask.shape[1] - 1)


def draw_indices(mask: Tensor, u: Tensor) -> Tensor:
    """C Q indices, uniform over the true entries of each row with replacement; meaningless where a row has none.

    Args:
        mask: C N bool. u: C Q uniform numbers in [0, 1).
    """
    return nth(mask, _uniform_integers(u, mask.sum(1, keepdim=True)))


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

    def store_in(self, dtype: torch.dtype) -> None:
        """Keep the vectors in this format from now on: bf16 where they come from passes in bf16, so nothing is lost."""
        if bool(self.seen.any()):
            self.keys = self.keys.to(dtype)
            return
        shape, home = self.keys.shape, self.keys.device
        self.keys = torch.empty(0)  # an empty bank is freed first: it may be the largest tensor of the run
        self.keys = torch.zeros(shape, dtype=dtype, device=home)

    @torch.no_grad()
    def insert(self, rows: Tensor, masks: Tensor) -> None:
        """Append the rows (N D) in each class's mask (C N bool), oldest first; the oldest beyond the size are lost."""
        home, seen = self.keys.device, self.seen.to(rows.device)
        for c, keys in enumerate(torch.split(self.keys, self.sizes)):
            # Only slots that this batch can reach are written: a bank is some hundred times as large as a small crop.
            slot, at, arrives = _arrivals(len(keys), seen[c], masks[c])
            slot = slot.to(home)
            fresh = torch.where(arrives[:, None].to(home), rows[at].to(home, keys.dtype), keys[slot])
            keys.index_copy_(0, slot, fresh)
        self.seen += masks.sum(1).to(home)

    @torch.no_grad()
    def draw(self, of: Tensor, u: Tensor) -> Tensor:
        """C Q M D vectors of the classes `of` (C int64), uniform with replacement; zeros where a class holds none.

        Args:
            u: C Q M uniform numbers in [0, 1).
        """
        home = self.keys.device
        count, start = (x[of.to(home)][:, None, None] for x in (self.filled(), self.starts))
        return self.keys[start + _uniform_integers(u.to(home), count)].to(u.device)


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
    """How many pixels of a class an image may add: max(1, floor(share x round(size / images))) (card: wpl 4).

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
    every_key = gather_rows(keys.movedim(1, 0)).movedim(0, 1)  # C, world x Q
    every_row = gather_rows(rows.movedim(1, 0)).movedim(0, 1)
    low, at = every_key.sort(1)
    held = low[:, :most] < (torch.arange(1, classes + 1, device=low.device) << KEY_BITS)[:, None]
    return every_row.gather(1, at[:, :most, None].expand(-1, -1, width)), held.sum(1)


def _arrivals(slots: int, seen: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of a ring of `slots` that `seen` vectors have gone into, at most as many slots as the mask (N) has places: which
    slot, which row goes there, and whether there is such a row (else the slot keeps what it has).

    Row j of the mask goes to slot (seen + j) modulo the slots; of several the last one stays.
    """
    count = mask.sum()
    arrival = (count - slots).clamp(min=0) + torch.arange(min(slots, len(mask)), device=mask.device)
    return (seen + arrival) % slots, nth(mask[None], arrival[None])[0], arrival < count


def _uniform_integers(u: Tensor, count: Tensor) -> Tensor:
    """Whole numbers 0 .. count - 1 from uniform ones in [0, 1); 0 where the count is 0."""
    return torch.minimum((u * count).long(), (count - 1).clamp(min=0))
