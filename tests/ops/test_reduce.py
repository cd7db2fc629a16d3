"""Means over the whole batch: alone, and shared by two real processes, where gradients must be those of one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from ssbench.ops import losses, reduce

C, SHAPE = 3, (4, 6, 6)


def test_mean_of_divides_and_survives_nothing() -> None:
    total = torch.tensor(6.0, requires_grad=True)
    assert reduce.mean_of(total, torch.tensor(4)).item() == 1.5
    assert reduce.mean_of(total, 3).item() == 2.0
    assert reduce.mean_of(total * 0, torch.tensor(0)).item() == 0.0


def test_mean_one_turns_a_mean_into_a_weighted_mean() -> None:
    loss, weight = torch.rand(5, 7), torch.rand(5, 7)
    expected = (loss * weight).sum() / weight.sum()
    assert (loss * reduce.mean_one(weight)).mean().item() == pytest.approx(expected.item())
    assert not reduce.mean_one(torch.zeros(3)).any()


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(SHAPE[0], C, *SHAPE[1:], generator=g)
    y = torch.randint(C, SHAPE, generator=g)
    keep, valid = torch.rand(SHAPE, generator=g) < 0.5, torch.rand(SHAPE, generator=g) < 0.7
    valid[:2] &= torch.rand(2, *SHAPE[1:], generator=g) < 0.4  # one process has far fewer valid pixels
    return x, y, keep, valid, torch.rand(SHAPE, generator=g)


def all_losses(x: Tensor, y: Tensor, keep: Tensor, valid: Tensor, weight: Tensor) -> dict[str, Tensor]:
    labels = y.where(valid, 255)
    return {
        "cross_entropy": losses.cross_entropy(x, labels),
        "ohem": losses.ohem(x, labels, 0.4, 10, group=2),
        "dice": losses.dice(x, y, keep & valid, weight),
        "pseudo": losses.pseudo_cross_entropy(x, y, keep, valid),
        "weighted": losses.pseudo_cross_entropy(x, y, keep, valid, weight),
        "mean_one": reduce.mean_of((x.square().sum(1) * reduce.mean_one(weight)).sum(), weight.numel()),
    }


def gradients(part: slice) -> dict[str, tuple[float, Tensor]]:
    result = {}
    for name in all_losses(*inputs()):
        x, *rest = (value[part] for value in inputs())
        x.requires_grad_()
        loss = all_losses(x, *rest)[name]
        loss.backward()
        assert x.grad is not None
        result[name] = (loss.item(), x.grad)
    return result


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    assert reduce.world_size() == 2
    torch.save(gradients(slice(2 * rank, 2 * rank + 2)), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_average_to_the_gradients_of_one(tmp_path: Path) -> None:
    """What DDP makes of the losses: the mean over processes of each one's gradient, which touches its images only."""
    alone = gradients(slice(0, 4))
    mp.start_processes(process, (str(tmp_path),), nprocs=2, start_method="spawn")
    shared = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for name, (value, gradient) in alone.items():
        together = torch.cat([part[name][1] for part in shared]) / 2
        torch.testing.assert_close(together, gradient, msg=name)
        assert sum(part[name][0] for part in shared) / 2 == pytest.approx(value, rel=1e-5), name
