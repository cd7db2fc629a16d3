"""One process for each device: the process group, and batch norm over all processes.

torchrun's environment says how many processes there are. In a single process nothing here communicates.
"""

from __future__ import annotations

import inspect
import os
import re
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssbench.errors import HardwareError, RecipeError, RunsFailed
from ssbench.nets.precision import full
from ssbench.ops.reduce import batch_sum
from ssbench.train.allocator import keep_freed_memory


class ProcessFailed(RunsFailed):
    """One of several processes failed. The others wait for it for ever, so torchrun has to end all of them."""


@dataclass(frozen=True)
class Team:
    """This process's place among those that share a batch. Its methods are collective: every process must call them."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """`value`, in place summed over processes."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on any process."""
        return self.most(int(flag)) > 0

    def most(self, value: int) -> int:
        """The largest of the processes' values."""
        if self.world == 1:
            return value
        largest = torch.tensor(value, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return int(largest.item())

    def least(self, value: Tensor) -> int:
        """The smallest of the processes' int64 scalars. Waits for the device."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value.item())

    def wait(self) -> None:
        """Return when all processes have called this."""
        if self.world > 1:
            dist.barrier()


def is_first_process() -> bool:
    """Whether this process prints for all that torchrun started. Known before the process group exists."""
    return os.environ.get("RANK", "0") == "0"


def refuse_device(name: str | None, here: bool = True) -> None:
    """Refuse what is no device that a run can compute on.

    Args:
        here: whether the run is for this machine. Of another one (Slurm) only the kind of device is checked.
    Raises:
        HardwareError: as said; it names the devices there are.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = re.fullmatch(r"cpu|cuda(?::([0-9]{1,3}))?", name or "cpu")
    is_absent = here and known is not None and (name or "").startswith("cuda") and int(known[1] or 0) >= gpus
    if known is not None and not is_absent:
        return
    there = ["cpu", *(f"cuda:{number}" for number in range(gpus))] if here else ["cpu", "cuda", "cuda:N"]
    what = f"no device '{name}': " + ("there are " if here else "it is one of ") + ", ".join(there)
    index = f"--device cuda:{name}" if (name or "").isdecimal() and int(name or 0) < gpus else "--device cpu"
    raise HardwareError(what + ("" if gpus or not here else " (torch finds no GPU)"), "--device", index)


def join(device: str | None = None) -> Team:
    """This process's place. Starts the process group where torchrun started several processes.

    All commands that compute come through here before their first tensor, so the allocator is set here, too.

    Args:
        device: "cuda" (the process's own GPU), "cuda:1", "cpu"; by default a GPU where there is one.
    Raises:
        HardwareError: a GPU is requested and there is none, or fewer GPUs than processes.
    """
    keep_freed_memory()
    refuse_device(device)
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name.startswith("cuda") and gpus <= local:
        raise HardwareError(f"process {local} has no GPU ({gpus} found)", "device", "--device cpu, or fewer processes")
    own = torch.device(f"cuda:{local}" if name == "cuda" else name)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if own.type == "cuda" else "gloo")
    return Team(int(os.environ.get("RANK", "0")), world, own)


def share_batch_norm(module: nn.Module, team: Team) -> nn.Module:
    """`module` with batch norm over the whole batch: torch's SyncBatchNorm on GPUs, ours on CPUs, where it has none.

    Raises:
        RecipeError: a batch norm of the network is a subclass that also does something else (timm fuses activations
            into some). Either replacement would drop that.
    """
    if team.world == 1:
        return module
    for name, child in module.named_modules():
        if isinstance(child, nn.BatchNorm2d) and type(child) is not nn.BatchNorm2d:
            what = f"'{name}' is a {type(child).__name__}, which several processes cannot share"
            raise RecipeError(what, "net", "train in one process, or choose a ResNet encoder")
    if team.device.type == "cuda":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return converted
    replacements: dict[nn.Module, nn.Module] = {}  # a layer that stands in two places stays one layer
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if isinstance(child, nn.BatchNorm2d):
            module.set_submodule(name, replacements.setdefault(child, SharedBatchNorm2d.of(child)))
    return module


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all processes' images, on any device."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """The same layer with the same parameters and statistics."""
        shared = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        shared.weight, shared.bias = norm.weight, norm.bias
        shared.running_mean, shared.running_var = norm.running_mean, norm.running_var
        shared.num_batches_tracked = norm.num_batches_tracked
        shared.training = norm.training
        return shared

    def forward(self, x: Tensor) -> Tensor:
        """B D H W -> B D H W."""
        if not self.training:
            return super().forward(x)
        x = full(x)  # under autocast: statistics of bf16 would be of bf16, and sums of many numbers are lost in it
        count = batch_sum(x.new_full((), x.numel() / x.shape[1]))
        mean = batch_sum(x.sum((0, 2, 3))) / count
        centred = x - mean[None, :, None, None]
        var = batch_sum(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            assert self.running_mean is not None  # noqa: S101  tracked in all our nets, these four
            assert self.running_var is not None  # noqa: S101
            assert self.num_batches_tracked is not None  # noqa: S101
            assert self.momentum is not None  # noqa: S101
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        scale = self.weight * torch.rsqrt(var + self.eps)
        return torch.addcmul(self.bias[None, :, None, None], centred, scale[None, :, None, None])


def in_parallel(module: nn.Module, team: Team) -> nn.Module:
    """`module` with gradients averaged over processes. Buffers are not sent around: they are equal on every process."""
    parameters = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    # torch 2.15 renamed the option.
    option = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"
    ids = [team.device.index] if team.device.type == "cuda" else None
    settings: dict[str, Any] = {"device_ids": ids, option: False}
    return nn.parallel.DistributedDataParallel(module, **settings)
