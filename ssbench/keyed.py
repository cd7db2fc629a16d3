"""Keyed randomness: every draw is a pure function of what it is for, never of what was drawn before it.

A draw's key is (seed, epoch, sample id, view, purpose) or any other tuple of strings and integers, so worker count,
resume point and prefetch depth change nothing.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key(*parts: str | int, bits: int = 63) -> int:
    """A `bits`-bit integer that depends on every part and on their order; "1" and 1 differ."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    # An id is a file name, and a file system may hold names that are no UTF-8.
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return int.from_bytes(digest, "little") & ((1 << bits) - 1)


def rng(*parts: str | int) -> np.random.Generator:
    """A numpy generator for the key `parts` (Philox: counter based, identical on every platform)."""
    return np.random.Generator(np.random.Philox(key=key(*parts, bits=128)))


def torch_generator(*parts: str | int, device: str = "cpu") -> torch.Generator:
    """A torch generator on `device` for the key `parts`."""
    import torch

    return torch.Generator(device=device).manual_seed(key(*parts))
