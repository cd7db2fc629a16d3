"""Where a run stands, and its keyed draws."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from builders import progress

from ssbench.ops.progress import Progress


def test_counts_epochs() -> None:
    t = progress(step=25, steps=40, steps_per_epoch=10)
    assert (t.epoch, t.epochs, t.fraction) == (2, 4, 0.625)


def test_draws_depend_on_seed_step_and_purpose_alone() -> None:
    t = progress(step=3)
    torch.rand(5)  # what was drawn before is of no matter
    assert t.chance("a") == progress(step=3).chance("a")
    assert len({t.chance("a"), t.chance("b"), progress(step=4).chance("a"), progress(3, seed=1).chance("a")}) == 4
    again = torch.rand(4, generator=progress(step=3).generator("x"))
    assert torch.equal(torch.rand(4, generator=t.generator("x")), again)
    assert 0 <= t.chance("a") < 1


def test_chance_is_uniform() -> None:
    drawn = torch.tensor([progress(step=k, steps=2000).chance("cutmix") for k in range(2000)])
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("p", [0.0, 0.25, 0.5])
def test_channel_drop_keeps_the_expectation(p: float) -> None:
    drawn = progress().channel_drop(50, 200, p, "drop")
    assert drawn[drawn != 0].unique().tolist() == pytest.approx([1 / (1 - p)])
    assert (drawn == 0).float().mean().item() == pytest.approx(p, abs=0.02)
    assert drawn.mean().item() == pytest.approx(1.0, abs=0.05)


def test_processes_share_one_draw_of_channels() -> None:
    """Two processes of two images drop what one process of four images drops."""
    whole = progress(7).channel_drop(4, 16, 0.5, "drop")
    ranks: list[Progress] = [dataclasses.replace(progress(7), rank=r, world=2) for r in range(2)]
    assert torch.equal(torch.cat([t.channel_drop(2, 16, 0.5, "drop") for t in ranks]), whole)
