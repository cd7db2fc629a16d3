"""Which operations of a step would make a GPU wait for the host: those that turn a tensor into a number or a size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "bincount", "is_nonzero")


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects their names while it is on; boolean indexing is one of them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = str(func)
        masks = "aten.index" in name and any(
            _is_mask(i) for i in (args[1] if isinstance(args[1], list | tuple) else ())
        )
        if masks or any(word in name for word in WAITING):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def waits_of(run: Callable[[], object]) -> list[str]:
    watch = Waits()
    with watch:
        run()
    return watch.found


def _is_mask(index: object) -> bool:
    return isinstance(index, torch.Tensor) and index.dtype in (torch.bool, torch.uint8)
