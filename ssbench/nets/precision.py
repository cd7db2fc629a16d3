"""In which number format a network computes: fp32 as the authors did (`exact`), or bf16 passes (`fast`).

Only what lies inside a network's forward runs in bf16, under torch's autocast. Parameters, their gradients and updates,
batch-norm statistics and moving averages stay in fp32, and what a network scores leaves it in fp32, so that softmax,
thresholds, losses and metrics are computed as in `exact`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")
LOW = frozenset({torch.bfloat16, torch.float16})


@dataclass(frozen=True)
class PassFormat:
    """How a network's passes are computed.

    dtype: of convolutions and products of matrices; None: that of the parameters. channels_last: whether images stand
    with their channels innermost in memory, as kernels for bf16 want it. compiled_side: the side of the square images
    whose passes are compiled (training crops, which are all of one shape), by torch.compile's `backend`; 0: none.
    """

    dtype: torch.dtype | None = None
    channels_last: bool = False
    compiled_side: int = 0
    backend: str = "inductor"

    def compiled(self, side: int, backend: str = "inductor") -> PassFormat:
        """The same with passes of square images of this side compiled."""
        return replace(self, compiled_side=side, backend=backend)


EXACT = PassFormat()


class FormattedModule(nn.Module):
    """A network whose passes run in its `format`. It takes tensors, images first; its scores come back in fp32."""

    format: PassFormat = EXACT

    def set_format(self, form: PassFormat) -> None:
        """Compute in this format from now on. Values of parameters and their names in a state dict do not change."""
        self.format = form
        if form.channels_last:
            self.to(memory_format=torch.channels_last)
        if form.compiled_side:
            self.compile(dynamic=False, backend=form.backend)

    def __call__(self, x: Tensor, *rest: Any) -> Any:
        """`forward` in this format."""
        form = self.format
        if form is EXACT:
            return super().__call__(x, *rest)
        # Images of other sizes (whole ones, in scoring) would each be compiled anew.
        is_compiled = form.compiled_side > 0 and x.shape[-2:] == (form.compiled_side, form.compiled_side)
        call = super().__call__ if is_compiled or not form.compiled_side else self._call_impl
        return scores_in_full(self._in_format(call, x, *rest))

    def _in_format(self, call: Callable[..., Any], x: Tensor, *rest: Any) -> Any:
        """What `call` returns, computed in this format; features and scores as they come."""
        form = self.format
        if form.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if form.dtype is None:
            return call(x, *rest)
        with torch.autocast(x.device.type, form.dtype):
            return call(x, *rest)


def full(x: Tensor) -> Tensor:
    """`x` in fp32 where it is bf16 or fp16, else `x` itself: for what is computed from features outside a network."""
    return x.float() if x.dtype in LOW else x


def scores_in_full(out: T) -> T:
    """The tensors of a network's output in fp32: a tensor, or those in dataclasses and tuples, however deep.

    Mappings (`Out.feats`) are left as they are: most features only feed another network, and copies of all of them
    would cost what bf16 saves. Who computes with features applies `full`.
    """
    if isinstance(out, Tensor):
        return full(out)  # type: ignore[return-value]
    if isinstance(out, tuple):
        return tuple(scores_in_full(part) for part in out)  # type: ignore[return-value]
    if not dataclasses.is_dataclass(out) or isinstance(out, type):
        return out
    values = {field.name: getattr(out, field.name) for field in dataclasses.fields(out)}
    return dataclasses.replace(out, **{name: scores_in_full(value) for name, value in values.items()})


def bf16_support(device: torch.device, capabilities: Mapping[str, Any] | None = None) -> bool:
    """Whether the device multiplies bf16 in hardware, and torch's kernels use it.

    Args:
        capabilities: of the processor, by name; default: this machine's.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    known = _capabilities() if capabilities is None else capabilities
    # Without these oneDNN widens every product to fp32, which is slower than fp32 itself. Neoverse V1 and later: bf16.
    return any(known.get(name, False) for name in ("avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16"))


def _capabilities() -> Mapping[str, Any]:
    """This processor's, by name. Older releases of torch only tell of AVX-512."""
    if hasattr(torch.cpu, "get_capabilities"):
        known: Mapping[str, Any] = torch.cpu.get_capabilities()
        return known
    return {"avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
