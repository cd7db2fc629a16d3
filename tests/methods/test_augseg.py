"""AugSeg against a second writing of its specification (card: augseg 3 to 8)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import naive
import numpy as np
import pair
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, build, make_batch, maker, optimizer, plugin, progress, train, unet
from torch import Tensor
from watching import waits_of

from ssbench.data.batch import Batch, Labeled
from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.methods import augseg
from ssbench.methods.augseg import AugSeg
from ssbench.methods.base import LossConfig
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin, PluginConfig, StepOutputs


def method_of(**settings: Any) -> AugSeg:
    method = build("augseg", **settings)
    assert isinstance(method, AugSeg)
    return method


def unlike(method: AugSeg) -> tuple[SegNet, SegNet]:
    """The teacher made to differ from the student; copies of both."""
    g = torch.Generator().manual_seed(9)
    for p in method.teacher.parameters():
        p.data += 0.05 * torch.randn(p.shape, generator=g) * p.abs().mean()
    return copy.deepcopy(method.net), copy.deepcopy(method.teacher)


def test_confidence_of_an_image_by_hand() -> None:
    """Sure pixels 1, a coin flip between two of four classes (1 - ln 2 / ln 4) / 2 = 1/4, no idea 0."""
    pixels = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])
    probs = pixels.T.reshape(1, 4, 1, 3)
    every = torch.ones(1, 1, 3, dtype=torch.bool)
    assert augseg.image_confidence(probs, every).tolist() == pytest.approx([1.25 / 3], abs=1e-6)
    assert augseg.image_confidence(probs, every & torch.tensor([1, 1, 0]).bool()).tolist() == pytest.approx([1.25 / 2])
    assert augseg.image_confidence(probs, ~every).tolist() == [0]


def test_a_box_by_hand() -> None:
    """Side 16, cut 0.5: 8 pixels around the centre, from 16 // 8 = 2 on; clipped at the picture's end."""
    (first, last) = augseg.boxes(torch.tensor([[0.0, 0.5], [0.9999, 0.0]]), (16, 16), 0.5)
    assert first.any(1).nonzero().flatten().tolist() == [0, 1, 2, 3, 4, 5]  # rows 2 - 4 .. 2 + 3
    assert first.any(0).nonzero().flatten().tolist() == list(range(5, 13))  # columns 9 - 4 .. 9 + 3
    assert last.any(1).nonzero().flatten().tolist() == [11, 12, 13, 14, 15]
    assert int(last.sum()) == 5 * 6


def test_areas_after_clipping_are_the_specifications() -> None:
    """0.164 and 0.359; an injection shows on 0.067 of an image, in 26 % of cases not at all (card: augseg 5)."""
    g, numbers, result = torch.Generator().manual_seed(0), rng(0, "areas"), []
    levels = (np.arange(128) + 0.5) / 128  # evenly through both distributions, paired at random
    inner, outer = (np.quantile(numbers.beta(*beta, size=50_000), levels) for beta in ((8, 2), (4, 4)))
    for lam_inner, lam_outer in zip(inner, numbers.permutation(outer), strict=True):
        cuts = (math.sqrt(1 - lam) for lam in (lam_inner, lam_outer))
        first, second = (augseg.boxes(torch.rand(2, 2, generator=g), (513, 513), cut) for cut in cuts)
        result.append(torch.stack([x.float().mean((1, 2)) for x in (first, second, first & second)]))
    areas = torch.cat(result, 1)
    assert areas.mean(1).tolist() == pytest.approx([0.164, 0.359, 0.067], abs=0.01)
    assert (areas[2] == 0).float().mean().item() == pytest.approx(0.26, abs=0.06)


def test_labelled_patches_are_injected_with_one_minus_the_confidence() -> None:
    method, sure = method_of(), torch.tensor([0.0, 0.2, 0.7, 1.0])
    tosses = torch.stack([method._draw_injections(sure, progress(step, 4000)) for step in range(1500)]).float().mean(0)
    assert tosses[0] == 1
    assert tosses[3] == 0
    assert tosses.tolist() == pytest.approx((1 - sure).tolist(), abs=0.04)
    for inject in ("always", "never"):
        assert method_of(inject=inject)._draw_injections(sure, progress()).tolist() == [inject == "always"] * 4


def test_images_are_mixed_within_their_group_by_one_order() -> None:
    method = method_of(group=4)
    orders = [method._draw_order(8, progress(step)) for step in range(30)]
    for order in orders:
        assert sorted(order[:4].tolist()) == [0, 1, 2, 3]
        assert sorted(order[4:].tolist()) == [4, 5, 6, 7]
    assert len({tuple(order[:4].tolist()) for order in orders}) > 10
    assert any(order[4:].tolist() != (order[:4] + 4).tolist() for order in orders)
    parts = [method._draw_order(4, Progress(3, 40, 10, 0, torch.device("cpu"), rank, 2)) for rank in range(2)]
    assert torch.equal(torch.cat([parts[0], parts[1] + 4]), method._draw_order(8, progress(3)))


def test_boxes_of_a_group_have_one_size_and_those_of_two_differ() -> None:
    method, like = method_of(group=3), torch.zeros(6, 3, 64, 64)
    boxes = method._draw_boxes(like, (4.0, 4.0), "outer box", progress(2))
    tallest = boxes.any(2).sum(1)
    cuts = [2 * (int(64 * math.sqrt(1 - rng(0, 2, "augseg outer box", k).beta(4, 4))) // 2) for k in range(2)]
    assert cuts[0] != cuts[1]
    assert tallest[:3].max() <= cuts[0]
    assert tallest[3:].max() <= cuts[1]


def test_mixing_against_a_loop_over_images_and_pixels() -> None:
    """Stage A into a copy, stage B from that copy into the original; the labelled image seen in i is pi(pi(i))."""
    method, batch, t = (
        method_of(inject="always", group=4),
        make_batch(method_of().needs, images=4, side=20),
        progress(4),
    )
    here, target = batch.unlabeled, statement(4, 20)
    assert here is not None
    got = method._mix(batch.labeled, here, target, torch.zeros(4), t)
    order = method._draw_order(4, t).tolist()
    inner = method._draw_boxes(here.weak, (8.0, 2.0), "inner box", t)
    outer = method._draw_boxes(here.weak, (4.0, 4.0), "outer box", t)
    shown = 0
    for i in range(4):
        for y in range(20):
            for x in range(20):
                source, labelled = i, -1
                if outer[i, y, x]:
                    source = order[i]
                    labelled = order[source] if inner[source, y, x] else -1
                at = (slice(None), y, x)
                truth = int(batch.labeled.y[labelled, y, x])
                if labelled >= 0:
                    shown += 1
                    assert labelled == order[order[i]]
                    expected = (truth if truth != 255 else 0, 1.0, truth != 255, truth != 255)
                    images = (batch.labeled.x[labelled][at],) * 2
                else:
                    pixel = (source, y, x)
                    expected = (int(target.label[pixel]), float(target.conf[pixel]), bool(target.keep[pixel]), False)
                    images = (here.strong[0][source][at], here.weak[source][at])
                pseudo = got.pseudo
                result = (pseudo.label, pseudo.conf, pseudo.keep, pseudo.trusted_mask())
                assert tuple(m[i, y, x].item() for m in result) == pytest.approx(expected)
                assert torch.equal(got.images[i][at], images[0])
                assert torch.equal(got.weak[i][at], images[1])
    assert shown > 10
    assert got.pseudo.valid.all()


def test_maps_a_plugin_carries_follow_the_mix_and_are_zero_on_labelled_pixels() -> None:
    method, batch, t = (
        method_of(inject="always", group=4),
        make_batch(method_of().needs, images=4, side=20),
        progress(4),
    )
    here, target = batch.unlabeled, statement(4, 20)
    assert here is not None
    got = method._mix(batch.labeled, here, target.with_carry(conf=target.conf), torch.zeros(4), t).pseudo
    injected = got.conf == 1
    assert injected.any()
    assert torch.equal(got.carry["conf"], got.conf.where(~injected, 0.0))


def test_first_step_re_derived() -> None:
    """Loss, gradients and kept share of one step after the copy, from the text alone (card: augseg 4 to 7)."""
    tau, t = 0.32, progress(11)
    method = method_of(threshold=tau, group=2)
    student, teacher = unlike(method)
    batch = make_batch(method.needs, images=4)
    step = method(batch, t)
    step.loss.backward()
    x, y, here = naive.parts(batch)
    q, image, label = by_hand(method, teacher, batch, t)
    logits = student(torch.cat([x, image])).logits
    sup = naive.supervised(logits[:4], y)
    counted = (q >= tau) & (label != 255)
    ce = F.cross_entropy(logits[4:], label.where(label != 255, 0), reduction="none")
    unsup = (ce * counted).sum() / counted.numel()
    assert 0.1 < counted.float().mean().item() < 0.9
    with torch.no_grad():
        sure = teacher.eval()(here.weak).logits.softmax(1).amax(1) >= tau
    assert step.terms["kept"].item() == pytest.approx(sure.float().mean().item())
    assert step.terms["counted"].item() == pytest.approx(counted.float().mean().item())
    assert step.terms["unsup"].item() == pytest.approx(unsup.item(), rel=1e-4)
    assert step.loss.item() == pytest.approx((sup + unsup).item(), rel=1e-5)
    naive.assert_same_gradients(method.net, naive.gradients(sup + unsup, student))


def test_a_negative_threshold_keeps_everything_but_labelled_pixels_without_a_label() -> None:
    """Cityscapes logs a share of 0.995 to 1.000 (card: augseg 7)."""
    method = method_of(threshold=-0.1, inject="always", group=4)
    batch, t = make_batch(method.needs, images=4), progress(11)
    q, _, label = by_hand(method, copy.deepcopy(method.teacher), batch, t, always=True)
    with torch.no_grad():
        kept = method(batch, t).terms["counted"].item()
    assert (q >= -0.1).all()
    assert kept == pytest.approx((label != 255).float().mean().item())
    assert 0.9 < kept < 1


def test_padding_counts_as_in_the_release_or_not() -> None:
    batch, t = make_batch(method_of().needs), progress(11)
    assert batch.unlabeled is not None
    seen: dict[str, Tensor] = {}

    class Look(Plugin):
        def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
            seen["valid"] = mixed.pseudo.valid
            return None

    for padding, share in (("counted", 1.0), ("ignored", batch.unlabeled.valid.float().mean().item())):
        method = build("augseg", Look(PluginConfig(), CLASSES), padding=padding, inject="never", mix_probability=0.0)
        with torch.no_grad():
            method(batch, t)
        assert seen["valid"].float().mean().item() == pytest.approx(share)


def test_the_teacher_is_a_copy_for_an_epoch_and_then_an_average_with_its_buffers() -> None:
    method = method_of()
    train(method, 3, steps_per_epoch=3, lr=0.1)
    student, before = method.net.state_dict(), copy.deepcopy(method.teacher.state_dict())
    assert all(torch.equal(before[name], value) for name, value in student.items())
    train(method, 1, start=3, steps_per_epoch=3, lr=0.1)
    for name, value in method.teacher.state_dict().items():
        if value.is_floating_point():
            expected = 0.75 * before[name] + 0.25 * method.net.state_dict()[name]  # d = 1 - 1 / (3 + 1)
            torch.testing.assert_close(value, expected, msg=name)
    assert any(
        "running" in name and not torch.equal(before[name], v) for name, v in method.teacher.state_dict().items()
    )


@pytest.mark.parametrize(("step", "per_epoch", "cap", "decay"), [
    (654, 655, 0.999, 0.0), (655, 655, 0.999, 0.99848), (999, 655, 0.999, 0.999), (2000, 655, 0.999, 0.999),
    (139, 139, 0.996, 0.99286), (249, 139, 0.996, 0.996),
])  # fmt: skip
def test_decays_of_the_specification(step: int, per_epoch: int, cap: float, decay: float) -> None:
    """VOC with 92 labels and Cityscapes with 744 (card: augseg 8)."""
    method = method_of(ema=cap)
    with torch.no_grad():
        for old, new in zip(method.teacher.parameters(), method.net.parameters(), strict=True):
            old.fill_(1.0)
            new.fill_(0.0)
    method.after_step(Progress(step, 80 * per_epoch, per_epoch, 0, torch.device("cpu")))
    assert next(method.teacher.parameters()).mean().item() == pytest.approx(decay, abs=5e-6)


def test_without_buffers_the_statistics_of_the_teacher_stay() -> None:
    method = method_of(ema_buffers=False)
    before = {name: v.clone() for name, v in method.teacher.named_buffers()}
    train(method, 5)
    assert all(torch.equal(before[name], v) for name, v in method.teacher.named_buffers())


def test_a_supervised_warm_up_copies_the_student_and_delays_the_average() -> None:
    method = method_of(warmup_epochs=1)
    rows = train(method, 4, steps_per_epoch=3, lr=0.1)
    assert [set(row) for row in rows[:3]] == [{"loss", "sup"}] * 3
    assert {"unsup", "kept"} <= set(rows[3])
    for a, b in zip(method.teacher.parameters(), method.net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_every_student_tensor_learns_and_no_teacher_tensor_does() -> None:
    method = method_of(net=maker(encoder="resnet18", layout="augseg", aux=True, multi_grid=(2, 2, 4), ceil_mode=True))
    step = method(make_batch(method.needs), progress(11))
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in method.net.parameters())
    assert all(p.grad is None and not p.requires_grad for p in method.teacher.parameters())


def test_the_auxiliary_head_learns_the_labelled_images_alone() -> None:
    method = method_of(net=maker(layout="augseg", aux=True), aux_weight=0.4)
    student, batch = copy.deepcopy(method.net), make_batch(method.needs)
    step, probe = method(batch, progress(11)), []
    method.net.register_forward_hook(lambda _, args, out: probe.append((args[0], out)))
    with torch.no_grad():
        method(batch, progress(11))
        out = student(probe[0][0])
    y = batch.labeled.y
    assert out.aux is not None
    expected = naive.supervised(out.logits[:2], y) + 0.4 * naive.supervised(out.aux[:2], y)
    assert step.terms["sup"].item() == pytest.approx(expected.item(), rel=1e-4)


def test_unet_with_dice_on_one_channel() -> None:
    """The medical losses: a step, and the Dice of the mixed labels by hand."""
    loss = LossConfig(supervised="ce_dice", pseudo="dice")
    method = method_of(net=lambda _: unet(), loss=loss, threshold=0.2)
    batch, t = make_batch(method.needs, side=48, channels=1), progress(11)
    seen: list[StepOutputs] = []
    method.plugin = Watch(seen)
    step = method(batch, t)
    step.loss.backward()
    view = seen[0].views[0]
    keep = view.pseudo.keep | view.pseudo.trusted_mask()
    assert step.terms["unsup"].item() == pytest.approx(naive.soft_dice(view.out.logits, view.pseudo.label, keep).item())
    assert all(p.grad is not None for p in method.net.parameters())


def test_weak_images_may_join_the_students_pass() -> None:
    sizes: list[int] = []
    for extra in (False, True):
        method = method_of(extra_weak=extra)
        method.net.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
        method(make_batch(method.needs), progress(11))
    assert sizes == [4, 6]


def test_the_teacher_is_scored() -> None:
    method, x = method_of(), torch.randn(1, 3, 65, 65)
    unlike(method)
    method.eval()
    assert torch.equal(method.predict(x), method.teacher(x).logits)
    assert not torch.equal(method.predict(x), method.net(x).logits)


def test_the_identity_of_every_hook_changes_no_bit() -> None:
    for step in (0, 11):
        result = []
        for plug in (None, Same(PluginConfig(), CLASSES)):
            method = build("augseg", plug, threshold=0.3)
            loss = method(make_batch(method.needs), progress(step)).loss
            loss.backward()
            result.append([loss, *(p.grad for p in method.net.parameters() if p.grad is not None)])
        assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


def test_hooks_act_where_the_specifications_say() -> None:
    """`weigh` sees the mixed images with their trusted pixels; its weights make the mean a weighted one (mpmc 9)."""
    batch, t = make_batch(method_of().needs, images=4), progress(11)
    seen: list[StepOutputs] = []
    method = method_of(plugin=Watch(seen, weigh=True), threshold=0.3, inject="always", group=4)
    step = method(batch, t)
    view = seen[0].views[0]
    ce = F.cross_entropy(view.out.logits, view.pseudo.label, reduction="none")
    weight = 1 + view.pseudo.trusted_mask().float()
    kept = (view.pseudo.keep | view.pseudo.trusted_mask()).float()
    assert view.pseudo.trusted_mask().any()
    assert step.terms["unsup"].item() == pytest.approx(((ce * kept * weight).sum() / weight.sum()).item(), rel=1e-5)
    assert torch.equal(seen[0].teach(view.weak).logits, naive.eval_logits(copy.deepcopy(method.teacher), view.weak))


def test_a_plugins_pace_can_switch_the_unlabelled_term_off() -> None:
    class Warm(Plugin):
        def scale(self, t: Progress) -> LossScale:
            return LossScale(0.5, unlabeled=False)

    step = build("augseg", Warm(PluginConfig(), CLASSES))(make_batch(method_of().needs), progress(11))
    assert step.loss.item() == pytest.approx(0.5 * step.terms["sup"].item())


@pytest.mark.parametrize("name", ["upc", "s4mc", "ipixmatch", "mpmc"])
def test_plugins_run_on_it(name: str) -> None:
    plug = plugin(name)
    method = build("augseg", plug, threshold=0.3, inject="always")
    step = method(make_batch(method.needs), progress(11))
    step.loss.backward()
    assert torch.isfinite(step.loss)
    assert step.terms["unsup"] > 0


def test_what_cannot_be_mixed_is_refused() -> None:
    method = method_of()
    batch = make_batch(method.needs, images=4)
    fewer = Batch(Labeled(batch.labeled.x[:2], batch.labeled.y[:2], batch.labeled.ids[:2]), batch.unlabeled)
    with pytest.raises(RecipeError, match="2 labelled and 4 unlabelled"):
        method(fewer, progress(11))
    with pytest.raises(RecipeError, match="do not form groups of 3"):
        method_of(group=3)(batch, progress(11))


def test_a_step_never_waits_for_the_device() -> None:
    method = method_of(threshold=0.3, group=1)
    batch, optim = make_batch(method.needs), optimizer(method)

    def step(at: int) -> None:
        method(batch, progress(at)).loss.backward()
        optim.step()
        method.after_step(progress(at))

    assert waits_of(lambda: step(3)) == []
    assert waits_of(lambda: step(11)) == []


@pytest.mark.parametrize("supervised", ["ce", "ohem"])
def test_two_processes_equal_one(supervised: str) -> None:
    """Groups of two images on either side; hard examples are averaged by group."""
    loss = {"supervised": supervised} | ({"ohem_min_kept": 500, "ohem_threshold": 0.3} if supervised == "ohem" else {})
    alone, together = pair.alone_and_together("augseg", 9, 2, images=4, loss=loss, threshold=0.3, group=2)
    pair.assert_equal(alone, together)


def statement(images: int, side: int) -> Pseudo:
    """A teacher's statement in which every pixel can be told apart; confidences below 1."""
    conf = torch.arange(images * side * side).view(images, side, side) / (images * side * side)
    label = (conf * 1000).long() % CLASSES
    return Pseudo(label, conf, conf >= 0.4, torch.ones_like(conf, dtype=torch.bool))


def by_hand(
    method: AugSeg, teacher: SegNet, batch: Batch, t: Progress, always: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """Confidence, image and label (255 kept) after both stages, the method's own draws replayed from their keys."""
    here, y = batch.unlabeled, batch.labeled.y
    assert here is not None
    p = naive.eval_logits(teacher, here.weak).softmax(1)
    h = -(p * (p + 1e-10).log()).sum(1)
    sure = ((1 - h / math.log(CLASSES)) * p.amax(1)).mean((1, 2))
    q, label = p.max(1)
    u = torch.rand(len(y), generator=t.generator("augseg toss"))
    order = method._draw_order(len(y), t)
    inner = method._draw_boxes(here.weak, (8.0, 2.0), "inner box", t)
    outer = method._draw_boxes(here.weak, (4.0, 4.0), "outer box", t)
    copies = [x.clone() for x in (q, here.strong[0], label)]
    given = (torch.ones_like(q), batch.labeled.x, y)
    for i in range(len(y)):
        if u[i] >= sure[i] or always:
            for into, x in zip(copies, given, strict=True):
                into[i][..., inner[i]] = x[order[i]][..., inner[i]]
    done = [x.clone() for x in (q, here.strong[0], label)]
    for i in range(len(y)):
        for into, x in zip(done, copies, strict=True):
            into[i][..., outer[i]] = x[order[i]][..., outer[i]]
    return done[0], done[1], done[2]


class Same(Plugin):
    """Every hook, changing nothing."""

    def extras(self, net: SegNet) -> torch.nn.ModuleDict:
        return torch.nn.ModuleDict()

    def scale(self, t: Progress) -> LossScale:
        return LossScale()

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        return pseudo.with_carry(again=pseudo.conf)

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        return list(host())

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        teach(mixed.weak)
        return None

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        return {}


class Watch(Plugin):
    """Keeps what `loss` is shown; may weigh trusted pixels twice."""

    def __init__(self, seen: list[StepOutputs], weigh: bool = False) -> None:
        super().__init__(PluginConfig(), CLASSES)
        self.seen, self.twice = seen, weigh

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        return 1 + mixed.pseudo.trusted_mask().float() if self.twice else None

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        self.seen.append(seen)
        return {}
