"""CPS, re-derived (card: cps 3 to 5)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import naive
import pair
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, build, make_batch, maker, plugin, progress
from torch import Tensor, nn

from ssbench.data.batch import Batch
from ssbench.data.plan import Plan, plan_partition
from ssbench.errors import RecipeError
from ssbench.methods.base import LossConfig, Method
from ssbench.methods.cps import CPS
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin, StepOutputs
from ssbench.splits.manifest import Partition

PLAIN: dict[str, Any] = {"cutmix": False, "weight": 1.5}


def cross(logits: Tensor, label: Tensor, counted: Tensor) -> Tensor:
    """Mean of -log p(label) over the counted pixels."""
    log_p = F.log_softmax(logits, dim=1).permute(0, 2, 3, 1)[counted]
    return -log_p[torch.arange(len(log_p)), label[counted]].mean()


def plain(one: SegNet, two: SegNet, batch: Batch, padding: str) -> tuple[Tensor, Tensor]:
    """(supervised sum, cross sum) without CutMix (card: cps 3)."""
    x, y, here = naive.parts(batch)
    lab, unlab = [net(x).logits for net in (one, two)], [net(here.weak).logits for net in (one, two)]
    pred = [torch.cat(pair) for pair in zip(lab, unlab, strict=True)]
    counted = torch.cat([y != 255, here.valid]) | (padding == "counted")
    sup = naive.supervised(lab[0], y) + naive.supervised(lab[1], y)
    return sup, cross(pred[0], pred[1].argmax(1), counted) + cross(pred[1], pred[0].argmax(1), counted)


def cutmix(one: SegNet, two: SegNet, batch: Batch, padding: str) -> tuple[Tensor, Tensor]:
    """(supervised sum, cross sum) with CutMix (card: cps 4)."""
    (x, y, here), there = naive.parts(batch), naive.partner(batch)
    box = here.boxes[0]
    image, valid = naive.cut_in(here.weak, there.weak, box), naive.cut_in(here.valid, there.valid, box)
    hard_labels = []
    for net in (one, two):
        with torch.no_grad():
            hard_labels.append(naive.cut_in(net(here.weak).logits, net(there.weak).logits, box).argmax(1))
    seen = [net(image).logits for net in (one, two)]
    counted = valid | (padding == "counted")
    sup = sum((naive.supervised(net(x).logits, y) for net in (one, two)), torch.zeros(()))
    return sup, cross(seen[0], hard_labels[1], counted) + cross(seen[1], hard_labels[0], counted)


def both(method: Method) -> tuple[SegNet, SegNet]:
    assert isinstance(method, CPS)
    return method.net, method.second


def classifier(net: SegNet) -> nn.Conv2d:
    result = net.get_submodule("classifier")
    assert isinstance(result, nn.Conv2d)
    return result


@pytest.mark.parametrize("padding", ["counted", "ignored"])
@pytest.mark.parametrize(("settings", "by_hand"), [(PLAIN, plain), ({"weight": 5.0}, cutmix)])
def test_first_step(settings: dict[str, Any], by_hand: Callable[..., tuple[Tensor, Tensor]], padding: str) -> None:
    method = build("cps", padding=padding, **settings)
    copies = [copy.deepcopy(net) for net in both(method)]
    batch = make_batch(method.needs)
    step = method(batch, progress())
    step.loss.backward()
    sup, term = by_hand(*copies, batch, padding)
    total = sup + settings["weight"] * term
    assert step.terms["cps"].item() == pytest.approx(term.item(), rel=1e-5)
    assert (step.terms["sup"] + step.terms["sup_2"]).item() == pytest.approx(sup.item(), rel=1e-5)
    assert step.loss.item() == pytest.approx(total.item(), rel=1e-5)
    total.backward()
    for ours, theirs in zip(both(method), copies, strict=True):
        naive.assert_same_gradients(ours, {n: p.grad for n, p in theirs.named_parameters() if p.grad is not None})
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b)  # every pass moved the statistics, in that order


@pytest.mark.parametrize(("settings", "passes"), [(PLAIN, 2), ({}, 4)])
def test_every_pass_moves_the_batch_statistics_of_its_network(settings: dict[str, Any], passes: int) -> None:
    """With CutMix both draws, the mix and the labelled images; without, labelled and unlabelled ones (card: cps 4)."""
    method = build("cps", **settings)
    method(make_batch(method.needs), progress())
    for net in both(method):
        counts = {int(b) for name, b in net.named_buffers() if name.endswith("num_batches_tracked")}
        assert counts == {passes}


@pytest.mark.parametrize("settings", [PLAIN, {}])
def test_it_is_symmetric_in_the_two_networks(settings: dict[str, Any]) -> None:
    result = []
    for roles in (("student", "second"), ("second", "student")):
        make, swapped = maker(), dict(zip(("student", "second"), roles, strict=True))
        method = build("cps", net=lambda role: make(swapped[role]), **settings)  # noqa: B023
        result.append(method(make_batch(method.needs), progress()))
    assert result[0].loss.item() == pytest.approx(result[1].loss.item(), rel=1e-6)
    assert result[0].terms["sup"].item() == pytest.approx(result[1].terms["sup_2"].item(), rel=1e-6)


@pytest.mark.parametrize("settings", [PLAIN, {}])
def test_labels_carry_no_gradient_to_the_network_that_gave_them(settings: dict[str, Any]) -> None:
    """Without the supervised terms, network 1 learns from labels of 2 alone: its gradient is that of its own CE."""
    method = build("cps", **settings)
    one, two = both(method)
    two.requires_grad_(False)
    step = method(make_batch(method.needs), progress())
    step.loss.backward()
    assert all(p.grad is not None for p in one.parameters())
    assert all(p.grad is None for p in two.parameters())


def test_two_heads_start_apart_and_the_first_predicts() -> None:
    method = build("cps")
    one, two = both(method)
    assert not torch.equal(classifier(one).weight, classifier(two).weight)
    method.eval()
    x = torch.randn(1, 3, 65, 65)
    assert torch.equal(method.predict(x), one(x).logits)
    assert len(method.students()) == 2
    trained = sum(len(group) for group in method.parameter_groups())
    assert trained == len(list(one.parameters())) + len(list(two.parameters()))


def test_the_cross_term_pairs_a_mixed_image_with_the_peers_label() -> None:
    """A peer that always says class 2 makes the first network's term -log p(2)."""
    method = build("cps", weight=1.0)
    one, two = both(method)
    with torch.no_grad():
        classifier(two).weight.zero_()
        classifier(two).bias.copy_(torch.eye(CLASSES)[2] * 9)  # type: ignore[union-attr]
    copied, batch = copy.deepcopy(one), make_batch(method.needs)
    step = method(batch, progress())
    here, there = batch.unlabeled, naive.partner(batch)
    assert here is not None
    logits = copied(naive.cut_in(here.weak, there.weak, here.boxes[0])).logits
    first = -F.log_softmax(logits, 1)[:, 2].mean()
    labels = torch.cat([copied(here.weak).logits.argmax(1), copied(there.weak).logits.argmax(1)])
    assert step.terms["cps"].item() > first.item()
    log_p = F.log_softmax(torch.eye(CLASSES)[2] * 9, 0)
    n = len(here.weak)
    second = -log_p[naive.cut_in(labels[:n], labels[n:], here.boxes[0])].mean()
    assert step.terms["cps"].item() == pytest.approx((first + second).item(), rel=1e-4)


def test_the_class_loss_of_the_task_is_used_for_both_networks() -> None:
    method = build("cps", loss=LossConfig(supervised="ohem", ohem_threshold=0.1, ohem_min_kept=50, ohem_group=1))
    plain_ce = build("cps")
    batch = make_batch(method.needs)
    hard, easy = method(batch, progress()).terms, plain_ce(batch, progress()).terms
    assert hard["sup"] > easy["sup"]
    assert hard["sup_2"] > easy["sup_2"]
    assert hard["cps"] == easy["cps"]


class Probe(Plugin):
    """Notes what each hook was given; mixes by a keyed draw, so that both directions should see the same."""

    def __init__(self) -> None:
        super().__init__(Plugin.Config(), CLASSES)
        self.refined: list[Pseudo] = []
        self.mixed: list[MixedView] = []
        self.weighed: list[tuple[MixedView, Out]] = []
        self.seen: list[StepOutputs] = []

    def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
        self.refined.append(pseudo)
        return pseudo

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        order = torch.randperm(len(batch.labeled.x), generator=t.generator("probe"))
        region = torch.rand(weak.label.shape, generator=t.generator("region")) < 0.5
        y = batch.labeled.y[order]
        given = Pseudo(y.where(y != 255, 0), torch.ones_like(weak.conf), y != 255, y != 255, trusted=y != 255)
        images = batch.labeled.x[order].where(region[:, None], batch.unlabeled.weak)  # type: ignore[union-attr]
        step = MixedView(images, Pseudo(weak.label, weak.conf, weak.keep, weak.valid).pasted(given, region), images)
        self.mixed.append(step)
        return [step, step]

    def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
        self.weighed.append((mixed, teach(mixed.weak)))
        return None

    def loss(self, seen: StepOutputs, t: Progress) -> dict[str, Tensor]:
        self.seen.append(seen)
        return {"probe": seen.labeled.logits.mean() * 0}


class Quiet(Probe):
    """The same without a mix of its own."""

    needs = Probe.needs - {"mix"}

    def mix(
        self, host: Callable[[], Sequence[MixedView]], batch: Batch, weak: Pseudo, t: Progress
    ) -> Sequence[MixedView]:
        result = list(host())
        self.mixed += result
        return result


def test_a_plugins_mix_acts_on_each_networks_labels_with_the_same_draws() -> None:
    probe = Probe()
    method = build("cps", probe)
    one, two = both(method)
    step = method(make_batch(method.needs), progress())
    assert len(probe.refined) == 2  # the partners are not labelled when nothing asks for them
    first, second = probe.mixed
    assert torch.equal(first.images, second.images)
    assert not torch.equal(first.pseudo.label, second.pseudo.label)
    assert [seen.net for seen in probe.seen] == [one, two]
    assert [len(seen.views) for seen in probe.seen] == [2, 2]
    assert probe.seen[0].views[0].pseudo is second.pseudo  # network 1 learns the labels of network 2
    assert probe.seen[1].views[0].pseudo is first.pseudo
    assert {"probe", "probe_2"} <= step.terms.keys()


def test_ground_truth_that_was_pasted_in_is_learnt_and_unknown_pixels_are_not() -> None:
    probe = Probe()
    method = build("cps", probe, weight=1.0)
    copies = [copy.deepcopy(net) for net in both(method)]
    batch = make_batch(method.needs)
    step = method(batch, progress())
    expected = torch.zeros(())
    for net, m in zip(copies, reversed(probe.mixed), strict=True):
        logits = net(torch.cat([m.images, m.images])).logits[: len(m.images)]
        keep = m.pseudo.keep
        ce = -F.log_softmax(logits, 1).gather(1, m.pseudo.label[:, None])[:, 0]
        expected = expected + (ce * keep).sum() / ce.numel()
    assert step.terms["cps"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_refine_and_weigh_see_all_labels_of_both_networks() -> None:
    probe = Quiet()
    method = build("cps", probe)
    batch = make_batch(method.needs)
    before = [copy.deepcopy(net) for net in both(method)]
    method(batch, progress())
    assert len(probe.refined) == 4
    assert naive.partner(batch).valid is probe.refined[1].valid
    assert torch.equal(probe.refined[0].valid, batch.unlabeled.valid)  # type: ignore[union-attr]
    expected = [net(batch.unlabeled.weak).logits.argmax(1) for net in before]  # type: ignore[union-attr]
    assert torch.equal(probe.refined[0].label, expected[0])
    assert torch.equal(probe.refined[2].label, expected[1])
    assert [mixed for mixed, _ in probe.weighed] == [probe.mixed[1], probe.mixed[0]]


@pytest.mark.parametrize("settings", [PLAIN, {}])
def test_weights_are_a_weighted_mean_and_labelled_images_weigh_one(settings: dict[str, Any]) -> None:
    class Half(Plugin):
        """Left half twice as heavy."""

        def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
            weight = torch.ones_like(mixed.pseudo.conf)
            weight[..., :30] = 2
            return weight

    method = build("cps", Half(Plugin.Config(), CLASSES), **settings)
    copies = [copy.deepcopy(net) for net in both(method)]
    batch = make_batch(method.needs)
    term = method(batch, progress()).terms["cps"].item()
    x, _, here = naive.parts(batch)
    weight = torch.ones_like(here.weak[:, 0])
    weight[..., :30] = 2
    if settings == PLAIN:
        logits = [torch.cat([net(x).logits, net(here.weak).logits]) for net in copies]
        hard_labels, weight = [z.argmax(1) for z in logits], torch.cat([torch.ones_like(weight), weight])
    else:
        there, box = naive.partner(batch), here.boxes[0]
        mix = naive.cut_in(here.weak, there.weak, box)
        hard_labels = [naive.cut_in(n(here.weak).logits, n(there.weak).logits, box).argmax(1) for n in copies]
        logits = [net(mix).logits for net in copies]
    expected = 0.0
    for z, label in zip(logits, reversed(hard_labels), strict=True):
        ce = -F.log_softmax(z, 1).gather(1, label[:, None])[:, 0]
        expected += ((ce * weight).sum() / weight.sum()).item()
    assert term == pytest.approx(expected, rel=1e-5)


def test_a_warm_up_leaves_the_two_supervised_terms() -> None:
    class Off(Plugin):
        """No unlabelled terms, half the host."""

        def scale(self, t: Progress) -> LossScale:
            return LossScale(0.5, unlabeled=False)

    method = build("cps", Off(Plugin.Config(), CLASSES))
    step = method(make_batch(method.needs), progress())
    assert step.loss.item() == pytest.approx(0.5 * (step.terms["sup"] + step.terms["sup_2"]).item())


@pytest.mark.parametrize("settings", [PLAIN, {}])
def test_a_plugin_of_strength_zero_changes_no_bit(settings: dict[str, Any]) -> None:
    none, zero = (build("cps", chosen, **settings) for chosen in (None, plugin("s4mc", refine_scores=False, dpa=False)))
    batch = make_batch(none.needs)
    assert none(batch, progress()).loss.item() == zero(batch, progress()).loss.item()


def test_without_cutmix_there_is_no_mix_to_replace() -> None:
    with pytest.raises(RecipeError, match="mix"):
        build("cps", Probe(), cutmix=False)


def test_what_it_reads() -> None:
    assert build("cps").needs.partner == "same"
    assert build("cps", partner="other").needs.partner == "other"
    assert build("cps").needs.strong == 1
    assert build("cps", cutmix=False).needs.partner is None


@pytest.mark.parametrize(("pool", "count"), [("rest", 9), ("all", 12)])
def test_few_labels_count_the_labelled_images_among_the_unlabelled(pool: str, count: int) -> None:
    """Constants of the release (card: cps 5)."""
    known, rest = tuple(f"a{i}" for i in range(3)), tuple(f"b{i}" for i in range(9))
    partition = Partition("toy/ours/x", "toy", known, rest, "", True)
    needs = build("cps", unlabeled=pool).needs
    plan: Plan = plan_partition(partition, needs, 3, 3, 1, 0)
    assert len(plan.unlabeled) == count
    assert plan.steps_per_epoch == count // 3
    assert set(plan.unlabeled) - set(rest) == (set(known) if pool == "all" else set())


def test_a_step_is_the_same_whatever_else_the_batch_holds() -> None:
    """Colours of strong views are no part of CPS."""
    method = build("cps")
    batch = make_batch(method.needs)
    here = batch.unlabeled
    assert here is not None
    bare = replace(batch, unlabeled=replace(here, strong=tuple(torch.zeros_like(x) for x in here.strong)))
    losses = [copy.deepcopy(method)(b, progress()).loss.item() for b in (batch, bare)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize("settings", [PLAIN, {"padding": "ignored"}])
def test_two_processes_equal_one(settings: dict[str, Any]) -> None:
    alone, together = pair.alone_and_together("cps", 3, 2, images=4, **settings)
    pair.assert_equal(alone, together)
