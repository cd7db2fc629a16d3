"""Finds, without a GPU, the tensor operations that would make the host wait for one, and those that draw at random.

Waiting is looked for twice: among the torch functions that Python calls (`x.item()`, `if x`, `x.cpu()`), and among the
operators that run beneath them (indexing by a mask is `nonzero`, indexing by a tensor without dimensions is `item`).
Names alone decide, so an operation on a tensor that would live on the host anyway is reported too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

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
DRAWS = (
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial",
    "normal", "poisson", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_",
    "uniform_",
)  # fmt: skip
"""Functions that draw from torch's global stream unless they are given a generator. Dropout layers may."""
TORCH = str(Path(torch.__file__).parent)


class _Functions(TorchFunctionMode):
    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__()
        self.report = report
        self.excused = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        if not self.excused and (name in READS or (name in WRITES and _names_device(args, kwargs))):
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
            if name in ("index", "index_put", "index_put_", "_unsafe_index") and _by_mask(args[1]):
                self.report(f"aten::{name} by a mask")
        return func(*args, **(kwargs or {}))


class _Draws(TorchFunctionMode):
    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__()
        self.report = report

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", str(func)), kwargs or {}
        if name in DRAWS and not any(isinstance(a, torch.Generator) for a in (*args, *kwargs.values())):
            self.report(name)
        return func(*args, **kwargs)


@contextmanager
def watched() -> Iterator[list[str]]:
    """Names of waiting operations that ran inside, each with the line that called it."""
    lines: list[str] = []
    report = _into(lines)
    functions = _Functions(report)
    with functions, _Operators(report, functions):
        yield lines


@contextmanager
def drawing() -> Iterator[list[str]]:
    """Names of functions that drew inside without a generator of their own, each with the line that called it."""
    lines: list[str] = []
    with _Draws(_into(lines)):
        yield lines


def _into(lines: list[str]) -> Callable[[str], None]:
    def report(name: str) -> None:
        line = f"{name} at {_caller()}"
        if line not in lines and "/optim/" not in line:  # Adam counts its steps in tensors that stay on the host
            lines.append(line)

    return report


def _names_device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the new tensor is for a named device, or like a tensor on one."""
    return "device" in kwargs or any(isinstance(a, Tensor) for a in args[:1])


def _has_unknown_size(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    if name == "where":
        return len(args) + len(kwargs) == 1
    return "output_size" not in kwargs and any(isinstance(a, Tensor) for a in args[1:2])


def _by_mask(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in indices)


def _caller() -> str:
    """The innermost line on the stack that is neither torch's (but for its optimisers) nor of this file."""
    import traceback

    frames = [f for f in traceback.extract_stack() if f.filename != __file__]
    at = next(f for f in reversed(frames) if not f.filename.startswith(TORCH) or "/optim/" in f.filename)
    return f"{'/'.join(at.filename.split('/')[-3:])}:{at.lineno}: {at.line}"
