"""UniMatch V2, re-derived (card: unimatch_v2 4, 5, 6)."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import naive
import pytest
import torch
from builders import build, make_batch, maker, progress
from torch import Tensor

from ssbench.certify.small import small_net
from ssbench.data.batch import Batch
from ssbench.data.plan import Needs, Plan
from ssbench.methods.base import Method
from ssbench.methods.unimatch_v2 import complementary_masks, reversed_groups
from ssbench.nets.dpt import DPT
from ssbench.recipe.recipe import load
from ssbench.train.build import optimizer_of

SIDE = 48
DPT_TINY = partial(small_net, "dpt")


def built(**settings: Any) -> Method:
    """On the tiny DPT whose scores are spread, so that some pixels pass a threshold and some do not."""
    method = build("unimatch_v2", net=maker(net=DPT_TINY), **settings)
    for net in (method.net, method.teacher):  # type: ignore[union-attr]
        with torch.no_grad():
            net.head.scratch.output_conv[2].weight.mul_(30)  # type: ignore[union-attr, index, operator, operator]
    return method


def watched(method: Method) -> list[tuple[Any, ...]]:
    """What the student is called with, filled as it is called."""
    calls: list[tuple[Any, ...]] = []
    method.net.register_forward_pre_hook(lambda _, args: calls.append(args))
    return calls


def from_reversed(values: Tensor, boxes: Tensor, group: int) -> Tensor:
    """Each image with the box of its group's mirrored one, image by image."""
    mixed = values.clone()
    for start in range(0, len(values), group):
        for k in range(group):
            mixed[start + k][..., boxes[start + k]] = values[start + group - 1 - k][..., boxes[start + k]]
    return mixed


def through(net: DPT, x: Tensor, masks: Tensor) -> Tensor:
    """Logits of x with the four maps of tokens multiplied, channel by channel."""
    maps = []
    for tokens in net.backbone.maps(x, net.size.blocks):
        dropped = tokens.clone()
        for b in range(tokens.shape[0]):
            for d in range(tokens.shape[1]):
                dropped[b, d] = tokens[b, d] * masks[b, d]
        maps.append(dropped)
    scores = net.head(maps)[1]
    return torch.nn.functional.interpolate(scores, x.shape[-2:], mode="bilinear", align_corners=True)


def by_hand(student: DPT, teacher: DPT, batch: Batch, tau: float, masks: Tensor, group: int) -> dict[str, Tensor]:
    """The whole step (card: unimatch_v2 4)."""
    x, y, here = naive.parts(batch)
    labels, n = naive.Labels.of(naive.eval_logits(teacher, here.weak), here.valid), len(here.weak)
    terms = {"sup": naive.supervised(student(x).logits, y)}
    for k, (strong, boxes) in enumerate(zip(here.strong, here.boxes, strict=True)):
        logits = through(student, from_reversed(strong, boxes, group), masks[k * n : (k + 1) * n])
        parts = (from_reversed(part, boxes, group) for part in (labels.label, labels.conf, labels.valid))
        terms[f"s{k + 1}"] = naive.unsupervised(logits, naive.Labels(*parts), tau)
    return terms


@pytest.mark.parametrize(("images", "group"), [(4, 4), (4, 2), (3, 3)])
def test_first_step(images: int, group: int) -> None:
    method = built(threshold=0.4, group=group)
    student, teacher = copy.deepcopy(method.net), copy.deepcopy(method.teacher)
    assert isinstance(student, DPT)
    assert isinstance(teacher, DPT)
    calls, batch = watched(method), make_batch(method.needs, side=SIDE, images=images)
    result = method(batch, progress())
    result.loss.backward()
    (_, drop, alone) = calls[1]
    assert alone
    assert all(mask is drop[0] for mask in drop)  # one mask for all four maps
    expected = by_hand(student, teacher, batch, 0.4, drop[0], group)
    for name, value in expected.items():
        assert value > 0
        assert result.terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert 0 < result.terms["kept"].item() < 1
    total = (expected["sup"] + (expected["s1"] + expected["s2"]) / 2) / 2
    assert result.loss.item() == pytest.approx(total.item(), rel=1e-5)
    for name, p in student.named_parameters():
        if p.requires_grad:
            (theirs,) = torch.autograd.grad(total, p, retain_graph=True)
            ours = dict(method.net.named_parameters())[name].grad
            assert ours is not None, name
            scale = theirs.abs().max().item()
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3 * scale + 1e-7, msg=name)


def test_the_two_views_of_an_image_see_complementary_halves_or_all_channels() -> None:
    first, second = complementary_masks(8, 3000, 4, "test", progress())
    assert torch.equal(first + second, torch.full_like(first, 2.0))
    kept = (first == 1).all(1)
    assert torch.equal(kept, (second == 1).all(1))
    assert kept.view(2, 4).sum(1).tolist() == [2, 2]  # floor(4 / 2) of each group
    assert set(first[~kept].unique().tolist()) == {0.0, 2.0}
    assert (first[~kept] == 0).float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert len({tuple(row.tolist()) for row in first[~kept]}) == 4  # each image its own


@pytest.mark.parametrize(("images", "group", "kept"), [(1, 4, 0), (3, 3, 1), (2, 1, 0), (5, 5, 2)])
def test_half_of_a_group_rounded_down_keeps_all_channels(images: int, group: int, kept: int) -> None:
    first, _ = complementary_masks(images, 200, group, "test", progress())
    assert int((first == 1).all(1).sum()) == kept


def test_who_keeps_all_channels_is_drawn_evenly() -> None:
    counts = torch.zeros(4)
    for step in range(400):
        counts += (complementary_masks(4, 8, 4, "test", progress(step))[0] == 1).all(1)
    assert counts.sum() == 800
    assert all(abs(int(count) - 200) < 50 for count in counts), counts  # five standard deviations of 10


def test_masks_do_not_depend_on_how_many_processes_share_the_batch() -> None:
    whole = complementary_masks(8, 16, 4, "test", progress())
    for rank in (0, 1):
        part = complementary_masks(4, 16, 4, "test", replace(progress(), rank=rank, world=2))
        assert all(torch.equal(a[4 * rank : 4 * rank + 4], b) for a, b in zip(whole, part, strict=True))
    assert [len(mask) for mask in complementary_masks(0, 16, 4, "test", progress())] == [0, 0]


def test_groups_are_reversed() -> None:
    cpu = torch.device("cpu")
    assert reversed_groups(8, 4, cpu).tolist() == [3, 2, 1, 0, 7, 6, 5, 4]
    assert reversed_groups(3, 3, cpu).tolist() == [2, 1, 0]  # the middle one is its own
    assert reversed_groups(2, 4, cpu).tolist() == [1, 0]
    assert reversed_groups(1, 4, cpu).tolist() == [0]
    assert reversed_groups(0, 4, cpu).tolist() == []


def test_without_dropout_the_strong_views_are_clean() -> None:
    method = built(threshold=0.4, dropout="none")
    calls = watched(method)
    method(make_batch(method.needs, side=SIDE), progress())
    assert [len(call) for call in calls] == [1, 1]


def test_maps_of_several_widths_get_a_mask_each() -> None:
    method = build("unimatch_v2", threshold=0.0)
    calls = watched(method)
    method(make_batch(method.needs), progress())
    drop = calls[1][1]
    assert [mask.shape for mask in drop] == [(4, width) for width in method.net.perturb_channels]
    for mask in drop:
        assert torch.equal(mask[:2] + mask[2:], torch.full_like(mask[:2], 2.0))


def test_the_teacher_follows_by_the_capped_decay_and_is_scored() -> None:
    method = built(threshold=0.4)
    assert torch.equal(method.teacher.backbone.pos_embed, method.net.backbone.pos_embed)  # type: ignore[union-attr]
    for step, decay in ((0, 0.0), (1, 0.5), (3, 0.75), (1000, 0.996)):
        before = {name: value.clone() for name, value in method.teacher.state_dict().items()}  # type: ignore[operator]
        with torch.no_grad():
            for p in method.net.parameters():
                p.add_(0.1 * torch.randn(p.shape))
        method.after_step(progress(step, steps=2000))
        for name, value in method.teacher.state_dict().items():  # type: ignore[operator]
            expected = decay * before[name] + (1 - decay) * method.net.state_dict()[name]
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    x = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        assert torch.equal(method.eval().predict(x), method.teacher(x).logits)  # type: ignore[operator]


def ids(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(count))


def test_a_longer_labelled_list_is_read_whole() -> None:
    """Cityscapes 1/2: 1,488 labelled images beside 1,487, in 186 steps of 8 (card: unimatch_v2 1)."""
    plan = Plan(ids("l", 1488), ids("u", 1487), Needs(repeats="whole"), 8, 8, devices=4)
    assert plan.steps_per_epoch == 186
    for epoch in (0, 1):
        steps = range(186 * epoch, 186 * (epoch + 1))
        assert {id for step in steps for id, _ in plan.labeled_at(step)} == set(ids("l", 1488))
    cut = Plan(ids("l", 1488), ids("u", 1487), Needs(), 8, 8, devices=4)
    assert len({id for step in range(372) for id, _ in cut.labeled_at(step)}) == 1487


def test_a_short_supervised_list_is_repeated() -> None:
    """92 images count as 3,000: 93 steps of 32, each repetition augmented afresh (card: unimatch_v2 6)."""
    plan = Plan(ids("l", 92), (), Needs(unlabeled=False, epoch_of="labeled", at_least=3000), 32, 0, devices=4)
    assert plan.steps_per_epoch == 3000 // 4 // 8
    readings = [reading for step in range(93) for reading in plan.labeled_at(step)]
    assert len(set(readings)) == len(readings) == 93 * 32
    assert {id for id, _ in readings} == set(ids("l", 92))
    long = Plan(ids("l", 10582), (), Needs(unlabeled=False, epoch_of="labeled", at_least=3000), 32, 0, devices=4)
    assert long.steps_per_epoch == 2646 // 8


@pytest.mark.parametrize(
    ("name", "encoder", "classes", "epochs", "batch", "crop", "group"),
    [
        ("unimatch_v2_voc_dinov2s_518", "small", "ce", 60, 16, 518, 4),
        ("unimatch_v2_voc_dinov2b_518", "base", "ce", 60, 16, 518, 4),
        ("unimatch_v2_cityscapes_dinov2s_798", "small", "ohem", 180, 8, 798, 2),
        ("unimatch_v2_cityscapes_dinov2b_798", "base", "ohem", 180, 8, 798, 2),
        ("unimatch_v2_coco_dinov2s_518", "small", "ce", 20, 16, 518, 4),
        ("unimatch_v2_coco_dinov2b_518", "base", "ce", 20, 16, 518, 4),
    ],
)
def test_recipes_have_the_constants_of_their_dataset(
    name: str, encoder: str, classes: str, epochs: int, batch: int, crop: int, group: int
) -> None:
    recipe = load(f"unimatch_v2/{name}")
    assert recipe.net.encoder == f"vit_{encoder}_patch14_dinov2"
    assert (recipe.loss.supervised, recipe.schedule.epochs, recipe.views.crop) == (classes, epochs, crop)
    assert (recipe.schedule.labeled_batch, recipe.schedule.unlabeled_batch, recipe.schedule.devices) == (
        batch,
        batch,
        4,
    )
    assert (recipe.method.threshold, recipe.method.ema, recipe.method.group) == (0.95, 0.996, group)
    assert (recipe.division, crop % 14) == ("open", 0)


def test_the_encoder_learns_at_a_fortieth_of_the_decoder_s_rate_and_all_of_both_decays() -> None:
    recipe, net = load("unimatch_v2_voc"), DPT_TINY(0)
    groups = optimizer_of(recipe.optim, (net.backbone_parameters(), net.head_parameters())).param_groups
    assert [(g["lr"], g["weight_decay"], g["betas"]) for g in groups] == [
        (5e-6, 0.01, (0.9, 0.999)),
        (pytest.approx(2e-4), 0.01, (0.9, 0.999)),
    ]
    assert sum(p.numel() for g in groups for p in g["params"]) == sum(
        p.numel() for p in net.parameters() if p.requires_grad
    )
