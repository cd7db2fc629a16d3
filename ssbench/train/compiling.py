"""Whether `torch.compile` makes a run's networks faster on this machine: measured once, then remembered.

`compile: auto` compiles where a forward and backward pass of the student, on a batch of the run's shape, takes at most
`GAIN` of its time without. Processors are not measured: inductor's first compilation takes minutes there, and of the
released networks none got faster on two cores (0.65 to 1.02 of the speed without). `compile: on` compiles there too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
import statistics
import time
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, Field
from torch import Tensor

from ssbench.errors import DataError
from ssbench.files import read_model, write_json
from ssbench.methods.base import Method
from ssbench.nets.precision import PassFormat
from ssbench.nets.segnet import SegNet
from ssbench.recipe.recipe import Recipe, ScheduleConfig
from ssbench.train.distributed import Team
from ssbench.train.machine import hardware
from ssbench.train.precision import Computation, choose_computation, set_formats

GAIN = 0.95
"""Largest share of the time without compilation at which compiling is worth its minutes."""
WARM_UP, COUNTED = 3, 7
"""Passes before and while the clock runs. The first ones compile and choose kernels."""
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class PassTimes(BaseModel):
    """Median seconds of a forward and backward pass. compiled: None where compilation failed."""

    plain: Seconds
    compiled: Seconds | None

    @property
    def gains(self) -> bool:
        """Whether compiling is worth it."""
        return self.compiled is not None and self.compiled <= GAIN * self.plain


class _CompileFile(BaseModel):
    """`compile.json` in the user's cache folder: times by machine, torch, network and shape."""

    times: dict[str, PassTimes] = {}


def format_method(method: Method, recipe: Recipe, channels: int, team: Team) -> Computation:
    """Set how the networks of a run compute, on the device they are on. The leader measures for all processes."""
    schedule, side, device = recipe.schedule, int(recipe.views.crop), team.device
    images = max((schedule.labeled_batch + schedule.unlabeled_batch) // team.world, 1)
    chosen = side_to_compile(method.net, (images, channels, side), schedule, device) if team.leads else 0
    computation = choose_computation(schedule, device, team.most(chosen))
    set_formats(method, computation.passes)
    return computation


def side_to_compile(net: SegNet, shape: tuple[int, int, int], schedule: ScheduleConfig, device: torch.device) -> int:
    """The side of the crops whose passes are compiled; 0 for none.

    Args:
        shape: images of the largest pass, their channels, the side of the crop.
    """
    side = shape[-1]
    if schedule.precision == "exact" or schedule.compile == "off":
        return 0
    if schedule.compile == "on":
        return side
    if device.type != "cuda":
        return 0
    return side if remembered_times(net, shape, schedule, device).gains else 0


def remembered_times(
    net: SegNet, shape: tuple[int, int, int], schedule: ScheduleConfig, device: torch.device
) -> PassTimes:
    """What was measured on this machine, else what is measured now and kept for the next run."""
    passes = choose_computation(schedule, device).passes
    facts = [hardware(device)["name"], torch.__version__, repr(net), shape, str(passes)]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ssbench" / "compile.json"
    known = _read(path)
    if key not in known.times:
        known.times[key] = measure(net, torch.randn(shape[0], shape[1], shape[2], shape[2], device=device), passes)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, known.model_dump(mode="json"))
        except OSError:  # without a cache folder the next run measures again
            pass
    return known.times[key]


def measure(net: SegNet, x: Tensor, passes: PassFormat, backend: str = "inductor") -> PassTimes:
    """Times of a copy of the network on images x (B C H H), plain and compiled; the network itself is left alone."""
    plain = _median_seconds(net, x, passes)
    try:
        compiled = _median_seconds(net, x, passes.compiled(x.shape[-1], backend))
    except Exception:  # noqa: BLE001  dynamo and inductor raise errors of many kinds; a run goes on without them
        return PassTimes(plain=plain, compiled=None)
    return PassTimes(plain=plain, compiled=compiled)


def _median_seconds(net: SegNet, x: Tensor, passes: PassFormat) -> float:
    net, seconds = copy.deepcopy(net).train(), []
    set_formats(net, passes)
    for _ in range(WARM_UP + COUNTED):
        began = time.perf_counter()
        torch.autograd.backward(net(x).logits.square().mean())
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[WARM_UP:])


def _read(path: Path) -> _CompileFile:
    """The file, or an empty one where it is absent or damaged."""
    try:
        return read_model(path, _CompileFile, "cache", f"rm {path}") if path.is_file() else _CompileFile()
    except DataError:
        return _CompileFile()
