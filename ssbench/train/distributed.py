"""One process per device: joining the others, and batch norm over all of them.

Started by torchrun the process group comes from its environment; started alone nothing here does anything.
"""

from __future__ import annotations

import inspect
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ssbench.errors import HardwareError, RecipeError, RunsFailed
from ssbench.ops.reduce import batch_sum


class ProcessFailed(RunsFailed):
    """One of several processes failed alone: the others wait for it in vain, so the whole job has to end."""


@dataclass(frozen=True)
class Team:
    """This process among those that share the batch."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this process writes files."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """`value` summed over processes (a collective: all must call it)."""
        if self.world > 1:
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether any process says so. Waits for all."""
        return self.most(int(flag)) > 0

    def most(self, value: int) -> int:
        """The largest of the processes' values. Waits for all."""
        if self.world == 1:
            return value
        told = torch.tensor(value, device=self.device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return int(told.item())

    def least(self, value: Tensor) -> int:
        """The smallest of the processes' int64 scalars. Waits for all, and for the device."""
        if self.world > 1:
            value = value.clone()
            dist.all_reduce(value, op=dist.ReduceOp.MIN)
        return int(value.item())

    def wait(self) -> None:
        """Meet the others."""
        if self.world > 1:
            dist.barrier()


def first() -> bool:
    """Whether this is the process that speaks for all that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def join(device: str | None = None) -> Team:
    """This process's place; starts the process group when torchrun says there are others.

    Raises:
        HardwareError: a CUDA device was asked for and there is none, or fewer than processes.
    """
    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    world, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    if wanted.startswith("cuda") and (not torch.cuda.is_available() or torch.cuda.device_count() <= local):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        raise HardwareError(f"process {local} has no GPU ({found} found)", "device", "--device cpu, or fewer processes")
    place = torch.device(f"cuda:{local}" if wanted == "cuda" else wanted)
    if place.type == "cuda":
        torch.cuda.set_device(place)
    if world > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo")
    return Team(int(os.environ.get("RANK", "0")), world, place)


def share_batch_norm(module: nn.Module, team: Team) -> nn.Module:
    """Batch norm over the whole batch: torch's on GPUs, ours on CPUs (torch has none there).

    Raises:
        RecipeError: a network with a batch norm that also does something else, which neither of the two would do.
    """
    if team.world == 1:
        return module
    for name, child in module.named_modules():
        if isinstance(child, nn.BatchNorm2d) and type(child) is not nn.BatchNorm2d:
            what = f"'{name}' is a {type(child).__name__}, which several processes cannot share"
            raise RecipeError(what, "net", "train in one process, or choose a ResNet encoder")
    if team.device.type == "cuda":
        made: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return made
    made_of: dict[nn.Module, nn.Module] = {}
    for name, child in list(module.named_modules(remove_duplicate=False)):
        if isinstance(child, nn.BatchNorm2d):
            module.set_submodule(name, made_of.setdefault(child, SharedBatchNorm2d.of(child)))
    return module


class SharedBatchNorm2d(nn.BatchNorm2d):
    """Batch norm whose training statistics are those of all processes' images, on any device."""

    @classmethod
    def of(cls, norm: nn.BatchNorm2d) -> SharedBatchNorm2d:
        """The same layer with the same parameters and statistics."""
        made = cls(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        made.weight, made.bias = norm.weight, norm.bias
        made.running_mean, made.running_var = norm.running_mean, norm.running_var
        made.num_batches_tracked = norm.num_batches_tracked
        made.training = norm.training
        return made

    def forward(self, x: Tensor) -> Tensor:
        """B D H W -> B D H W."""
        if not self.training:
            return super().forward(x)
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
    """`module` with gradients averaged over processes; each process keeps its own buffers, which are equal anyway."""
    known = inspect.signature(nn.parallel.DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # renamed in torch 2.15
    ids = [team.device.index] if team.device.type == "cuda" else None
    settings: dict[str, Any] = {"device_ids": ids, option: False}
    return nn.parallel.DistributedDataParallel(module, **settings)
