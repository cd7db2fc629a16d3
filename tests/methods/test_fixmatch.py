"""FixMatch, re-derived (card: fixmatch 1, 2)."""

from __future__ import annotations

import copy
from typing import Any

import naive
import pytest
import torch
from builders import build, make_batch, maker, progress, train

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs
from ssbench.methods.base import LossConfig
from ssbench.nets.segnet import SegNet

TAU = 0.27
"""A threshold that an untrained net reaches at some pixels and misses at others."""


def by_hand(net: SegNet, batch: Batch, tau: float) -> tuple[torch.Tensor, torch.Tensor]:
    (x, y, here), there = naive.parts(batch), naive.partner(batch)
    pasted = naive.Labels.of(naive.eval_logits(net, there.weak), there.valid)
    image = naive.cut_in(here.strong[0], there.strong[0], here.boxes[0])
    logits = net(torch.cat([x, here.weak])).logits
    pseudo = naive.Labels.of(logits[len(x) :], here.valid).under(pasted, here.boxes[0])
    return naive.supervised(logits[: len(x)], y), naive.unsupervised(net(image).logits, pseudo, tau)


@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
def test_first_step(encoder: str) -> None:
    method = build("fixmatch", net=maker(encoder=encoder), threshold=TAU)
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    result = method(batch, progress())
    result.loss.backward()
    sup, strong = by_hand(reference, batch, TAU)
    assert result.terms["sup"].item() == pytest.approx(sup.item(), rel=1e-5)
    assert result.terms["s"].item() == pytest.approx(strong.item(), rel=1e-5)
    assert result.loss.item() == pytest.approx((sup.item() + strong.item()) / 2, rel=1e-5)
    assert 0 < result.terms["kept"].item() < 1
    naive.assert_same_gradients(method.net, naive.gradients((sup + strong) / 2, reference))
    for ours, theirs in zip(method.net.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)  # two train-mode passes, in that order; the eval one leaves no trace


def test_threshold_zero_keeps_every_pixel() -> None:
    method = build("fixmatch", threshold=0.0)
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    result = method(batch, progress())
    assert result.terms["kept"].item() == 1
    assert result.terms["s"].item() == pytest.approx(by_hand(reference, batch, 0.0)[1].item(), rel=1e-5)


def test_nothing_confident_leaves_half_the_labelled_loss() -> None:
    method = build("fixmatch", threshold=1.0)
    result = method(make_batch(method.needs), progress())
    assert result.terms["s"].item() == result.terms["kept"].item() == 0
    assert result.loss.item() == pytest.approx(result.terms["sup"].item() / 2)


def test_dividing_by_kept_pixels_is_an_option() -> None:
    terms = []
    for over in ("valid", "kept"):
        method = build("fixmatch", threshold=TAU, loss=LossConfig(pseudo_over=over))
        terms.append(method(make_batch(method.needs), progress()).terms["s"].item())
    assert terms[1] > 1.01 * terms[0]


@pytest.mark.parametrize("partner", ["same", "other"])
def test_the_partner_is_the_same_image_unless_asked_otherwise(partner: Any) -> None:
    """The release mixes an image with itself (card: unimatch 3)."""
    assert build("fixmatch").needs.partner == "same"
    assert build("fixmatch", partner=partner).needs == Needs(strong=1, partner=partner)


def test_with_an_ema_teacher_labels_come_from_its_eval_mode() -> None:
    """The EMA teacher labels in eval mode; the student sees labelled and strong images (card: fixmatch 2)."""
    method = build("fixmatch", teacher="ema", threshold=TAU)
    train(method, 3, lr=0.05)
    teacher, student = copy.deepcopy(method.ema_net), copy.deepcopy(method.net)
    assert isinstance(teacher, SegNet)
    batch = make_batch(method.needs, seed=9)
    result = method(batch, progress(3))
    (x, y, here), there = naive.parts(batch), naive.partner(batch)
    here_said, there_said = (
        naive.Labels.of(naive.eval_logits(teacher, view.weak), view.valid) for view in (here, there)
    )
    image = naive.cut_in(here.strong[0], there.strong[0], here.boxes[0])
    sup = naive.supervised(student(x).logits, y)
    strong = naive.unsupervised(student(image).logits, here_said.under(there_said, here.boxes[0]), TAU)
    assert result.loss.item() == pytest.approx((sup.item() + strong.item()) / 2, rel=1e-5)


def test_the_ema_teacher_follows_and_is_scored() -> None:
    method = build("fixmatch", teacher="ema", threshold=TAU)
    train(method, 1)
    assert isinstance(method.ema_net, SegNet)
    before, student = copy.deepcopy(method.ema_net.state_dict()), method.net.state_dict()
    assert all(torch.equal(v, student[k]) for k, v in before.items())  # decay 0 at step 0
    train(method, 1, start=1)
    for name, value in method.ema_net.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.5 * before[name] + 0.5 * method.net.state_dict()[name])
    x = torch.randn(1, 3, 65, 65)
    assert torch.equal(method.eval().predict(x), method.ema_net(x).logits)
    alone = build("fixmatch").eval()
    assert torch.equal(alone.predict(x), alone.net(x).logits)
