"""Pseudo-labels and what mixing moves."""

from __future__ import annotations

import pytest
import torch

from ssbench.ops.pseudo import Pseudo

G = torch.Generator().manual_seed(0)
VALID = torch.rand(2, 4, 5, generator=G) < 0.8


def pseudo_of(seed: int, threshold: float = 0.5) -> Pseudo:
    g = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(2, 3, 4, 5, generator=g)
    return Pseudo.of(logits, VALID, threshold, {"layer1": torch.randn(2, 6, 2, 2, generator=g)})


def test_of_keeps_where_the_largest_probability_reaches_the_threshold() -> None:
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    result = Pseudo.of(logits, VALID, 0.5)
    probs = logits.detach().softmax(1)
    for b in range(2):
        for i in range(4):
            for j in range(5):
                here = probs[b, :, i, j].tolist()
                assert result.label[b, i, j] == here.index(max(here))
                assert result.conf[b, i, j] == max(here)
                assert result.keep[b, i, j] == (max(here) >= 0.5)
    assert not result.soft.requires_grad
    assert result.logits is not None
    assert not result.logits.requires_grad


def test_the_comparison_with_the_threshold_includes_equality() -> None:
    even = torch.zeros(1, 2, 1, 1)
    inside = torch.ones(1, 1, 1, dtype=torch.bool)
    assert Pseudo.of(even, inside, 0.5).keep.all()
    assert not Pseudo.of(even, inside, 0.500001).keep.any()


def test_pasting_moves_every_map_and_drops_what_is_no_longer_true() -> None:
    here, there = (
        pseudo_of(1).with_carry(extra=torch.zeros(2, 7, 4, 5)),
        pseudo_of(2).with_carry(extra=torch.ones(2, 7, 4, 5)),
    )
    region = torch.rand(2, 4, 5, generator=G) < 0.5
    result = here.pasted(there, region)
    for name in ("label", "conf", "keep", "valid"):
        value, inside, outside = (getattr(p, name) for p in (result, there, here))
        assert torch.equal(value[region], inside[region]), name
        assert torch.equal(value[~region], outside[~region]), name
    assert torch.equal(result.carry["extra"][:, 0], region.float())
    assert (result.probs, result.logits, dict(result.feats)) == (None, None, {})
    with pytest.raises(ValueError, match="mixed"):
        _ = result.soft


def test_pasted_ground_truth_stays_marked_as_trusted() -> None:
    here, there = pseudo_of(1), pseudo_of(2)
    region = torch.zeros(2, 4, 5, dtype=torch.bool)
    region[0, :2] = True
    assert here.pasted(there, region).trusted is None
    truth = Pseudo(there.label, there.conf, there.keep, VALID, trusted=torch.ones_like(region))
    mixed = here.pasted(truth, region)
    assert torch.equal(mixed.trusted_mask(), region)
    assert torch.equal(truth.pasted(here, region).trusted_mask(), ~region)
    assert not here.trusted_mask().any()


def test_permuting_reorders_images_and_keeps_everything() -> None:
    here, order = pseudo_of(1).with_carry(extra=torch.arange(2)[:, None, None].expand(2, 4, 5)), torch.tensor([1, 0])
    result = here.permuted(order)
    for name in ("label", "conf", "keep", "valid", "probs", "logits"):
        assert torch.equal(getattr(result, name)[0], getattr(here, name)[1]), name
    assert torch.equal(result.feats["layer1"][0], here.feats["layer1"][1])
    assert (result.carry["extra"][0] == 1).all()


def test_carried_maps_add_up() -> None:
    result = pseudo_of(1).with_carry(a=torch.zeros(2, 4, 5)).with_carry(b=torch.ones(2, 4, 5))
    assert set(result.carry) == {"a", "b"}
