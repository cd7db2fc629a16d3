"""What AEL asks of the data: one image of two, donors, partners chosen when the step begins (card: ael 2, 3, 6)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssbench.data.dataset import Dataset
from ssbench.data.loader import Steps
from ssbench.data.plan import Needs, Plan
from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.views.pipelines import read_views


class Noise(Dataset):
    """Pictures by id, made on the spot."""

    name, classes, palette = "noise", ("a", "b", "c", "d"), ((0, 0, 0),) * 4

    def ids(self, subset: str) -> tuple[str, ...]:
        return ()

    def image(self, id: str) -> Image.Image:
        return Image.fromarray(rng("image", id).integers(0, 256, (40, 50, 3), np.uint8))

    def mask(self, id: str) -> Image.Image:
        return Image.fromarray(rng("mask", id).integers(0, 4, (40, 50), np.uint8))


def steps(needs: Needs, rank: int = 0, world: int = 1, unlabeled: int = 4) -> Steps:
    plan = Plan(tuple(f"l{k}" for k in range(6)), tuple(f"u{k}" for k in range(16)), needs, 4, unlabeled, 1, 5)
    views = read_views({"weak": "u2pl", "crop": 32})
    return Steps(Noise(Path()), plan, views, rank=rank, world=world)


def test_one_of_every_two_unlabelled_images_is_used() -> None:
    both, one = steps(Needs(), unlabeled=8), steps(Needs(pick=2), unlabeled=8)
    firsts = 0
    for step in range(2):
        loaded, used = both.plan.unlabeled_at(step), one.plan.unlabeled_at(step)
        assert len(used) == 4
        for k, drawn in enumerate(used):
            assert drawn in loaded[2 * k : 2 * k + 2]
            firsts += drawn == loaded[2 * k]
    assert 0 < firsts < 8
    assert one.plan.steps_per_epoch == both.plan.steps_per_epoch
    assert one[0].unlabeled.ids == tuple(id for id, _ in one.plan.unlabeled_at(0))  # type: ignore[union-attr]
    with pytest.raises(RecipeError, match="one of every 3"):
        steps(Needs(pick=3), unlabeled=8)


def test_donors_come_with_their_probability_and_scale_and_change_nothing_else() -> None:
    plain, with_donors = steps(Needs()), steps(Needs(donor=0.5, donor_scale=(0.1, 1.0)))
    given, sizes = [], []
    for step in range(4):
        bare, batch = plain[step], with_donors[step]
        assert torch.equal(bare.labeled.x, batch.labeled.x)
        assert batch.donor is not None
        for x, y, id in zip(batch.donor.x, batch.donor.y, batch.donor.ids, strict=True):
            given.append(id)
            assert bool(id) is bool((y != 255).any())
            assert bool(id) is bool(x.any())
            sizes.append(int((y != 255).sum()))
    assert 0 < sum(map(bool, given)) < len(given)
    assert {id for id in given if id} <= {f"l{k}" for k in range(6)}
    assert any(0 < size < 20 * 25 for size in sizes)  # smaller than the views' own 0.5 would make it


def test_asked_images_are_loaded_for_the_step_and_by_place() -> None:
    loader = steps(Needs(partner="asked"))
    batch = loader[2]
    assert batch.partner is None
    assert loader.with_partner(batch, (), 2) is batch
    ids = ("u3", "u3", "u7", "u0")
    partner = loader.with_partner(batch, ids, 2).partner
    assert partner is not None
    assert partner.ids == ids
    assert not torch.equal(partner.weak[0], partner.weak[1])  # the same image twice, augmented afresh
    assert torch.equal(partner.weak, loader.with_partner(batch, ids, 2).partner.weak)  # type: ignore[union-attr]
    assert not torch.equal(partner.weak, loader.with_partner(batch, ids, 3).partner.weak)  # type: ignore[union-attr]
    halves = [steps(Needs(partner="asked"), rank, 2) for rank in (0, 1)]
    parts = [s.with_partner(s[2], ids[2 * k : 2 * k + 2], 2).partner for k, s in enumerate(halves)]
    assert torch.equal(torch.cat([p.weak for p in parts if p is not None]), partner.weak)
