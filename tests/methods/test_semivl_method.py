"""SemiVL, re-derived (card: semivl 8, 9), and WPL on it (card: wpl 10)."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from builders import build, make_batch, plugin, progress
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.methods.base import Method
from ssbench.nets.semivl import SemiVL as Network
from ssbench.recipe.recipe import load
from ssbench.train.build import optimizer_of

TAU = 0.45
"""A threshold that the small net reaches at some pixels and misses at others."""


def watched(method: Method) -> list[Sequence[Tensor]]:
    """The channel multipliers the network was called with, filled as it is called."""
    seen: list[Sequence[Tensor]] = []
    method.net.register_forward_pre_hook(lambda _, args: seen.append(args[1]) if len(args) > 1 else None)
    return seen


def average(logits: Tensor, labels: naive.Labels) -> Tensor:
    """pixelavg image by image: all pixels' CE, times mean confidence where valid, over the valid pixels."""
    each = []
    for z, label, conf, valid in zip(logits, labels.label, labels.conf, labels.valid, strict=True):
        log_p = F.log_softmax(z, 0)
        ce = -log_p.gather(0, label[None])[0]
        each.append(ce.sum() * conf[valid].mean() / valid.sum())
    return torch.stack(each).mean()


def guided(logits: Tensor, guide: Tensor) -> Tensor:
    """CE with labels where there is one (255: none), summed, over all pixels."""
    keep = guide != 255
    log_p = F.log_softmax(logits, 1).permute(0, 2, 3, 1)[keep]
    return -log_p[torch.arange(len(log_p)), guide[keep]].sum() / guide.numel()


def by_hand(net: Network, batch: Batch, drop: Sequence[Tensor], confidence: str) -> dict[str, Tensor]:
    """The whole step: labels of both teachers, three streams (card: semivl 8)."""
    (x, y, here), there = naive.parts(batch), naive.partner(batch)
    n, pasted = len(x), naive.Labels.of(naive.eval_logits(net, there.weak), there.valid)
    guides = []
    for images in (here, there):
        label, sure = net.guide(images.weak, 0.9)
        guides.append(torch.where(sure & images.valid, label, 255))
    images = [naive.cut_in(a, b, m) for a, b, m in zip(here.strong, there.strong, here.boxes, strict=True)]
    out = net(torch.cat([x, here.weak]), list(drop))
    assert out.perturbed is not None
    pseudo = naive.Labels.of(out.logits[n:], here.valid)
    q = net(torch.cat(images)).logits
    scores = {"s1": q[:n], "s2": q[n:], "fp": out.perturbed[n:]}
    labels = {"s1": pseudo.under(pasted, here.boxes[0]), "s2": pseudo.under(pasted, here.boxes[1]), "fp": pseudo}
    mixed = {f"s{k}": naive.cut_in(guides[0], guides[1], here.boxes[k - 1]) for k in (1, 2)} | {"fp": guides[0]}
    terms = {"sup": naive.supervised(out.logits[:n], y)}
    for name, z in scores.items():
        how = average(z, labels[name]) if confidence == "average" else naive.unsupervised(z, labels[name], TAU)
        terms |= {name: how, f"g {name}": guided(z, mixed[name])}
    return terms


def total(terms: dict[str, Tensor], factor: float) -> Tensor:
    share = {"s1": 0.25, "s2": 0.25, "fp": 0.5}
    unsup = sum(w * terms[name] for name, w in share.items())
    guide = sum(w * terms[f"g {name}"] for name, w in share.items())
    result: Tensor = (terms["sup"] + unsup) / 2 + factor * guide
    return result


@pytest.mark.parametrize("confidence", ["pixel", "average"])
@pytest.mark.parametrize("step", [0, 30])
def test_a_step(confidence: Any, step: int) -> None:
    """Values and gradients; the guidance falls linearly from 0.1 at the first of 40 steps to 0."""
    method = build("semivl", threshold=TAU, confidence=confidence)
    reference, drops = copy.deepcopy(method.net), watched(method)
    assert isinstance(reference, Network)
    batch = make_batch(method.needs)
    result = method(batch, progress(step))
    result.loss.backward()
    expected = by_hand(reference, batch, drops[0], confidence)
    for name in ("sup", "s1", "s2", "fp"):
        assert result.terms[name].item() == pytest.approx(expected[name].item(), rel=1e-5), name
    whole = total(expected, 0.1 * (1 - step / 40))
    assert result.loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert 0 < result.terms["guided"].item() < 1
    assert confidence == "average" or 0 < result.terms["kept"].item() < 1
    whole.backward()
    theirs = {name: p.grad for name, p in reference.named_parameters() if p.grad is not None}
    ours = {name: p.grad for name, p in method.net.named_parameters() if p.grad is not None}
    assert ours.keys() == theirs.keys()
    assert not any(name.startswith("clip_encoder.") for name in ours)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def test_guidance_is_safe_where_no_pixel_is_sure() -> None:
    method = build("semivl")
    method.net.guidance = method.net.guidance[:1].expand(4, -1)  # all classes equally likely everywhere
    result = method(make_batch(method.needs), progress())
    assert result.terms["guidance"].item() == result.terms["guided"].item() == 0.0
    assert torch.isfinite(result.loss)


def test_average_confidence_is_taken_of_each_image() -> None:
    """Worked by hand, 2 images of 2 x 2: CE sums 4 and 8, mean confidences 0.5 and 1 over valid pixels."""
    from ssbench.ops.pseudo import Pseudo

    method = build("semivl", confidence="average")
    logits = torch.zeros(2, 4, 2, 2)
    valid = torch.tensor([[[1, 1], [1, 1]], [[1, 1], [0, 0]]]).bool()
    conf = torch.stack([torch.full((2, 2), 0.5), torch.tensor([[1.0, 1.0], [0.1, 0.1]])])
    target = Pseudo(torch.zeros(2, 2, 2, dtype=torch.int64), conf, torch.ones(2, 2, 2).bool(), valid)
    ce = np.log(4)
    expected = (4 * ce * 0.5 / 4 + 4 * ce * 1.0 / 2) / 2  # padding stays in the sum, not below it
    assert method._consistency(logits, target).item() == pytest.approx(expected)  # type: ignore[operator]


# WPL


@pytest.mark.parametrize("variant", ["release", "paper"])
def test_wpl_weighs_the_guidance_alone(variant: Any) -> None:
    """Release: weighted mean where there is a frozen label, times the share of such pixels. Paper: sum over all."""
    settings = {"variant": variant, "rppi": False, "k": 3, "features": "native", "confidence": 0.3, "box_classes": (1,)}
    method = build("semivl", plugin("wpl", **settings), threshold=TAU)
    batch = make_batch(method.needs)
    for step in range(3):  # until the memory holds something
        method(batch, progress(step))
    weights: list[tuple[Tensor, Tensor, Tensor]] = []
    plain, weigh = build("semivl", threshold=TAU), method.plugin.weigh

    def noting(mixed: Any, teach: Any, t: Any) -> Tensor | None:
        weight = weigh(mixed, teach, t)
        assert weight is not None
        weights.append((weight, mixed.pseudo.label, mixed.pseudo.keep))
        return weight

    method.plugin.weigh = noting  # type: ignore[method-assign]
    plain.net.load_state_dict(method.net.state_dict())
    result, without = (m(batch, progress(3)) for m in (method, plain))
    for name in ("sup", "s1", "s2", "fp"):
        assert result.terms[name].item() == without.terms[name].item(), name
    reference = method.net
    assert isinstance(reference, Network)
    assert len(weights) == 3
    low, high = (1, 2) if variant == "release" else (0, 1)
    assert all(low <= w.min() and w.max() <= high for w, _, _ in weights)
    assert any(len(w.unique()) > 1 for w, _, _ in weights), "some classes have a prototype"
    here = batch.unlabeled
    assert here is not None
    label, sure = reference.guide(here.weak, 0.9)
    fp = weights[2]
    assert torch.equal(fp[2], sure & here.valid)
    assert torch.equal(fp[1][fp[2]], label[fp[2]]), "compared with the prototype of the frozen label"


def test_weights_of_one_change_nothing_and_a_factor_neither() -> None:
    """The mean over sure pixels times their share is the sum over all pixels, whatever the weights' scale."""
    from pairs import Constant

    from ssbench.plugins.base import Plugin

    losses = []
    for extra in (None, Constant(Plugin.Config(), 4)):
        method = build("semivl", extra, threshold=TAU)
        losses.append(method(make_batch(method.needs), progress()).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


# Schedules, rates


@pytest.mark.parametrize(
    ("part", "unlabeled", "steps", "epochs"),
    [("1_30", 2875, 360, 233), ("1_16", 2789, 349, 240), ("1_8", 2603, 326, 257), ("1_2", 1487, 186, 451)],
)
def test_cityscapes_takes_whole_epochs_of_each_split(part: str, unlabeled: int, steps: int, epochs: int) -> None:
    """83,760 steps, rounded up: 83,880, 83,760, 83,782 and 83,886 (card: semivl 9)."""
    from ssbench.splits.manifest import manifest

    recipe = load("semivl/semivl_cityscapes_vitb16")
    assert manifest().splits[f"cityscapes/cps/{part}"].unlabeled.count == unlabeled
    assert -(-unlabeled // 8) == steps
    assert recipe.schedule.epochs_of(steps) == epochs
    scored = [epoch for epoch in range(epochs) if recipe.eval.is_scored(epoch, epochs)]
    assert scored[:3] == [0, 10, 20]
    assert scored[-1] == epochs - 1


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [("semivl_voc_vitb16", 1e-6, 1e-3), ("semivl_cityscapes_vitb16", 5e-6, 5e-4), ("semivl_coco_vitb16", 4e-7, 4e-3)],
)
def test_rates_and_decay_of_the_groups(name: str, encoder: float, decoder: float) -> None:
    recipe = load(f"semivl/{name}")
    method = build("semivl")
    optimizer = optimizer_of(recipe.optim, method.parameter_groups())
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([encoder, decoder])
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.01}
    assert all(p.requires_grad for group in optimizer.param_groups for p in group["params"])


def test_a_net_for_another_crop_or_method_is_refused() -> None:
    from ssbench.errors import RecipeError

    with pytest.raises(RecipeError, match="made for crops of 801 pixels, views.crop is 512"):
        load("semivl/semivl_cityscapes_vitb16", ["views.crop=512"])
    with pytest.raises(RecipeError, match="semivl trains the network 'semivl' alone, not 'deeplabv3plus'"):
        load("semivl/semivl_voc_vitb16", ["net={name: deeplabv3plus}"])
