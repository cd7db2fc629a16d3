"""A GPU that is not there: tensors without values on a `cuda` device, on which a step shows what it would mix up.

Under torch's FakeTensorMode every operation checks devices, types and shapes as a GPU would, and computes nothing. An
operation whose result the host must know (`item`, indexing by a mask, a copy to NumPy) raises. Backward does not run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ssbench.data.batch import Batch, map_tensors
from ssbench.methods.base import Method, Step
from ssbench.ops.progress import Progress

CUDA = torch.device("cuda:0")


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """Where fake tensors on `CUDA` can be computed with.

    A generator on a GPU needs a driver, so draws inside come without one: `Progress.generator` is the one place that
    makes them. Values, which are not there, are not held against a plug-in's promises. autocast believes that there is
    a GPU with bf16.
    """
    mode = FakeTensorMode()
    with (
        patch.object(Progress, "generator", lambda self, purpose: None),
        patch("ssbench.plugins.promises._wrong_values", lambda *_: ""),
        patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: True),
        mode,
    ):
        yield mode


def on_gpu(x: Tensor) -> Tensor:
    """A fake tensor like `x` on the GPU; inside `fake_gpu` only."""
    return torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=CUDA)


def move(module: nn.Module) -> None:
    """Replace every parameter and buffer by a fake one on the GPU, but those of modules that stay on the CPU."""
    for child in module.modules():
        if getattr(child, "on_cpu", False):
            continue
        for name, parameter in child._parameters.items():
            if parameter is not None:
                child._parameters[name] = nn.Parameter(on_gpu(parameter), requires_grad=parameter.requires_grad)
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = on_gpu(buffer)


def fake_step(method: Method, batch: Batch, t: Progress) -> Step:
    """One forward pass of the method on the GPU that is not there, and its moving averages."""
    at_gpu = Progress(t.step, t.steps, t.steps_per_epoch, t.seed, CUDA)
    with fake_gpu():
        move(method)
        step = method(map_tensors(batch, on_gpu), at_gpu)
        method.after_step(at_gpu)
    return step
