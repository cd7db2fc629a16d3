"""Finds the torch functions that draw from the global random stream, with the line that calls them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

DRAWS = (
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "bernoulli", "multinomial",
    "normal", "poisson", "bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_",
    "uniform_",
)  # fmt: skip
"""Functions that draw from torch's global stream unless they are given a generator. Dropout layers may."""
TORCH = str(Path(torch.__file__).parent)
WATCHERS = ("ssbench/ops/draws.py", "ssbench/certify/watch.py")


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
def drawing() -> Iterator[list[str]]:
    """Names of functions that drew inside without a generator of their own, each with the line that called it."""
    lines: list[str] = []
    with _Draws(reporter(lines)):
        yield lines


def reporter(lines: list[str]) -> Callable[[str], None]:
    """A function that adds a name and the line that called it, once, to `lines`."""

    def report(name: str) -> None:
        at = _caller()
        line = f"{name} at {at}"
        if at.startswith("ssbench/plugins/promises.py"):
            return  # it looks at the values of answers, and in a run at those of the first step alone
        if line not in lines and "/optim/" not in line:  # Adam counts its steps in tensors that stay on the host
            lines.append(line)

    return report


def _caller() -> str:
    """The innermost line on the stack that is neither torch's (but for its optimisers) nor a watcher's."""
    import traceback

    frames = [f for f in traceback.extract_stack() if not f.filename.endswith(WATCHERS)]
    at = next(f for f in reversed(frames) if not f.filename.startswith(TORCH) or "/optim/" in f.filename)
    return f"{'/'.join(at.filename.split('/')[-3:])}:{at.lineno}: {at.line}"
