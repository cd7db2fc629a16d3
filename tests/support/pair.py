"""The same steps by one process and by two that share the batch (gloo)."""

from __future__ import annotations

import multiprocessing
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import builders
import torch
import torch.distributed as dist

from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.methods.base import LossConfig, Method
from ssbench.ops.progress import Progress
from ssbench.train.distributed import Team, share_batch_norm

context = multiprocessing.get_context("forkserver")  # imports torch once, whatever the number of tests
context.set_forkserver_preload(["ssbench.train.distributed", "ssbench.methods.base", "ssbench.nets.deeplabv3plus"])

Outcome = dict[str, Any]
"""losses by step, the mean over processes; "gradients" of the last; "state" of the method after it, of process 0."""


def alone_and_together(
    name: str, first_step: int, steps: int, images: int, loss: dict[str, Any] | None = None, **settings: Any
) -> tuple[Outcome, Outcome]:
    """`steps` steps of a method on a total batch of `images` + `images`, by one process and by two."""
    job = (name, first_step, steps, images, loss or {}, settings)
    with tempfile.TemporaryDirectory() as folder:
        alone = _run(0, 1, job)
        started = [context.Process(target=_process, args=(rank, folder, job)) for rank in range(2)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        assert [process.exitcode for process in started] == [0, 0]
        together = torch.load(Path(folder) / "found.pt", weights_only=True)
    return alone, together


def assert_equal(alone: Outcome, together: Outcome, tolerance: float = 1e-4) -> None:
    assert torch.allclose(torch.tensor(alone["losses"]), torch.tensor(together["losses"]), rtol=tolerance)
    for part in ("gradients", "state"):
        assert alone[part].keys() == together[part].keys()
        for key, value in alone[part].items():
            if value.is_floating_point():
                scale = value.abs().max().item()
                torch.testing.assert_close(together[part][key], value, rtol=1e-2, atol=1e-2 * scale + 1e-6, msg=key)
            else:
                assert torch.equal(together[part][key], value), key


def _process(rank: int, folder: str, job: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    outcome = _run(rank, 2, job)
    if rank == 0:
        torch.save(outcome, Path(folder) / "found.pt")
    dist.destroy_process_group()


def _run(rank: int, world: int, job: tuple[Any, ...]) -> Outcome:
    name, first, steps, images, loss, settings = job
    method = builders.build(name, loss=LossConfig(**loss), **settings)
    share_batch_norm(method, Team(rank, world, torch.device("cpu")))
    optimizer, losses = builders.optimizer(method), []
    for step in range(first, first + steps):
        t = Progress(step, 40, 10, 0, torch.device("cpu"), rank, world)
        step_result = method(_batch(method, step, images, t), t)
        optimizer.zero_grad()
        step_result.loss.backward()
        for p in method.parameters():
            if p.grad is not None and world > 1:  # what DDP does
                dist.all_reduce(p.grad)
                p.grad /= world
        optimizer.step()
        method.after_step(t)
        loss_sum = step_result.loss.detach().clone()
        if world > 1:
            dist.all_reduce(loss_sum)
        losses.append(float(loss_sum / world))
    gradients = {n: p.grad.clone() for n, p in method.named_parameters() if p.grad is not None}
    state = {n: v.clone() for n, v in method.state_dict().items() if "running" not in n}
    return {"losses": losses, "gradients": gradients, "state": state}


def _batch(method: Method, step: int, images: int, t: Progress) -> Batch:
    """This process's share; of images the method asks for as well, whose places are in the whole batch."""
    is_asked = method.needs.partner == "asked"
    needs = replace(method.needs, partner="other") if is_asked else method.needs
    batch = _share(builders.make_batch(needs, seed=step, images=images), t.rank, t.world)
    if not is_asked or batch.partner is None:
        return batch
    return replace(batch, partner=replace(batch.partner, ids=tuple(method.wants(batch, t))))


def _share(batch: Batch, rank: int, world: int) -> Batch:
    """This process's images."""
    mine = slice(rank * len(batch.labeled.x) // world, (rank + 1) * len(batch.labeled.x) // world)
    assert batch.unlabeled is not None
    return Batch(
        _labeled(batch.labeled, mine),
        _unlabeled(batch.unlabeled, mine),
        None if batch.partner is None else _unlabeled(batch.partner, mine),
        None if batch.donor is None else _labeled(batch.donor, mine),
    )


def _labeled(whole: Labeled, mine: slice) -> Labeled:
    return Labeled(whole.x[mine], whole.y[mine], whole.ids[mine])


def _unlabeled(whole: Unlabeled, mine: slice) -> Unlabeled:
    return Unlabeled(
        whole.weak[mine],
        tuple(x[mine] for x in whole.strong),
        whole.valid[mine],
        tuple(x[mine] for x in whole.boxes),
        whole.truth[mine],
        whole.ids[mine],
    )
