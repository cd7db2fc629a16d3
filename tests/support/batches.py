"""Comparing batches bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch


def tensors(value: Any) -> Iterator[Any]:
    """Every leaf of a batch, in order."""
    if is_dataclass(value):
        value = [getattr(value, f.name) for f in fields(value)]
    if isinstance(value, dict):
        value = [value[name] for name in sorted(value)]
    if isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)
    else:
        yield value


def same(a: Any, b: Any) -> bool:
    """Equal bit for bit, in dtypes and shapes too."""
    first, second = list(tensors(a)), list(tensors(b))
    return len(first) == len(second) and all(_same(x, y) for x, y in zip(first, second, strict=True))


def _same(x: Any, y: Any) -> bool:
    if isinstance(x, torch.Tensor) and isinstance(y, torch.Tensor):
        return x.dtype == y.dtype and torch.equal(x, y)
    return bool(x == y)
