"""One step of every method with every plug-in on a GPU that is not there: devices and types fit, and nothing waits."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from fake_gpu import CUDA, fake_gpu, fake_step, on_gpu
from pairs import METHODS, PAIRS
from torch import Tensor

from ssbench import find
from ssbench.certify.pair import LATE, SMALL, Pair, StartedMethod
from ssbench.certify.small import progress
from ssbench.data.noise import batch_for
from ssbench.methods.base import Step
from ssbench.nets.precision import EXACT, PassFormat
from ssbench.train.precision import set_formats

FAST = PassFormat(torch.bfloat16, channels_last=True)
ALL = [*((m, "") for m in METHODS), *PAIRS]


def started(method: str, plugin: str, folder: Path) -> StartedMethod:
    """As after two epochs, of which the second was the best."""
    begun = Pair.of(method, [find.load("plugin", plugin)] if plugin else [], folder).start()
    begun.method.end_epoch(is_best=True, t=progress(LATE // 10 * 10 - 1))
    return begun


def step_on_gpu(begun: StartedMethod, passes: PassFormat) -> Step:
    method, t = copy.deepcopy(begun.method), progress(LATE)
    set_formats(method, passes)
    return fake_step(method, batch_for(method, t, maps=begun.maps, side=SMALL), t)


def waits(method: str, plugin: str) -> bool:
    """Whether the method says itself that its step waits for the device (`Method.synchronises`)."""
    return method in ("ael", "mask2former") or (
        method == "stpp" and "mix" in (find.load("plugin", plugin).needs if plugin else ())
    )


@pytest.mark.parametrize(("method", "plugin"), [pair for pair in ALL if not waits(*pair)])
def test_a_step_runs_on_the_gpu_alone(method: str, plugin: str, tmp_path: Path) -> None:
    begun = started(method, plugin, tmp_path)
    for passes in (EXACT, FAST):
        step = step_on_gpu(begun, passes)
        values = {"loss": step.loss, **step.terms}
        assert {name: (x.device, x.dtype, x.dim()) for name, x in values.items()} == dict.fromkeys(
            values, (CUDA, torch.float32, 0)
        )
        assert step.loss.requires_grad


@pytest.mark.parametrize(("method", "plugin"), [pair for pair in ALL if waits(*pair)])
def test_a_step_that_waits_says_so(method: str, plugin: str, tmp_path: Path) -> None:
    assert find.load("method", method).synchronises
    with pytest.raises((RuntimeError, TypeError, NotImplementedError)):
        step_on_gpu(started(method, plugin, tmp_path), EXACT)


def test_a_tensor_that_stayed_on_the_cpu_is_found() -> None:
    with fake_gpu(), pytest.raises(RuntimeError, match=r"(?i)device"):
        on_gpu(torch.ones(3)) + torch.ones(3, device="cpu")


def test_a_value_that_the_host_asks_for_is_found() -> None:
    def asked(x: Tensor) -> float:
        return float(x.sum())

    with fake_gpu(), pytest.raises(RuntimeError):
        asked(on_gpu(torch.ones(3)))


def test_passes_in_fast_run_in_bf16_there() -> None:
    with fake_gpu(), torch.autocast("cuda", torch.bfloat16):
        x = torch.nn.functional.conv2d(on_gpu(torch.ones(1, 3, 8, 8)), on_gpu(torch.ones(4, 3, 3, 3)))
    assert (x.dtype, x.device) == (torch.bfloat16, CUDA)
