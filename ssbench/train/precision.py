"""How a run computes on this machine: `precision: exact` as the authors did, or `fast` as the machine does best.

`fast` belongs to the open division. Passes of networks run in bf16 where the hardware multiplies it, with channels
innermost in memory; optimisers are fused; on a GPU fp32 products that are left may use TF32. See `nets.precision` for
what stays in fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ssbench.nets.precision import EXACT, FormattedModule, PassFormat, bf16_support
from ssbench.ops.class_memory import Bank
from ssbench.recipe.recipe import ScheduleConfig


@dataclass(frozen=True)
class Computation:
    """How the passes of a run are computed, as its record states it.

    compiled: whether `torch.compile` made the networks' kernels. tf32: of products of matrices, and of convolutions, on
    a GPU; torch's own defaults (off and on) in `exact`, which are those the authors ran with.
    """

    precision: str
    passes: PassFormat = EXACT
    tf32: tuple[bool, bool] = (False, True)

    @property
    def fused(self) -> bool:
        """Whether one kernel updates all parameters. Its rounding differs from that of the authors' optimisers."""
        return self.precision == "fast"

    def facts(self) -> dict[str, Any]:
        """For the record."""
        dtype = self.passes.dtype or torch.float32
        return {
            "precision": self.precision,
            "dtype": str(dtype).removeprefix("torch."),
            "channels_last": self.passes.channels_last,
            "compile": self.passes.compiled_side > 0,
            "fused_optimizer": self.fused,
            "tf32": {"products": self.tf32[0], "convolutions": self.tf32[1]},
        }


def choose_computation(schedule: ScheduleConfig, device: torch.device, compiled_side: int = 0) -> Computation:
    """What `schedule.precision` means on this device.

    Args:
        compiled_side: of the training crops, where their passes are to be compiled.
    """
    if schedule.precision == "exact":
        return Computation("exact")
    dtype = torch.bfloat16 if bf16_support(device) else None
    return Computation("fast", PassFormat(dtype, channels_last=True, compiled_side=compiled_side), (True, True))


def set_formats(module: nn.Module, passes: PassFormat) -> None:
    """Let every network inside `module` (students, teachers, those of plug-ins) compute in this format, and memories
    of their features keep it."""
    if passes is EXACT:
        return
    for child in list(module.modules()):
        if isinstance(child, FormattedModule):
            child.set_format(passes)
        elif isinstance(child, Bank) and passes.dtype is not None:
            child.store_in(passes.dtype)


@contextmanager
def tf32_as_chosen(computation: Computation) -> Iterator[None]:
    """torch's two TF32 switches as the run has them, restored afterwards. They act on NVIDIA GPUs alone."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32, cudnn.allow_tf32 = computation.tf32
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
