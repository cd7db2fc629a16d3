"""What a host mixes stays together: images, weak images, labels, padding, hidden labels and maps, on random batches.

The three channels of every image hold its labels, its padding and its map, so that a mixed image can be asked what
should lie where.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import CLASSES, batch_for, build, progress
from torch import Tensor

from ssbench import find
from ssbench.data.batch import Batch, Labeled, Unlabeled
from ssbench.methods.hosting import fit
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import MixedView, Plugin
from ssbench.plugins.upc import UPC

NOTHING = -7.0
LATE, SIDE = 25, 41
HOSTS = [m for m in find.names("method") if "mix" in find.load("method", m).honours and m != "stpp"]
"""All that mix themselves; ST++ does not, and colours what UPC mixes afterwards."""


class Kept(Plugin):
    """Changes nothing and keeps what the host mixed."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        self.seen = [*getattr(self, "seen", []), *(views := super().mix(host, batch, weak, t))]
        return views


class KeptUPC(UPC):
    """The same of what UPC mixed instead."""

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        self.seen = [*getattr(self, "seen", []), *(views := super().mix(host, batch, weak, t))]
        return views


def telling(u: Unlabeled | None, g: torch.Generator) -> Unlabeled | None:
    if u is None:
        return None
    code = torch.rand(u.truth.shape, generator=g)
    x = torch.stack([u.truth.float(), u.valid.float(), code], 1)
    return replace(u, weak=x, strong=tuple(x for _ in u.strong), maps={**u.maps, "code": code})


def decoded(given: Labeled | None) -> Labeled | None:
    if given is None:
        return None
    y = given.y.float()
    return replace(given, x=torch.stack([y, (given.y != 255).float(), torch.full_like(y, NOTHING)], 1))


def mixed_by(method: str, plugin: Any, seed: int) -> list[MixedView]:
    """What the method mixes of a batch that tells what it holds, at a step past all warm-ups."""
    cls = find.load("method", method)
    padding = {"padding": "ignored"} if "padding" in cls.Config.model_fields else {}
    chosen = build(method, plugin, **fit(cls, type(plugin)).method, **padding)
    t = progress(LATE + seed)
    batch, g = batch_for(chosen, t, seed, side=SIDE), torch.Generator().manual_seed(seed)
    known = decoded(batch.labeled)
    assert known is not None
    here, there = telling(batch.unlabeled, g), telling(batch.partner, g)
    chosen(replace(batch, labeled=known, unlabeled=here, partner=there, donor=decoded(batch.donor)), t)
    result: list[MixedView] = plugin.seen
    return result


def check(mixed: MixedView) -> Tensor:
    """Every pixel; returns those of ground truth."""
    label, valid, code = mixed.weak.unbind(1)
    given, pseudo = mixed.pseudo.trusted_mask(), mixed.pseudo
    assert torch.equal(mixed.images, mixed.weak)
    assert torch.equal(pseudo.label[given].float(), label[given])
    foreign = code == NOTHING  # of a labelled image; what it does not know is out of the loss
    assert torch.equal(given, foreign & (label != 255))
    assert not pseudo.valid[foreign & ~given].any()
    assert torch.equal(pseudo.valid[~foreign].float(), valid[~foreign])
    if "truth" in pseudo.carry:
        assert torch.equal(pseudo.carry["truth"][~foreign].float(), label[~foreign])
    if "code" in pseudo.carry:
        assert torch.equal(pseudo.carry["code"][~foreign], code[~foreign])
    return foreign


@pytest.mark.parametrize("method", HOSTS)
def test_a_hosts_own_mix(method: str) -> None:
    for seed in range(3):
        result = mixed_by(method, Kept(Kept.Config(), CLASSES), seed)
        assert result
        for mixed in result:
            check(mixed)
            assert "code" in mixed.pseudo.carry


@pytest.mark.parametrize("method", HOSTS)
@pytest.mark.parametrize("mixer", ["upc", "cutmix", "copy_paste"])
def test_upcs_mixes_on_every_host(method: str, mixer: Any) -> None:
    pasted = 0
    for seed in range(2):
        for mixed in mixed_by(method, KeptUPC(KeptUPC.Config(mixer=mixer), CLASSES), seed):
            pasted += int(check(mixed).sum())
    assert pasted > 0
