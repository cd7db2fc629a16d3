"""Finds, without a GPU, the tensor operations that would make the host wait for one.

Waiting is looked for twice: among the torch functions that Python calls (`x.item()`, `if x`, `x.cpu()`), and among the
operators that run beneath them (indexing by a mask is `nonzero`, indexing by a tensor without dimensions is `item`).
Names alone decide, so an operation on a tensor that would live on the host anyway is reported too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ssbench.ops.draws import reporter

READS = (
    "item", "tolist", "numpy", "cpu", "__bool__", "__int__", "__float__", "__index__", "__array__", "__contains__",
    "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "equal", "allclose",
    "is_nonzero",
)  # fmt: skip
"""Functions whose result, or its size, is known on the host."""
WRITES = ("tensor", "as_tensor", "from_numpy", "asarray", "new_tensor")
"""Functions that copy from the host's pageable memory, which waits as well."""
OPERATORS = (
    "_local_scalar_dense", "item", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim",
    "unique_consecutive", "bincount", "equal", "is_nonzero",
)  # fmt: skip
ONLY_ON_CPU = ("one_hot",)
"""Functions that look at values on a CPU, but on a GPU not when they are given the number of classes."""


class _Functions(TorchFunctionMode):
    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__()
        self.report = report
        self.excused = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        if not self.excused and (
            name in READS or (name in WRITES and ("device" in kwargs or isinstance(next(iter(args), None), Tensor)))
        ):
            self.report(name)
        if name in ("where", "repeat_interleave") and _has_unknown_size(name, args, kwargs):
            self.report(f"{name} of unknown size")
        if name == "to" and "cpu" in [a for a in (*args[1:], *kwargs.values()) if isinstance(a, str)]:
            self.report("to('cpu')")
        self.excused += name in ONLY_ON_CPU
        try:
            return func(*args, **kwargs)
        finally:
            self.excused -= name in ONLY_ON_CPU


class _Operators(TorchDispatchMode):
    def __init__(self, report: Callable[[str], None], functions: _Functions) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.report, self.functions = report, functions

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if not self.functions.excused:
            if name in OPERATORS:
                self.report(f"aten::{name}")
            if name in ("index", "index_put", "index_put_", "_unsafe_index") and any(
                isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1]
            ):
                self.report(f"aten::{name} by a mask")
        return func(*args, **(kwargs or {}))


@contextmanager
def watched() -> Iterator[list[str]]:
    """Names of waiting operations that ran inside, each with the line that called it."""
    lines: list[str] = []
    report = reporter(lines)
    functions = _Functions(report)
    with functions, _Operators(report, functions):
        yield lines


def _has_unknown_size(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "where":
        return len(args) + len(kwargs) == 1
    return "output_size" not in kwargs and any(isinstance(a, Tensor) for a in args[1:2])
