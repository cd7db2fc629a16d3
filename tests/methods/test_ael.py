"""AEL, re-derived (card: ael 7 to 9, 12); its options, plug-ins and recipes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import naive
import pytest
import torch
import torch.nn.functional as F
from builders import CLASSES, batch_for, build, maker, plugin, progress, train
from made_ael import BANK, TAU, Probe, ael, chances, measured, own
from torch import Tensor

from ssbench.data.batch import Batch
from ssbench.data.plan import Plan
from ssbench.errors import RecipeError
from ssbench.keyed import rng
from ssbench.methods.base import LossConfig
from ssbench.nets.segnet import Out, SegNet
from ssbench.ops.progress import Progress
from ssbench.ops.pseudo import Pseudo
from ssbench.plugins.base import LossScale, MixedView, Plugin
from ssbench.recipe.recipe import load


def pasted(batch: Batch, t: Progress, draws: int, without: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Classes of one draw for both images, one process of the release (card: ael 5)."""
    dice = rng(t.seed, t.step, "ael paste", 0)
    drawn = set(dice.choice(CLASSES, draws, p=chances(BANK, 0.5, without)).tolist())
    x, y, donor = batch.labeled.x.clone(), batch.labeled.y.clone(), batch.donor
    assert donor is not None
    for c in drawn:
        here = donor.y == c
        y[here] = c
        for b in range(len(x)):
            x[b][:, here[b]] = donor.x[b][:, here[b]]
    return x, y


def consistency(
    logits: Tensor, teacher: Tensor, bank: Tensor, t: Progress, name: str, group: int, tau: float
) -> Tensor:
    """The consistency loss, class by class as the release draws it (card: ael 8)."""
    q, label = teacher.softmax(1).max(1)
    predicted, each = logits.argmax(1), []
    for k in range(0, len(logits), group):
        some = slice(k, k + group)
        planes = torch.rand((CLASSES, *q.shape[1:]), generator=t.generator(f"ael keep {name} {k // group}"))
        kept = torch.zeros_like(q[some])
        for c in range(CLASSES):
            s = (1 - bank[c]) / (1 - bank).max()
            kept += (planes[c] * (predicted[some] == c) > 1 - s).float() * (predicted[some] == c)
        w = q[some] ** 2 * kept
        w = w / (w.sum() + 1e-12)
        ce = -F.log_softmax(logits[some], 1).gather(1, label[some][:, None])[:, 0]
        each.append((w * ce * (q[some] >= tau)).sum())
    return torch.stack(each).mean()


@pytest.mark.parametrize("layout", ["unimatch", "augseg"])  # without and with an auxiliary head, no dropout in either
def test_first_step(layout: str) -> None:
    probe = Probe()
    settings: dict[str, Any] = {"threshold": TAU, "weight": 2.0, "loss_scale": 0.125, "paste_draws": 2}
    method = ael(probe, net=maker(layout=layout, aux=layout == "augseg"), **settings)
    net, teacher, t = copy.deepcopy(method.net), copy.deepcopy(method.teacher), progress(3)
    batch = own(batch_for(method, t))
    result = method(batch, t)
    result.loss.backward()

    x, y = pasted(batch, t, 2, [0])
    out = net(x)
    sup, aux = naive.supervised(out.logits, y), torch.zeros(())
    if out.aux is not None:
        aux = naive.supervised(out.aux, y)
    with torch.no_grad():
        known = teacher(x).logits
        here, there = batch.unlabeled, naive.partner(batch)
        assert here is not None
        pair = teacher(torch.cat([here.weak, there.weak])).logits
    bank = measured(torch.tensor(BANK), out.logits, y)
    n, mixed = len(here.weak), probe.mixed[0]
    region = (mixed.images == there.weak).all(1)
    assert 0 < region.float().mean() < 1
    assert torch.equal(mixed.images, naive.cut_in(here.weak, there.weak, region))
    view = net(mixed.images).logits
    of_labeled = consistency(out.logits, known, bank, t, "labeled", 2, TAU)
    of_mixed = consistency(view, naive.cut_in(pair[:n], pair[n:], region), bank, t, "s1", 1, TAU)
    total = (sup + 0.4 * aux + 2.0 * (of_labeled + of_mixed)) / 8
    expected = {"sup": sup, "aux": aux, "labeled": of_labeled, "mixed": of_mixed}
    for name, value in expected.items():
        assert result.terms[name].item() == pytest.approx(value.item(), rel=1e-4), name
    assert result.loss.item() == pytest.approx(total.item(), rel=1e-4)
    torch.testing.assert_close(method.bank, bank)
    naive.assert_same_gradients(method.net, naive.gradients(total, net))
    for ours, theirs in ((method.net, net), (method.teacher, teacher)):
        for a, b in zip(ours.buffers(), theirs.buffers(), strict=True):
            torch.testing.assert_close(a, b)  # all train-mode passes, the teacher's own too
    assert all(p.grad is None for p in method.teacher.parameters())


def test_gradients_reach_every_trained_tensor_of_the_released_network() -> None:
    settings: dict[str, Any] = {"output_stride": 8, "multi_grid": (2, 2, 4), "ceil_mode": True}
    method = ael(net=maker(encoder="resnet18", layout="ael", aux=True, **settings))
    t = progress()
    method(batch_for(method, t), t).loss.backward()
    for name, p in method.net.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().sum() > 0, name


def test_the_step_may_be_scaled_as_the_release_scales_it() -> None:
    t = progress()
    one, eighth = (ael(loss_scale=s) for s in (1.0, 0.125))
    batch = batch_for(one, t)
    assert one(batch, t).loss.item() == pytest.approx(8 * eighth(batch, t).loss.item())


# The teacher


def test_the_teacher_is_a_copy_after_the_first_step_and_keeps_its_own_statistics() -> None:
    method = ael()
    assert not torch.equal(method.teacher.classifier.weight, method.net.classifier.weight)  # type: ignore[arg-type,union-attr]
    train(method, 1)
    for ours, theirs in zip(method.teacher.parameters(), method.net.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert any(not torch.equal(a, b) for a, b in zip(method.teacher.buffers(), method.net.buffers(), strict=True))
    method.eval()
    x = torch.randn(1, 3, 65, 65)
    assert torch.equal(method.predict(x), method.teacher(x).logits)


def passes(net: SegNet) -> int:
    return next(int(b) for name, b in net.named_buffers() if name.endswith("num_batches_tracked"))


@pytest.mark.parametrize(("mode", "count"), [("train", 2), ("eval", 1)])
def test_the_teacher_labels_in_train_mode_unless_told_otherwise(mode: str, count: int) -> None:
    method, t = ael(pair_mode=mode), progress()
    method(batch_for(method, t), t)
    assert passes(method.teacher) == count
    assert passes(method.net) == 2


# Options


@pytest.mark.parametrize(
    "settings",
    [
        {"padding": "ignored"},
        {"normaliser": "counted", "threshold": TAU},
        {"confidence_power": 0.0},
        {"sampling_power": 0.1},
        {"group": 1},
    ],
)
def test_options_of_the_consistency_change_it(settings: dict[str, Any]) -> None:
    base: dict[str, Any] = {"threshold": TAU} if "threshold" in settings else {}
    plain, changed, t = ael(**base), ael(**settings), progress()
    batch, term = batch_for(plain, t), "labeled" if "group" in settings else "mixed"
    before, after = plain(batch, t).terms[term], changed(batch, t).terms[term]
    assert before.item() != pytest.approx(after.item(), rel=1e-6)


def test_ignored_padding_is_out_of_both_sums() -> None:
    """The release's weighting with the padded pixels' weights set to 0 (card: ael 13)."""
    probe = Probe()
    method, t = ael(probe, padding="ignored", sampling_power=0.0), progress()
    net, batch = copy.deepcopy(method.net), batch_for(method, t)
    term = method(batch, t).terms["mixed"].item()
    net(batch.labeled.x)
    m = probe.mixed[0]
    ce = -F.log_softmax(net(m.images).logits, 1).gather(1, m.pseudo.label[:, None])[:, 0]
    w = m.pseudo.conf**2 * m.pseudo.valid
    expected = ((w * ce).flatten(1).sum(1) / w.flatten(1).sum(1)).mean()
    assert term == pytest.approx(expected.item(), rel=1e-4)


def test_a_dice_loss_has_no_pixel_weights() -> None:
    with pytest.raises(RecipeError, match="weighted cross entropy"):
        build("ael", loss=LossConfig(pseudo="dice"))


# Plug-ins


def test_weights_enter_the_mixed_term_before_it_is_normalised() -> None:
    class Left(Plugin):
        """Nothing but the left half counts."""

        def weigh(self, mixed: MixedView, teach: Callable[[Tensor], Out], t: Progress) -> Tensor | None:
            return torch.ones_like(mixed.pseudo.conf).where(torch.arange(65) < 33, 0.0)

    probe, t = Probe(), progress()
    plain, left = ael(probe), ael(Left(Plugin.Config(), CLASSES))
    net, batch = copy.deepcopy(plain.net), batch_for(plain, t)
    before, after = plain(batch, t).terms, left(batch, t).terms
    assert before["labeled"] == after["labeled"]
    m, half = probe.mixed[0], torch.arange(65) < 33
    net(batch.labeled.x)
    logits = net(m.images).logits
    each = []
    for k in range(len(logits)):
        planes = torch.rand((CLASSES, 65, 65), generator=t.generator(f"ael keep s1 {k}"))
        s = (1 - plain.bank) / (1 - plain.bank).max()
        pred = logits[k].argmax(0)
        w = m.pseudo.conf[k] ** 2 * (planes.gather(0, pred[None])[0] > 1 - s[pred]) * half
        ce = -F.log_softmax(logits[k], 0).gather(0, m.pseudo.label[k][None])[0]
        each.append((w * ce).sum() / w.sum())
    assert after["mixed"].item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-4)


def test_plugins_see_the_pasted_labels_and_raw_teacher_labels_decide_the_banks() -> None:
    class Shuffle(Probe):
        """Refines every label to class 0."""

        def refine(self, pseudo: Pseudo, t: Progress) -> Pseudo:
            return replace(super().refine(pseudo, t), label=torch.zeros_like(pseudo.label))

    probe, t = Shuffle(), progress()
    method, plain = ael(probe), ael()
    batch = own(batch_for(method, t))
    expected = method._paste_classes(batch, t)
    method(batch, t)
    plain(batch, t)
    assert torch.equal(method.images, plain.images)
    assert not probe.mixed[0].pseudo.label.any()
    assert len(probe.refined[0].label) == 4  # the unlabelled images and their partners, before they are mixed
    assert torch.equal(probe.seen[0].batch.labeled.y, expected.y)
    assert not torch.equal(expected.y, batch.labeled.y)
    assert probe.seen[0].views[0].name == "s1"


def test_a_warm_up_keeps_the_labelled_terms() -> None:
    class Off(Plugin):
        """No unlabelled terms."""

        def scale(self, t: Progress) -> LossScale:
            return LossScale(unlabeled=False)

    method, t = ael(Off(Plugin.Config(), CLASSES)), progress()
    result = method(batch_for(method, t), t)
    assert result.loss.item() == pytest.approx((result.terms["sup"] + result.terms["labeled"]).item())


def test_a_plugin_of_strength_zero_changes_no_bit() -> None:
    none, zero = (ael(chosen) for chosen in (None, plugin("s4mc", refine_scores=False, dpa=False)))
    t = progress()
    batch = batch_for(none, t)
    assert none(batch, t).loss.item() == zero(batch, t).loss.item()


@pytest.mark.parametrize(
    ("name", "epochs", "threshold", "draws", "area", "presence", "crop"),
    [
        ("ael_cityscapes_r101", 200, 0.0, 3, 0.005, 0.01, 769),
        ("ael_voc_r101", 80, 0.7, 1, 0.03, 0.03, 513),
        ("ael_cityscapes_r50_801", 200, 0.0, 3, 0.005, 0.01, 801),
    ],
)
def test_recipes_hold_the_released_constants(
    name: str, epochs: int, threshold: float, draws: int, area: float, presence: float, crop: int
) -> None:
    """Constants of the release (card: ael 2)."""
    recipe = load(f"ael/{name}")
    m, s, o = recipe.method, recipe.schedule, recipe.optim
    assert (m.threshold, m.paste_draws, m.component_area, m.presence) == (threshold, draws, area, presence)
    assert (m.weight, m.aux_weight, m.ema, m.bank_momentum) == (1.0, 0.4, 0.99, 0.999)
    assert (m.confidence_power, m.sampling_power, m.paste_share, m.paste_scale) == (2.0, 1.0, 0.5, (0.1, 2.0))
    assert (m.loss_scale, m.absent, m.normaliser, m.padding) == (1 / 8, "zero", "all", "counted")
    assert (m.paste_without, m.group, m.pick) == ((0, 1, 2, 8, 10), 2, 2)
    assert (s.epochs, s.labeled_batch, s.unlabeled_batch, s.devices) == (epochs, 16, 16, 8)
    assert (o.lr, o.head, o.weight_decay, o.lag) == (0.01, 10.0, 1e-4, 0)
    assert (recipe.loss.supervised, recipe.loss.ohem_min_kept, recipe.loss.ohem_group) == ("ohem", 100_000, 2)
    assert (recipe.views.crop, recipe.views.label_padding, recipe.net.aux) == (crop, 0, True)


@pytest.mark.parametrize(("unlabeled", "per_epoch"), [(2789, 174), (1487, 93), (9920, 620), (5291, 331)])
def test_an_epoch_is_as_long_as_the_release_has_it(unlabeled: int, per_epoch: int) -> None:
    """Constants of the release (card: ael 2)."""
    plan = Plan(("a",), tuple(map(str, range(unlabeled))), build("ael").needs, 16, 16, 8)
    assert plan.steps_per_epoch == per_epoch
