"""UniMatch, re-derived (card: unimatch 3, 10)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import naive
import pytest
import torch
from builders import build, make_batch, maker, progress, unet
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.data.plan import Needs
from ssbench.methods.base import LossConfig, Method
from ssbench.nets.deeplabv3plus import DeepLabV3Plus
from ssbench.nets.segnet import SegNet

TAU = 0.27
"""A threshold that an untrained net reaches at some pixels and misses at others."""

Terms = dict[str, Tensor]


def watched(method: Method) -> list[Sequence[Tensor]]:
    """The channel multipliers the student was called with, filled as it is called."""
    seen: list[Sequence[Tensor]] = []
    method.net.register_forward_pre_hook(lambda _, args: seen.append(args[1]) if len(args) > 1 else None)
    return seen


def by_hand(net: SegNet, batch: Batch, tau: float, drop: Sequence[Tensor], weak_labels: str = "train") -> Terms:
    """The whole step (card: unimatch 3)."""
    assert isinstance(net, DeepLabV3Plus)
    (x, y, here), there = naive.parts(batch), naive.partner(batch)
    n, pasted = len(x), naive.Labels.of(naive.eval_logits(net, there.weak), there.valid)
    images = [naive.cut_in(a, b, m) for a, b, m in zip(here.strong, there.strong, here.boxes, strict=True)]
    clean, dropped = naive.perturbed(net, torch.cat([x, here.weak]), list(drop))
    weak = clean[n:] if weak_labels == "train" else naive.eval_logits(net, here.weak)
    pseudo = naive.Labels.of(weak, here.valid)
    q = net(torch.cat(images)).logits
    return {
        "sup": naive.supervised(clean[:n], y),
        "s1": naive.unsupervised(q[:n], pseudo.under(pasted, here.boxes[0]), tau),
        "s2": naive.unsupervised(q[n:], pseudo.under(pasted, here.boxes[1]), tau),
        "fp": naive.unsupervised(dropped[n:], pseudo, tau),
    }


def total(terms: Terms) -> Tensor:
    return (terms["sup"] + 0.25 * terms["s1"] + 0.25 * terms["s2"] + 0.5 * terms["fp"]) / 2


@pytest.mark.parametrize("encoder", ["test_resnet", "resnet18"])
@pytest.mark.parametrize("weak_labels", ["train", "eval"])
def test_first_step(encoder: str, weak_labels: Any) -> None:
    method = build("unimatch", net=maker(encoder=encoder), threshold=TAU, weak_labels=weak_labels)
    reference, drops = copy.deepcopy(method.net), watched(method)
    batch = make_batch(method.needs)
    result = method(batch, progress())
    result.loss.backward()
    expected = by_hand(reference, batch, TAU, drops[0], weak_labels)
    for name, value in expected.items():
        assert result.terms[name].item() == pytest.approx(value.item(), rel=1e-5), name
    assert result.loss.item() == pytest.approx(total(expected).item(), rel=1e-5)
    assert 0 < result.terms["kept"].item() < 1 or weak_labels == "eval"  # eval mode of an untrained net is uniform
    naive.assert_same_gradients(method.net, naive.gradients(total(expected), reference))
    for ours, theirs in zip(method.net.buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)  # statistics of both train-mode passes, in that order


def test_train_mode_and_eval_mode_labels_differ() -> None:
    """Labels come from batch statistics (card: unimatch 3)."""
    losses = []
    for weak_labels in ("train", "eval"):
        method = build("unimatch", threshold=TAU, weak_labels=weak_labels)
        losses.append(method(make_batch(method.needs), progress()).terms["fp"].item())
    assert losses[0] != losses[1]


def test_features_are_dropped_by_channel_and_doubled() -> None:
    method = build("unimatch")
    drops = watched(method)
    for step in (0, 1):
        method(make_batch(method.needs), progress(step))
    assert [d.shape for d in drops[0]] == [(4, width) for width in method.net.perturb_channels]
    for drop in drops[0]:
        assert set(drop.unique().tolist()) == {0.0, 2.0}
        assert (drop == 0).float().mean().item() == pytest.approx(0.5, abs=0.15)
        assert len({tuple(row.tolist()) for row in drop}) == 4  # each image its own
    assert not torch.equal(drops[0][0], drops[1][0])


def test_what_is_dropped_does_not_depend_on_how_many_processes_share_the_batch() -> None:
    method = build("unimatch")
    drops = watched(method)
    batch = make_batch(method.needs)
    assert batch.unlabeled is not None
    assert batch.partner is not None
    method(batch, progress())
    for rank in (0, 1):
        keep = slice(rank, rank + 1)
        method._joint(batch.labeled.x[keep], batch.unlabeled.weak[keep], progress_of(rank))
    whole, first, second = drops[0], drops[-2], drops[-1]
    for together, a, b in zip(whole, first, second, strict=True):
        assert torch.equal(together, torch.stack([a[0], b[0], a[1], b[1]]))


def progress_of(rank: int) -> Any:
    from dataclasses import replace

    return replace(progress(), rank=rank, world=2)


def test_without_dropping_the_perturbed_view_equals_the_clean_one() -> None:
    method = build("unimatch", threshold=0.0, feature_drop=0.0)
    batch, reference = make_batch(method.needs), copy.deepcopy(method.net)
    result = method(batch, progress())
    ones = [torch.ones(4, width) for width in method.net.perturb_channels]
    assert result.terms["fp"].item() == pytest.approx(by_hand(reference, batch, 0.0, ones)["fp"].item(), rel=1e-5)


def test_threshold_zero_keeps_every_pixel_and_one_none() -> None:
    everything, nothing = (build("unimatch", threshold=tau) for tau in (0.0, 1.0))
    assert everything(make_batch(everything.needs), progress()).terms["kept"].item() == 1
    result = nothing(make_batch(nothing.needs), progress())
    assert result.loss.item() == pytest.approx(result.terms["sup"].item() / 2)


def test_the_partner_is_the_same_image_unless_asked_otherwise() -> None:
    assert build("unimatch").needs == Needs(strong=2, partner="same")
    assert build("unimatch", partner="other").needs == Needs(strong=2, partner="other")


def test_weights_of_the_terms_are_settings() -> None:
    method = build("unimatch", threshold=TAU, strong_weight=1.0, feature_weight=0.25)
    result = method(make_batch(method.needs), progress())
    sup, s1, s2, fp = (result.terms[k].item() for k in ("sup", "s1", "s2", "fp"))
    assert result.loss.item() == pytest.approx((sup + 0.5 * s1 + 0.5 * s2 + 0.25 * fp) / 2, rel=1e-5)


def test_acdc_learns_unlabelled_images_by_dice_alone() -> None:
    """(CE + Dice) / 2 on labels, Dice over confident pixels on others, five maps perturbed (card: unimatch 10)."""
    loss = LossConfig(supervised="ce_dice", pseudo="dice")
    method = build("unimatch", net=maker(net=unet), loss=loss, threshold=TAU, partner="other")
    reference, drops = copy.deepcopy(method.net), watched(method)
    batch = make_batch(method.needs, channels=1)
    torch.manual_seed(3)  # element-wise dropout in the encoder
    result = method(batch, progress())
    assert [d.shape for d in drops[0]] == [(4, width) for width in (16, 32, 64, 128, 256)]
    (x, y, here), there = naive.parts(batch), naive.partner(batch)
    pasted = naive.Labels.of(naive.eval_logits(reference, there.weak), there.valid)
    torch.manual_seed(3)
    out = reference(torch.cat([x, here.weak]), drops[0])
    pseudo = naive.Labels.of(out.logits[2:], here.valid)
    images = [naive.cut_in(a, b, m) for a, b, m in zip(here.strong, there.strong, here.boxes, strict=True)]
    q = reference(torch.cat(images)).logits
    one, two = pseudo.under(pasted, here.boxes[0]), pseudo.under(pasted, here.boxes[1])
    assert out.perturbed is not None
    sup = (naive.supervised(out.logits[:2], y) + naive.soft_dice(out.logits[:2], y, y != 255)) / 2
    s1, s2, fp = (
        naive.soft_dice(logits, labels.label, (labels.conf >= TAU) & labels.valid)
        for logits, labels in ((q[:2], one), (q[2:], two), (out.perturbed[2:], pseudo))
    )
    for name, value in {"sup": sup, "s1": s1, "s2": s2, "fp": fp}.items():
        assert result.terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert result.loss.item() == pytest.approx(total({"sup": sup, "s1": s1, "s2": s2, "fp": fp}).item(), rel=1e-4)


def test_predicts_with_the_student() -> None:
    method = build("unimatch").eval()
    x = torch.randn(1, 3, 65, 65)
    assert torch.equal(method.predict(x), method.net(x).logits)
